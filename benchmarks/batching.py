"""The search for the fastest batch sizes of an algorithm that works in blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.contenders import Say


@dataclass(frozen=True)
class Batching:
    """How many examples run together on each side."""

    left: int
    right: int

    def __str__(self) -> str:
        return f"{self.left} x {self.right}"


AS_SHIPPED = Batching(1, 1)
"""What the script of the paper's code runs with, and a garbage collection after every block."""


class BatchSearch:
    """Larger batches on one side and then on the other, for as long as they get faster.

    Args:
        per_entry: seconds per entry with some batch sizes, by running one block.
        say: takes progress lines.
        seconds: no candidate begins that would end later than this; the first one always runs.
    """

    def __init__(self, per_entry: Callable[[Batching], float], say: Say, seconds: float) -> None:
        self.per_entry = per_entry
        self.say = say
        self.deadline = time.monotonic() + seconds
        self.ms_per_entry: dict[str, float] = {}

    def run(self, left_sizes: Sequence[int], right_sizes: Sequence[int], most: int) -> Batching:
        """The fastest found.

        Args:
            left_sizes: ascending, tried with the best right size.
            right_sizes: ascending, tried with the first left size.
            most: entries of a block that are not exceeded.
        """
        first = left_sizes[0]
        best = self._climb([Batching(first, right) for right in right_sizes], most)
        rest = [Batching(left, best.right) for left in left_sizes[1:]]
        return self._climb(rest, most, best)

    def _climb(
        self, candidates: Sequence[Batching], most: int, best: Batching | None = None
    ) -> Batching:
        took, entries = 0.0, 1
        for candidate in candidates:
            size = candidate.left * candidate.right
            # A block takes at most as long as it is larger than the last one.
            expected = took * size / entries
            if best is not None and (size > most or time.monotonic() + expected > self.deadline):
                break
            started = time.monotonic()
            found = self.per_entry(candidate)
            took, entries = time.monotonic() - started, size
            self.ms_per_entry[str(candidate)] = 1e3 * found
            self.say(f"batches {candidate}: {1e3 * found:.4g} ms per entry")
            if best is not None and 1e3 * found > self.ms_per_entry[str(best)]:
                break
            best = candidate
        assert best is not None
        return best

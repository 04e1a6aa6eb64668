"""What capturing examples takes: counted on a few lengths, timed on one batch.

Padded to t tokens, a batch of b takes b·F(t) FLOPs, where F is a polynomial of degree two
(attention): three lengths tell it exactly. What factors hold is linear in an example's own tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from torch.utils.flop_counter import FlopCounterMode

from subkern.errors import UserError
from subkern.gradients.batches import CaptureJob
from subkern.gradients.capture import Captured

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample

Examples = Sequence["EncodedExample"]
_TURNS = 3  # of each batch that is timed
_LOOK = 0.005  # seconds between two looks at the resident memory


def check_single_words(marked: bool) -> None:
    """Refuse examples with `marked` tokens, whose work another law tells.

    Raises:
        UserError: they are.
    """
    if marked:
        raise UserError(
            "log-likelihoods of answers are not estimated: use a task whose labels are single words"
        )


def counted(work: Callable[[], Any]) -> tuple[int, Any]:
    """FLOPs of the matrix products and attention of `work`, and what it returns."""
    with FlopCounterMode(display=False) as counter:
        result = work()
    return int(counter.get_total_flops()), result


def length(example: EncodedExample) -> int:
    """Tokens of an example."""
    return len(example.input_ids)


def resident() -> int:
    """Resident bytes of this process's own, without pages of mapped files where that is told."""
    found = psutil.Process().memory_info()
    return int(found.rss - getattr(found, "shared", 0))


def most_resident(work: Callable[[], Any]) -> int:
    """Bytes by which memory rises during `work`, at most."""
    before, peak, done = resident(), [0], Event()

    def watch() -> None:
        while not done.wait(_LOOK):
            peak[0] = max(peak[0], resident() - before)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    return max(peak[0], resident() - before)


@dataclass(frozen=True)
class Polynomial:
    """The polynomial through a few points, exact.

    Attributes:
        points: (x, y), every x once.
    """

    points: tuple[tuple[int, int], ...]

    def __call__(self, x: int) -> int:
        """Its value, rounded."""
        total = Fraction(0)
        for i, (at, value) in enumerate(self.points):
            term = Fraction(value)
            for j, (other, _) in enumerate(self.points):
                if i != j:
                    term *= Fraction(x - other, at - other)
            total += term
        return max(0, round(total))


@dataclass(frozen=True)
class Line:
    """A number that grows with an example's tokens: a·t + b, exact through the ends."""

    ends: tuple[tuple[int, int], tuple[int, int]]

    def __call__(self, tokens: int) -> int:
        """Its value at so many tokens; in proportion where one length is known alone."""
        (t, y), (s, z) = self.ends
        if t == s:
            return y if y == z == 1 else round(y * tokens / t)
        return max(0, round(y + (z - y) * Fraction(tokens - t, s - t)))


class CaptureProbe:
    """A few examples captured, to tell what the others take.

    Args:
        job: what is captured, and how.
        examples: all of them; those of different lengths are tried.
        bounded: as `CaptureJob.capture`.

    Attributes:
        lengths: of the examples that were tried, the shortest first.
        captured: their factors, one each.
        flops: of a padded example by its length.
        nbytes: that factors hold, by an example's tokens.
    """

    def __init__(self, job: CaptureJob, examples: Examples, bounded: bool = False) -> None:
        self.job, self.bounded = job, bounded
        by_length = {length(e): e for e in sorted(examples, key=length)}
        known = sorted(by_length)
        middle = known[len(known) // 2]
        self.tried = [by_length[t] for t in sorted({known[0], middle, known[-1]})]
        self.lengths = [length(e) for e in self.tried]
        found = [counted(partial(job.capture, [e], bounded)) for e in self.tried]
        self.captured: list[Captured] = [captured for _, captured in found]
        points = zip(self.lengths, (flops for flops, _ in found), strict=True)
        self.flops = Polynomial(tuple(points))
        self.nbytes = self.line([one.nbytes() for one in self.captured])
        self._examples = examples

    def line(self, values: Sequence[int]) -> Line:
        """What `values`, one of every example that was tried, are at other lengths."""
        return Line(
            ((self.lengths[0], values[0]), (self.lengths[-1], values[-1])),
        )

    def batch_flops(self, batch: Examples) -> int:
        """FLOPs of one batch."""
        return len(batch) * self.flops(max(map(length, batch)))

    @cached_property
    def _typical(self) -> Examples:
        """A batch of about the middle size, as it runs."""
        batches = [[self._examples[i] for i in b] for b in self.job.batches(self._examples)]
        return sorted(batches, key=self.batch_flops)[len(batches) // 2]

    @cached_property
    def _measured(self) -> tuple[float, float, int]:
        """Seconds of a batch however small, seconds a FLOP, and bytes that a batch needs."""
        batch, took = self._typical, [0.0, 0.0]
        sizes = [batch, [sorted(batch, key=length)[len(batch) // 2]]]
        need = 0
        for i, each in enumerate(sizes):
            for _ in range(_TURNS):
                began = time.perf_counter()
                rise = most_resident(partial(self.job.capture, each, self.bounded))
                took[i] += (time.perf_counter() - began) / _TURNS  # others may slow any of them
                need = max(need, rise)
        big, small = (self.batch_flops(each) for each in sizes)
        if len(batch) == 1 or big <= small:
            return 0.0, took[0] / max(big, 1), need
        rate = max((took[0] - took[1]) / (big - small), 0.5 * took[0] / big)
        return max(0.0, took[0] - rate * big), rate, need

    def seconds(self, flops: int, batches: int) -> float:
        """Of so many FLOPs in so many batches."""
        each, rate, _ = self._measured
        return batches * each + rate * flops

    def work(self, job: CaptureJob, calls: Sequence[Examples]) -> tuple[int, float]:
        """FLOPs and seconds of capturing each of `calls` as `job` does."""
        batches = [[call[i] for i in picks] for call in calls for picks in job.batches(call)]
        flops = sum(map(self.batch_flops, batches))
        return flops, self.seconds(flops, len(batches))

    def batch_bytes(self, job: CaptureJob) -> int:
        """Memory that the largest batch of `job` takes while it is captured."""
        batches = ([self._examples[i] for i in b] for b in job.batches(self._examples))
        largest = max(map(self.batch_flops, batches))
        return int(self._measured[2] * largest / max(self.batch_flops(self._typical), 1))

    def held(self, examples: Examples) -> int:
        """Bytes that the factors of `examples` take."""
        return int(np.sum([self.nbytes(length(e)) for e in examples], dtype=np.int64))

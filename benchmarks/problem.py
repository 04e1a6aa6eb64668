"""The kernel that is timed, and even samples of its examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample

Examples = list[EncodedExample]


@dataclass(frozen=True)
class Problem:
    """One kernel to compute: a model and the examples of both sides.

    Attributes:
        name: short, for JSON.
        title: what model, what data, for people.
        model: f, float32.
        left: n examples.
        right: m examples.
    """

    name: str
    title: str
    model: LogitModel
    left: Examples
    right: Examples

    @property
    def entries(self) -> int:
        """Number of kernel entries, pairs of example-logits: n·c·m·c."""
        return len(self.left) * len(self.right) * self.model.num_logits**2

    def subset(self, left: int, right: int) -> Problem:
        """The same with so many examples of each side, of evenly spread lengths."""
        return replace(self, left=spread(self.left, left), right=spread(self.right, right))


def tokens(examples: Sequence[EncodedExample]) -> int:
    """Tokens of `examples` without padding."""
    return sum(len(e.input_ids) for e in examples)


def padded(batch: Sequence[EncodedExample]) -> int:
    """Tokens of `batch` as it runs: padded to its longest."""
    return len(batch) * max(len(e.input_ids) for e in batch)


def by_length(examples: Sequence[EncodedExample]) -> Examples:
    """`examples`, shortest first."""
    return sorted(examples, key=lambda e: len(e.input_ids))


def spread(examples: Sequence[EncodedExample], count: int, turn: int = 0) -> Examples:
    """`count` examples, the middles of equal strata of length; other ones each `turn`."""
    ordered = by_length(examples)
    return [ordered[i] for i in strata(len(ordered), count, turn)]


def strata(size: int, count: int, turn: int = 0) -> list[int]:
    """Positions in the middle of `count` equal parts of ``range(size)``, shifted by `turn`.

    Turns move the positions back and forth around the middle (0, +, −, …), within their part.
    """
    count = min(count, size)
    shift = (0.0, 0.25, -0.25, 0.125, -0.125)[turn % 5]
    return [int((k + 0.5 + shift) * size / count) for k in range(count)]


def batches(examples: Sequence[EncodedExample], size: int) -> list[Examples]:
    """Batches of `size` neighbors in length, so that there is little padding."""
    ordered = by_length(examples)
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]

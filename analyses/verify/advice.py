"""What a study advises, as a verification has to know it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..show import numbers as fmt

__all__ = ["FULL", "Advice"]

FULL = "full"
"""The name of full fine-tuning among the configurations."""

_SLACK = 1e-12  # 19 of 20 is 0.95, whatever binary fractions make of it


@dataclass(frozen=True)
class Advice:
    """The configuration to take, and what it may lose.

    Attributes:
        name: the configuration.
        qualifies: whether the kernels say that it is within tolerance, or only that it is closest.
        drop: how much lower it may score, or None where a share is given.
        share: of the other's score that it must reach, or None.
        agreement: share of test examples that must get full fine-tuning's label, or None where the
            kernels were not asked for that.
        rivals: the configurations that could have been advised instead; None for all.
    """

    name: str
    qualifies: bool = True
    drop: float | None = None
    share: float | None = None
    agreement: float | None = None
    rivals: Sequence[str] | None = None

    def within(self, score: float, other: float) -> bool:
        """Say if a score is within tolerance of another one."""
        floor = other - self.drop if self.drop is not None else (self.share or 1.0) * other
        return score >= floor - _SLACK

    def like_full(self, score: float, full: float, same: float) -> bool:
        """Say if a configuration is within tolerance of full fine-tuning in all that was asked.

        Args:
            score: its test score.
            full: that of full fine-tuning.
            same: share of test examples to which both give one label; NaN where it is not known.
        """
        return self.within(score, full) and (
            self.agreement is None or not same < self.agreement - _SLACK
        )

    @property
    def tolerance(self) -> str:
        """The tolerance in words: ``2.0 points``, ``90 % of its score``."""
        if self.drop is not None:
            return f"at most {fmt.points(self.drop)} points below"
        return f"at least {fmt.percent(self.share or 1.0, 0)} of"

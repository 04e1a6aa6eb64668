"""What two measured rates say: the learning rate to take, a grid around it, where training spikes.

The constants were fitted on one masked model (MiniLM, prompted, 16 shots, 40 updates of 8): where
training spikes on mr, what scores well on SST-2, over configurations whose rates spread by two
decades.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Suggestion"]

SPIKE, SPIKE_LOW, SPIKE_HIGH = 3.2, 1.4, 5.8
"""Adam's training first spikes at so many times rate₁: the geometric mean of seven configurations
on mr, and the least and most of 47 on mr, trec, sst-5 and SNLI and of SmolLM2, at batches of 8 and
a constant rate. Batches of 2 spike from 0.7 times rate₁ on; after warm-up it may be at 23 times."""

SUGGESTED = {"adam": 0.25, "adamw": 0.25, "signgd": 0.25, "sgd": 0.2, "momentum": 0.02}
"""Of rate₁; for SGD of the critical rate after a walk, or of `UNWALKED` times the smaller of rate₀
and rate₁ where there is none. After 40 updates of Adam that see each of 32
examples ten times the training loss is as good as zero from a quarter of rate₁ on, where test
scores are still those of smaller rates; from rate₁ on they fall. SGD of LoRA does not
learn at 0.4 of the critical rate, before it spikes. A step of momentum 0.9 moves ten
times as far once it has built up."""

UNWALKED = 0.4
"""LoRA, which starts at B = 0, steepens under SGD's large steps long past the first."""

VISITS, MOST_MORE = 10.0, 2.0
"""Updates that see each example fewer times take larger steps, up to twice as large."""

GRID = (1 / 3, 1.0, 3.0)
"""Of the suggestion, its top at most `SPIKE_LOW` times rate₁: from slow to near the edge."""

CHANGED = 2.0
"""Rate₀ over rate₁ from which the kernel at the start does not describe the run."""


@dataclass(frozen=True)
class Suggestion:
    """Learning rates of one configuration.

    Means are geometric; the suggestion and the grid have two digits, as more are not known.

    Attributes:
        subspace: what is trained, as it was named.
        coordinates: how many numbers that are.
        optimizer: ``adam``, ``adamw``, ``signgd``, ``sgd`` or ``momentum``.
        batch_size: examples of a step.
        examples: how many the batches are drawn from.
        steps: updates that training is to make; None: enough to see each example ten times.
        rate_at_start: rate₀, at which the first step changes the logits by RMS 1.
        rates_after_step: rate₁, the same after that step, of each of the batches that come next.
        critical: 2/λ_max of the Gauss-Newton matrix after a short walk; SGD's, with or without
            momentum, and None where it is not known.
        derivative: how J·u was taken: ``forward`` mode or ``two backwards``.
        notes: one line for each thing about the data that the rates rest on.
        seconds: that it took.
    """

    subspace: str
    coordinates: int
    optimizer: str
    batch_size: int
    examples: int
    steps: int | None
    rate_at_start: float
    rates_after_step: tuple[float, ...]
    critical: float | None = None
    derivative: str = "forward"
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def rate_after_step(self) -> float:
        """Rate₁: the mean over the batches."""
        return geometric_mean(self.rates_after_step)

    @property
    def visits(self) -> float | None:
        """How often training sees an example; None: as often as it takes."""
        if self.steps is None:
            return None
        return self.steps * min(self.batch_size, self.examples) / self.examples

    @property
    def suggested(self) -> float:
        """A share of rate₁, for SGD of the critical rate after a walk: see `SUGGESTED`.

        Larger, but not for SGD, where training sees each example fewer than `VISITS` times.
        """
        share, rate = SUGGESTED[self.optimizer], self.rate_after_step
        if not self.has_spike:
            rate = self.critical or UNWALKED * min(rate, self.rate_at_start)
        elif self.visits is not None:
            share *= min(max(VISITS / self.visits, 1.0), MOST_MORE)
        return two_digits(share * rate)

    @property
    def has_spike(self) -> bool:
        """Whether it is known from rate₁ where the optimizer spikes: not of SGD."""
        return self.optimizer not in ("sgd", "momentum")

    @property
    def spike(self) -> float | None:
        """Where training likely spikes first: for SGD the critical rate; None: not known."""
        if self.has_spike:
            return SPIKE * self.rate_after_step
        return self.critical if self.optimizer == "sgd" else None

    @property
    def spike_interval(self) -> tuple[float, float] | None:
        """From the least factor seen to the greatest, with one standard error of rate₁ more.

        For SGD half and twice the critical rate.
        """
        if not self.has_spike:
            return None if self.spike is None else (self.spike / 2, 2 * self.spike)
        rate, logs = self.rate_after_step, np.log(self.rates_after_step)
        more = float(np.exp(np.std(logs, ddof=1) / np.sqrt(len(logs)))) if len(logs) > 1 else 1.0
        return SPIKE_LOW * rate / more, SPIKE_HIGH * rate * more

    @property
    def grid(self) -> tuple[float, float, float]:
        """A third of the suggestion, the suggestion, three times it or `SPIKE_LOW` × rate₁."""
        low, middle, high = (factor * self.suggested for factor in GRID)
        if self.has_spike:
            high = min(high, SPIKE_LOW * self.rate_after_step)
        return two_digits(low), middle, two_digits(high)

    @property
    def ratio(self) -> float:
        """Rate₀ over rate₁: how much steeper the function is after one step."""
        return self.rate_at_start / self.rate_after_step

    @property
    def warning(self) -> str | None:
        """One line if a kernel at the start says little about training."""
        if self.ratio <= CHANGED:
            return None
        return (
            f"rates fall {self.ratio:.2g} times with the first step: the kernel at the start does"
            " not describe this run"
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        low, high = self.spike_interval or (None, None)
        return {
            "subspace": self.subspace,
            "coordinates": self.coordinates,
            "optimizer": self.optimizer,
            "batch_size": self.batch_size,
            "examples": self.examples,
            "steps": self.steps,
            "rate_at_start": self.rate_at_start,
            "rate_after_step": self.rate_after_step,
            "suggested": self.suggested,
            "critical": self.critical,
            "spike": self.spike,
            "spike_low": low,
            "spike_high": high,
            "grid": list(self.grid),
            "ratio": self.ratio,
            "warning": self.warning,
            "notes": list(self.notes),
            "rates_after_step": list(self.rates_after_step),
            "derivative": self.derivative,
            "seconds": self.seconds,
        }


def geometric_mean(rates: Sequence[float]) -> float:
    """Of rates, which differ by factors."""
    return float(np.exp(np.mean(np.log(rates))))


def two_digits(rate: float) -> float:
    """`rate` to two significant digits."""
    return float(f"{rate:.1e}")

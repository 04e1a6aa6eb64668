"""The dimension a task needs: where the score of a random subspace's kernel reaches a target.

Aghajanyan et al. (2021, "Intrinsic dimensionality explains the effectiveness of language model
fine-tuning") call d90 the least dimension in which training reaches 90 % of full fine-tuning's
score. Here nothing is trained: the score is that of the classifier solved on the kernel. Two
targets: that share of the full kernel's score; and, as guessing alone may reach it, that share of
what the full kernel gains over the better way without training (zero-shot, or one constant answer).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import inf, isnan, log2, nan

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap

from ..engine.run_folder import Results
from .numbers import Family, Runs, runs

__all__ = ["GOALS", "Needed", "crossing", "needed"]

Floats = npt.NDArray[np.float64]

GOALS = ("score", "gain")


@dataclass(frozen=True)
class Needed:
    """How many parameters reach a target.

    Attributes:
        target: the score to reach.
        size: where the mean score over seeds first reaches it, interpolated on log2 of the size
            between the sizes tried; `first` if the smallest one does, infinity if none does.
        low, high: bootstrap interval over seeds (percentiles; NaN with one seed); as ``size``,
            ``high`` is infinite and ``low`` is `first` where it leaves the sizes tried.
        first, last: smallest and largest size tried.
        gain: what there is to gain over no training; not above 0: the goal makes no sense.
        relapses: sizes beyond ``size`` whose mean score is below the target again.
    """

    target: float
    size: float
    low: float
    high: float
    first: int
    last: int
    gain: float
    relapses: tuple[int, ...] = ()

    @property
    def found(self) -> bool:
        """Whether a size tried reaches the target."""
        return not isnan(self.size) and self.size < inf


@lru_cache(maxsize=64)
def needed(
    results: Results, family: Family, goal: str = "score", solver: str | None = None
) -> Needed:
    """Return the size at which a family reaches ``share`` of the full kernel's ``score`` or gain.

    The interval is a bootstrap over draws of the subspace, or over data seeds if there are several
    (then the full kernel's score varies with them).
    """
    config, found = results.config, runs(results, family, solver)
    everything = np.arange(len(found.scores))

    def at(units: npt.NDArray[np.intp]) -> float:
        return crossing(found.sizes, found.scores[units].mean(0), _target(found, units))

    def _target(found: Runs, units: npt.NDArray[np.intp]) -> float:
        full, without = found.full[units].mean(), found.without[units].mean()
        base = 0.0 if goal == "score" else float(without)
        return base + float(config["share"]) * (float(full) - base)

    target, gain = _target(found, everything), float((found.full - found.without).mean())
    first, last = int(found.sizes[0]), int(found.sizes[-1])
    if goal == "gain" and gain <= 0:
        return Needed(target, nan, nan, nan, first, last, gain)
    size = at(everything)
    low, high = nan, nan
    if len(everything) > 1:
        ends = bootstrap(
            (everything,),
            at,
            vectorized=False,
            n_resamples=config["resamples"],
            confidence_level=config["confidence"],
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        low, high = float(ends.low), float(ends.high)
    low, size, high = (_size(value, last) for value in (low, size, high))
    mean = dict(zip(found.sizes.tolist(), found.scores.mean(0).tolist(), strict=True))
    relapses = tuple(d for d, score in mean.items() if d > size and score < target - _SLACK)
    return Needed(target, size, low, high, first, last, gain, relapses)


_SLACK = 1e-12  # 0.9 of 0.8 is 0.72, whatever binary fractions make of it
_NEVER = 1.0  # added to log2 of the last size where the target is not reached


def crossing(sizes: npt.NDArray[np.int64], scores: Floats, target: float) -> float:
    """Return log2 of the size at which the scores ``[k]`` first reach the target.

    Linear between neighbours on the log axis; log2 of the first size if that reaches it, and 1 more
    than log2 of the last one if none does.
    """
    reached = np.flatnonzero(scores >= target - _SLACK)
    x = np.log2(sizes)
    if not len(reached):
        return float(x[-1]) + _NEVER
    i = int(reached[0])
    if i == 0:
        return float(x[0])
    share = (target - scores[i - 1]) / (scores[i] - scores[i - 1])
    return float(x[i - 1] + min(share, 1.0) * (x[i] - x[i - 1]))


def _size(exponent: float, last: int) -> float:
    """Return 2^exponent, or infinity beyond the last size."""
    if isnan(exponent):
        return nan
    return inf if exponent > log2(last) + _SLACK else 2.0**exponent

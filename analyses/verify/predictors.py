"""How well kernels order configurations as training does, and predict their scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..engine.pooling import Pooled
from ..engine.ranking import FEWEST, rank_correlation
from .trial import title

__all__ = ["Guess", "Kernels", "Predictor", "Ranking", "predictor"]

Kernels = Literal["start", "step"]
Floats = npt.NDArray[np.float64]
_RESAMPLES = 2000


@dataclass(frozen=True)
class Ranking:
    """Whether the kernels put configurations into the order of training.

    Attributes:
        rho: Spearman's rank correlation of predicted and trained scores (means over runs), full
            fine-tuning left out; NaN where there are too few or all are alike.
        low, high: percentile bootstrap over configurations.
        count: how many configurations.
        spread: highest trained score minus the lowest.
        error: one standard error of a trained score over the test examples.
        repeated: how far scores of full fine-tuning in several orders of examples are apart; 0
            where it was not repeated.
    """

    rho: float
    low: float
    high: float
    count: int
    spread: float = 0.0
    error: float = math.nan
    repeated: float = 0.0

    @property
    def order(self) -> Literal["none", "unclear", "same", "reversed"]:
        """Which order the interval speaks for."""
        if math.isnan(self.rho):
            return "none"
        if self.low <= 0 <= self.high:
            return "unclear"
        return "same" if self.low > 0 else "reversed"

    @property
    def noise(self) -> float:
        """What chance moves a score by: two standard errors, or the order of examples, if more.

        NaN if it is not known.
        """
        return self.error if math.isnan(self.error) else max(2 * self.error, self.repeated)

    @property
    def doubt(self) -> Literal["", "noise", "unknown noise"]:
        """Why the order may be chance all the same, if it may."""
        if self.spread >= self.noise:
            return ""
        return "unknown noise" if math.isnan(self.noise) else "noise"


@dataclass(frozen=True)
class Predictor:
    """How well kernels foretold the trained scores of configurations; full is not among them.

    Attributes:
        kernels: those at the ``start``, or after the first ``step`` of each training.
        ranking: whether they order them as training does.
        error: root mean square of predicted minus trained score.
        covered, told: how many trained scores lie in the interval that is stated of the predicted
            one, of how many that have one.
        reach: half the width of these intervals, their mean: wide ones hold much.
        first: what they predict best, of equals what trains fewest parameters; None if nothing.
        lost: how far that trained below what trained best of these.
    """

    kernels: Kernels
    ranking: Ranking
    error: float
    covered: int
    told: int
    reach: float
    first: str | None
    lost: float

    @property
    def title(self) -> str:
        """What readers call what they predict best."""
        return title(self.first or "")


@dataclass(frozen=True)
class Guess:
    """What was predicted of one configuration, and what came of it.

    Attributes:
        name: the configuration.
        parameters: how many it trains.
        predicted: its test score by the kernel, with the interval that is stated.
        trained: its score after training.
    """

    name: str
    parameters: int
    predicted: Pooled
    trained: float

    @property
    def reach(self) -> float:
        """Half the width of the interval that is stated of the predicted score; NaN without one."""
        return (self.predicted.high - self.predicted.low) / 2

    @property
    def holds(self) -> bool:
        """Whether the trained score lies in it."""
        return self.predicted.low <= self.trained <= self.predicted.high


def predictor(
    kernels: Kernels,
    guesses: Sequence[Guess],
    *,
    confidence: float,
    error: float,
    repeated: float,
) -> Predictor:
    """Set predictions beside training; see `Ranking` for ``error`` and ``repeated``."""
    predicted, trained = (
        np.array([side(each) for each in guesses], dtype=np.float64)
        for side in (lambda each: each.predicted.mean, lambda each: each.trained)
    )
    stated = [each for each in guesses if not math.isnan(each.reach)]
    first = max(guesses, key=lambda each: (each.predicted.mean, -each.parameters), default=None)
    return Predictor(
        kernels=kernels,
        ranking=_ranking(predicted, trained, confidence, error, repeated),
        error=float(np.sqrt(np.mean((predicted - trained) ** 2))) if guesses else math.nan,
        covered=sum(each.holds for each in stated),
        told=len(stated),
        reach=float(np.mean([each.reach for each in stated])) if stated else math.nan,
        first=None if first is None else first.name,
        lost=math.nan if first is None else float(trained.max()) - first.trained,
    )


def _ranking(
    predicted: Floats, trained: Floats, confidence: float, error: float, repeated: float
) -> Ranking:
    """Correlate predicted with trained scores ``[p]``."""
    count = len(trained)
    if count < FEWEST:
        return Ranking(math.nan, math.nan, math.nan, count)
    rho = rank_correlation(
        predicted[:, None], trained[:, None], confidence=confidence, resamples=_RESAMPLES
    )
    return Ranking(rho.value, rho.low, rho.high, count, float(np.ptp(trained)), error, repeated)

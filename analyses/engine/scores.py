"""Scores of predictions, fast enough for a bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from subkern.agreement.predictions import REAL, Score, correlation

__all__ = ["SCORES"]

Integers = npt.NDArray[np.int64]


def _accuracy(labels: Integers, predictions: Integers) -> float:
    """Return the share of right predictions."""
    return float(np.mean(labels == predictions))


def _f1(labels: Integers, predictions: Integers) -> float:
    """Return F1 of class 1, 0 where neither labels nor predictions hold a 1."""
    either = int(np.sum(labels)) + int(np.sum(predictions))
    return 2.0 * int(np.sum(labels & predictions)) / either if either else 0.0


# As `subkern.agreement.score_predictions`, without scikit-learn's checks at every resample.
SCORES: Mapping[Score, Callable[[Any, Any], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    **{each: partial(correlation, metric=each) for each in REAL},
}

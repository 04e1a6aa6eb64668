"""Whether one number orders units (prompts, configurations, tasks) as another does."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

__all__ = ["FEWEST", "Correlation", "rank_correlation", "spearman"]

Floats = npt.NDArray[np.float64]

FEWEST = 4
"""Fewer units than this have no interval."""

_DECIMALS = 12
"""Of a score; what lies behind them is the order of adding."""


@dataclass(frozen=True)
class Correlation:
    """A rank correlation over units: prompts, configurations.

    Attributes:
        value: Spearman's ρ, the mean over data seeds; NaN where all units tie.
        low, high: bootstrap interval over units; NaN where there is none.
        count: how many units.
    """

    value: float
    low: float
    high: float
    count: int


def rank_correlation(
    predictor: Floats, truth: Floats, *, confidence: float = 0.95, resamples: int = 500
) -> Correlation:
    """Return Spearman's rank correlation over units, with a percentile bootstrap over units.

    Formula
        ``mean_s ρ(predictor[:, s], truth[:, s])``, ρ the correlation of ranks, ties sharing theirs.
        Data seeds on which one side ties throughout say nothing and are left out.
    Range
        -1 to 1; 1: the predictor orders the units as training does; 0: no better than chance.
    Source
        Spearman 1904; Efron and Tibshirani 1993 for the interval (`scipy.stats.bootstrap`).

    Units are drawn with all their data seeds; draws in which everything ties are left out. With few
    of them the interval is rough. ``predictor`` and ``truth`` are ``[p, s]``: units × data seeds.

    Raises:
        ValueError: shapes differ.
    """
    if predictor.shape != truth.shape or predictor.ndim != 2:
        raise ValueError(f"expected two arrays [p, s], not {predictor.shape} and {truth.shape}")
    count = len(predictor)
    value = float(_spearman(predictor, truth))
    if count < FEWEST or math.isnan(value):
        return Correlation(value, math.nan, math.nan, count)

    def statistic(index: npt.NDArray[np.intp], axis: int) -> Floats:
        drawn = np.moveaxis(index, axis, -1)
        return _spearman(predictor[drawn], truth[drawn])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        draws = stats.bootstrap(
            (np.arange(count),),
            statistic,
            vectorized=True,
            n_resamples=resamples,
            method="percentile",
            rng=np.random.default_rng(0),
        ).bootstrap_distribution
    tail = (1.0 - confidence) / 2.0
    low, high = np.nanquantile(draws, [tail, 1.0 - tail])
    return Correlation(value, float(low), float(high), count)


def _spearman(predictor: Floats, truth: Floats) -> Floats:
    """Return the mean over data seeds of Spearman's ρ over units; NaN if none has one.

    Both are ``[..., p, s]``; what is returned is ``[...]``.
    """
    found = spearman(np.swapaxes(predictor, -1, -2), np.swapaxes(truth, -1, -2))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")
        return np.asarray(np.nanmean(found, axis=-1))


def spearman(one: npt.ArrayLike, other: npt.ArrayLike) -> Floats:
    """Return Spearman's ρ along the last axis, ``[..., p]`` to ``[...]``; NaN where a side ties.

    Numbers that differ in rounding alone tie.
    """
    ranks = (
        stats.rankdata(np.round(np.asarray(side, dtype=np.float64), _DECIMALS), axis=-1)
        for side in (one, other)
    )
    x, y = (each - each.mean(axis=-1, keepdims=True) for each in ranks)
    size = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    with np.errstate(invalid="ignore"):  # 0 / 0 where one side is constant, or there is one unit
        return np.asarray((x * y).sum(axis=-1) / size)

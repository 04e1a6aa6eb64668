"""How well a number known before training orders the prompts by what training then gives.

Predictors and truth are arrays ``[p, s]`` over prompts and data seeds. Everything is computed on
each data seed by itself and then averaged: a user has one training set to choose a prompt on.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

__all__ = ["FEWEST", "Correlation", "firsts", "followed", "rank_correlation", "regret"]

Floats = npt.NDArray[np.float64]

FEWEST = 4
"""Fewer prompts than this have no interval."""


@dataclass(frozen=True)
class Correlation:
    """A rank correlation over prompts.

    Attributes:
        value: Spearman's ρ, the mean over data seeds; NaN where all prompts tie.
        low, high: bootstrap interval over prompts; NaN where there is none.
        prompts: how many prompts.
    """

    value: float
    low: float
    high: float
    prompts: int


def rank_correlation(
    predictor: Floats, truth: Floats, *, confidence: float = 0.95, resamples: int = 500
) -> Correlation:
    """Return Spearman's rank correlation over prompts, with a percentile bootstrap over prompts.

    Formula
        ``mean_s ρ(predictor[:, s], truth[:, s])``, ρ the correlation of ranks, ties sharing theirs.
        Data seeds on which one side ties throughout say nothing and are left out.
    Range
        -1 to 1; 1: the predictor orders the prompts as training does; 0: no better than chance.
    Source
        Spearman 1904; Efron and Tibshirani 1993 for the interval (`scipy.stats.bootstrap`).

    Prompts are drawn with all their data seeds; draws in which everything ties are left out. With
    so few units the interval is rough. ``predictor`` and ``truth`` are ``[p, s]``.

    Raises:
        ValueError: shapes differ.
    """
    if predictor.shape != truth.shape or predictor.ndim != 2:
        raise ValueError(f"expected two arrays [p, s], not {predictor.shape} and {truth.shape}")
    count = len(predictor)
    value = _spearman(predictor, truth)
    if count < FEWEST or math.isnan(value):
        return Correlation(value, math.nan, math.nan, count)

    def statistic(index: npt.NDArray[np.intp]) -> float:
        return _spearman(predictor[index], truth[index])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        draws = stats.bootstrap(
            (np.arange(count),),
            statistic,
            vectorized=False,
            n_resamples=resamples,
            method="percentile",
            rng=np.random.default_rng(0),
        ).bootstrap_distribution
    tail = (1.0 - confidence) / 2.0
    low, high = np.nanquantile(draws, [tail, 1.0 - tail])
    return Correlation(value, float(low), float(high), count)


def _spearman(predictor: Floats, truth: Floats) -> float:
    """Return the mean over data seeds of Spearman's ρ over prompts; NaN if none has one."""
    found = []
    for x, y in zip(predictor.T, truth.T, strict=True):
        if len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0:
            found.append(float(stats.spearmanr(x, y).statistic))
    return float(np.mean(found)) if found else math.nan


def firsts(predictor: Floats) -> npt.NDArray[np.bool_]:
    """Return ``[p, s]`` whether the predictor puts a prompt first on a data seed; several tie."""
    found: npt.NDArray[np.bool_] = predictor == predictor.max(0)
    return found


def followed(predictor: Floats | None, truth: Floats) -> float:
    """Return what one gets with the prompt that the predictor puts first on each data seed.

    Formula
        ``mean_s truth[argmax_p predictor[p, s], s]``; prompts that tie for first are taken with
        equal chance, and without a predictor all prompts are.
    """
    first = np.ones(truth.shape, dtype=bool) if predictor is None else firsts(predictor)
    return float(((truth * first).sum(0) / first.sum(0)).mean())


def regret(predictor: Floats | None, truth: Floats) -> float:
    """Return what is lost by training with the prompt that the predictor puts first.

    Formula
        ``mean_s max_p truth[p, s]`` less what one gets by following the predictor, see `followed`.
    Range
        0 (it chose the best, on every data seed) and up, in units of the score.
    """
    return float(truth.max(0).mean()) - followed(predictor, truth)

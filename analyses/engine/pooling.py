"""Means over seeds and their confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

__all__ = ["Pooled", "pool", "pool_values"]

Floats = npt.NDArray[np.float64]
Over = Literal["data seeds", "adapter seeds", "examples"]


@dataclass(frozen=True)
class Pooled:
    """The mean of one number over its runs.

    Attributes:
        mean: mean over data seeds of the mean over adapter seeds.
        low, high: its confidence interval (NaN where there is none); see :func:`pool`.
        runs: how many numbers.
        over: what the interval is taken over.
    """

    mean: float
    low: float
    high: float
    runs: int
    over: Over


def pool(rows: pd.DataFrame, confidence: float = 0.95) -> Pooled:
    """Pool rows that differ in their seeds only.

    With several data seeds the interval is Student's t over the data seeds' means: runs that share
    a split are not independent, and these means vary with both kinds of seed. With one data seed
    and several adapter seeds it is Student's t over the adapter seeds, so it holds for that split.
    A single run keeps its own bootstrap interval over examples.

    Raises:
        ValueError: there are no rows.
    """
    if rows.empty:
        raise ValueError("no rows to pool")
    seeds = rows["data_seed"].to_numpy(float, na_value=np.nan)
    value, low, high = (rows[name].to_numpy(float) for name in ("value", "low", "high"))
    return pool_values(value, seeds, (low[0], high[0]), confidence)


def pool_values(values: Floats, seeds: Floats, own: tuple[float, float], level: float) -> Pooled:
    """Pool ``values [k]`` of these data seeds ``[k]``; see :func:`pool`.

    ``own`` is the interval over examples, for a single run; ``level`` the confidence.
    """
    known = np.unique(seeds)
    if len(known) > 1:
        by_data = np.array([values[seeds == seed].mean() for seed in known])
        return Pooled(*_student(by_data, level), len(values), "data seeds")
    if len(values) > 1:
        return Pooled(*_student(values, level), len(values), "adapter seeds")
    return Pooled(float(values[0]), float(own[0]), float(own[1]), 1, "examples")


def _student(values: Floats, confidence: float) -> tuple[float, float, float]:
    """Return mean, and mean ∓ t·s/√k, of ``values [k]``; NaN beside a mean that is not finite."""
    if not np.isfinite(values).all():
        with np.errstate(invalid="ignore"):  # infinities of both signs
            return float(values.mean()), np.nan, np.nan
    mean = float(values.mean())
    error = float(values.std(ddof=1)) / len(values) ** 0.5
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return mean, mean - half, mean + half

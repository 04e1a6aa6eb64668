"""Means over seeds and their confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

__all__ = ["Pooled", "pool"]

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
    values = rows["value"].to_numpy(float)
    if rows["data_seed"].nunique() > 1:
        by_data = rows.groupby("data_seed")["value"].mean().to_numpy(float)
        return Pooled(*_student(by_data, confidence), len(values), "data seeds")
    if len(values) > 1:
        return Pooled(*_student(values, confidence), len(values), "adapter seeds")
    low, high = (float(rows[column].iloc[0]) for column in ("low", "high"))
    return Pooled(float(values[0]), low, high, 1, "examples")


def _student(values: npt.NDArray[np.float64], confidence: float) -> tuple[float, float, float]:
    """Return mean, and mean ∓ t·s/√k, of ``values [k]``."""
    mean = float(values.mean())
    error = float(values.std(ddof=1)) / len(values) ** 0.5
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return mean, mean - half, mean + half

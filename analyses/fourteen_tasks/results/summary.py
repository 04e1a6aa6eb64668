"""Means and standard deviations over data seeds, and two methods set side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...engine.ranking import spearman
from ...show import numbers as fmt
from .methods import Method, method


@dataclass(frozen=True)
class Summary:
    """One number of a table.

    Attributes:
        mean: over data seeds.
        sd: sample standard deviation over data seeds (n − 1 in the denominator), NaN for one seed.
        seeds: how many.
    """

    mean: float
    sd: float
    seeds: int

    @property
    def text(self) -> str:
        """Per cent with one decimal, the standard deviation in brackets: ``88.1 (1.2)``."""
        mean = fmt.points(self.mean)
        return mean if math.isnan(self.sd) else f"{mean} ({fmt.points(self.sd)})"


def means(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Return mean, sd and number of data seeds of ``value`` for each combination of ``keys``.

    Runs of one data seed are averaged first: they share a split and are not independent.
    """
    by_seed = rows.groupby([*keys, "data_seed"], dropna=False, as_index=False)["value"].mean()
    found = by_seed.groupby(list(keys), dropna=False)["value"]
    return found.agg(mean="mean", sd="std", seeds="count").reset_index()


@dataclass(frozen=True, eq=False)
class Comparison:
    """The test scores of one method (y) beside another's (x).

    Attributes:
        first, second: the methods.
        points: a row for each task and number of shots that both have, over the data seeds that
            both have: columns task, k, ``x``, ``x_sd``, ``y``, ``y_sd``, seeds.
        gap: mean absolute difference of the two, a share.
        rho: Spearman's rank correlation; None below three points, or where all tie.
    """

    first: Method
    second: Method
    points: pd.DataFrame
    gap: float
    rho: float | None

    @property
    def ranked(self) -> bool:
        """Whether there is a rank correlation."""
        return self.rho is not None


def compare(scores: pd.DataFrame, first: str, second: str) -> Comparison | None:
    """Return the comparison of two methods, or None if they have no task and shots in common."""
    points = pooled(paired(scores, "method", first, second))
    if points.empty:
        return None
    gap = float(np.abs(points["x"] - points["y"]).mean())
    rho = float(spearman(points["x"], points["y"])) if len(points) > 2 else math.nan
    found = None if math.isnan(rho) else rho
    return Comparison(method(first), method(second), points, gap, found)


def paired(rows: pd.DataFrame, by: str, first: str, second: str) -> pd.DataFrame:
    """Return ``value`` where column ``by`` is ``first`` (x) and where it is ``second`` (y).

    Only data seeds that have both count: else the difference would also be that of the splits.
    Columns: task, k, data_seed, x, y.
    """
    keys = ["task", "k", "data_seed"]
    one, other = (
        rows[rows[by] == name].groupby(keys)["value"].mean().rename(axis)
        for name, axis in ((first, "x"), (second, "y"))
    )
    return pd.concat([one, other], axis=1, join="inner").reset_index()


def pooled(both: pd.DataFrame) -> pd.DataFrame:
    """Return means and deviations over the data seeds of `paired`, a row a task and shots."""
    grouped = both.groupby(["task", "k"])
    spread = grouped[["x", "y"]].std(ddof=1).add_suffix("_sd")
    count = grouped.size().rename("seeds")
    return pd.concat([grouped[["x", "y"]].mean(), spread, count], axis=1).reset_index()


def commonest_shots(found: pd.DataFrame, by: Sequence[str] = ("task",)) -> int:
    """Return the shots that a figure of one number shows: most rows, the fewest shots if tied."""
    counts = found.drop_duplicates(["k", *by])["k"].value_counts()
    return int(min(counts[counts == counts.max()].index))

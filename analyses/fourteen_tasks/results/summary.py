"""Means and standard deviations over seeds of a study's scores, and which methods pair up."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from .methods import PAIRS
from .read import Study

_CELL = ["task", "k", "head", "method", "subspace", "optimizer"]


def means(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Return mean, sd and number of data seeds of ``value`` for each combination of ``keys``.

    Runs of one data seed are averaged first: they share a split and are not independent.
    """
    by_seed = rows.groupby([*keys, "data_seed"], dropna=False, as_index=False)["value"].mean()
    found = by_seed.groupby(list(keys), dropna=False)["value"]
    return found.agg(mean="mean", sd="std", seeds="count").reset_index()


def mean_scores(study: Study) -> pd.DataFrame:
    """Return mean, sd and seeds of the test score of every cell of the tables."""
    return means(study.scores, _CELL)


def compared(study: Study, head: str) -> list[tuple[str, str]]:
    """Return the (fine-tuning, kernel) pairs of which some task has both under a head."""
    return [pair for pair in PAIRS if not pairs(study, *pair, head=head).empty]


@lru_cache(maxsize=64)
def pairs(study: Study, first: str, second: str, *, head: str) -> pd.DataFrame:
    """Return tasks and shots for which both methods have a score, over the seeds that both have.

    Columns: task, k, ``x`` and ``x_sd`` of ``first``, ``y`` and ``y_sd`` of ``second``, seeds. The
    frame is kept and given to all who ask (tables, figures and report do): do not change it.
    """
    return paired(study.scores[study.scores["head"] == head], "method", first, second)


def paired(rows: pd.DataFrame, by: str, first: str, second: str) -> pd.DataFrame:
    """Return the means of ``value`` where column ``by`` is ``first`` (x) and ``second`` (y).

    Only data seeds that have both count: else the difference would also be that of the splits.
    Rows of the result are tasks and shots, in the order of the table's categories.
    """
    keys = ["task", "k", "data_seed"]
    one, other = (
        rows[rows[by] == name].groupby(keys)["value"].mean().rename(axis)
        for name, axis in ((first, "x"), (second, "y"))
    )
    both = pd.concat([one, other], axis=1, join="inner").reset_index()
    grouped = both.groupby(["task", "k"])
    found = grouped[["x", "y"]].mean()
    spread = grouped[["x", "y"]].std(ddof=1).rename(columns={"x": "x_sd", "y": "y_sd"})
    count = grouped.size().rename("seeds")
    return pd.concat([found, spread, count], axis=1).reset_index()


def gap(found: pd.DataFrame) -> float:
    """Return the mean absolute difference of the two scores of `pairs`."""
    return float(np.abs(found["x"] - found["y"]).mean())

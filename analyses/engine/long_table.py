"""Long tables: one number a row, with what it is about in the other columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["LongTable", "cells"]

_NUMBERS = {"value": "float64", "low": "float64", "high": "float64"}


class LongTable:
    """The columns of a study's long table, and how its rows are made.

    Args:
        about: columns that say what a number is about, name -> pandas type; after them come
            ``value``, ``low`` and ``high``: the number, and its interval where it has one.
    """

    def __init__(self, about: Mapping[str, str]) -> None:
        self.columns = {**about, **_NUMBERS}

    def row(
        self, value: float, interval: tuple[float, float] | None = None, **cell: float | str | None
    ) -> dict[str, Any]:
        """Return one row; what ``cell`` leaves out is missing.

        Raises:
            TypeError: ``cell`` names a column that is not there.
        """
        if unknown := cell.keys() - self.columns.keys():
            raise TypeError(f"the table has no columns {sorted(unknown)}")
        low, high = interval or (float("nan"), float("nan"))
        return {**dict.fromkeys(self.columns), **cell, "value": value, "low": low, "high": high}

    def tidy(self, rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
        """Return the rows as a table with the columns and their types."""
        return pd.DataFrame(list(rows), columns=list(self.columns)).astype(self.columns)


def cells(table: pd.DataFrame, **cell: float | str | None) -> pd.DataFrame:
    """Return the rows whose columns have these values; None selects where the column is missing."""
    keep = np.ones(len(table), dtype=bool)
    for column, wanted in cell.items():
        values = table[column]
        same = values.isna() if wanted is None else values == wanted
        keep &= same.to_numpy(dtype=bool, na_value=False)
    return table[keep]

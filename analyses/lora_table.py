"""The long table of ``analyze lora``: one number a row, with what it is about in the other columns.

========================= ==========================================================================
column                    meaning
========================= ==========================================================================
``data_seed``             seed of the k-shot split
``targets``               what LoRA adapts; missing where the row is about full fine-tuning of the
                          whole model, or about no kernel
``adapter_seed``, ``rank`` of the LoRA; missing where the row is about no LoRA
``kernel``                ``full`` fine-tuning, ``targets`` (full fine-tuning of the adapted weights
                          only), ``lora``, or ``zero-shot`` (no kernel: the initial logits)
``reference``             the kernel it is compared with (``full``, ``targets``), if any
``solver``                the classifier solved on the kernel, if any
``split``                 the examples the number is about
``metric``                name of a metric of :mod:`subkern.agreement`, the task's metric, ``drop``
                          (the reference's minus this kernel's), ``trainable_parameters``,
                          or ``cost.<what>``
``value``, ``low``, ``high`` the number and its bootstrap interval over examples, where it has one
========================= ==========================================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["COLUMNS", "cells", "row", "tidy"]

COLUMNS = {
    "data_seed": "Int64",
    "targets": "string",
    "adapter_seed": "Int64",
    "rank": "Int64",
    "kernel": "string",
    "reference": "string",
    "solver": "string",
    "split": "string",
    "metric": "string",
    "value": "float64",
    "low": "float64",
    "high": "float64",
}


def row(
    value: float, interval: tuple[float, float] | None = None, **cell: int | str | None
) -> dict[str, Any]:
    """Return one row; what ``cell`` leaves out is missing.

    Raises:
        TypeError: ``cell`` names a column that is not there.
    """
    if unknown := cell.keys() - COLUMNS.keys():
        raise TypeError(f"the table has no columns {sorted(unknown)}")
    low, high = interval or (float("nan"), float("nan"))
    return {**dict.fromkeys(COLUMNS), **cell, "value": value, "low": low, "high": high}


def tidy(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return the rows as a table with the columns and types of ``COLUMNS``."""
    return pd.DataFrame(list(rows), columns=list(COLUMNS)).astype(COLUMNS)


def cells(table: pd.DataFrame, **cell: int | str | None) -> pd.DataFrame:
    """Return the rows whose columns have these values; None selects where the column is missing."""
    keep = np.ones(len(table), dtype=bool)
    for column, wanted in cell.items():
        values = table[column]
        same = values.isna() if wanted is None else values == wanted
        keep &= same.to_numpy(dtype=bool, na_value=False)
    return table[keep]

"""The long table of ``analyze prompting``: one number a row, what it is about in other columns.

========================= ==========================================================================
column                    meaning
========================= ==========================================================================
``data_seed``             seed of the k-shot split
``head``                  ``prompt`` or ``linear``
``prompt``                name of the prompt, or ``linear head``
``weights``               ``pretrained`` or ``random``
``method``                ``kernel``, ``finetune``, ``zero-shot`` (the initial logits), ``constant``
                          (the best answer that is the same for all examples) or ``skipped``
``solver``                the classifier solved on the kernel, if any
``split``                 the examples the number is about
``metric``                the task's metric, ``kernel_target_alignment``, ``learning_rate``,
                          ``batch_size``, ``best_step`` or ``seconds``
``value``, ``low``, ``high`` the number and its bootstrap interval over examples, where it has one
``note``                  why there is no number, or what is to be said of it
========================= ==========================================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

__all__ = ["COLUMNS", "row", "tidy"]

COLUMNS = {
    "data_seed": "Int64",
    "head": "string",
    "prompt": "string",
    "weights": "string",
    "method": "string",
    "solver": "string",
    "split": "string",
    "metric": "string",
    "value": "float64",
    "low": "float64",
    "high": "float64",
    "note": "string",
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

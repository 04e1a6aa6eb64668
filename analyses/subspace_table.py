"""The long table of ``analyze subspace``: one number a row, what it is about in the other columns.

========================= ==========================================================================
column                    meaning
========================= ==========================================================================
``data_seed``             seed of the k-shot split
``seed``                  of the random subspace or of LoRA's A; missing where nothing is drawn, or
                          where the number is over all seeds
``kernel``                ``full`` fine-tuning, ``random`` subspace, ``lora``, ``method`` (any other
                          one), ``zero-shot`` (no kernel: the initial logits), or ``constant`` (the
                          best answer that is the same for all examples)
``method``                kind of the random projection, ``rank <r>`` of LoRA, or a method's
                          one-line form
``parameters``            how many are trained: a random subspace's dimension
``solver``                the classifier solved on the kernel, if any
``split``                 the examples the number is about
``metric``                name of a metric of :mod:`subkern.agreement` (always against the full
                          kernel), the task's metric, ``distortion.<what>`` and
                          ``centred_distortion.<what>`` (:mod:`analyses.distortion`), or
                          ``cost.<what>``
``value``, ``low``, ``high`` the number and its bootstrap interval over examples, where it has one
========================= ==========================================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

__all__ = ["COLUMNS", "row", "tidy"]

COLUMNS = {
    "data_seed": "Int64",
    "seed": "Int64",
    "kernel": "string",
    "method": "string",
    "parameters": "Int64",
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

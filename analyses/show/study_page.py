"""The table that the pages of several studies have in common: what computing the kernels took."""

from __future__ import annotations

import math

from . import numbers as fmt
from .page import Table
from .study_numbers import Costs

_NONE = "–"


def cost_table(costs: Costs, note: str = "") -> Table:
    """Return what computing the kernels took, a column a data seed."""
    names = list(dict.fromkeys(name for each in costs.by_seed.values() for name in each))
    rows = [
        [
            name.replace("_", " "),
            *(_cost(name, each.get(name, math.nan)) for each in costs.by_seed.values()),
        ]
        for name in names
    ]
    if any(value is not None for value in costs.zeroed.values()):
        counts = (_NONE if value is None else fmt.count(value) for value in costs.zeroed.values())
        rows.append(["entries counted as zero", *counts])
        note = f"{note} Entries counted as zero: of the gradients, as rounding noise has no sign."
    header = ["", *(f"data seed {seed}" for seed in costs.by_seed)]
    return Table("Computing the kernels", note.strip(), header, rows)


def _cost(name: str, value: float) -> str:
    """Return a cost in the unit that its name ends with."""
    if math.isnan(value):
        return _NONE
    if name.endswith("seconds"):
        return fmt.duration(value)
    if name.endswith("bytes"):
        return fmt.size(value)
    return fmt.count(value) if value < 1e9 else f"{value:.3g}"

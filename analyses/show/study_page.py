"""What the report pages of all studies have in common: costs, settings, how dev was used."""

from __future__ import annotations

import math

from ..engine.run_folder import Results
from . import numbers as fmt
from .page import Table, flat
from .study_numbers import cost

__all__ = ["TUNING", "cost_table", "flat", "settings", "zeroed_entries"]

TUNING = {
    "full": "for the full kernel, then used for all, so that nothing but the kernel differs",
    "each": "for each kernel by itself",
}
"""What dev is used for, by the setting ``tuning``, to end a sentence with."""

_NONE = "–"


def cost_table(results: Results, note: str = "") -> Table:
    """Return what computing the kernels took, a column a data seed."""
    by_seed = {int(seed): cost(results, int(seed)) for seed in results.config["data_seeds"]}
    names = list(dict.fromkeys(name for costs in by_seed.values() for name in costs))
    rows = [
        [
            name.replace("_", " "),
            *(_cost(name, costs.get(name, math.nan)) for costs in by_seed.values()),
        ]
        for name in names
    ]
    zeroed = {seed: zeroed_entries(results, seed) for seed in by_seed}
    if any(value is not None for value in zeroed.values()):
        counts = (_NONE if value is None else fmt.count(value) for value in zeroed.values())
        rows.append(["entries counted as zero", *counts])
        note = f"{note} Entries counted as zero: of the gradients, as rounding noise has no sign."
    header = ["", *(f"data seed {seed}" for seed in by_seed)]
    return Table("Computing the kernels", note.strip(), header, rows)


def zeroed_entries(results: Results, seed: int) -> int | None:
    """Return how many gradient entries counted as zero, as noise, in the full kernel of a seed.

    None where it was not recorded, as of a rule that takes no signs.
    """
    kernel = results.kernels.get(f"{seed}/full")
    recorded = {} if kernel is None else kernel.provenance.get("recorded", {})
    return recorded.get("zeroed_entries")


def settings(results: Results) -> dict[str, str]:
    """Return the config and what it was resolved to, as text; digests stay in ``config.yaml``."""
    every = {**flat(results.config), **flat(results.inputs, "resolved ")}
    return {name: text for name, text in every.items() if not name.endswith("digest")}


def _cost(name: str, value: float) -> str:
    """Return a cost in the unit that its name ends with."""
    if math.isnan(value):
        return _NONE
    if name.endswith("seconds"):
        return fmt.duration(value)
    if name.endswith("bytes"):
        return fmt.size(value)
    return fmt.count(value) if value < 1e9 else f"{value:.3g}"

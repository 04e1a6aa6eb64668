"""Cells about a fine-tuned model: its linearization, and what became of its kernel."""

from __future__ import annotations

import numpy as np

from subkern.dynamics.linearize import initial_logits, linearized_logits
from subkern.kernel_behavior import compare_linearized, feature_change, subspace_at
from subkern.kernels.compute import compute_kernel
from subkern.subspaces.movable import MovableModel
from subkern.subspaces.text import parse_subspace
from subkern.training.monitor import labels_of, logits_of

from ..scheduler.work import Found
from . import kernels as fourteen_kernels
from .inputs import Context
from .training import tuned

__all__ = ["features", "linearized"]

_FEATURES = {
    "relative_frobenius": "relative change",
    "cka": "cka with start",
    "relative_frobenius_scaled": "relative_frobenius_scaled",
    "relative_frobenius_centred_scaled": "relative_frobenius_centred_scaled",
    "pearson": "pearson",
}
"""Metrics that are kept → what the table calls them."""


def linearized(context: Context) -> Found:
    """Compare f_lin = f(z₀) + J·(z_T − z₀) with the trained f on dev and test."""
    method = str(context.cell.settings["of"])
    shift = tuned(context, method).shift
    tunable = MovableModel(context.model, parse_subspace(context.cell.settings["subspace"]))
    rows = []
    for split in ("dev", "test"):
        examples = context.encoded[split]
        found = compare_linearized(
            initial_logits(tunable, examples),
            linearized_logits(tunable, shift, examples),
            logits_of(tunable.move(shift), examples),
            labels_of(examples),
            context.metric,
        )
        for name, value in (
            (f"linearized {context.metric}", found.linearized),
            ("recovered share", found.recovered),
            ("linearization distance", found.distance),
            ("same predictions", found.same_predictions),
        ):
            rows.append(context.row(value, name, split=split))
    return Found(rows)


def features(context: Context) -> Found:
    """Compare the train kernel after training with that before it."""
    cell = context.cell
    shift = tuned(context, str(cell.settings["of"])).shift
    subspace = parse_subspace(cell.settings["subspace"])
    at = subspace_at(context.model, subspace, shift)
    train = context.encoded["train"]
    now = compute_kernel(context.model, train, subspace=at, options=context.options)
    now.save(context.folder / fourteen_kernels.FILE)
    before = fourteen_kernels.load(context, fourteen_kernels.REFERENCE)
    start = before.select(right=context.ids["train"])
    table = feature_change(start, now).set_index("metric")
    rows = [
        context.row(table.at[metric, "value"], name, split="train")
        for metric, name in _FEATURES.items()
    ]
    moved = float(np.sqrt(sum(float(each.double().square().sum()) for each in shift.values())))
    return Found([*rows, context.row(moved, "distance moved")])

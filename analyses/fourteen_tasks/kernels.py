"""Cells about kernels: the kernel, classifiers on it, how it agrees with full fine-tuning's."""

from __future__ import annotations

import json

from subkern.agreement import agreement_table
from subkern.kernels.compute import compute_kernel
from subkern.kernels.kernel import Kernel
from subkern.kernels.rules import parse_rule
from subkern.kernels.sweeps.rules import sweep_rules
from subkern.prompts.prompt import EncodedExample
from subkern.solvers import evaluate

from ..scheduler.work import Found
from .inputs import Context
from .table import AGREEMENT, SIGNS

__all__ = ["FILE", "agree", "kernel", "kernels", "load", "solve"]

FILE = "kernel.zarr"
REFERENCE = "kernel-sgd"


def kernels(context: Context) -> Found:
    """Compute the kernels of all rules over all parameters, in one pass, and keep them."""
    rules = context.cell.settings["rules"]
    sides = _sides(context)
    found = sweep_rules(context.model, *sides, rules=rules, options=context.options)
    for rule, each in zip(rules, found, strict=True):
        each.save(context.folder / _file(rule))
    return Found([context.row(len(rules), "kernels")])


def kernel(context: Context) -> Found:
    """Compute one kernel, train × (train, dev, test), or take it from those that share a pass."""
    settings = context.cell.settings
    if context.cell.needs:
        found = Kernel.load(context.need(SIGNS, "kernels") / _file(settings["rule"]))
    else:
        found = compute_kernel(
            context.model,
            *_sides(context),
            rule=settings["rule"],
            subspace=settings["subspace"],
            options=context.options,
        )
    found.save(context.folder / FILE)
    train = found.select(right=context.ids["train"])
    table = agreement_table(train, train, metrics=["kernel_target_alignment"], n_resamples=0)
    coordinates = float(found.provenance["recorded"]["coordinates"])
    return Found(
        [
            context.row(table["value"].iloc[0], "kta", split="train"),
            context.row(coordinates, "trainable parameters"),
        ]
    )


def _sides(context: Context) -> tuple[list[EncodedExample], list[EncodedExample]]:
    """Return rows and columns of a kernel: train, and all splits."""
    encoded = context.encoded
    return encoded["train"], [*encoded["train"], *encoded["dev"], *encoded["test"]]


def _file(rule: str) -> str:
    """Return the name of a kernel among those of all sign rules."""
    return f"{parse_rule(rule).name}.zarr"


def load(context: Context, method: str | None = None) -> Kernel:
    """Return the full kernel of a method, or the one that this cell is about if None."""
    if method is not None:
        return Kernel.load(context.need(method, "kernel") / FILE)
    subspace = context.cell.settings["subspace"]
    step = "kernel" if subspace == "full" else f"kernel {subspace}"
    return Kernel.load(context.need(context.cell.method, step) / FILE)


def solve(context: Context) -> Found:
    """Fit a classifier on train, with the settings that do best on dev, and score it."""
    whole, ids, metric = load(context), context.ids, context.metric
    train, dev, test = (whole.select(right=ids[split]) for split in ("train", "dev", "test"))
    solver = str(context.cell.settings["solver"])
    found = evaluate(solver, train, test, dev, grid="default", metric=metric)
    (context.folder / "solution.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return Found(context.scores({"dev": found[f"dev {metric}"], "test": found[f"eval {metric}"]}))


def agree(context: Context) -> Found:
    """Set the train kernel beside that of full fine-tuning by sgd."""
    ids = context.ids["train"]
    reference, mine = (load(context, method).select(right=ids) for method in (REFERENCE, None))
    table = agreement_table(reference, mine, metrics=AGREEMENT, n_resamples=0)
    pairs = zip(table["metric"], table["value"], strict=True)
    return Found([context.row(value, metric, split="train") for metric, value in pairs])

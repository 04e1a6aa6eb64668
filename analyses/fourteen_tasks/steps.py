"""What the cells of the study compute: a function each, by the first word of a cell's step."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from subkern.agreement import agreement_table
from subkern.dynamics.linearize import initial_logits, linearized_logits
from subkern.errors import UserError
from subkern.kernel_behavior import compare_linearized, feature_change, subspace_at
from subkern.kernels.compute import compute_kernel
from subkern.kernels.kernel import Kernel
from subkern.kernels.rules import parse_rule
from subkern.kernels.sweeps.rules import sweep_rules
from subkern.learning_rate.measure import suggest
from subkern.prompts.prompt import EncodedExample
from subkern.solvers import evaluate
from subkern.storage.files import read_json
from subkern.subspaces.movable import MovableModel
from subkern.subspaces.text import parse_subspace
from subkern.training.finetune import FineTuned, Training, add_splits, finetune
from subkern.training.grid_search import SUGGESTED, TrainingGrid
from subkern.training.linear_probe import linear_probe
from subkern.training.monitor import labels_of, logits_of, score

from ..scheduler.work import Found
from .config import PLACES
from .inputs import Context
from .table import AGREEMENT, SIGNS

REFERENCE = "kernel-sgd"
"""The method whose full kernel others are compared with."""

KERNEL, CHOSEN = "kernel.zarr", "chosen.txt"
RUN, SHIFT = "run", "shift"
"""Folders of a cell: the training run, and the same with what moved, if it may be the best."""

_FEATURES = {
    "relative_frobenius": "relative change",
    "cka": "cka with start",
    "relative_frobenius_scaled": "relative_frobenius_scaled",
    "relative_frobenius_centred_scaled": "relative_frobenius_centred_scaled",
    "pearson": "pearson",
}
"""Metrics that are kept → what the table calls them."""

# --- kernels ---


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
    found.save(context.folder / KERNEL)
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
        return Kernel.load(context.need(method, "kernel") / KERNEL)
    subspace = context.cell.settings["subspace"]
    step = "kernel" if subspace == "full" else f"kernel {subspace}"
    return Kernel.load(context.need(context.cell.method, step) / KERNEL)


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


# --- training ---


def zero_shot(context: Context) -> Found:
    """Score the model as it is."""
    tunable = MovableModel(context.model, parse_subspace("full"))
    return Found(context.scores(_scores(context, tunable)))


def _scores(context: Context, tunable: MovableModel) -> dict[str, float]:
    """Return the score on dev and test where the coordinates stand."""
    return {
        split: score(logits_of(tunable, examples), labels_of(examples), context.metric)
        for split, examples in context.encoded.items()
        if split != "train"
    }


def probe(context: Context) -> Found:
    """Fit a linear classifier on the model's features, and score it."""
    found = linear_probe(context.model, context.encoded, metric=context.metric)
    return Found(context.scores(found.scores))


def suggestion(context: Context) -> Found:
    """Suggest the learning rates of a method at a batch size, and keep what was found.

    Raises:
        NoSuggestion: nothing moves the logits, or something is not finite; other grids go on.
    """
    settings = context.cell.settings
    train, training = context.encoded["train"], settings["training"]
    found = suggest(context.model, train, subspace=settings["subspace"], **training)
    text = json.dumps(found.as_dict(), indent=1)
    (context.folder / SUGGESTED).write_text(text, encoding="utf-8")
    return Found([])


def point(context: Context) -> Found:
    """Train with one learning rate and batch size, and keep the best step on dev.

    Test is left for the best point of the grid.

    Raises:
        Diverged: the loss is not finite any more; the other points go on.
    """
    training = dict(context.cell.settings["training"])
    if (place := training["learning_rate"]) in PLACES:
        folder = context.need(context.cell.method, f"suggest b={training['batch_size']}")
        training["learning_rate"] = read_json(folder / SUGGESTED)["grid"][PLACES.index(place)]
    found = _train(context, training)
    found.save(context.folder / SHIFT)
    replace(found, shift={}, shifts={}, adapter={}).save(context.folder / RUN)
    return Found([])


def _train(context: Context, training: Mapping[str, Any]) -> FineTuned:
    """Train in the cell's subspace, without test; what was killed goes on from its checkpoint."""
    return finetune(
        context.model,
        {split: context.encoded[split] for split in ("train", "dev")},
        subspace=context.cell.settings["subspace"],
        training=Training(**training),
        metric=context.metric,
        out=context.unfinished("training"),
        overwrite=True,  # what is damaged
    )


def best(context: Context) -> Found:
    """Choose the point of the grid that did best on dev, and score it on test.

    What moved at a point that lost in a larger grid was dropped then: it is trained again.

    Raises:
        UserError: no point is left.
    """
    finished = list(context.needs.values())
    points = {each: FineTuned.load(each / RUN) for each in finished if _is_point(each.name)}
    if not points:
        raise UserError(_nothing_left(context))
    chosen = max(points, key=lambda each: points[each].rank_on_dev)  # the first of equals
    subspace = parse_subspace(context.cell.settings["subspace"])
    try:
        winner = FineTuned.load(chosen / SHIFT)
    except UserError:  # dropped, perhaps by a process that was killed while it did
        winner = _train(context, points[chosen].training)
        winner.save(chosen / SHIFT)
    found = add_splits(
        context.model,
        winner,
        context.encoded,
        subspace=subspace,
        metric=context.metric,
    )
    (context.folder / CHOSEN).write_text(chosen.name, encoding="utf-8")
    training = found.training
    rows = [
        *context.scores(found.scores),
        context.row(training["learning_rate"], "learning rate"),
        context.row(training["batch_size"], "batch size"),
        context.row(found.best_step, "best step"),
        context.row(_edge(context, chosen.name, training["learning_rate"]), "grid edge"),
    ]
    return Found(rows, drop=tuple(each / SHIFT for each in points if each != chosen))


def _is_point(step: str) -> bool:
    """Say if a step is a point of a grid."""
    return step.startswith("train ")


def _nothing_left(context: Context) -> str:
    """Return why there is nothing to choose from, and what to do."""
    cell = context.cell
    tried = sum(_is_point(key.rpartition("/")[2]) for key in cell.after)
    if len(cell.after) > tried and not context.needs:
        return (
            f"no learning rate could be suggested for any of the {tried} points of the grid: see"
            f" why suggest failed, or give --learning-rates {cell.method}=... yourself"
        )
    return (
        f"none of the {tried} points of the grid finished: see why they failed, and give"
        f" --learning-rates {cell.method}=... that do not diverge"
    )


def _edge(context: Context, step: str, learning_rate: float) -> int:
    """Return -1 or 1 if the best point is at the lower or upper edge of its grid, else 0."""
    rates = context.config.rates(context.cell.method)
    if isinstance(rates, str):
        (place,) = (place for place in PLACES if f" lr={place} " in step)
        return PLACES.index(place) - 1
    grid = TrainingGrid(rates, context.config.batch_sizes)
    return {None: 0, "smallest": -1, "largest": 1}[grid.edge(learning_rate)]


def tuned(context: Context, method: str) -> FineTuned:
    """Return the best run of a fine-tuning method that this cell waited for."""
    folder = context.need(method, "best")
    point = (folder / CHOSEN).read_text(encoding="utf-8")
    return FineTuned.load(folder.parent / point / SHIFT)


# --- a fine-tuned model ---


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
    now.save(context.folder / KERNEL)
    before = load(context, REFERENCE)
    start = before.select(right=context.ids["train"])
    table = feature_change(start, now).set_index("metric")
    rows = [
        context.row(table.at[metric, "value"], name, split="train")
        for metric, name in _FEATURES.items()
    ]
    moved = float(np.sqrt(sum(float(each.double().square().sum()) for each in shift.values())))
    return Found([*rows, context.row(moved, "distance moved")])


STEPS: Mapping[str, Callable[[Context], Found]] = {
    "score": zero_shot,
    "probe": probe,
    "suggest": suggestion,
    "train": point,
    "best": best,
    "kernels": kernels,
    "kernel": kernel,
    "solve": solve,
    "agreement": agree,
    "linearized": linearized,
    "features": features,
}
"""First word of a cell's step → what computes it."""

"""Cells about training: zero-shot, the linear probe, points of a grid, and the best of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from subkern.errors import UserError
from subkern.subspaces.movable import MovableModel
from subkern.subspaces.text import parse_subspace
from subkern.training.finetune import FineTuned, Training, add_splits, finetune
from subkern.training.grid_search import TrainingGrid
from subkern.training.linear_probe import linear_probe
from subkern.training.monitor import labels_of, logits_of, score
from subkern.training.result import RESULT

from ..scheduler.work import Found
from .inputs import Context

__all__ = ["RUN", "best", "point", "probe", "tuned", "zero_shot"]

CHOSEN = "chosen.txt"
RUN, SHIFT = "run", "shift"
"""Folders of a cell: the training run, and the same with what moved, if it may be the best."""


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


def point(context: Context) -> Found:
    """Train with one learning rate and batch size, and keep the best step on dev.

    Test is left for the best point of the grid.

    Raises:
        Diverged: the loss is not finite any more; the other points go on.
    """
    found = _train(context, context.cell.settings["training"])
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
    )


def best(context: Context) -> Found:
    """Choose the point of the grid that did best on dev, and score it on test.

    What moved at a point that lost in a larger grid was dropped then: it is trained again.

    Raises:
        UserError: no point is left.
    """
    if not context.needs:
        tried = len(context.cell.after)
        raise UserError(
            f"none of the {tried} points of the grid finished: see why they failed, and give"
            f" --learning-rates {context.cell.method}=... that do not diverge"
        )
    points = {each: FineTuned.load(each / RUN) for each in context.needs.values()}
    chosen = max(points, key=lambda each: points[each].rank_on_dev)  # the first of equals
    subspace = parse_subspace(context.cell.settings["subspace"])
    if not (chosen / SHIFT / RESULT).is_file():
        _train(context, points[chosen].training).save(chosen / SHIFT)
    found = add_splits(
        context.model,
        FineTuned.load(chosen / SHIFT),
        context.encoded,
        subspace=subspace,
        metric=context.metric,
    )
    (context.folder / CHOSEN).write_text(chosen.name, encoding="utf-8")
    training = found.training
    grid = TrainingGrid(context.config.rates(context.cell.method), context.config.batch_sizes)
    edge = {None: 0, "smallest": -1, "largest": 1}[grid.edge(training["learning_rate"])]
    rows = [
        *context.scores(found.scores),
        context.row(training["learning_rate"], "learning rate"),
        context.row(training["batch_size"], "batch size"),
        context.row(found.best_step, "best step"),
        context.row(edge, "grid edge"),
    ]
    return Found(rows, drop=tuple(each / SHIFT for each in points if each != chosen))


def tuned(context: Context, method: str) -> FineTuned:
    """Return the best run of a fine-tuning method that this cell waited for."""
    folder = context.need(method, "best")
    point = (folder / CHOSEN).read_text(encoding="utf-8")
    return FineTuned.load(folder.parent / point / SHIFT)

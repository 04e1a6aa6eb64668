"""How long the cells may take, before any has been computed: a plan, not a promise.

Costs are counted in forward passes of one example. What such a pass takes is timed on this machine
(`--dry-run`) or told by the cells that are finished, which also replace the guess for all that are
like them (`analyses.scheduler.status.Timing`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from subkern.subspaces.random import RandomSubspace
from subkern.subspaces.text import parse_subspace

from ..scheduler.cell import Cell
from ..scheduler.work import Place
from .config import Config
from .inputs import Context

BACKWARD = 2.0
"""A backward costs about two forwards."""
PAIR = 0.04
"""Inner product of two gradients, of one logit each: about 0.8 over the tokens of an example."""
PRODUCTS = 5.0
"""Products of a pair, and the updates, for all sign rules together."""
STRUCTURED, DENSE = 10.0, 0.13
"""Into a random subspace or out of it: with a structured projection, and with a dense one for each
of its dimensions (which are D random entries each)."""
_TIMED = 8
_BATCHES, _LOOKED = 5, 8
"""Batches that a suggestion looks at, and examples whose logits it follows for each."""


def passes(context: Context) -> float:
    """Return the cost of a cell in forward passes of one example."""
    cell = context.cell
    sizes = {split: len(found) for split, found in context.inputs.splits[cell.data_seed].items()}
    every, train = sum(sizes.values()), sizes["train"]
    looked = sizes["dev"] + sizes["test"]
    logits = 1 if context.inputs.logits == "binary" else len(context.inputs.task.labels)
    step = cell.step.partition(" ")[0]
    moving = _projection(str(cell.settings.get("subspace", "full")))
    if step == "suggest":
        update = min(cell.settings["training"]["batch_size"], train) * (1 + BACKWARD)
        return _BATCHES * (update + 2 * moving + min(_LOOKED, train) * (1 + BACKWARD))
    if step == "train":
        training = cell.settings["training"]
        update = min(training["batch_size"], train) * (1 + BACKWARD) + 2 * moving
        looks = (training["steps"] / training["eval_every"] + 1) * sizes["dev"]
        return float(training["steps"] * update + looks)
    if cell.step == "kernel" and cell.needs:
        return 0.0
    if step in ("kernel", "kernels"):
        dear = PRODUCTS if step == "kernels" else 1.0
        captured = every * (1 + (BACKWARD + moving) * logits)
        return captured + dear * PAIR * train * every * logits**2
    if step == "features":
        return train * (1 + BACKWARD * logits) + PAIR * (train * logits) ** 2
    known = {"score": looked, "probe": every, "best": looked, "linearized": 5 * looked}
    return float(known.get(step, 0))


def _projection(text: str) -> float:
    """Return the cost of projecting one gradient to a subspace, or one point back, in passes."""
    subspace = parse_subspace(text)
    if not isinstance(subspace, RandomSubspace):
        return 0.0
    return STRUCTURED if subspace.kind in ("srht", "count_sketch") else DENSE * subspace.dim


def costs(config: Config) -> Callable[[Cell], float]:
    """Return what counts a cell's passes (`passes`)."""
    return lambda cell: passes(Context(config, cell, {}, Place(Path())))


def pass_seconds(config: Config, first: Cell) -> float:
    """Return the seconds of one pass, timed on the examples of ``first``; loads the model."""
    context = Context(config, first, {}, Place(Path()))
    examples = context.encoded["test"][:_TIMED]
    model = context.model
    batch = model.collate(examples)
    with torch.no_grad():
        model(batch)
        started = time.perf_counter()
        model(batch)
    return (time.perf_counter() - started) / len(examples)

"""How long the cells may take, before any has been computed: a plan, not a promise.

Costs are counted in forward passes of one example, and one such pass is timed on this machine. A
finished cell replaces the guess for all that are like it (`analyses.cell_status.Timing`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from analyses.cells import Cell
from analyses.fourteen_config import Config
from analyses.fourteen_inputs import Context

__all__ = ["guess", "passes"]

BACKWARD = 2.0
"""A backward costs about two forwards."""
PAIR = 0.04
"""Inner product of two gradients, of one logit each: about 0.8 over the tokens of an example."""
PRODUCTS = 5.0
"""Products of a pair, and the updates, for all sign rules together."""
_TIMED = 8


def passes(context: Context) -> float:
    """Return the cost of a cell in forward passes of one example."""
    cell = context.cell
    sizes = {split: len(found) for split, found in context.inputs.splits[cell.data_seed].items()}
    every, train = sum(sizes.values()), sizes["train"]
    looked = sizes["dev"] + sizes["test"]
    logits = 1 if context.inputs.logits == "binary" else len(context.inputs.task.labels)
    step = cell.step.partition(" ")[0]
    if step == "train":
        training = cell.settings["training"]
        updates = training["steps"] * min(training["batch_size"], train) * (1 + BACKWARD)
        return float(updates + (training["steps"] / training["eval_every"] + 1) * sizes["dev"])
    if cell.step == "kernel" and cell.needs:
        return 0.0
    if step in ("kernel", "kernels"):
        dear = PRODUCTS if step == "kernels" else 1.0
        return every * (1 + BACKWARD * logits) + dear * PAIR * train * every * logits**2
    if step == "features":
        return train * (1 + BACKWARD * logits) + PAIR * (train * logits) ** 2
    known = {"score": looked, "probe": every, "best": looked, "linearized": 5 * looked}
    return float(known.get(step, 0))


def guess(config: Config, first: Cell) -> Callable[[Cell], float]:
    """Return what guesses a cell's seconds, from a forward timed on the examples of ``first``."""
    nowhere = Path()
    context = Context(config, first, {}, nowhere)
    examples = context.encoded["test"][:_TIMED]
    model = context.model
    batch = model.collate(examples)
    with torch.no_grad():
        model(batch)
        started = time.perf_counter()
        model(batch)
    second = (time.perf_counter() - started) / len(examples)
    return lambda cell: second * passes(Context(config, cell, {}, nowhere))

"""Kernels of rules that see gradient entries, parameter by parameter over all examples at once.

All examples are captured once and each gradient is formed once: parameter by parameter, a chunk of
coordinates at a time. Finished groups of parameters are durable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from subkern.gradients.batches import CaptureJob, cut, factor_bytes, fill
from subkern.gradients.factor_files import FACTORS, FactorFiles
from subkern.kernels.engines.tiled import Outcome
from subkern.kernels.engines.update_blocks import Zeroed, parameter_updates
from subkern.kernels.rules import UpdateRule
from subkern.kernels.threads import side_by_side
from subkern.kernels.tiles import TileStore, Tiling
from subkern.storage.progress import Progress

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample

_HELD_SHARE = 0.6  # of the memory budget, for factors; over it they go to files
_GROUP_SHARE = 0.2  # of the budget, for the factors of a group that is captured at a time
_UNITS = 16  # durable steps: groups of parameters of about equal size


def run_updates(
    job: CaptureJob,
    rules: Sequence[UpdateRule],
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample],
    store: TileStore,
    progress: Progress | None = None,
) -> tuple[list[Outcome], dict[str, float]]:
    """The kernels ``[d, n, c, m, c]`` of every rule (see `updates`), and what they took.

    All `rules` but sgd have one zero tolerance, and `job` keeps the bounds that it reads.
    """
    # Neighbours of about one length are formed in one product.
    rows = sorted(range(len(left)), key=lambda i: len(left[i].input_ids))
    places = {left[i].id: k for k, i in enumerate(rows)}
    mirror = any(e.id in places for e in right)
    extra = sorted((e for e in right if e.id not in places), key=lambda e: len(e.input_ids))
    everyone = [*(left[i] for i in rows), *extra]
    columns = slice(0 if mirror else len(left), None)
    order = {e.id: i for i, e in enumerate(everyone[columns])}
    units = _units(job)
    tiling = store.tiling(lambda: Tiling(_groups(job, everyone), ()))
    c = job.model.num_logits
    values = [np.zeros((rule.directions, len(left), c, len(order), c)) for rule in rules]
    zeroed, logits = 0, np.zeros((0, c))
    shelf = None
    for k, names in enumerate(units):
        unit = store.get(f"parameters-{k}")
        if unit is None:
            shelf = shelf or _shelf(job, everyone, tiling, store)
            unit = _unit(job, rules, shelf, names, len(left), columns)
            store.put(f"parameters-{k}", unit)
        for i, sums in enumerate(values):
            sums += unit[f"values-{i}"]
        zeroed += int(unit["zeroed"])
        logits = unit["logits"]
        if progress is not None:
            progress(len(left) * len(right) * (k + 1) // len(units), len(left) * len(right))
    store.drop(FACTORS)
    mine = [places[e.id] for e in left]
    picks = [order[e.id] for e in right]
    sides = logits[: len(left)][mine], logits[columns][picks]
    outcomes = [Outcome(sums[:, mine][..., picks, :], *sides) for sums in values]
    return outcomes, {"zeroed_entries": zeroed}


def _units(job: CaptureJob) -> list[list[str]]:
    """Parameters in order, cut into groups of about equal size."""
    sizes = [p.numel() for p in job.parameters.values()]
    names = list(job.parameters)
    return [names[s] for s in cut(sizes, sum(sizes) / _UNITS)]


def _groups(job: CaptureJob, examples: Sequence[EncodedExample]) -> tuple[slice, ...]:
    return cut(factor_bytes(job, examples), _GROUP_SHARE * job.memory)


def _shelf(
    job: CaptureJob, examples: Sequence[EncodedExample], tiling: Tiling, store: TileStore
) -> FactorFiles:
    """All examples' factors: captured now, or by an earlier run."""
    sizes = factor_bytes(job, examples)
    shelf = FactorFiles(store.folder, sum(sizes) > _HELD_SHARE * job.memory, job.model.device)
    fill(shelf, job, examples, tiling.left, capturing=False)
    rest = sizes[len(shelf) :]
    if rest and shelf.spill:
        shelf.require_room(sum(rest))
    fill(shelf, job, examples, tiling.left)
    return shelf


def _unit(
    job: CaptureJob,
    rules: Sequence[UpdateRule],
    shelf: FactorFiles,
    names: Sequence[str],
    n: int,
    columns: slice,
) -> dict[str, np.ndarray]:
    """Every rule's sum over some parameters, and the logits of all examples."""
    logits = shelf.logits()
    c, m = logits.shape[1], len(logits[columns])
    shapes = [(rule.directions, n, c, m, c) for rule in rules]
    sums = [torch.zeros(each, dtype=torch.float64, device=logits.device) for each in shapes]
    zeroed = Zeroed()

    def one(name: str) -> tuple[list[Tensor], Zeroed]:
        factors, counts = shelf.factors(name), Zeroed()
        if factors is None:
            return [], counts
        sides = slice(0, n), columns
        shape = job.parameters[name].shape
        return parameter_updates(factors, *sides, shape, c, rules, counts), counts

    for parts, counts in side_by_side(one, names, logits.device.type == "cpu"):
        for total, part in zip(sums, parts, strict=False):
            total += part
        zeroed.join(counts)
    arrays = {"logits": logits, "zeroed": torch.tensor(zeroed.entries)}
    arrays |= {f"values-{i}": total for i, total in enumerate(sums)}
    return {name: value.cpu().numpy() for name, value in arrays.items()}

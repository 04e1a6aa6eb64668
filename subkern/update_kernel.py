"""Kernels of rules that see gradient entries, parameter by parameter over all examples at once.

All examples are captured once and each gradient is formed once: parameter by parameter, a chunk of
coordinates at a time. Finished groups of parameters are durable.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from subkern.factor_shelf import Shelf
from subkern.pairwise import Job, Outcome, capture_all
from subkern.rules import UpdateRule
from subkern.threads import side_by_side
from subkern.tiles import Progress, TileStore, Tiling, cut
from subkern.updates import Zeroed, parameter_update

if TYPE_CHECKING:
    from subkern.prompts import EncodedExample

_HELD_SHARE = 0.6  # of the memory budget, for factors; over it they go to files
_GROUP_SHARE = 0.2  # of the budget, for the factors of a group that is captured at a time
_UNITS = 16  # durable steps: groups of parameters of about equal size


def run_updates(
    job: Job,
    rule: UpdateRule,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample],
    store: TileStore,
    progress: Progress | None = None,
) -> tuple[Outcome, dict[str, float]]:
    """The kernels ``[d, n, c, m, c]`` of `rule` (see `updates`), and what it took."""
    places = {e.id: i for i, e in enumerate(left)}
    mirror = any(e.id in places for e in right)
    extra = [e for e in right if e.id not in places]
    everyone = [*left, *extra]
    columns = slice(0 if mirror else len(left), None)
    order = {e.id: i for i, e in enumerate(everyone[columns])}
    units = _units(job)
    tiling = store.tiling(lambda: Tiling(_groups(job, everyone), ()))
    c = job.model.num_logits
    values = np.zeros((rule.directions, len(left), c, len(order), c))
    zeroed, logits = 0, np.zeros((0, c))
    with ExitStack() as stack:
        shelf = None
        for k, names in enumerate(units):
            unit = store.get(f"parameters-{k}")
            if unit is None:
                shelf = shelf or _shelf(job, everyone, tiling, store, stack)
                unit = _unit(job, rule, shelf, names, len(left), columns)
                store.put(f"parameters-{k}", unit)
            values += unit["values"]
            zeroed += int(unit["zeroed"])
            logits = unit["logits"]
            if progress is not None:
                progress(len(left) * len(right) * (k + 1) // len(units), len(left) * len(right))
    picks = [order[e.id] for e in right]
    outcome = Outcome(values[..., picks, :], logits[: len(left)], logits[columns][picks])
    return outcome, {"zeroed_entries": zeroed}


def _units(job: Job) -> list[list[str]]:
    """Parameters in order, cut into groups of about equal size."""
    sizes = [p.numel() for p in job.parameters.values()]
    names = list(job.parameters)
    return [names[s] for s in cut(sizes, sum(sizes) / _UNITS)]


def _groups(job: Job, examples: Sequence[EncodedExample]) -> tuple[slice, ...]:
    return cut(_bytes(job, examples), _GROUP_SHARE * job.memory)


def _bytes(job: Job, examples: Sequence[EncodedExample]) -> list[float]:
    return [max(job.plan.bytes_per_token, 1.0) * len(e.input_ids) for e in examples]


def _shelf(
    job: Job,
    examples: Sequence[EncodedExample],
    tiling: Tiling,
    store: TileStore,
    stack: ExitStack,
) -> Shelf:
    """All examples' factors: captured now, or by an earlier run."""
    spill = sum(_bytes(job, examples)) > _HELD_SHARE * job.memory
    shelf = Shelf(store.folder, spill, job.model.device, stack)
    for group in tiling.left:
        if not shelf.find():
            shelf.add(capture_all(job, examples[group]))
    return shelf


def _unit(
    job: Job, rule: UpdateRule, shelf: Shelf, names: Sequence[str], n: int, columns: slice
) -> dict[str, np.ndarray]:
    """The sum over some parameters, and the logits of all examples."""
    logits = torch.cat([group.logits for group in shelf.groups])
    c, m = logits.shape[1], len(logits[columns])
    out = torch.zeros(rule.directions, n, c, m, c, dtype=torch.float64, device=logits.device)
    zeroed = Zeroed()

    def one(name: str) -> tuple[Tensor | None, Zeroed]:
        factors, counts = shelf.factors(name), Zeroed()
        if factors is None:
            return None, counts
        sides = slice(0, n), columns
        shape = job.parameters[name].shape
        return parameter_update(factors, *sides, shape, c, rule, counts), counts

    for part, counts in side_by_side(one, names, logits.device.type == "cpu"):
        if part is not None:
            out += part
            zeroed.join(counts)
    arrays = {"values": out, "logits": logits, "zeroed": torch.tensor(zeroed.entries)}
    return {name: value.cpu().numpy() for name, value in arrays.items()}

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

from subkern.gradients.batches import CaptureJob, Capturing, Observer, cut, fill
from subkern.gradients.factor_files import FACTORS, FactorFiles
from subkern.kernels.engines.threads import side_by_side
from subkern.kernels.engines.update_blocks import Zeroed, parameter_updates
from subkern.kernels.request import Request
from subkern.kernels.rules import UpdateRule
from subkern.kernels.sides import Outcome, Sides
from subkern.kernels.tiles import TileStore, Tiling

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample

_HELD_SHARE = 0.6  # of the memory budget, for factors; over it they go to files
_GROUP_SHARE = 0.2  # of the budget, for the factors of a group that is captured at a time
_UNITS = 16  # durable steps: groups of parameters of about equal size


class Updates:
    """The kernels of every rule of a request; all but sgd have one zero tolerance.

    Args:
        observer: sees all that is captured.
    """

    def __init__(self, observer: Observer | None = None) -> None:
        self.observer = observer

    def run(self, request: Request, sides: Sides, store: TileStore) -> list[Outcome]:
        """As `Engine.run`."""
        job, rules, progress = request.job, request.rules, request.options.progress
        # Neighbors of about one length are formed in one product.
        ordered = sides.by_length
        everyone, n = ordered.every, len(sides.left)
        columns = slice(0 if sides.overlap else n, None)
        units = _units(job)
        tiling = store.tiling(
            lambda: Tiling(cut(job.sizes(everyone), _GROUP_SHARE * job.memory), ())
        )
        c = job.model.num_logits
        shapes = [(rule.directions, n, c, len(everyone[columns]), c) for rule in rules]
        values = [np.zeros(shape) for shape in shapes]
        zeroed, logits = 0, np.zeros((0, c))
        files = None
        for k, names in enumerate(units):
            unit = store.get(f"parameters-{k}")
            if unit is None:
                capturing = request.capturing(self.observer)
                files = files or _captured(job, capturing, everyone, tiling, store)
                unit = _unit(job, rules, files, names, n, columns)
                store.put(f"parameters-{k}", unit)
            for i, sums in enumerate(values):
                sums += unit[f"values-{i}"]
            zeroed += int(unit["zeroed"])
            logits = unit["logits"]
            if progress is not None:
                progress(sides.entries * (k + 1) // len(units), sides.entries)
        store.drop(FACTORS)
        mine, theirs = (ordered.places(side) for side in (sides.left, sides.right))
        at = [place - columns.start for place in theirs]
        return [
            Outcome(
                sums[:, mine][..., at, :],
                logits[mine],
                logits[theirs],
                {} if rule.is_sgd else {"zeroed_entries": zeroed},
            )
            for rule, sums in zip(rules, values, strict=True)
        ]


def _units(job: CaptureJob) -> list[list[str]]:
    """Parameters in order, cut into groups of about equal size."""
    sizes = [p.numel() for p in job.parameters.values()]
    names = list(job.parameters)
    return [names[s] for s in cut(sizes, sum(sizes) / _UNITS)]


def _captured(
    job: CaptureJob,
    capturing: Capturing,
    examples: Sequence[EncodedExample],
    tiling: Tiling,
    store: TileStore,
) -> FactorFiles:
    """All examples' factors: captured now, or by an earlier run."""
    sizes = job.sizes(examples)
    files = FactorFiles(store.folder, sum(sizes) > _HELD_SHARE * job.memory, job.model.device)
    fill(files, examples, tiling.left, None)
    rest = sizes[len(files) :]
    if rest and files.spill:
        files.require_room(sum(rest))
    fill(files, examples, tiling.left, capturing)
    return files


def _unit(
    job: CaptureJob,
    rules: Sequence[UpdateRule],
    files: FactorFiles,
    names: Sequence[str],
    n: int,
    columns: slice,
) -> dict[str, np.ndarray]:
    """Every rule's sum over some parameters, and the logits of all examples."""
    logits = files.logits()
    c, m = logits.shape[1], len(logits[columns])
    shapes = [(rule.directions, n, c, m, c) for rule in rules]
    sums = [torch.zeros(each, dtype=torch.float64, device=logits.device) for each in shapes]
    zeroed = Zeroed()

    def one(name: str) -> tuple[list[Tensor], Zeroed]:
        factors, counts = files.factors(name), Zeroed()
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

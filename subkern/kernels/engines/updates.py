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
from subkern.gradients.capture import Captured
from subkern.gradients.factor_files import FACTORS, FactorFiles
from subkern.gradients.factors import nbytes
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
        tiling = store.tiling(
            lambda: Tiling(cut(job.sizes(everyone), _GROUP_SHARE * job.memory), ())
        )
        c = job.model.num_logits
        shapes = [(rule.directions, n, c, len(everyone[columns]), c) for rule in rules]
        values = [np.zeros(shape) for shape in shapes]
        zeroed, logits = 0, np.zeros((0, c))
        factors = _Factors(job, request.capturing(self.observer), everyone, tiling, store)
        units = factors.units
        for k, names in enumerate(units):
            unit = store.get(f"parameters-{k}")
            if unit is None:
                unit = _unit(job, rules, factors.of(k), names, n, columns)
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


class _Factors:
    """Factors of all examples: captured now, or by an earlier run.

    Those of all parameters at once where memory or disk have room; else of as many units of
    parameters at a time as there is room for, and the examples are captured anew for the next.
    """

    def __init__(
        self,
        job: CaptureJob,
        capturing: Capturing,
        examples: Sequence[EncodedExample],
        tiling: Tiling,
        store: TileStore,
    ) -> None:
        self.job, self.capturing, self.examples, self.tiling = job, capturing, examples, tiling
        self.store, self.units = store, _units(job)
        self.held = _HELD_SHARE * job.memory
        self.files: FactorFiles | None = None
        self.reach = range(0)

    def of(self, unit: int) -> FactorFiles:
        """The factors of a unit."""
        if self.files is None or unit not in self.reach:
            self.files = self._all() if not self.reach else None
            self.reach = range(len(self.units))
            if self.files is None:
                self.store.drop(FACTORS)
                self.reach, nbytes = self._reach(unit)
                self.files = self._some(nbytes)
        return self.files

    def _all(self) -> FactorFiles | None:
        """Of all parameters; None where there is no room for what an earlier run did not leave."""
        sizes = self.job.sizes(self.examples)
        files = FactorFiles(self.store.folder, sum(sizes) > self.held, self.job.model.device)
        fill(files, self.examples, self.tiling.left, None)
        rest = sizes[len(files) :]
        if rest and files.spill and not files.has_room(sum(rest)):
            return None
        fill(files, self.examples, self.tiling.left, self.capturing)
        return files

    def _reach(self, first: int) -> tuple[range, float]:
        """Which units there is room for, judged by the first examples, and bytes of them."""
        sizes, some = self.job.sizes(self.examples), self.tiling.left[0]
        captured = self.capturing(self.examples[some])
        scale = sum(sizes) / sum(sizes[some])
        files = FactorFiles(self.store.folder, True, self.job.model.device)
        total, last = 0.0, first
        for names in self.units[first:]:
            more = scale * nbytes(f for n in names for f in captured.factors.get(n, ()))
            if last > first and total + more > self.held and not files.has_room(total + more):
                break
            total, last = total + more, last + 1
        return range(first, last), total

    def _some(self, nbytes: float) -> FactorFiles:
        """Of the units in reach."""
        names = {name for k in self.reach for name in self.units[k]}
        title = f"factors-{self.reach.start}to{self.reach.stop}"
        files = FactorFiles(self.store.folder, nbytes > self.held, self.job.model.device, title)
        if files.spill:
            files.require_room(nbytes)

        def only(examples: Sequence[EncodedExample]) -> Captured:
            captured = self.capturing(examples)
            kept = {n: f for n, f in captured.factors.items() if n in names}
            return Captured(kept, captured.logits)

        fill(files, self.examples, self.tiling.left, only)
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

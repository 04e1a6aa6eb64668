"""What a kernel, or a sweep of LoRA's, will take: its tiles planned, its parts measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from subkern.cores import Company, heeding_others
from subkern.errors import UserError, check_choice
from subkern.estimates.captures import CaptureProbe, check_single_words, resident
from subkern.estimates.contractions import Contraction
from subkern.estimates.estimate import Alternative, Costs, Estimate, Phase
from subkern.estimates.features import estimate_projected
from subkern.gradients.batches import CaptureJob
from subkern.gradients.factor_files import FactorFiles, save_factors
from subkern.kernels.engines.tiled import FACTOR_SHARE, wanted_again, written_groups
from subkern.kernels.request import ENGINES, Request, RunOptions
from subkern.kernels.rules import UpdateRule, as_rule
from subkern.kernels.sides import Sides
from subkern.kernels.tiles import Tiling, choose_tiling
from subkern.models.logit_model import LogitModel
from subkern.storage.files import scratch_folder
from subkern.subspaces.base import Subspace

if TYPE_CHECKING:
    from pathlib import Path

    from subkern.prompts.prompt import EncodedExample

Examples = Sequence["EncodedExample"]
Work = Callable[[Examples, Examples], tuple[int, float]]
"""FLOPs and seconds of a block of left and right examples."""
_FLOAT = 8  # bytes of a kernel's number


def estimate_kernel(
    model: LogitModel,
    left: Examples,
    right: Examples | None = None,
    *,
    rule: UpdateRule | str = "sgd",
    subspace: Subspace | str = "full",
    engine: str = "factors",
    options: RunOptions | None = None,
) -> Estimate:
    """What `subkern.compute_kernel` with these arguments will take on this machine.

    Checks run as they would; a few examples are captured and parts of the contraction timed.

    Returns:
        Seconds, FLOPs (of capture and contraction, as torch would count them), memory and bytes;
        and what half, twice and four times the memory, and half a side, would make of them.

    Raises:
        UserError: as `compute_kernel`; or its engine or rule cannot be estimated.
    """
    asked = check_estimated(rule, engine)
    request = Request(
        model, Sides.of(left, right), rules=[asked], subspace=subspace, options=options
    )
    projection = request.coordinates.projection
    if projection is not None:
        c, sides = request.coordinates.model.num_logits, request.sides
        output = _FLOAT * c * (c * sides.entries + len(sides.left) + len(sides.right))
        wide = projection.projections
        return estimate_projected(request, wide, "kernel entries", output, even=False)
    return estimate_tiles(request, lambda probe: Blocks.of(request, probe))


def check_estimated(rule: UpdateRule | str, engine: str = "factors") -> UpdateRule:
    """Return `rule`, if it is estimated.

    Raises:
        UserError: it is not, or the engine is not.
    """
    check_choice("engine", engine, ENGINES)
    if engine != "factors":
        raise UserError(f"engine '{engine}' is not estimated: use factors")
    known = as_rule(rule)
    if not known.is_sgd:
        raise UserError(f"rule '{known.name}' is not estimated: use sgd")
    return known


@dataclass(frozen=True)
class Blocks:
    """What a tile holds, and takes.

    Attributes:
        work: FLOPs and seconds of a block.
        kernels: how many it holds.
    """

    work: Work
    kernels: int = 1

    @classmethod
    def of(cls, request: Request, probe: CaptureProbe) -> Blocks:
        """One kernel over all parameters."""
        coordinates = request.coordinates
        shapes = {name: p.shape for name, p in coordinates.parameters.items()}
        return cls(Contraction(probe, shapes, coordinates.model.num_logits).work)


def estimate_tiles(request: Request, blocks: Callable[[CaptureProbe], Blocks]) -> Estimate:
    """What the tiles of a request will take, whatever they hold.

    Raises:
        UserError: as the computation does; or its examples are answers of several tokens.
    """
    company, sides = Company(), request.sides
    check_single_words(any(e.marked for e in sides.every))
    loaded = resident()
    with heeding_others(), torch.random.fork_rng(devices=[]):
        began = time.perf_counter()
        request.validate()
        _ = request.base
        checks = time.perf_counter() - began
        probe = CaptureProbe(request.job, sides.every)
        tiles = Tiles(probe, blocks(probe), checks, loaded)
        costs = tiles.costs(sides, request.job)
        others = tuple(tiles.alternatives(sides, request.job))
    c, directions = request.coordinates.model.num_logits, request.rules[0].directions
    entries = sides.entries * c * c
    output = _FLOAT * (
        directions * tiles.blocks.kernels * entries + c * (len(sides.left) + len(sides.right))
    )
    return Estimate("kernel entries", entries, costs, output, others, company.cores())


class Tiles:
    """Arithmetic on what was measured: costs for any sides and memory.

    Args:
        probe: of capture.
        blocks: of a tile.
        checks: seconds before the first gradient.
        loaded: resident bytes with the model loaded.
    """

    def __init__(self, probe: CaptureProbe, blocks: Blocks, checks: float, loaded: int) -> None:
        self.probe, self.blocks, self.checks, self.loaded = probe, blocks, checks, loaded
        self._writing: float | None = None

    def alternatives(self, sides: Sides, job: CaptureJob) -> list[Alternative]:
        """Other memory, and smaller sides; what cannot be is left out."""
        found = []
        for factor in (0.25, 0.5, 2.0, 4.0):
            memory = factor * job.memory
            try:
                costs = self.costs(sides, replace(job, memory=memory))
            except UserError:
                continue
            found.append(Alternative(f"--memory {memory / 2**30:.3g}GiB", costs))
        n, m = len(sides.left) // 2, len(sides.right) // 2
        if n:
            half = Sides(sides.left[:n], sides.right)
            found.append(Alternative(f"{n} on the left", self.costs(half, job)))
        if m:
            half = Sides(sides.left, sides.right[:m])
            found.append(Alternative(f"{m} on the right", self.costs(half, job)))
        return found

    def costs(self, sides: Sides, job: CaptureJob) -> Costs:
        """What these sides take within the memory of `job`.

        Raises:
            UserError: the memory is too little.
        """
        left, extra = (job.sizes(side) for side in (sides.left, sides.extra))
        tiling = choose_tiling(left, extra, FACTOR_SHARE * job.memory)
        plan = Captures.of(sides, tiling, job)
        captured, capturing = self.probe.work(job, plan.calls)
        flops, seconds = 0, 0.0
        for side, i, k in tiling.tasks(sides.mirrored):
            rows = sides.left[tiling.left[i]]
            columns = sides.left[tiling.left[k]] if side == "left" else sides.extra[tiling.right[k]]
            count, took = self.blocks.work(rows, columns)
            flops, seconds = flops + count, seconds + took
        written = sum(self.probe.held(call) for call in plan.written)
        c = job.model.num_logits
        tiles = _FLOAT * self.blocks.kernels * sides.entries * c * c
        disk = self._seconds_a_byte() * written if written else 0.0
        phases = (
            Phase("checks", self.checks),
            Phase("capture", capturing, captured),
            Phase("contraction", seconds, flops),
            *((Phase("disk", disk),) if written else ()),
        )
        held = max(self.probe.held(sides.left[s]) for s in tiling.left)
        held += max((self.probe.held(call) for call in plan.direct), default=0)
        memory = self.loaded + held + self.probe.batch_bytes(job) + 2 * tiles
        return Costs(phases, int(memory), int(written + tiles))

    def _seconds_a_byte(self) -> float:
        """Of writing factors and reading them again."""
        if self._writing is None:
            captured = self.probe.captured[-1]
            with scratch_folder() as folder:
                began = time.perf_counter()
                save_factors(captured, _file(folder), kept=False)
                self._writing = 1.5 * (time.perf_counter() - began) / max(captured.nbytes(), 1)
        return self._writing


def _file(folder: str | Path) -> Path:
    from pathlib import Path

    return Path(folder) / "factors.safetensors"


@dataclass(frozen=True)
class Captures:
    """What is captured at a time, as `subkern.kernels.engines.tiled` does.

    Attributes:
        calls: all, in any order; what has no room on the disk again for every row.
        written: those that go to files.
        direct: chunks that stand beside a left one in memory.
    """

    calls: list[Examples]
    written: list[Examples]
    direct: list[Examples]

    @classmethod
    def of(cls, sides: Sides, tiling: Tiling, job: CaptureJob) -> Captures:
        """Plan them for a tiling."""
        again = wanted_again(tiling, sides.mirrored)
        chunks: Mapping[str, list[Examples]] = {
            "left": [sides.left[s] for s in tiling.left],
            "right": [sides.extra[s] for s in tiling.right],
        }
        files = FactorFiles(None, True, job.model.device)
        calls: list[Examples] = []
        written: list[Examples] = []
        direct: list[Examples] = []
        for side, listed in chunks.items():
            for k, chunk in enumerate(listed):
                sizes = job.sizes(chunk)
                if (side, k) not in again:
                    calls.append(chunk)
                    direct += [chunk] if side == "right" else []
                elif files.has_room(sum(sizes)):
                    groups = [chunk[s] for s in written_groups(sizes)]
                    calls += groups
                    written += groups
                else:
                    rows = k + 1 if side == "left" else len(tiling.left)
                    calls += [chunk] * rows
                    direct.append(chunk)
        return cls(calls, written, direct)

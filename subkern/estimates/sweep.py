"""What a sweep over LoRA's ranks, seeds and target sets will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from subkern.estimates.captures import CaptureProbe, length
from subkern.estimates.contractions import Contraction, repeated, seconds_of
from subkern.estimates.estimate import Estimate
from subkern.estimates.kernel import Blocks, check_estimated, estimate_tiles
from subkern.gradients.capture import Captured
from subkern.gradients.factors import OuterFactor
from subkern.kernels.request import Request, RunOptions
from subkern.kernels.rules import UpdateRule
from subkern.kernels.sides import Sides
from subkern.kernels.sweeps.lora import LoraGrid, must_move, resolve_sets
from subkern.kernels.sweeps.lora_blocks import SweepLayers, sweep_block
from subkern.kernels.sweeps.lora_parts import partition
from subkern.models.logit_model import LogitModel
from subkern.subspaces.lora_targets import Targets

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample

Examples = Sequence["EncodedExample"]
_LEFT, _RIGHT, _ROWS = 64, 256, 8  # examples and rows of A of a measurement, at most


def estimate_sweep(
    model: LogitModel,
    left: Examples,
    right: Examples | None = None,
    *,
    sets: Mapping[str, Targets] | None = None,
    grid: LoraGrid | None = None,
    rule: UpdateRule | str = "sgd",
    options: RunOptions | None = None,
) -> Estimate:
    """What `subkern.kernels.sweeps.lora.sweep_targets` with these arguments will take here.

    Raises:
        UserError: as the sweep; or its rule cannot be estimated.
    """
    grid = grid or LoraGrid()
    sets = {"": grid.targets} if sets is None else sets
    asked = check_estimated(rule)
    found = resolve_sets(model, sets, max(grid.ranks), grid.seeds)
    request = Request(
        model,
        Sides.of(left, right),
        rules=[asked],
        options=options,
        must_move=must_move(found, grid),
    )
    return estimate_tiles(request, lambda probe: _Sweep(request, probe, found, grid).blocks)


class _Sweep:
    """Blocks of the full kernel and of every cell."""

    def __init__(
        self,
        request: Request,
        probe: CaptureProbe,
        sets: Mapping[str, SweepLayers],
        grid: LoraGrid,
    ) -> None:
        coordinates, every = request.coordinates, list(sets.values())
        self.probe, self.c = probe, coordinates.model.num_logits
        self.dtype = coordinates.model.dtype
        shapes = {n: p.shape for n, p in coordinates.parameters.items()}
        parts = partition(list(shapes), every)
        self.full = [
            Contraction(probe, {n: shapes[n] for n in part.names}, self.c) for part in parts
        ]
        self.adapted = [n for part in parts if part.adapted for n in part.names]
        self.rows = len(grid.seeds) * max(grid.ranks)
        self.blocks = Blocks(self.work, 1 + len(every) * (1 + len(grid.cells)))
        self._known: dict[tuple[int, int], tuple[float, float]] = {}

    def work(self, left: Examples, right: Examples) -> tuple[int, float]:
        """FLOPs and seconds of a tile."""
        done = [each.work(left, right) for each in self.full]
        flops, seconds = sum(count for count, _ in done), sum(took for _, took in done)
        n, m, c = len(left), len(right), self.c
        for name in self.adapted:
            factors = [one.factors.get(name) for one in self.probe.captured]
            outers = [f[0] for f in factors if f and isinstance(f[0], OuterFactor)]
            if len(outers) < len(factors):
                continue
            d_in, (_, d_out) = outers[0].inputs.shape[1], outers[0].cotangents.shape[1:]
            line = self.probe.line([len(f.inputs) for f in outers])
            t, s = (sum(line(length(e)) for e in side) for side in (left, right))
            flops += 2 * self.rows * ((t + s) * (d_in + c * d_out) + n * m * c * c * d_out)
            projecting, products = self._seconds(d_in, d_out, (n, m), (t, s))
            seconds += self.rows * (projecting * (t + s) + products * n * m)
        return flops, seconds

    def _seconds(
        self, d_in: int, d_out: int, sizes: tuple[int, int], tokens: tuple[int, int]
    ) -> tuple[float, float]:
        """Of a row of A: seconds a token, and seconds a pair of examples."""
        if (d_in, d_out) not in self._known:
            rows = min(self.rows, _ROWS)
            layers = SweepLayers(
                {"w": torch.randn(rows, d_in, dtype=self.dtype)}, {"w": (d_in, d_out)}, ()
            )
            each = [max(1, round(t / k)) for t, k in zip(tokens, sizes, strict=True)]
            most = [min(sizes[0], _LEFT), min(sizes[1], _RIGHT)]

            def once(counts: Sequence[int]) -> float:
                mine, theirs = (
                    Captured(
                        {"w": list(repeated(d_in, d_out, t, k, self.c, self.dtype))},
                        torch.zeros(k, self.c),
                    )
                    for k, t in zip(counts, each, strict=True)
                )
                return seconds_of(lambda: sweep_block(mine, theirs, layers, 1, (rows,))) / rows

            full, half = once(most), once([max(1, k // 2) for k in most])
            products = min(max(0.0, 2 * (full - 2 * half)), full)
            every = sum(t * k for t, k in zip(each, most, strict=True))
            self._known[d_in, d_out] = (full - products) / every, products / (most[0] * most[1])
        return self._known[d_in, d_out]

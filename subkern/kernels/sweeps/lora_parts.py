"""LoRA kernels of several target sets from one capture, each layer's share computed once.

Kernels of disjoint parameters add up. So the parameters are cut into parts that no target set
divides (query and value projections, the rest of attention, MLPs, …), what a part contributes is
computed once, and every target set adds up its own parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from subkern.gradients.capture import Captured
from subkern.gradients.contract import contract
from subkern.kernels.engines.update_blocks import Zeroed, update_block
from subkern.kernels.rules import UpdateRule
from subkern.kernels.sweeps.lora_blocks import SweepLayers, sweep_block, sweep_updates
from subkern.subspaces.base import Coordinates


@dataclass(frozen=True)
class ParameterPart:
    """Parameters that belong to the same target sets in the same way.

    Attributes:
        names: the parameters.
        adapted: indices of the sets that put LoRA on them.
        trained: indices of the sets that train them directly.
    """

    names: tuple[str, ...]
    adapted: tuple[int, ...]
    trained: tuple[int, ...]


def partition(names: Sequence[str], sets: Sequence[SweepLayers]) -> list[ParameterPart]:
    """Cut parameters into the parts that no target set divides."""
    parts: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = {}
    direct = [set(each.always) for each in sets]
    for name in names:
        adapted = tuple(i for i, each in enumerate(sets) if name in each.rows)
        trained = tuple(i for i in range(len(sets)) if name in direct[i])
        parts.setdefault((adapted, trained), []).append(name)
    return [ParameterPart(tuple(found), *key) for key, found in parts.items()]


@dataclass(frozen=True)
class SweptRanks:
    """The LoRA of a sweep, whatever its targets.

    Attributes:
        ranks: any order.
        squared: s² of every rank.
        seeds: number of adapter seeds.
    """

    ranks: tuple[int, ...]
    squared: np.ndarray
    seeds: int


class SweepBlocks:
    """Blocks of k = 1 + sets·(1 + seeds·ranks) kernels ``[d, k, n, c, m, c]``, d as of `rule`.

    The full kernel; then for each target set the full kernel of its weights alone, and LoRA's of
    every seed and rank.
    """

    def __init__(
        self,
        coordinates: Coordinates,
        sets: Sequence[SweepLayers],
        swept: SweptRanks,
        rule: UpdateRule,
    ) -> None:
        self.shapes = {n: p.shape for n, p in coordinates.parameters.items()}
        self.parts = partition(list(self.shapes), sets)
        self.c = coordinates.model.num_logits
        self.sets, self.swept, self.rule = sets, swept, rule

    def __call__(self, left: Captured, right: Captured) -> dict[str, Tensor]:
        """The blocks of these examples, and how many entries of either side were noise."""
        d, sizes = self.rule.directions, (len(left), self.c, len(right), self.c)
        values = _Sums((d,), sizes, len(self.sets), self.swept, left.logits)
        zeroed = _Sums((2,), (), len(self.sets), self.swept, left.logits)
        for part in self.parts:
            shapes = {name: self.shapes[name] for name in part.names}
            over, noise = _over(left, right, shapes, self.c, self.rule)
            swept, swept_noise = None, None
            if part.adapted:
                layers = _only(self.sets[part.adapted[0]], part.names)
                swept, swept_noise = _swept(left, right, layers, self.swept, self.rule)
            values.add(part, over, swept)
            zeroed.add(part, noise, swept_noise)
        if self.rule.is_sgd:
            return {"values": values.total()}
        mine, theirs = zeroed.total()
        return {"values": values.total(), "left_zeroed": mine, "right_zeroed": theirs}


class _Sums:
    """Adds up parts to the full kernel, those of target sets and those of their cells."""

    def __init__(
        self,
        lead: tuple[int, ...],
        sizes: tuple[int, ...],
        sets: int,
        swept: SweptRanks,
        like: Tensor,
    ) -> None:
        cells = (swept.seeds, len(swept.ranks))
        self.full = like.new_zeros(*lead, *sizes)
        self.whole = like.new_zeros(*lead, sets, *sizes)
        self.swept = like.new_zeros(*lead, sets, *cells, *sizes)

    def add(self, part: ParameterPart, over: Tensor, swept: Tensor | None) -> None:
        """Add what a part gives ``[d, …]``, and what LoRA on it does ``[d, seeds, ranks, …]``."""
        self.full += over
        for i in {*part.adapted, *part.trained}:
            self.whole[:, i] += over
        for i in part.trained:
            self.swept[:, i] += over[:, None, None]
        if swept is None:
            return
        for i in part.adapted:
            self.swept[:, i] += swept

    def total(self) -> Tensor:
        """``[d, 1 + sets·(1 + seeds·ranks), …]``."""
        each = torch.cat([self.whole[:, :, None], self.swept.flatten(2, 3)], 2)
        return torch.cat([self.full[:, None], each.flatten(1, 2)], 1)


def _over(
    left: Captured, right: Captured, shapes: dict[str, torch.Size], c: int, rule: UpdateRule
) -> tuple[Tensor, Tensor]:
    """Kernel over some parameters, ``[d, n, c, m, c]``, and its noise on either side, ``[2]``."""
    none = left.logits.new_zeros(2)
    if rule.is_sgd:
        return contract(left, right, shapes, c)[None], none
    zeroed = Zeroed()
    block = update_block(left, right, shapes, c, rule, zeroed)
    if zeroed.counts is None:
        return block, none
    mine, theirs = zeroed.counts[: len(left) * c], zeroed.counts[len(left) * c :]
    sides = [mine, mine if right is left else theirs]
    return block, torch.stack([side.sum() for side in sides]).to(none)


def _swept(
    left: Captured,
    right: Captured,
    layers: SweepLayers,
    swept: SweptRanks,
    rule: UpdateRule,
) -> tuple[Tensor, Tensor]:
    """LoRA kernels over some layers ``[d, seeds, ranks, n, c, m, c]`` and their noise."""
    squared, seeds, ranks = swept.squared, swept.seeds, swept.ranks
    if not rule.is_sgd:
        return sweep_updates(left, right, layers, seeds, np.sqrt(squared), ranks, rule)
    blocks = sweep_block(left, right, layers, seeds, ranks)
    scaled = (blocks * torch.from_numpy(squared).to(blocks)[:, None, None, None, None])[None]
    return scaled, blocks.new_zeros(2, seeds, len(ranks))


def _only(layers: SweepLayers, names: Sequence[str]) -> SweepLayers:
    """Some of the layers of a sweep."""
    rows = {name: layers.rows[name] for name in names}
    return SweepLayers(rows, {name: layers.shapes[name] for name in names}, ())

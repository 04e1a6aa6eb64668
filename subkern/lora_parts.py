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

from subkern import lora
from subkern.capture import Captured
from subkern.contraction import contract
from subkern.lora_grid import LoraGrid
from subkern.lora_updates import sweep_updates
from subkern.pairwise import Block
from subkern.rules import UpdateRule
from subkern.subspaces import Coordinates
from subkern.updates import update_block


@dataclass(frozen=True)
class Part:
    """Parameters that belong to the same target sets in the same way.

    Attributes:
        names: the parameters.
        adapted: indices of the sets that put LoRA on them.
        trained: indices of the sets that train them directly.
    """

    names: tuple[str, ...]
    adapted: tuple[int, ...]
    trained: tuple[int, ...]


def partition(names: Sequence[str], sets: Sequence[lora.SweepLayers]) -> list[Part]:
    """Cut parameters into the parts that no target set divides."""
    parts: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = {}
    direct = [set(each.always) for each in sets]
    for name in names:
        adapted = tuple(i for i, each in enumerate(sets) if name in each.rows)
        trained = tuple(i for i in range(len(sets)) if name in direct[i])
        parts.setdefault((adapted, trained), []).append(name)
    return [Part(tuple(found), *key) for key, found in parts.items()]


def sweep_blocks(
    coordinates: Coordinates, sets: Sequence[lora.SweepLayers], grid: LoraGrid, rule: UpdateRule
) -> Block:
    """Blocks ``[d, 1 + sets·(1 + seeds·ranks), n, c, m, c]``, d the directions of `rule`.

    The full kernel; then for each target set the full kernel of its weights alone, and LoRA's of
    every cell of `grid`.
    """
    shapes = {n: p.shape for n, p in coordinates.parameters.items()}
    parts = partition(list(shapes), sets)
    c = coordinates.model.num_logits

    def block(left: Captured, right: Captured) -> Tensor:
        sizes = (len(left), c, len(right), c)
        cells = (len(grid.seeds), len(grid.ranks))
        full = left.logits.new_zeros(rule.directions, *sizes)
        whole = left.logits.new_zeros(rule.directions, len(sets), *sizes)
        direct = torch.zeros_like(whole)
        swept = left.logits.new_zeros(rule.directions, len(sets), *cells, *sizes)
        for part in parts:
            over = _over(left, right, {name: shapes[name] for name in part.names}, c, rule)
            full += over
            for i in {*part.adapted, *part.trained}:
                whole[:, i] += over
            for i in part.trained:
                direct[:, i] += over
            if part.adapted:
                layers = _only(sets[part.adapted[0]], part.names)
                found = _swept(left, right, layers, grid, rule)
                for i in part.adapted:
                    swept[:, i] += found
        swept += direct[:, :, None, None]
        each = torch.cat([whole[:, :, None], swept.flatten(2, 3)], 2)
        return torch.cat([full[:, None], each.flatten(1, 2)], 1)

    return block


def _over(
    left: Captured, right: Captured, shapes: dict[str, torch.Size], c: int, rule: UpdateRule
) -> Tensor:
    """Kernel over some parameters, ``[d, n, c, m, c]``."""
    if rule.is_sgd:
        return contract(left, right, shapes, c)[None]
    return update_block(left, right, shapes, c, rule)


def _swept(
    left: Captured, right: Captured, layers: lora.SweepLayers, grid: LoraGrid, rule: UpdateRule
) -> Tensor:
    """LoRA kernels over some layers, ``[d, seeds, ranks, n, c, m, c]``."""
    squared, seeds = lora.scales(grid.ranks, grid.alpha, grid.rslora), len(grid.seeds)
    if not rule.is_sgd:
        scales = np.sqrt(squared)
        return sweep_updates(left, right, layers, seeds, scales, grid.ranks, rule)
    blocks = lora.sweep_block(left, right, layers, seeds, grid.ranks)
    return (blocks * torch.from_numpy(squared).to(blocks)[:, None, None, None, None])[None]


def _only(layers: lora.SweepLayers, names: Sequence[str]) -> lora.SweepLayers:
    """Some of the layers of a sweep."""
    rows = {name: layers.rows[name] for name in names}
    return lora.SweepLayers(rows, {name: layers.shapes[name] for name in names}, ())

"""What a LoRA sweep covers and gives, for several target sets from one capture.

Kernels of disjoint parameters add up. So the parameters are cut into parts that no target set
divides (query and value projections, the rest of attention, MLPs, …), what a part contributes is
computed once, and every target set adds up its own parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from subkern import lora
from subkern.capture import Captured
from subkern.contraction import contract
from subkern.errors import UserError
from subkern.kernel import Kernel
from subkern.models import LogitModel
from subkern.pairwise import Block
from subkern.subspaces import Coordinates
from subkern.target_sets import Targets


@dataclass(frozen=True)
class LoraSweep:
    """Kernels of full fine-tuning and of LoRA at every rank and adapter seed, left × right.

    Attributes:
        full: kernel of full fine-tuning of the whole model.
        targets_full: the full kernel over the adapted weights (and what is trained beside them: a
            linear readout, with targets ``"all"`` the rest of the model) alone; layer by layer
            E[K_LoRA] is proportional to it.
        kernels: (adapter seed, rank) → LoRA kernel.
        trainable: rank → number of trained parameters.
        trainable_full: parameters of the model.
        cost: seconds of capture and of contraction and in all, kernel entries, peak bytes.
    """

    full: Kernel
    targets_full: Kernel
    kernels: dict[tuple[int, int], Kernel]
    trainable: dict[int, int]
    trainable_full: int
    cost: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LoraGrid:
    """What a LoRA sweep covers.

    Attributes:
        ranks: ranks, any order.
        seeds: adapter seeds.
        targets: as in `subkern.lora.Lora`.
        alpha: LoRA's α.
        rslora: rank-stabilised scaling.
    """

    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    seeds: tuple[int, ...] = (0, 1, 2)
    targets: Targets = "all-linear"
    alpha: float = 8.0
    rslora: bool = False

    def __post_init__(self) -> None:
        for what, values in (("rank", self.ranks), ("adapter seed", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise UserError(f"{what}s {list(values)} are empty or repeat: name each once")
        if min(self.ranks) < 1:
            raise UserError(f"LoRA rank {min(self.ranks)} is not positive: use ranks >= 1")

    def at(self, seed: int, rank: int) -> lora.Lora:
        """The subspace of one cell of the grid."""
        return lora.Lora(rank, self.alpha, self.targets, seed, self.rslora)

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Every (adapter seed, rank), seed by seed."""
        return [(s, r) for s in self.seeds for r in self.ranks]


def resolve_sets(
    model: LogitModel, target_sets: Mapping[str, Targets], max_rank: int, seeds: Sequence[int]
) -> dict[str, lora.SweepLayers]:
    """Resolve every target set; a weight that several adapt has the same A in each of them.

    Raises:
        UserError: as `lora.sweep_layers`, naming the target set; there is none; two sets name one
            shared weight by different layers, whose A differ.
    """
    if not target_sets:
        raise UserError("there are no target sets: give at least one")
    found: dict[str, lora.SweepLayers] = {}
    known: dict[str, Tensor] = {}
    for name, targets in target_sets.items():
        try:
            found[name] = lora.sweep_layers(model, targets, max_rank, seeds)
        except UserError as error:
            if len(target_sets) == 1:
                raise
            raise UserError(f"target set '{name}': {error}") from error
        for weight, rows in found[name].rows.items():
            if not torch.equal(known.setdefault(weight, rows), rows):
                raise UserError(
                    f"target set '{name}': '{weight}' belongs to two layers and another set names"
                    " the other one: name the same layer in both"
                )
    return found


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
    coordinates: Coordinates, sets: Sequence[lora.SweepLayers], grid: LoraGrid
) -> Block:
    """Blocks ``[1 + sets·(1 + seeds·ranks), n, c, m, c]``.

    The full kernel; then for each target set the full kernel of its weights alone, and LoRA's of
    every cell of `grid`.
    """
    shapes = {n: p.shape for n, p in coordinates.parameters.items()}
    parts = partition(list(shapes), sets)
    c = coordinates.model.num_logits
    scale = torch.from_numpy(lora.scales(grid.ranks, grid.alpha, grid.rslora))

    def block(left: Captured, right: Captured) -> Tensor:
        n, m, device = len(left), len(right), left.logits.device
        sizes = (len(grid.seeds), len(grid.ranks), n, c, m, c)
        whole = torch.zeros(len(sets), n, c, m, c, dtype=torch.float64, device=device)
        direct = torch.zeros_like(whole)
        swept = torch.zeros(len(sets), *sizes, dtype=torch.float64, device=device)
        full = torch.zeros(n, c, m, c, dtype=torch.float64, device=device)
        for part in parts:
            over = contract(left, right, {name: shapes[name] for name in part.names}, c)
            full += over
            for i in {*part.adapted, *part.trained}:
                whole[i] += over
            for i in part.trained:
                direct[i] += over
            if part.adapted:
                layers = _only(sets[part.adapted[0]], part.names)
                found = lora.sweep_block(left, right, layers, len(grid.seeds), grid.ranks)
                for i in part.adapted:
                    swept[i] += found
        swept *= scale.to(device)[:, None, None, None, None]
        swept += direct[:, None, None]
        each = torch.cat([whole[:, None], swept.flatten(1, 2)], 1)
        return torch.cat([full[None], each.flatten(0, 1)])

    return block


def _only(layers: lora.SweepLayers, names: Sequence[str]) -> lora.SweepLayers:
    """Some of the layers of a sweep."""
    rows = {name: layers.rows[name] for name in names}
    return lora.SweepLayers(rows, {name: layers.shapes[name] for name in names}, ())

"""What a LoRA sweep covers: ranks, adapter seeds, targets and scaling."""

from __future__ import annotations

from dataclasses import dataclass

from subkern.errors import UserError
from subkern.subspaces import lora
from subkern.subspaces.lora_targets import Targets


@dataclass(frozen=True)
class LoraGrid:
    """What a LoRA sweep covers.

    Attributes:
        ranks: ranks, any order.
        seeds: adapter seeds.
        targets: as in `subkern.subspaces.lora.Lora`.
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

    def lora(self, seed: int, rank: int) -> lora.Lora:
        """The subspace of one cell of the grid."""
        return lora.Lora(rank, self.alpha, self.targets, seed, self.rslora)

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Every (adapter seed, rank), seed by seed."""
        return [(s, r) for s in self.seeds for r in self.ranks]

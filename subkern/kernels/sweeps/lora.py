"""Kernels of full fine-tuning and of LoRA at every rank, seed and target set, from one capture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from subkern.errors import UserError
from subkern.gradients.plan import MustMove
from subkern.kernels.engines.tiled import Tiled
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import Request, RunOptions
from subkern.kernels.rules import UpdateRule, as_rule
from subkern.kernels.sides import Outcome, Sides
from subkern.kernels.sweeps.lora_blocks import SweepLayers, scales, sweep_layers
from subkern.kernels.sweeps.lora_parts import SweepBlocks, SweptRanks
from subkern.models.logit_model import LogitModel
from subkern.subspaces.base import Coordinates, Full
from subkern.subspaces.lora import Lora
from subkern.subspaces.lora_targets import Targets

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample


@dataclass(frozen=True)
class LoraGrid:
    """What a LoRA sweep covers.

    Attributes:
        ranks: ranks, any order.
        seeds: adapter seeds.
        targets: as in `subkern.subspaces.lora.Lora`.
        alpha: LoRA's α.
        rslora: rank-stabilized scaling.
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

    def lora(self, seed: int, rank: int) -> Lora:
        """The subspace of one cell of the grid."""
        return Lora(rank, self.alpha, self.targets, seed, self.rslora)

    @property
    def swept(self) -> SweptRanks:
        """Ranks, their scaling and the number of seeds."""
        squared = scales(self.ranks, self.alpha, self.rslora)
        return SweptRanks(self.ranks, squared, len(self.seeds))

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Every (adapter seed, rank), seed by seed."""
        return [(s, r) for s in self.seeds for r in self.ranks]


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


def sweep_lora(
    model: LogitModel,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample] | None = None,
    *,
    grid: LoraGrid | None = None,
    rule: UpdateRule | str = "sgd",
    options: RunOptions | None = None,
) -> LoraSweep:
    """Every kernel of `grid` and full fine-tuning's by `rule`, from one capture of the base model.

    Each LoRA kernel equals
    ``compute_kernel(model, left, right, subspace=grid.lora(seed, rank), rule=rule)``.

    Raises:
        UserError: as `compute_kernel`; nothing matches the targets; a rank exceeds a layer.
    """
    grid = grid or LoraGrid()
    sets = {"": grid.targets}
    return sweep_targets(model, left, right, sets=sets, grid=grid, rule=rule, options=options)[""]


def sweep_targets(
    model: LogitModel,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample] | None = None,
    *,
    sets: Mapping[str, Targets],
    grid: LoraGrid | None = None,
    rule: UpdateRule | str = "sgd",
    options: RunOptions | None = None,
) -> dict[str, LoraSweep]:
    """`sweep_lora` of several target sets at once: one capture, each layer's share computed once.

    Args:
        model: f, in evaluation mode.
        left: n examples (rows).
        right: m examples (columns); None means `left`.
        sets: name → targets, as in `subkern.subspaces.lora.Lora`; they take the place of
            ``grid.targets``.
        grid: ranks, adapter seeds and scaling.
        rule: update rule, as in `compute_kernel`.
        options: batch size, memory, progress, checkpoint.

    Returns:
        One sweep a set, equal to `sweep_lora` of that set alone; ``full`` and ``cost`` are shared.

    Raises:
        UserError: as `sweep_lora`, naming the target set where there are several.
    """
    grid, rule = grid or LoraGrid(), as_rule(rule)
    sides = Sides.of(left, right)
    found = resolve_sets(model, sets, max(grid.ranks), grid.seeds)
    dead = must_move(found, grid)
    request = Request(model, sides, rules=[rule], options=options, must_move=dead)
    blocks = SweepBlocks(request.coordinates, list(found.values()), grid.swept, rule)
    grids = [replace(grid, targets=targets) for targets in sets.values()]
    adapted = [[each.lora(*cell).describe() for cell in grid.cells] for each in grids]
    identity = request.base | rule.describe() | {"engine": request.engine}
    store = request.store(identity | {"sweep": list(chain(*adapted))})
    outcomes = request.run(Tiled(blocks), store)
    timed = {name: outcomes[0].cost[name] for name in ("contraction_seconds", "pairs")}
    described = [Full().describe()]
    for layers, cells in zip(found.values(), adapted, strict=True):
        described += [{"kind": "weights", "names": [*sorted(layers.rows), *layers.always]}, *cells]
    full, *kernels = (
        request.kernel(outcome, rule, _noise(outcome), subspace)
        for outcome, subspace in zip(outcomes, described, strict=True)
    )
    size, cost = 1 + len(grid.cells), timed | request.cost(store)
    swept = [kernels[start : start + size] for start in range(0, len(kernels), size)]
    return {
        name: _sweep(layers, grid, request.coordinates, full, each, cost)
        for (name, layers), each in zip(found.items(), swept, strict=True)
    }


def _noise(outcome: Outcome) -> dict[str, float]:
    return {name: n for name, n in outcome.cost.items() if name == "zeroed_entries"}


def _sweep(
    layers: SweepLayers,
    grid: LoraGrid,
    coordinates: Coordinates,
    full: Kernel,
    kernels: Sequence[Kernel],
    cost: dict[str, float],
) -> LoraSweep:
    """The sweep of one target set: `kernels` are its weights' and those of every cell."""
    beside = sum(coordinates.parameters[n].numel() for n in layers.always)
    return LoraSweep(
        full=full,
        targets_full=kernels[0],
        kernels=dict(zip(grid.cells, kernels[1:], strict=True)),
        trainable={r: layers.trainable(r) + beside for r in grid.ranks},
        trainable_full=coordinates.size,
        cost=cost,
    )


def must_move(found: Mapping[str, SweepLayers], grid: LoraGrid) -> list[MustMove]:
    """LoRA on weights that no logit depends on has a kernel of zeros."""
    described = grid.lora(*grid.cells[0]).describe()
    return [
        MustMove(tuple(layers.rows), described, f"target set '{name}': " if len(found) > 1 else "")
        for name, layers in found.items()
    ]


def resolve_sets(
    model: LogitModel, target_sets: Mapping[str, Targets], max_rank: int, seeds: Sequence[int]
) -> dict[str, SweepLayers]:
    """Resolve every target set; a weight that several adapt has the same A in each of them.

    Raises:
        UserError: as `sweep_layers`, naming the target set; there is none; two sets name one
            shared weight by different layers, whose A differ.
    """
    if not target_sets:
        raise UserError("there are no target sets: give at least one")
    found: dict[str, SweepLayers] = {}
    known: dict[str, Tensor] = {}
    for name, targets in target_sets.items():
        try:
            found[name] = sweep_layers(model, targets, max_rank, seeds)
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

"""Kernels of full fine-tuning and of LoRA at every rank, seed and target set, from one capture."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from subkern.errors import UserError
from subkern.gradients.plan import make_plan, refuse_dead
from subkern.kernels.engines.tiled import run
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import (
    RunOptions,
    Timed,
    check_examples,
    make_job,
    make_store,
    model_identity,
    peak_bytes,
    to_kernel,
)
from subkern.kernels.rules import UpdateRule, as_rule
from subkern.kernels.sweeps import lora_blocks
from subkern.kernels.sweeps.lora_blocks import SweepLayers
from subkern.kernels.sweeps.lora_grid import LoraGrid
from subkern.kernels.sweeps.lora_parts import SweepBlocks
from subkern.models.logit_model import LogitModel, named_parameters
from subkern.subspaces.base import Coordinates, Full
from subkern.subspaces.lora_targets import Targets

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample


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
    right = left if right is None else right
    grid, options, rule = grid or LoraGrid(), options or RunOptions(), as_rule(rule)
    check_examples(left, right)
    found = resolve_sets(model, sets, max(grid.ranks), grid.seeds)
    coordinates = Coordinates(model, named_parameters(model))
    base = model_identity(model, left, right) | rule.describe() | {"engine": "factors"}
    started = time.perf_counter()
    _refuse_dead_sets(coordinates, found, grid, [*left, *right])
    plan = make_plan(model, coordinates.parameters, [*left, *right], options.batch_size)
    blocks = SweepBlocks(coordinates, list(found.values()), grid, rule)
    block = Timed(blocks)
    job = replace(make_job(coordinates, plan, block, options, rule), kept=blocks.kept)
    grids = {name: replace(grid, targets=targets) for name, targets in sets.items()}
    swept = [each.lora(s, r).describe() for each in grids.values() for s, r in grid.cells]
    store = make_store(options, base | {"sweep": swept})
    outcome = run(job, left, right, store, options.progress)
    seconds = store.earlier + time.perf_counter() - started
    cost = block.cost() | {"seconds": seconds, "peak_bytes": peak_bytes()}

    def kernel(values: np.ndarray, zeroed: float, subspace: Mapping[str, Any]) -> Kernel:
        provenance = base | {"subspace": dict(subspace)}
        recorded = {} if rule.is_sgd else {"zeroed_entries": int(zeroed)}
        return to_kernel(values, outcome, left, right, provenance, recorded)

    def sweep(
        layers: SweepLayers, grid: LoraGrid, values: np.ndarray, zeroed: np.ndarray
    ) -> LoraSweep:
        beside = sum(coordinates.parameters[n].numel() for n in layers.always)
        weights = {"kind": "weights", "names": sorted(layers.rows) + list(layers.always)}
        cells = zip(grid.cells, values[1:], zeroed[1:], strict=True)
        return LoraSweep(
            full=full,
            targets_full=kernel(values[0], zeroed[0], weights),
            kernels={(s, r): kernel(v, z, grid.lora(s, r).describe()) for (s, r), v, z in cells},
            trainable={r: layers.trainable(r) + beside for r in grid.ranks},
            trainable_full=coordinates.size,
            cost=cost,
        )

    found_values = np.moveaxis(outcome.values, 1, 0)  # [kernels, d, n, c, m, c]
    zeroed = outcome.kept.get("zeroed", np.zeros(len(found_values)))
    full = kernel(found_values[0], zeroed[0], Full().describe())
    each = found_values[1:].reshape(len(sets), -1, *found_values.shape[1:])
    counts = zeroed[1:].reshape(len(sets), -1)
    return {
        name: sweep(found[name], grids[name], values, noise)
        for name, values, noise in zip(sets, each, counts, strict=True)
    }


def _refuse_dead_sets(
    coordinates: Coordinates,
    found: Mapping[str, SweepLayers],
    grid: LoraGrid,
    examples: Sequence[EncodedExample],
) -> None:
    """LoRA on weights that no logit depends on has a kernel of zeros."""
    for name, layers in found.items():
        adapted = {weight: coordinates.parameters[weight] for weight in layers.rows}
        try:
            refuse_dead(
                Coordinates(coordinates.model, adapted), grid.lora(*grid.cells[0]), examples
            )
        except UserError as error:
            where = f"target set '{name}': " if len(found) > 1 else ""
            raise UserError(f"{where}{error}") from error


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
            found[name] = lora_blocks.sweep_layers(model, targets, max_rank, seeds)
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

"""From a model and examples to kernels.

`compute_kernel` gives the kernel of one subspace; `sweep_lora` gives full fine-tuning's and LoRA's
at every rank and seed from one capture.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from subkern import lora
from subkern.capture import Captured
from subkern.checks import Plan, check_function, make_plan
from subkern.contraction import contract
from subkern.errors import UserError
from subkern.kernel import Kernel
from subkern.lora_updates import sweep_updates
from subkern.models import LogitModel, named_parameters
from subkern.pairwise import Block, Job, Outcome, fingerprint_examples, run
from subkern.provenance import environment, fingerprint
from subkern.reference import reference_kernel
from subkern.rules import UpdateRule, as_rule
from subkern.sign_kernel import run_signs
from subkern.subspaces import Coordinates, Full, Subspace, parse_subspace
from subkern.tiles import Progress, TileStore, parse_memory
from subkern.update_kernel import run_updates
from subkern.updates import update_block
from subkern.weights import weights_digest

if TYPE_CHECKING:
    from subkern.prompts import EncodedExample

ENGINES = ("factors", "reference")


@dataclass(frozen=True)
class Running:
    """How to run, none of which changes the numbers beyond rounding.

    Attributes:
        batch_size: most examples in one forward; None lets the plan choose.
        memory: budget beyond the model's own, bytes or text like ``"3GiB"``; None takes half of
            what is free, at most 4 GiB.
        progress: called with kernel entries done and in all.
        checkpoint: folder for finished tiles; a run that was killed goes on from them.
    """

    batch_size: int | None = None
    memory: str | float | None = None
    progress: Progress | None = None
    checkpoint: Path | str | None = None

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"batch size {self.batch_size} is not positive: use 1 or more")

    def clear(self) -> None:
        """Remove the checkpoint: its kernel is saved."""
        if self.checkpoint is not None:
            TileStore(Path(self.checkpoint), "").clear()


def compute_kernel(
    model: LogitModel,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample] | None = None,
    *,
    rule: UpdateRule | str = "sgd",
    subspace: Subspace | str = "full",
    engine: str = "factors",
    running: Running | None = None,
) -> Kernel:
    """The eNTK ⟨∇_z f_k(x_i), ∇_z f_l(x'_j)⟩ of `model` in the coordinates z of `subspace`.

    Other rules than ``"sgd"`` replace a gradient by the update u they make of it, entry by entry in
    the coordinates z, on both sides or (``asymmetric_…``) on the left, with the other direction in
    `Kernel.reverse`.

    Args:
        model: f, in evaluation mode.
        left: n examples (rows).
        right: m examples (columns); None means `left`, and a symmetric kernel.
        rule: an `UpdateRule` or its one-line form; ``"sgd"`` is the neural tangent kernel (Jacot et
            al. 2018).
        subspace: what is trained: a `Subspace` or its one-line form.
        engine: ``"factors"`` (fast) or ``"reference"`` (slow, independent, on `torch.func`).
        running: batch size, memory, progress, checkpoint.

    Returns:
        A `Kernel` with values ``[n, c, m, c]`` and the initial logits of both sides.

    Raises:
        UserError: bad argument, no examples, repeated ids, dropout left on, logits that depend on
            the batch, or too little memory.
    """
    right = left if right is None else right
    running = running or Running()
    rule = as_rule(rule)
    _check_choice("engine", engine, ENGINES)
    _check_examples(left, right)
    coordinates = as_subspace(subspace).attach(model)
    provenance = kernel_identity(model, left, right, rule=rule, subspace=subspace, engine=engine)
    started = time.perf_counter()
    recorded: dict[str, Any] = {}
    if engine == "reference":
        check_function(coordinates.model, [*left, *right])
        outcome = Outcome(*reference_kernel(coordinates, left, right, running.progress, rule))
    else:
        plan = make_plan(
            coordinates.model, coordinates.parameters, [*left, *right], running.batch_size
        )
        block = _Timed(_full_block(coordinates))
        job = _job(coordinates, plan, block, running, rule)
        store = _store(running, provenance)
        recorded = {"reasons": list(plan.reasons)}
        if rule.name == "signgd":
            outcome, cost = run_signs(job, rule, left, right, store, running.progress)
        elif rule.is_sgd:
            outcome, cost = run(job, left, right, store, running.progress), block.cost()
        else:
            outcome, cost = run_updates(job, rule, left, right, store, running.progress)
        recorded |= cost
    recorded["seconds"] = time.perf_counter() - started
    recorded["coordinates"] = coordinates.size
    return _kernel(outcome.values, outcome, left, right, provenance, recorded)


def kernel_identity(
    model: LogitModel,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample],
    *,
    rule: UpdateRule | str = "sgd",
    subspace: Subspace | str = "full",
    engine: str = "factors",
) -> dict[str, Any]:
    """Everything that decides the numbers of a kernel: the provenance it will carry."""
    rule = as_rule(rule)
    if engine == "reference":  # takes every entry as it is
        rule = replace(rule, zero_tolerance=0.0)
    return (
        _provenance(model, left, right)
        | rule.describe()
        | {"subspace": as_subspace(subspace).describe(), "engine": engine}
    )


@dataclass(frozen=True)
class LoraSweep:
    """Kernels of full fine-tuning and of LoRA at every rank and adapter seed, left × right.

    Attributes:
        full: kernel of full fine-tuning of the whole model.
        targets_full: the full kernel over the adapted weights (and a linear readout) alone; layer
            by layer E[K_LoRA] is proportional to it.
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
    targets: lora.Targets = "all-linear"
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


def sweep_lora(
    model: LogitModel,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample] | None = None,
    *,
    grid: LoraGrid | None = None,
    rule: UpdateRule | str = "sgd",
    running: Running | None = None,
) -> LoraSweep:
    """Every kernel of `grid` and full fine-tuning's by `rule`, from one capture of the base model.

    Each LoRA kernel equals
    ``compute_kernel(model, left, right, subspace=grid.at(seed, rank), rule=rule)``.

    Raises:
        UserError: as `compute_kernel`; nothing matches the targets; a rank exceeds a layer.
    """
    right = left if right is None else right
    grid, running, rule = grid or LoraGrid(), running or Running(), as_rule(rule)
    _check_examples(left, right)
    layers = lora.sweep_layers(model, grid.targets, max(grid.ranks), grid.seeds)
    coordinates = Coordinates(model, named_parameters(model))
    base = _provenance(model, left, right) | rule.describe() | {"engine": "factors"}
    started = time.perf_counter()
    plan = make_plan(model, coordinates.parameters, [*left, *right], running.batch_size)
    block = _Timed(_sweep_block(coordinates, layers, grid, rule))
    job = _job(coordinates, plan, block, running, rule)
    store = _store(running, base | {"sweep": [grid.at(s, r).describe() for s, r in _cells(grid)]})
    outcome = run(job, left, right, store, running.progress)
    cost = block.cost() | {"seconds": time.perf_counter() - started, "peak_bytes": _peak_bytes()}

    def kernel(values: np.ndarray, subspace: Mapping[str, Any]) -> Kernel:
        provenance = base | {"subspace": dict(subspace)}
        return _kernel(values, outcome, left, right, provenance, {})

    beside = sum(coordinates.parameters[n].numel() for n in layers.always)
    weights = {"kind": "weights", "names": sorted(layers.rows) + list(layers.always)}
    values = np.moveaxis(outcome.values, 1, 0)  # [2 + cells, d, n, c, m, c]
    cells = zip(_cells(grid), values[2:], strict=True)
    return LoraSweep(
        full=kernel(values[0], Full().describe()),
        targets_full=kernel(values[1], weights),
        kernels={(s, r): kernel(v, grid.at(s, r).describe()) for (s, r), v in cells},
        trainable={r: layers.trainable(r) + beside for r in grid.ranks},
        trainable_full=coordinates.size,
        cost=cost,
    )


def as_subspace(subspace: Subspace | str) -> Subspace:
    """A `Subspace`, parsed if it is text."""
    return parse_subspace(subspace) if isinstance(subspace, str) else subspace


def _cells(grid: LoraGrid) -> list[tuple[int, int]]:
    return [(s, r) for s in grid.seeds for r in grid.ranks]


def _full_block(coordinates: Coordinates) -> Block:
    shapes = {n: p.shape for n, p in coordinates.parameters.items()}
    c = coordinates.model.num_logits
    return lambda left, right: contract(left, right, shapes, c)[None]


def _sweep_block(
    coordinates: Coordinates, layers: lora.SweepLayers, grid: LoraGrid, rule: UpdateRule
) -> Block:
    """Blocks ``[d, 2 + seeds·ranks, n, c, m, c]``: full, adapted weights alone, each LoRA."""
    shapes = {n: p.shape for n, p in coordinates.parameters.items()}
    adapted = {n: s for n, s in shapes.items() if n in layers.rows}
    others = {n: s for n, s in shapes.items() if n not in layers.rows}
    always = {n: s for n, s in shapes.items() if n in layers.always}
    c = coordinates.model.num_logits
    squared, seeds = lora.scales(grid.ranks, grid.alpha, grid.rslora), len(grid.seeds)

    def over(left: Captured, right: Captured, part: Mapping[str, torch.Size]) -> Tensor:
        if rule.is_sgd:
            return contract(left, right, part, c)[None]
        return update_block(left, right, part, c, rule)

    def swept(left: Captured, right: Captured) -> Tensor:
        if not rule.is_sgd:
            scales = np.sqrt(squared)
            return sweep_updates(left, right, layers, seeds, scales, grid.ranks, rule)
        blocks = lora.sweep_block(left, right, layers, seeds, grid.ranks)
        return (blocks * torch.from_numpy(squared).to(blocks)[:, None, None, None, None])[None]

    def block(left: Captured, right: Captured) -> Tensor:
        beside, weights = over(left, right, always), over(left, right, adapted)
        full = weights + over(left, right, others)
        cells = (swept(left, right) + beside[:, None, None]).flatten(1, 2)
        return torch.cat([torch.stack([full, weights + beside], 1), cells], 1)

    return block


class _Timed:
    """A block function that adds up its seconds and entries."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.seconds = 0.0
        self.entries = 0

    def __call__(self, left: Captured, right: Captured) -> Tensor:
        started = time.perf_counter()
        out = self.block(left, right)
        if out.is_cuda:
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - started
        self.entries += len(left) * len(right)
        return out

    def cost(self) -> dict[str, float]:
        return {"contraction_seconds": self.seconds, "pairs": float(self.entries)}


def _job(
    coordinates: Coordinates,
    plan: Plan,
    block: Block,
    running: Running,
    rule: UpdateRule,
) -> Job:
    memory = parse_memory(running.memory)
    bounded = not rule.is_sgd and rule.zero_tolerance > 0
    model, parameters = coordinates.model, coordinates.parameters
    return Job(model, parameters, plan, block, memory, bounded, rule.directions)


def _store(running: Running, provenance: Mapping[str, Any]) -> TileStore:
    folder = Path(running.checkpoint) if running.checkpoint is not None else None
    return TileStore(folder, fingerprint(provenance))


def _provenance(
    model: LogitModel, left: Sequence[EncodedExample], right: Sequence[EncodedExample]
) -> dict[str, Any]:
    return {
        "model": model.description,
        "weights": weights_digest(model),
        "readout": model.readout.describe(),
        "logits": "binary" if model.binary else "all",
        "dtype": str(model.dtype).removeprefix("torch."),
        "examples": {"left": fingerprint_examples(left), "right": fingerprint_examples(right)},
        "environment": environment(),
    }


def _kernel(
    values: np.ndarray,
    outcome: Outcome,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample],
    provenance: Mapping[str, Any],
    recorded: Mapping[str, Any],
) -> Kernel:
    """The `Kernel` of one rule's values ``[d, n, c, m, c]``."""
    return Kernel(
        values[0],
        [e.id for e in left],
        [e.id for e in right],
        [e.label for e in left],
        [e.label for e in right],
        {**provenance, "recorded": dict(recorded)},
        outcome.left_logits,
        outcome.right_logits,
        values[1] if len(values) == 2 else None,
    )


def _check_choice(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f"unknown {what} '{value}': use {' or '.join(known)}")


def _check_examples(left: Sequence[EncodedExample], right: Sequence[EncodedExample]) -> None:
    for side, examples in (("left", left), ("right", right)):
        if not examples:
            raise UserError(f"there are no examples on the {side}: give at least one")
        ids = [e.id for e in examples]
        if len(set(ids)) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise UserError(f"example id '{twice}' stands twice on the {side}: ids must be unique")
    known = {e.id: (e.input_ids, e.read) for e in left}
    for e in right:
        if e.id in known and known[e.id] != (e.input_ids, e.read):
            raise UserError(f"example id '{e.id}' names different texts left and right: rename one")


def _peak_bytes() -> float:
    """Peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)

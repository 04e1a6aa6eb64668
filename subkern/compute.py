"""From a model and examples to kernels.

`compute_kernel` gives the kernel of one subspace; `sweep_lora` gives full fine-tuning's and LoRA's
at every rank and seed from one capture, `sweep_targets` the same for several target sets.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from subkern.capture import Captured
from subkern.checks import Plan, check_function, make_plan
from subkern.contraction import contract
from subkern.dead import refuse_dead
from subkern.errors import UserError
from subkern.kernel import Kernel
from subkern.lora import SweepLayers
from subkern.lora_sweep import LoraGrid, LoraSweep, resolve_sets, sweep_blocks
from subkern.models import LogitModel, named_parameters
from subkern.pairwise import Block, Job, Outcome, fingerprint_examples, run
from subkern.projected import run_projected
from subkern.provenance import environment, fingerprint
from subkern.random_subspace import RandomSubspace
from subkern.reference import reference_kernel
from subkern.rules import UpdateRule, as_rule
from subkern.sign_kernel import run_signs
from subkern.subspace_text import parse_subspace
from subkern.subspaces import Coordinates, Full, Subspace
from subkern.target_sets import Targets
from subkern.tiles import Progress, TileStore, parse_memory
from subkern.update_kernel import run_updates
from subkern.weights import weights_digest

if TYPE_CHECKING:
    from subkern.prompts import EncodedExample

ENGINES = ("factors", "reference")

__all__ = [
    "ENGINES",
    "LoraGrid",
    "LoraSweep",
    "Running",
    "as_subspace",
    "compute_kernel",
    "kernel_identity",
    "sweep_lora",
    "sweep_targets",
]


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
    subspace = as_subspace(subspace)
    rule = entrywise(as_rule(rule), subspace, engine)
    _check_choice("engine", engine, ENGINES)
    _check_examples(left, right)
    coordinates = subspace.attach(model)
    provenance = kernel_identity(model, left, right, rule=rule, subspace=subspace, engine=engine)
    started = time.perf_counter()
    refuse_dead(coordinates, subspace, [*left, *right])
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
        sides, store = (left, right), _store(running, provenance)
        if coordinates.projection is not None:
            projection = coordinates.projection
            outcome = run_projected(job, projection, *sides, store, rule, running.progress)
            cost: dict[str, float] = {}
        else:
            outcome, cost = run_rule(job, block, rule, *sides, store, running.progress)
        recorded = {"reasons": list(plan.reasons)} | cost
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
    subspace = as_subspace(subspace)
    rule = entrywise(as_rule(rule), subspace, engine)
    return (
        _provenance(model, left, right)
        | rule.describe()
        | {"subspace": subspace.describe(), "engine": engine}
    )


def run_rule(
    job: Job,
    block: _Timed,
    rule: UpdateRule,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample],
    store: TileStore,
    progress: Progress | None,
) -> tuple[Outcome, dict[str, float]]:
    """Kernels ``[d, n, c, m, c]`` of `rule` over the parameters of `job`, and what they cost."""
    if rule.name == "signgd":
        return run_signs(job, rule, left, right, store, progress)
    if rule.is_sgd:
        return run(job, left, right, store, progress), block.cost()
    return run_updates(job, rule, left, right, store, progress)


def entrywise(rule: UpdateRule, subspace: Subspace, engine: str) -> UpdateRule:
    """The rule as it is applied: some ways take every entry as it is, without a tolerance.

    The reference engine's whole gradients do not tell how an entry came to be; and no coordinate of
    a random subspace is zero by structure.
    """
    if engine == "reference" or isinstance(subspace, RandomSubspace):
        return replace(rule, zero_tolerance=0.0)
    return rule


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
    grid = grid or LoraGrid()
    sets = {"": grid.targets}
    return sweep_targets(model, left, right, sets=sets, grid=grid, rule=rule, running=running)[""]


def sweep_targets(
    model: LogitModel,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample] | None = None,
    *,
    sets: Mapping[str, Targets],
    grid: LoraGrid | None = None,
    rule: UpdateRule | str = "sgd",
    running: Running | None = None,
) -> dict[str, LoraSweep]:
    """`sweep_lora` of several target sets at once: one capture, each layer's share computed once.

    Args:
        model: f, in evaluation mode.
        left: n examples (rows).
        right: m examples (columns); None means `left`.
        sets: name → targets, as in `subkern.lora.Lora`; they take the place of ``grid.targets``.
        grid: ranks, adapter seeds and scaling.
        rule: update rule, as in `compute_kernel`.
        running: batch size, memory, progress, checkpoint.

    Returns:
        One sweep a set, equal to `sweep_lora` of that set alone; ``full`` and ``cost`` are shared.

    Raises:
        UserError: as `sweep_lora`, naming the target set where there are several.
    """
    right = left if right is None else right
    grid, running, rule = grid or LoraGrid(), running or Running(), as_rule(rule)
    _check_examples(left, right)
    found = resolve_sets(model, sets, max(grid.ranks), grid.seeds)
    coordinates = Coordinates(model, named_parameters(model))
    base = _provenance(model, left, right) | rule.describe() | {"engine": "factors"}
    started = time.perf_counter()
    plan = make_plan(model, coordinates.parameters, [*left, *right], running.batch_size)
    block = _Timed(sweep_blocks(coordinates, list(found.values()), grid, rule))
    job = _job(coordinates, plan, block, running, rule)
    grids = {name: replace(grid, targets=targets) for name, targets in sets.items()}
    swept = [each.at(s, r).describe() for each in grids.values() for s, r in grid.cells]
    store = _store(running, base | {"sweep": swept})
    outcome = run(job, left, right, store, running.progress)
    cost = block.cost() | {"seconds": time.perf_counter() - started, "peak_bytes": _peak_bytes()}

    def kernel(values: np.ndarray, subspace: Mapping[str, Any]) -> Kernel:
        provenance = base | {"subspace": dict(subspace)}
        return _kernel(values, outcome, left, right, provenance, {})

    def sweep(layers: SweepLayers, grid: LoraGrid, values: np.ndarray) -> LoraSweep:
        beside = sum(coordinates.parameters[n].numel() for n in layers.always)
        weights = {"kind": "weights", "names": sorted(layers.rows) + list(layers.always)}
        cells = zip(grid.cells, values[1:], strict=True)
        return LoraSweep(
            full=full,
            targets_full=kernel(values[0], weights),
            kernels={(s, r): kernel(v, grid.at(s, r).describe()) for (s, r), v in cells},
            trainable={r: layers.trainable(r) + beside for r in grid.ranks},
            trainable_full=coordinates.size,
            cost=cost,
        )

    found_values = np.moveaxis(outcome.values, 1, 0)  # [kernels, d, n, c, m, c]
    full = kernel(found_values[0], Full().describe())
    each = found_values[1:].reshape(len(sets), -1, *found_values.shape[1:])
    return {
        name: sweep(found[name], grids[name], values)
        for name, values in zip(sets, each, strict=True)
    }


def as_subspace(subspace: Subspace | str) -> Subspace:
    """A `Subspace`, parsed if it is text."""
    return parse_subspace(subspace) if isinstance(subspace, str) else subspace


def _full_block(coordinates: Coordinates) -> Block:
    shapes = {n: p.shape for n, p in coordinates.parameters.items()}
    c = coordinates.model.num_logits
    return lambda left, right: contract(left, right, shapes, c)[None]


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

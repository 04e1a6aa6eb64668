"""Random subspaces of many dimensions, kinds and seeds, and the full kernel, from one capture."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from subkern.errors import UserError
from subkern.gradients.batches import CaptureJob, capture_all
from subkern.gradients.capture import Captured
from subkern.gradients.plan import make_plan, refuse_dead
from subkern.kernels.compute import entrywise, kernel_identity, run_rule
from subkern.kernels.engines.projected import batches, project_captured, rows_kernels
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import (
    RunOptions,
    Timed,
    check_examples,
    full_block,
    make_job,
    make_store,
    peak_bytes,
    to_kernel,
)
from subkern.kernels.rules import UpdateRule, as_rule
from subkern.models.logit_model import LogitModel
from subkern.projections.project import Projections
from subkern.projections.spec import ProjectionSpec
from subkern.subspaces.base import Coordinates, Subspace
from subkern.subspaces.random import RandomSubspace
from subkern.subspaces.text import as_subspace

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample


@dataclass(frozen=True)
class DimensionSweep:
    """Kernels of a subspace and of random subspaces of it, left × right.

    Attributes:
        full: kernel of the inner subspace itself.
        kernels: (kind, seed, dim) → kernel of that random subspace.
        cost: seconds of projecting and contracting and in all, kernel entries, peak bytes.
    """

    full: Kernel
    kernels: dict[tuple[str, int, int], Kernel]
    cost: dict[str, float] = field(default_factory=dict)


def sweep_dimensions(
    model: LogitModel,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample] | None = None,
    *,
    dims: Sequence[int],
    kinds: Sequence[str] = ("gaussian",),
    seeds: Sequence[int] = (0,),
    allocation: str = "global",
    rule: UpdateRule | str = "sgd",
    inner: Subspace | str = "full",
    options: RunOptions | None = None,
) -> DimensionSweep:
    """The kernel of `inner` and of every random subspace of it, from one capture an example.

    Each equals ``compute_kernel(model, left, right, rule=rule, subspace=RandomSubspace(dim, kind,
    seed, allocation, inner))``.

    Args:
        model: f, in evaluation mode.
        left: n examples (rows).
        right: m examples (columns); None means `left`.
        dims: dimensions d.
        kinds: kinds of projection.
        seeds: seeds of P.
        allocation: of dimensions, as for `RandomSubspace`.
        rule: update rule of every kernel; it acts on the coordinates z of each subspace.
        inner: the subspace that is projected.
        options: batch size, memory, progress, checkpoint.

    Raises:
        UserError: as `compute_kernel`; an unknown kind; more dimensions than coordinates; nothing
            to sweep.
    """
    right = left if right is None else right
    options, inner, rule = options or RunOptions(), as_subspace(inner), as_rule(rule)
    cells = [ProjectionSpec(kind, seed, dim) for kind in kinds for seed in seeds for dim in dims]
    if not cells:
        raise UserError("nothing to sweep: name at least one kind, seed and dimension")
    check_examples(left, right)
    coordinates = inner.attach(model)
    refuse_dead(coordinates, inner, [*left, *right])
    sizes = {n: p.numel() for n, p in coordinates.parameters.items()}
    subspaces = {c: RandomSubspace(c.dim, c.kind, c.seed, allocation, inner) for c in cells}
    projector = _Projector(coordinates, Projections(cells, sizes, allocation))
    started = time.perf_counter()
    base = kernel_identity(model, left, right, rule=rule, subspace=inner)
    plan = make_plan(coordinates.model, coordinates.parameters, [*left, *right], options.batch_size)
    block = Timed(full_block(coordinates))
    job = replace(make_job(coordinates, plan, block, options, rule), seen=projector)
    swept = {"sweep": [s.describe() for s in subspaces.values()]}
    store = make_store(options, base | swept)
    outcome, spent = run_rule(job, block, rule, left, right, store, options.progress)
    projector.catch_up(job, [*left, *right])

    def kernel(values: np.ndarray, subspace: Subspace) -> Kernel:
        used = entrywise(rule, subspace, "factors")
        provenance = base | used.describe() | {"subspace": subspace.describe()}
        return to_kernel(values, outcome, left, right, provenance, {})

    mine, theirs = projector.rows(left), projector.rows(right)
    kernels = {
        (c.kind, c.seed, c.dim): kernel(rows_kernels(mine[c], theirs[c], rule), subspaces[c])
        for c in cells
    }
    cost = spent | {
        "projection_seconds": projector.seconds,
        "seconds": store.earlier + time.perf_counter() - started,
        "peak_bytes": peak_bytes(),
    }
    return DimensionSweep(kernel(outcome.values, inner), kernels, cost)


class _Projector:
    """Projects every example the first time its factors are seen."""

    def __init__(self, coordinates: Coordinates, projections: Projections) -> None:
        self.shapes = {n: p.shape for n, p in coordinates.parameters.items()}
        self.projections = projections
        self.seconds = 0.0
        self._known: dict[str, Mapping[ProjectionSpec, np.ndarray]] = {}

    def __call__(self, examples: Sequence[EncodedExample], captured: Captured) -> None:
        fresh = [i for i, e in enumerate(examples) if e.id not in self._known]
        if not fresh:
            return
        started = time.perf_counter()
        factors = {n: [fs[i] for i in fresh] for n, fs in captured.factors.items()}
        part = Captured(factors, captured.logits[fresh])
        values = project_captured(part, self.shapes, self.projections).values
        for k, i in enumerate(fresh):
            self._known[examples[i].id] = {cell: v[k] for cell, v in values.items()}
        self.seconds += time.perf_counter() - started

    def catch_up(self, job: CaptureJob, examples: Sequence[EncodedExample]) -> None:
        """Project the examples of tiles that an earlier run finished."""
        missing = list({e.id: e for e in examples if e.id not in self._known}.values())
        for picks in batches(job, missing, self.projections):
            capture_all(job, missing[picks])  # which calls this object

    def rows(self, side: Sequence[EncodedExample]) -> dict[ProjectionSpec, np.ndarray]:
        """Projected gradients of a side, cell → ``[n, c, dim]``."""
        cells = self.projections.cells
        return {cell: np.stack([self._known[e.id][cell] for e in side]) for cell in cells}

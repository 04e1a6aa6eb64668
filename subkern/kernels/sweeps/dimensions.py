"""Random subspaces of many dimensions, kinds and seeds, and the full kernel, from one capture."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from subkern.errors import UserError
from subkern.gradients.capture import Captured
from subkern.kernels.compute import engine_for
from subkern.kernels.engines.projected import batches, project_captured, rows_kernels
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import Request, RunOptions, entrywise
from subkern.kernels.rules import UpdateRule
from subkern.kernels.sides import Sides
from subkern.kernels.tiles import TileStore
from subkern.models.logit_model import LogitModel
from subkern.projections.project import Projections
from subkern.projections.spec import ProjectionSpec
from subkern.subspaces.base import Coordinates, Subspace
from subkern.subspaces.random import RandomSubspace

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
    cells = [ProjectionSpec(kind, seed, dim) for kind in kinds for seed in seeds for dim in dims]
    if not cells:
        raise UserError("nothing to sweep: name at least one kind, seed and dimension")
    sides = Sides.of(left, right)
    request = Request(model, sides, rules=[rule], subspace=inner, options=options)
    (applied,) = request.rules
    subspaces = {
        c: RandomSubspace(c.dim, c.kind, c.seed, allocation, request.subspace) for c in cells
    }
    swept = {"sweep": [each.describe() for each in subspaces.values()]}
    store = request.store(request.identity(applied) | swept)
    projector = _Projector(request.coordinates, cells, allocation, store)
    (outcome,) = request.run(engine_for(request, projector), store)
    projector.catch_up(request)
    mine, theirs = projector.rows(sides.left), projector.rows(sides.right)
    found = {
        c: replace(outcome, values=rows_kernels(mine[c], theirs[c], applied)) for c in subspaces
    }
    kernels = {
        (c.kind, c.seed, c.dim): request.kernel(
            found[c], entrywise(applied, subspace), {}, subspace.describe()
        )
        for c, subspace in subspaces.items()
    }
    cost = outcome.cost | store.counted() | request.cost(store)
    return DimensionSweep(request.kernel(outcome, applied, {}), kernels, cost)


class _Projector:
    """Projects every example the first time its factors are seen.

    Sums in float32 depend on which examples are captured and projected together. So the store keeps
    who was: a run that was killed and goes on gives the same numbers to the last bit.
    """

    def __init__(
        self,
        coordinates: Coordinates,
        cells: Sequence[ProjectionSpec],
        allocation: str,
        store: TileStore,
    ) -> None:
        self.shapes = {n: p.shape for n, p in coordinates.parameters.items()}
        sizes = {n: shape.numel() for n, shape in self.shapes.items()}
        self.projections = Projections(cells, sizes, allocation)
        self.seconds = 0.0
        self._known: dict[str, Mapping[ProjectionSpec, np.ndarray]] = {}
        self._store = store
        store.count(self.cost)

    @cached_property
    def _groups(self) -> dict[tuple[str, ...], list[int]]:
        """Who was captured together -> positions of who was new; of earlier runs first.

        Asked for once the engine has seen that the store is of these settings.
        """
        found: dict[tuple[str, ...], list[int]] = {}
        while (group := self._store.get(f"group-{len(found)}")) is not None:
            found[tuple(group["examples"].tolist())] = group["new"].tolist()
        return found

    def __call__(self, examples: Sequence[EncodedExample], captured: Captured) -> None:
        ids = tuple(e.id for e in examples)
        new = self._groups.get(ids)
        if new is None:
            placed = {group[i] for group, picked in self._groups.items() for i in picked}
            new = [i for i, each in enumerate(ids) if each not in placed]
            if not new:
                return
            self._store.put(
                f"group-{len(self._groups)}", {"examples": np.array(ids), "new": np.array(new)}
            )
            self._groups[ids] = new
        if ids[new[0]] in self._known:
            return
        started = time.perf_counter()
        factors = {n: [fs[i] for i in new] for n, fs in captured.factors.items()}
        part = Captured(factors, captured.logits[new])
        values = project_captured(part, self.shapes, self.projections).values
        for k, i in enumerate(new):
            self._known[ids[i]] = {cell: v[k] for cell, v in values.items()}
        self.seconds += time.perf_counter() - started

    def cost(self) -> dict[str, float]:
        """Seconds of projecting."""
        return {"projection_seconds": self.seconds}

    def catch_up(self, request: Request) -> None:
        """Project the examples of tiles that an earlier run finished."""
        capturing = request.capturing(self)
        examples = {e.id: e for e in request.sides.every}
        for ids, new in list(self._groups.items()):
            if ids[new[0]] not in self._known:
                capturing([examples[each] for each in ids])
        missing = [e for e in examples.values() if e.id not in self._known]  # of damaged notes
        for picks in batches(request.job, missing, self.projections):
            capturing(missing[picks])

    def rows(self, side: Sequence[EncodedExample]) -> dict[ProjectionSpec, np.ndarray]:
        """Projected gradients of a side, cell → ``[n, c, dim]``."""
        cells = self.projections.cells
        return {cell: np.stack([self._known[e.id][cell] for e in side]) for cell in cells}

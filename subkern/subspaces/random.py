"""Random-subspace tuning: θ(z) = θ₀ + P z with few coordinates z (Li et al., 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from subkern.errors import UserError
from subkern.models.logit_model import LogitModel
from subkern.projections.project import ALLOCATIONS, Projection, Projections
from subkern.projections.spec import ProjectionSpec
from subkern.subspaces.base import Coordinates, Full, HasCheckpoint, Subspace


@dataclass(frozen=True)
class RandomSubspace:
    """`dim` random directions of the coordinates of `inner`.

    The kernel is G P Pᵀ Gᵀ, an unbiased estimate of that of `inner`. P depends on (kind, seed,
    allocation) and the names and sizes of the parameters, and for dimension d is √(D/d) times the
    first d columns of that for D (count_sketch: sums of them, where d divides D).

    Args:
        dim: d.
        kind: ``gaussian``, ``rademacher``, ``sparse``, ``very_sparse``, ``count_sketch`` or
            ``srht``; see `subkern.projections.theory`.
        seed: seed of P.
        allocation: ``global``, one P over all parameters, or ``per-parameter``, dimensions shared
            among parameters by size.
        inner: the subspace in whose coordinates P is drawn.
    """

    dim: int
    kind: str = "gaussian"
    seed: int = 0
    allocation: str = "global"
    inner: Subspace = field(default_factory=Full)

    def __post_init__(self) -> None:
        ProjectionSpec(self.kind, self.seed, self.dim)
        if self.allocation not in ALLOCATIONS:
            known = " or ".join(ALLOCATIONS)
            raise UserError(f"unknown allocation '{self.allocation}': use {known}")
        if isinstance(self.inner, RandomSubspace):
            raise UserError("a random subspace of a random subspace: give the product of the two")

    @property
    def cell(self) -> ProjectionSpec:
        """Kind, seed and dimension."""
        return ProjectionSpec(self.kind, self.seed, self.dim)

    def attach(self, model: LogitModel) -> Coordinates:
        """The coordinates of `inner`, with the projection to z.

        Raises:
            UserError: more dimensions than coordinates.
        """
        inner = self.inner.attach(model)
        sizes = {n: p.numel() for n, p in inner.parameters.items()}
        projection = Projection(Projections([self.cell], sizes, self.allocation), self.cell)
        return Coordinates(inner.model, inner.parameters, inner.beside, projection)

    def at(self, checkpoint: str | Path | Mapping[str, Tensor]) -> RandomSubspace:
        """The same random directions around `inner` at `checkpoint`.

        Raises:
            UserError: the inner subspace cannot stand at a checkpoint.
        """
        if not isinstance(self.inner, HasCheckpoint):
            raise UserError(f"{self.inner} stands nowhere but where it is: give it no checkpoint")
        return replace(self, inner=self.inner.at(checkpoint))

    def describe(self) -> dict[str, Any]:
        """Everything that decides P, and the inner subspace."""
        return {
            "kind": "random",
            "projection": self.kind,
            "dim": self.dim,
            "seed": self.seed,
            "allocation": self.allocation,
            "inner": self.inner.describe(),
        }

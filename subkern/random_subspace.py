"""Random-subspace tuning: θ(z) = θ₀ + P z with few coordinates z (Li et al., 2018)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from subkern.errors import UserError
from subkern.models import LogitModel
from subkern.projections import KINDS, Cell
from subkern.sketching import ALLOCATIONS, Projections
from subkern.subspaces import Coordinates, Full, Subspace, Trainable


@dataclass(frozen=True)
class RandomSubspace:
    """`dim` random directions of the coordinates of `inner`.

    The kernel is G P Pᵀ Gᵀ, an unbiased estimate of that of `inner`. P depends on (kind, seed,
    allocation) and the names and sizes of the parameters, and for dimension d is √(D/d) times the
    first d columns of that for D (count_sketch: sums of them, where d divides D).

    Args:
        dim: d.
        kind: ``gaussian``, ``rademacher``, ``sparse``, ``very_sparse``, ``count_sketch`` or
            ``srht``; see `subkern.projections`.
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
        Cell(self.kind, self.seed, self.dim)
        if self.allocation not in ALLOCATIONS:
            known = " or ".join(ALLOCATIONS)
            raise UserError(f"unknown allocation '{self.allocation}': use {known}")
        if isinstance(self.inner, RandomSubspace):
            raise UserError("a random subspace of a random subspace: give the product of the two")

    @property
    def cell(self) -> Cell:
        """Kind, seed and dimension."""
        return Cell(self.kind, self.seed, self.dim)

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
        if not isinstance(self.inner, Trainable):
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


@dataclass(frozen=True)
class Projection:
    """P of one random subspace."""

    projections: Projections
    cell: Cell

    @property
    def dim(self) -> int:
        """Number of coordinates z."""
        return self.cell.dim

    def project(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Pᵀ g ``[R, dim]`` of gradients ``{name: [R, size]}``."""
        return self.projections.project(gradients)[self.cell]

    def displacement(self, z: Tensor) -> dict[str, Tensor]:
        """P z ``{name: [size]}``: what θ(z) adds to each parameter, flat."""
        return self.projections.displacement(self.cell, z)

    def dense_matrix(self) -> Tensor:
        """P ``[D, dim]``, float64, entry by entry from its definition: for tiny models."""
        from subkern.projection_reference import dense_matrix

        return dense_matrix(self.projections, self.cell)


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "dim": int,
    "kind": str,
    "seed": int,
    "allocation": str,
}


def parse_random(text: str) -> RandomSubspace:
    """A random subspace from ``dim=1000,kind=srht,seed=0,allocation=global``; ``dim`` is needed.

    ``inner=`` takes another subspace's line and comes last: ``dim=100,inner=lora:r=8,alpha=16``.

    Raises:
        UserError: unknown option, no dimension, or a value of the wrong type.
    """
    from subkern.subspace_text import parse_subspace

    head, has_inner, inner = text.partition("inner=")
    options: dict[str, Any] = {"inner": parse_subspace(inner)} if has_inner else {}
    for part in filter(None, head.split(",")):
        key, equals, value = part.partition("=")
        if key not in _OPTIONS or not equals:
            known = ", ".join([*_OPTIONS, "inner"])
            raise UserError(f"unknown option '{part}' of random: write key=value with {known}")
        try:
            options[key] = _OPTIONS[key](value)
        except ValueError as error:
            raise UserError(f"option {key}='{value}' of random is not a number") from error
    if "dim" not in options:
        raise UserError(f"random needs a dimension: random:dim=1000,kind={KINDS[0]}")
    return RandomSubspace(**options)

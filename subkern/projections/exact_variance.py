"""The exact variance of ⟨Pᵀu, Pᵀv⟩ for given vectors, whatever the kind of projection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from subkern.projections.maps import Fold, IidColumns, Map, Strata, kurtosis
from subkern.projections.project import Projections
from subkern.projections.spec import ProjectionSpec


@dataclass(frozen=True)
class _Moments:
    """Variance = across·(S − S_same) + same·S_same + own·Σ u_i² v_i².

    Attributes:
        across: weight of pairs of coordinates in different groups.
        same: weight of pairs in one group.
        own: weight of a coordinate with itself.
        group: coordinates of a group.
    """

    across: float
    same: float
    own: float
    group: int


def exact_variance(
    projections: Projections, cell: ProjectionSpec, u: Mapping[str, Tensor], v: Mapping[str, Tensor]
) -> float:
    """Variance over the seeds of ⟨Pᵀu, Pᵀv⟩, as in the table of `subkern.projections.theory`.

    Args:
        projections: sweep that holds `cell`.
        cell: which projection.
        u: parameter name → flat vector ``[size]``; what is left out is zero.
        v: the same.
    """
    total = 0.0
    for scope in projections.scopes:
        [(made, read)] = [(m, r) for m, reads in scope.maps for r in reads if r.cell == cell]
        left = right = product = across = 0.0
        for name in (n for n in scope.names if n in u or n in v):
            size = projections.sizes[name]
            zero = torch.zeros(size, dtype=torch.float64)
            a, b = (side.get(name, zero).double() for side in (u, v))
            moments = _moments(made, cell.kind, read.dim, size)
            same, own = _same(a, b, moments.group)
            total += (moments.same - moments.across) * same
            total += (moments.own - 2 * moments.across) * own
            left, right, product = left + float(a @ a), right + float(b @ b), product + float(a @ b)
            across = moments.across
        total += across * (left * right + product**2)
    return total


def _moments(made: Map, kind: str, dim: int, size: int) -> _Moments:
    if isinstance(made, IidColumns):
        return _Moments(1 / dim, 1 / dim, (kurtosis(kind) - 1) / dim, size)
    if isinstance(made, Strata):
        s = made.sparsity(size)
        return _Moments(1 / dim, 0.0, (s - 1) / dim, s)
    assert isinstance(made, Fold)
    b = made.width
    if kind == "srht":
        return _Moments(1 / dim, (b - dim) / (dim * max(1, b - 1)), 0.0, b)
    held, more = divmod(b, dim)  # buckets of the fold in each of the sketch's
    squares = more * (held + 1) ** 2 + (dim - more) * held**2
    return _Moments(squares / b**2, (squares - b) / (b * max(1, b - 1)), 0.0, b)


def _same(u: Tensor, v: Tensor, group: int) -> tuple[float, float]:
    """S over the pairs of the same group, and Σ u_i² v_i²."""
    own = float((u * v).square().sum())
    found = 0.0
    for a, b in zip(u.split(group), v.split(group), strict=True):
        found += float(a @ a) * float(b @ b) + float(a @ b) ** 2
    return found - 2 * own, own

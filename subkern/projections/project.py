"""Projections of gradients to many dimensions, kinds and seeds in one pass over the coordinates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subkern.errors import UserError
from subkern.projections.maps import Fold, IidColumns, Map, Strata
from subkern.projections.spec import ProjectionSpec

ALLOCATIONS = ("global", "per-parameter")
MIN_BUCKETS = 1 << 14  # B of a fold: one for all dimensions up to a quarter of it
_FLUSH = 1 << 21  # coordinates whose float32 sums are kept before they go to float64

Sizes = Mapping[str, int]
"""Parameter name → number of its coordinates."""


def allocate(dim: int, sizes: Sizes) -> dict[str, int]:
    """Share `dim` dimensions among parameters by size: largest remainders, at least 1 each.

    Raises:
        UserError: fewer dimensions than parameters, or more than coordinates.
    """
    total = sum(sizes.values())
    check_dim(dim, total)
    if dim < len(sizes):
        raise UserError(
            f"dimension {dim} is less than the {len(sizes)} parameters:"
            " raise it, or use allocation=global"
        )
    exact = {n: dim * size / total for n, size in sizes.items()}
    shares = {n: max(1, int(x)) for n, x in exact.items()}
    missing = dim - sum(shares.values())
    order = sorted(sizes, key=lambda n: shares[n] - exact[n])
    while missing > 0:  # the largest remainders, and never more than a parameter has
        for n in [n for n in order if shares[n] < sizes[n]][:missing]:
            shares[n] += 1
            missing -= 1
    while missing < 0:  # the minimum of 1 gave too many: take from the largest
        largest = max(shares, key=lambda n: shares[n])
        shares[largest] -= 1
        missing += 1
    return shares


def check_dim(dim: int, total: int) -> None:
    """Refuse more dimensions than there are coordinates."""
    if dim > total:
        raise UserError(f"dimension {dim} exceeds the {total} coordinates: use {total} or fewer")


def buckets(dim: int, size: int | None = None) -> int:
    """B of a fold for `dim` dimensions; of one parameter alone, no more than its size needs."""
    wanted = max(MIN_BUCKETS, _power_of_two(4 * dim))
    return wanted if size is None else min(wanted, _power_of_two(max(size, dim)))


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


@dataclass(frozen=True)
class _Read:
    """Dimensions `at` of `cell` are read from one map."""

    cell: ProjectionSpec
    dim: int
    at: slice


@dataclass(frozen=True)
class _Scope:
    """Parameters that share maps: all (global), or one (per-parameter)."""

    names: frozenset[str]
    maps: list[tuple[Map, list[_Read]]]


class Projections:
    """All projections of a sweep over the same parameters.

    Args:
        cells: kinds, seeds and dimensions.
        sizes: parameter name → coordinates.
        allocation: ``global``, one P over all coordinates, to which parameters add; or
            ``per-parameter``, P block-diagonal with `allocate`'s dimensions each.

    Raises:
        UserError: an unknown allocation, or dimensions that do not fit (see `allocate`).
    """

    def __init__(
        self, cells: Iterable[ProjectionSpec], sizes: Sizes, allocation: str = "global"
    ) -> None:
        self.cells = sorted(set(cells))
        self.sizes = dict(sizes)
        if allocation not in ALLOCATIONS:
            raise UserError(f"unknown allocation '{allocation}': use {' or '.join(ALLOCATIONS)}")
        for cell in self.cells:
            check_dim(cell.dim, sum(self.sizes.values()))
        self.allocation = allocation
        self.scopes = list(self._scopes())
        # Numbers that the sums of one row hold at a time.
        self.width = max(sum(m.width for m, _ in scope.maps) for scope in self.scopes)

    def _scopes(self) -> Iterator[_Scope]:
        if self.allocation == "global":
            reads = [_Read(cell, cell.dim, slice(0, cell.dim)) for cell in self.cells]
            yield _Scope(frozenset(self.sizes), _maps(reads, None))
            return
        shares = {cell.dim: allocate(cell.dim, self.sizes) for cell in self.cells}
        begun = dict.fromkeys(shares, 0)
        for name, size in self.sizes.items():
            spans = {d: slice(begun[d], begun[d] + shares[d][name]) for d in shares}
            begun = {d: span.stop for d, span in spans.items()}
            reads = [_Read(c, shares[c.dim][name], spans[c.dim]) for c in self.cells]
            yield _Scope(frozenset([name]), _maps(reads, size))

    def sums(self, rows: int, device: torch.device | str = "cpu") -> Sums:
        """Empty sums for so many rows of gradients."""
        return Sums(self, rows, torch.device(device))

    def project(
        self, gradients: Mapping[str, Tensor], width: int = 1 << 14
    ) -> dict[ProjectionSpec, Tensor]:
        """Project whole gradients.

        Args:
            gradients: parameter name → rows ``[R, size]``; parameters left out count as zero.
            width: coordinates taken at a time (the result does not depend on it).

        Returns:
            cell → ``[R, dim]``, float64.
        """
        first = next(iter(gradients.values()))
        sums = self.sums(len(first), first.device)
        for name, rows in gradients.items():
            for start in range(0, rows.shape[1], width):
                sums.add(name, rows[:, start : start + width], start)
        return sums.read()

    def displacement(self, cell: ProjectionSpec, z: Tensor) -> dict[str, Tensor]:
        """P z, parameter by parameter, flat ``[size]``: what θ(z) adds to θ₀."""
        out = {}
        for scope in self.scopes:
            [(made, read)] = [(m, r) for m, reads in scope.maps for r in reads if r.cell == cell]
            sums = made.unread(z[read.at], cell.kind)
            for name in (n for n in self.sizes if n in scope.names):
                out[name] = made.spread(sums, name, self.sizes[name])
        return out


def _maps(reads: Sequence[_Read], size: int | None) -> list[tuple[Map, list[_Read]]]:
    """The fewest maps that serve all `reads`."""
    groups: dict[tuple[str, int, int], list[_Read]] = {}
    for read in reads:
        cell = read.cell
        folded = cell.kind in ("count_sketch", "srht")
        key = ("fold", cell.seed, buckets(read.dim, size)) if folded else (cell.kind, cell.seed, 0)
        groups.setdefault(key, []).append(read)
    return [(_map(*key, max(r.dim for r in group)), group) for key, group in groups.items()]


def _map(kind: str, seed: int, fold: int, dim: int) -> Map:
    if kind == "fold":
        return Fold(seed, fold)
    return Strata(seed, dim) if kind == "very_sparse" else IidColumns(kind, seed, dim)


class Sums:
    """Running sums of R rows: float32 over a stretch of coordinates, float64 over all.

    Parameters come one after the other; the maps of a scope exist while its parameters come.
    """

    def __init__(self, projections: Projections, rows: int, device: torch.device) -> None:
        self.projections = projections
        self._home = {n: scope for scope in projections.scopes for n in scope.names}
        self._scope: _Scope | None = None
        self._work: list[Tensor] = []
        self._total: list[Tensor] = []
        self._since = 0
        self._out = {
            cell: torch.zeros(rows, cell.dim, dtype=torch.float64, device=device)
            for cell in projections.cells
        }

    def add(self, name: str, rows: Tensor, start: int) -> None:
        """Add gradient entries ``[R, w]`` at coordinates ``start …`` of parameter `name`."""
        if self._home[name] is not self._scope:
            self._open(self._home[name], rows)
        assert self._scope is not None
        for (made, _), work in zip(self._scope.maps, self._work, strict=True):
            made.add(work, rows, name, self.projections.sizes[name], start)
        self._since += rows.shape[1]
        if self._since > _FLUSH:
            self._flush()

    def read(self) -> dict[ProjectionSpec, Tensor]:
        """Projected rows of every cell, ``[R, dim]``, float64; the sums are spent."""
        self._close()
        return self._out

    def _open(self, scope: _Scope, rows: Tensor) -> None:
        self._close()
        self._scope = scope
        self._work = [rows.new_zeros(len(rows), made.width) for made, _ in scope.maps]
        self._total = [torch.zeros_like(work, dtype=torch.float64) for work in self._work]

    def _flush(self) -> None:
        for work, total in zip(self._work, self._total, strict=True):
            total += work
            work.zero_()
        self._since = 0

    def _close(self) -> None:
        """Read the maps of the scope that ends; reading is linear, so parts of a row add up."""
        if self._scope is None:
            return
        self._flush()
        for (made, reads), total in zip(self._scope.maps, self._total, strict=True):
            for read in reads:
                found = made.read(total, read.cell.kind, read.dim)
                self._out[read.cell][:, read.at] += found
        self._scope, self._work, self._total = None, [], []


@dataclass(frozen=True)
class Projection:
    """P of one random subspace."""

    projections: Projections
    cell: ProjectionSpec

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

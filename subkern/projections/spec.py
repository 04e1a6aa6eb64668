"""What names a random map of R^p to R^d: kind, seed and dimension."""

from __future__ import annotations

from dataclasses import dataclass

from subkern.errors import UserError

KINDS = ("gaussian", "rademacher", "sparse", "very_sparse", "count_sketch", "srht")


def check_kind(kind: str) -> None:
    """Refuse an unknown kind."""
    if kind not in KINDS:
        raise UserError(f"unknown projection '{kind}': use {', '.join(KINDS)}")


@dataclass(frozen=True, order=True)
class ProjectionSpec:
    """One projection of a sweep: its kind, seed and dimension."""

    kind: str
    seed: int
    dim: int

    def __post_init__(self) -> None:
        check_kind(self.kind)
        if self.dim < 1:
            raise UserError(f"dimension {self.dim} is not positive: use 1 or more")
        if self.seed < 0:
            raise UserError(f"projection seed {self.seed} is negative: use 0 or more")

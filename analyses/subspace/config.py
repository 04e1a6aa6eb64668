"""The settings of ``analyze subspace``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from subkern.errors import UserError
from subkern.subspaces.text import parse_subspace

from ..engine.settings import Settings, decides, distinct, one_of, share

__all__ = ["DEFAULT_METHODS", "DENSE", "KINDS", "Config"]

KINDS = ("srht", "count_sketch", "very_sparse", "gaussian", "rademacher", "sparse")
DENSE = ("gaussian", "rademacher", "sparse")
"""Kinds whose cost grows with the dimension: an entry of P for each parameter and dimension."""

DEFAULT_METHODS = ("bias", "norm", "ia3")
"""Tried where no methods are named; a model that cannot take one goes without it, and says so."""

_DIMS = tuple(2**k for k in range(1, 13))


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """What to analyse; the settings that all studies share are those of `Settings`.

    Attributes:
        dims: dimensions of the random subspaces.
        kinds: kinds of random projection; the first one gives the answer.
        max_dense: the `DENSE` kinds are tried up to this dimension only.
        projection_seeds: seeds of the random subspaces.
        allocation: one projection of all parameters (``global``), or dimensions given to each
            parameter (``per-parameter``).
        ranks: LoRA ranks; none for no LoRA.
        adapter_seeds: seeds of LoRA's A.
        targets: what LoRA adapts, as `subkern.subspaces.lora.Lora` takes it.
        methods: other methods, each in its one-line form (``bias``, ``ia3``); None tries
            `DEFAULT_METHODS`.
        share: of the full kernel's test score, and of its gain, that a dimension must reach.
        min_cka: CKA with the full kernel at which it counts as preserved.
        min_agreement: share of equal test predictions at which they count as preserved.
    """

    counted: ClassVar[tuple[str, ...]] = ("projection_seeds", "adapter_seeds")

    dims: tuple[int, ...] = _DIMS
    kinds: tuple[str, ...] = KINDS
    max_dense: int = 64
    projection_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    allocation: str = "global"
    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    adapter_seeds: tuple[int, ...] = (0, 1, 2)
    targets: str | tuple[str, ...] = "all-linear"
    methods: tuple[str, ...] | None = None
    share: float = decides("answer", 0.9)
    min_cka: float = decides("answer", 0.9)
    min_agreement: float = decides("answer", 0.95)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.targets, str):
            self.keep("targets", tuple(self.targets))
        for name in ("kinds", "projection_seeds", "adapter_seeds"):
            self.keep(name, distinct(name, getattr(self, name)))
        self.keep("dims", tuple(sorted(distinct("dims", self.dims))))
        self.keep("ranks", tuple(sorted(distinct("ranks", self.ranks, empty=True))))
        if self.methods is not None:
            self.keep("methods", distinct("methods", self.methods, empty=True))
            for method in self.methods:
                parse_subspace(method)
        self.positive("dims", "ranks", "max_dense")
        for kind in self.kinds:
            one_of("kinds", kind, KINDS)
        for name in ("share", "min_cka", "min_agreement"):
            share(name, getattr(self, name))
        if len(self.dims) < 2:
            raise UserError(f"dims holds {self.dims[0]} only: give at least two to see a trend")
        for kind in self.kinds:
            if len(self.dims_of(kind)) < 2:
                raise UserError(
                    f"kind {kind} is tried up to max_dense, {self.max_dense}, which leaves fewer"
                    " than two of dims: raise --max-dense"
                )

    def dims_of(self, kind: str) -> tuple[int, ...]:
        """The dimensions in which a kind of projection is tried, ascending."""
        return tuple(d for d in self.dims if kind not in DENSE or d <= self.max_dense)

"""The settings of ``analyze subspace``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import model_validator

from subkern.errors import UserError
from subkern.subspaces.text import parse_subspace, parse_targets

from ..engine.settings import (
    Count,
    Counts,
    Seeds,
    Settings,
    Share,
    ascending,
    checked,
    choice,
    distinct,
    distinct_or_none,
    each,
    setting,
    whole,
)

KINDS = ("srht", "count_sketch", "very_sparse", "gaussian", "rademacher", "sparse")
DENSE = ("gaussian", "rademacher", "sparse")
"""Kinds whose cost grows with the dimension: an entry of P for each parameter and dimension."""

DEFAULT_METHODS = ("bias", "norm", "ia3")
"""Tried where no methods are named; a model that cannot take one goes without it, and says so."""

_DIMS = tuple(2**k for k in range(1, 13))


def _targets(name: str, value: Any) -> Any:
    return parse_targets(value) if isinstance(value, str) else tuple(value)


def _methods(name: str, value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    found = distinct_or_none(name, value)
    if found == ("none",):
        return ()
    for method in found:
        parse_subspace(method)
    return found


class Config(Settings):
    """What to analyze; the settings that all studies share are those of `Settings`.

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

    dims: Counts = setting(_DIMS, "Dimensions of the random subspaces.", shown="2,4,8,...,4096")
    kinds: Annotated[tuple[str, ...], checked(distinct, each(choice(*KINDS)))] = setting(
        KINDS, "Kinds of projection; the first gives the answer."
    )
    max_dense: Count = setting(64, "Most dimensions of the last three kinds, which cost much more.")
    projection_seeds: Seeds = setting((0, 1, 2, 3, 4), "How many draws of each.", counted=True)
    allocation: str = setting("global", "global | per-parameter.")
    ranks: Annotated[tuple[int, ...], checked(distinct_or_none, each(whole), ascending)] = setting(
        (1, 2, 4, 8, 16, 32), "LoRA ranks, or none.", empty=True
    )
    adapter_seeds: Seeds = setting((0, 1, 2), "How many seeds of LoRA's A.", counted=True)
    targets: Annotated[str | tuple[str, ...], checked(_targets)] = setting(
        "all-linear",
        "What LoRA adapts: all-linear, names with commas, or a regular expression.",
    )
    methods: Annotated[tuple[str, ...] | None, checked(_methods)] = setting(
        None,
        "Another method on one line (bias, ia3, vera:r=64), or none; may be repeated.",
        option="--method",
        repeated=True,
        shown="those of bias, norm, ia3 that the model can take",
    )
    share: Share = setting(0.9, "Of full's score, to be reached.", decides="answer")
    min_cka: Share = setting(0.9, "At which a kernel is preserved.", decides="answer")
    min_agreement: Share = setting(0.95, "Share of equal predictions, likewise.", decides="answer")

    @model_validator(mode="after")
    def _trends(self) -> Config:
        if len(self.dims) < 2:
            raise UserError(f"dims holds {self.dims[0]} only: give at least two to see a trend")
        for kind in self.kinds:
            if len(self.dims_of(kind)) < 2:
                raise UserError(
                    f"kind {kind} is tried up to max_dense, {self.max_dense}, which leaves fewer"
                    " than two of dims: raise --max-dense"
                )
        return self

    def dims_of(self, kind: str) -> tuple[int, ...]:
        """The dimensions in which a kind of projection is tried, ascending."""
        return tuple(d for d in self.dims if kind not in DENSE or d <= self.max_dense)

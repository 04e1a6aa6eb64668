"""The settings of ``analyze lora``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import field_validator, model_validator

from subkern.errors import UserError
from subkern.subspaces.lora_targets import Targets

from ..engine.settings import (
    Counts,
    Number,
    Seeds,
    Settings,
    Tolerance,
    checked,
    setting,
    unless_none,
)
from .budget import parse_budget
from .targets import from_texts, named_sets


def _budget(name: str, value: Any) -> str:
    parse_budget(str(value))
    return str(value)


class Config(Settings):
    """What to analyse; the settings that all studies share are those of `Settings`.

    Attributes:
        targets: what LoRA adapts: a named set (``"qv"``, ``"attention"``, ``"mlp"``,
            ``"all-linear"``, ``"all"``), a regular expression, or names or suffixes.
        target_sets: several of these to compare, each as one line of text (names joined by
            commas); they take the place of ``targets``. ``"grid"`` stands for the named sets.
        ranks: LoRA ranks.
        adapter_seeds: seeds of LoRA's A.
        alpha: LoRA's α, which scales its kernels and nothing else.
        rslora: rank-stabilised scaling, α/√r for α/r: again scale only.
        max_drop: a rank may score so much less than the full kernel (share, 0.02 = 2 points).
        min_agreement: share of test examples that must get the full kernel's prediction.
        budget: the most parameters to train: a share of the model like ``"1%"`` or a count like
            ``"250k"``; None asks for the cheapest configuration within tolerance.
        kernel_resamples: bootstrap resamples for agreement of train kernels (a spectrum each).
    """

    targets: str | tuple[str, ...] = setting("all-linear", option=None)
    target_sets: tuple[str, ...] = setting(
        (),
        "qv, attention, mlp, all-linear, all, names or suffixes with commas, or a regular"
        " expression. Several, or grid for the first five: compare them.",
        option="--targets",
        repeated=True,
        shown="all-linear",
    )
    ranks: Counts = setting((1, 2, 4, 8, 16, 32), "LoRA ranks, with commas.")
    adapter_seeds: Seeds = setting((0, 1, 2), "How many seeds of LoRA's A.", counted=True)
    alpha: Number = setting(8.0, "LoRA's alpha (scale only).")
    rslora: bool = setting(False, "Rank-stabilized scaling (scale only).")
    max_drop: Tolerance = setting(0.02, "Score a rank may lose.", decides="answer")
    min_agreement: Tolerance = setting(
        0.95, "Share of equal predictions it needs.", decides="answer"
    )
    budget: Annotated[str | None, checked(unless_none(_budget))] = setting(
        None,
        "Most parameters to train: 1% of the model's, or a count like 250k.",
        decides="answer",
        shown="the cheapest within tolerance",
    )
    kernel_resamples: int = setting(100, option=None)

    @model_validator(mode="before")
    @classmethod
    def _sets(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """One set of targets is ``targets``, several are ``target_sets``."""
        if not values.get("target_sets"):
            return values
        return {**values, **from_texts(values["target_sets"])}

    @field_validator("target_sets")
    @classmethod
    def _few(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        named_sets("all-linear", value)  # refuses too many
        return value

    @model_validator(mode="after")
    def _in_range(self) -> Config:
        if self.kernel_resamples < 0:
            raise UserError(f"kernel_resamples is {self.kernel_resamples}: give 0 (none) or more")
        if self.alpha <= 0:
            raise UserError(f"alpha is {self.alpha}: give a number above 0")
        return self

    @property
    def sets(self) -> dict[str, Targets]:
        """The targets to study, by name."""
        return named_sets(self.targets, self.target_sets)

"""The settings of ``analyze lora``: what LoRA may adapt, at which ranks, and what is as good."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import field_validator, model_validator

from subkern.errors import UserError
from subkern.subspaces.text import parse_targets

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

if TYPE_CHECKING:
    from subkern.kernels.sweeps.lora import LoraGrid
    from subkern.subspaces.lora_targets import Targets

GRID = "grid"  # stands for all named sets
MOST = 6  # lines that one panel can hold
_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Budget:
    """At most so many trained parameters.

    Attributes:
        count: parameters, or None where a share is given.
        percents: of what full fine-tuning trains, or None where a count is given.
    """

    count: float | None = None
    percents: float | None = None

    def of(self, whole: float) -> float:
        """Return the most parameters that may be trained where full fine-tuning trains `whole`."""
        return self.count if self.count is not None else (self.percents or 0.0) / 100 * whole

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Return the budget that is written ``1%``, ``250000``, ``250k`` or ``1.5M``.

        Raises:
            UserError: it is written otherwise, or not above 0, or a share above 100 %.
        """
        found = re.fullmatch(r"([0-9]*\.?[0-9]+(?:e[0-9]+)?) ?([kMG%]?)", text.strip())
        value = float(found[1]) if found else 0.0
        if found is None or value <= 0 or (found[2] == "%" and value > 100):
            raise UserError(
                f"budget '{text}' is no number of parameters: write a share like 1% or a count"
                " like 250000, 250k or 1.5M"
            )
        return cls(percents=value) if found[2] == "%" else cls(value * _UNITS[found[2]])


def _budget(name: str, value: Any) -> str:
    Budget.parse(str(value))
    return str(value)


class Config(Settings):
    """What to analyze; the settings that all studies share are those of `Settings`.

    Attributes:
        targets: what LoRA adapts: a named set (``"qv"``, ``"attention"``, ``"mlp"``,
            ``"all-linear"``, ``"all"``), a regular expression, or names or suffixes.
        target_sets: several of these to compare, each as one line of text (names joined by
            commas); they take the place of ``targets``. ``"grid"`` stands for the named sets.
        ranks: LoRA ranks.
        adapter_seeds: seeds of LoRA's A.
        alpha: LoRA's α, which scales its kernels and nothing else.
        rslora: rank-stabilized scaling, α/√r for α/r: again scale only.
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
        if len(value) > MOST:
            raise UserError(f"{len(value)} target sets are too many: compare at most {MOST}")
        return value

    @model_validator(mode="after")
    def _in_range(self) -> Config:
        if self.kernel_resamples < 0:
            raise UserError(f"kernel_resamples is {self.kernel_resamples}: give 0 (none) or more")
        if self.alpha <= 0:
            raise UserError(f"alpha is {self.alpha}: give a number above 0")
        return self

    @property
    def grid(self) -> LoraGrid:
        """Ranks, scaling and adapter seeds, on every linear layer."""
        from subkern.kernels.sweeps.lora import LoraGrid  # late: it imports torch

        return LoraGrid(self.ranks, self.adapter_seeds, alpha=self.alpha, rslora=self.rslora)

    @property
    def sets(self) -> dict[str, Targets]:
        """The targets to study, by name: one line of text each, as `--targets` takes it."""
        if self.target_sets:
            return {text: parse_targets(text) for text in self.target_sets}
        one = self.targets
        return {one if isinstance(one, str) else ",".join(one): one}

    def configuration(self, targets: str, rank: int) -> str:
        """Return what LoRA of a rank on a target set is called: ``rank 4``, ``mlp, rank 4``."""
        return f"{targets}, rank {rank}" if self.target_sets else f"rank {rank}"

    def kernel(self, targets: str, what: str) -> str:
        """Return the name under which a kernel of a data seed is kept: ``mlp-lora-r4-s0``.

        A study of one target set does not name it; sets that are written as names or expressions go
        by their number, as they are no file names.
        """
        if not self.target_sets:
            return what
        number = self.target_sets.index(targets) + 1
        from subkern.subspaces.lora_targets import NAMED

        return f"{targets if targets in NAMED else f'set{number}'}-{what}"


def from_texts(texts: Iterable[str]) -> dict[str, Any]:
    """Return the settings ``targets`` and ``target_sets`` for what `--targets` was given.

    Each text is one target set; ``grid`` stands for the named ones, qv to all.
    """
    from subkern.subspaces.lora_targets import NAMED

    given = [texts] if isinstance(texts, str) else texts
    wanted = list(dict.fromkeys(t for text in given for t in (NAMED if text == GRID else [text])))
    if len(wanted) == 1:
        return {"targets": parse_targets(wanted[0]), "target_sets": ()}
    return {"target_sets": tuple(wanted)}

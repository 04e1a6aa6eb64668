"""The settings of ``analyze lora``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from subkern.errors import UserError
from subkern.subspaces.lora_targets import Targets

from ..engine.settings import Settings, decides, distinct
from .budget import parse_budget
from .targets import from_texts, named_sets

__all__ = ["Config"]


@dataclass(frozen=True, kw_only=True)
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

    counted: ClassVar[tuple[str, ...]] = ("adapter_seeds",)

    targets: Targets = "all-linear"
    target_sets: tuple[str, ...] = ()
    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    adapter_seeds: tuple[int, ...] = (0, 1, 2)
    alpha: float = 8.0
    rslora: bool = False
    max_drop: float = decides("answer", 0.02)
    min_agreement: float = decides("answer", 0.95)
    budget: str | None = decides("answer", None)
    kernel_resamples: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.targets, str):
            self.keep("targets", tuple(self.targets))
        sets = from_texts(self.target_sets) if self.target_sets else {"target_sets": ()}
        for name, value in sets.items():
            self.keep(name, value)
        named_sets(self.targets, self.target_sets)  # refuses too many
        self.keep("ranks", tuple(sorted(distinct("ranks", self.ranks))))
        self.keep("adapter_seeds", distinct("adapter_seeds", self.adapter_seeds))
        self.positive("ranks")
        if self.budget is not None:
            self.keep("budget", str(self.budget))
            parse_budget(str(self.budget))
        if self.kernel_resamples < 0:
            raise UserError(f"kernel_resamples is {self.kernel_resamples}: give 0 (none) or more")
        for name in ("max_drop", "min_agreement"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}: give a share from 0 to 1")
        if self.alpha <= 0:
            raise UserError(f"alpha is {self.alpha}: give a number above 0")

    @property
    def sets(self) -> dict[str, Targets]:
        """The targets to study, by name."""
        return named_sets(self.targets, self.target_sets)

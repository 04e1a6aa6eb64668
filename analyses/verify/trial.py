"""What a verification trains, how, and what for: settings, configurations, and the advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from subkern.errors import UserError

from ..engine.settings import (
    AutoRates,
    Count,
    CountFromZero,
    Counts,
    Options,
    Settings,
    checked,
    choice,
    setting,
)

if TYPE_CHECKING:
    from subkern.subspaces.base import Subspace
    from subkern.training.grid_search import TrainingGrid
    from subkern.training.settings import Training

RATES: Mapping[str, tuple[float, ...]] = {
    "adam": (1e-5, 1e-4, 1e-3),
    "signgd": (1e-5, 1e-4, 1e-3),
    "sgd": (1e-4, 1e-3, 1e-2, 1e-1),
}
"""Learning rates tried where none is given and none can be suggested, by optimizer."""

AUTO = "auto"
"""How suggested learning rates are asked for."""

FULL = "full"
"""The name of full fine-tuning among the configurations."""

USUAL_TARGETS, USUAL_RANK = "all-linear", 16
"""What many always take, with which advice is compared."""

_SLACK = 1e-12  # 19 of 20 is 0.95, whatever binary fractions make of it
_LOOKS = 5
"""At dev, over a training: each costs as much as several updates."""


class Trial(Options):
    """How configurations are fine-tuned; dev chooses among the grid, and the best step.

    Attributes:
        optimizer: ``adam``, ``sgd`` or ``signgd``.
        learning_rates: tried; None or ``auto`` takes what is suggested for each configuration.
        batch_sizes: tried.
        steps: updates.
        draws: how many seeds of LoRA's A, or of the random subspace, are trained.
        repeats: how often full fine-tuning is trained again, each time in another order of
            examples: how alike it is to itself is what others are measured by.
        after_step: whether the kernel of each configuration after the first step of its training
            predicts too.

    Raises:
        UserError: a value is out of range or not among the choices.
    """

    prefix: ClassVar[str] = "verify-"

    optimizer: Annotated[str, checked(choice(*RATES))] = setting("adam", "adam | sgd | signgd.")
    learning_rates: AutoRates = setting(
        None,
        "Tried, with commas; auto: three for each configuration, as learning-rate suggests.",
        shown="auto",
        auto=True,
    )
    batch_sizes: Counts = setting((8,), "Tried, with commas.")
    steps: Count = setting(100, "Updates.")
    draws: Count = setting(1, "How many seeds of LoRA's A or of the subspace.")
    repeats: CountFromZero = setting(
        1, "How often full fine-tuning is repeated in another order of examples."
    )
    after_step: bool = setting(
        False, "Also predict by each configuration's kernel after the first step of its training."
    )

    def check_draws(self, settings: Settings) -> None:
        """Raise `UserError` if a study with these settings has fewer seeds to draw from."""
        for name in settings.counted():
            seeds = len(getattr(settings, name))
            if seeds < self.draws:
                option = name.replace("_", "-")
                raise UserError(
                    f"verify-draws {self.draws} is more than the {seeds} of {option}: give at most"
                    " as many"
                )

    @property
    def is_auto(self) -> bool:
        """Whether each configuration has the learning rates that are suggested for it."""
        return self.learning_rates is None

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates, ascending; those to fall back on where they are suggested."""
        return self.learning_rates or RATES[self.optimizer]

    @property
    def grid(self) -> TrainingGrid:
        """The points of `rates`."""
        from subkern.training.grid_search import TrainingGrid

        return TrainingGrid(self.rates, self.batch_sizes)

    def training(self, rule: str, seed: int = 0) -> Training:
        """Return the settings of every fine-tuning, whatever its learning rate and batch size.

        Adam's ε is that of the kernels' ``rule`` if it is Adam's too: they are to be of one update.
        ``seed`` is of the order of examples: that of a repeat is its number.
        """
        from subkern.kernels.rules import parse_rule
        from subkern.training.settings import Training

        return Training(
            optimizer=self.optimizer,
            steps=self.steps,
            eval_every=max(self.steps // _LOOKS, 1),
            epsilon=parse_rule(rule).epsilon,
            seed=seed,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        rates = AUTO if self.is_auto else list(self.rates)
        return {**super().as_dict(), "learning_rates": rates}

    def describe(self, rule: str) -> dict[str, Any]:
        """Return the settings, and Adam's ε where the kernels' ``rule`` decides it."""
        from subkern.kernels.rules import parse_rule

        epsilon = self.optimizer == "adam" and parse_rule(rule).is_adam
        return {
            **self.as_dict(),
            **({"epsilon": self.training(rule).epsilon} if epsilon else {}),
        }


@dataclass(frozen=True)
class Candidate:
    """One way of training that the kernels judged.

    Attributes:
        name: as in :mod:`analyses.engine.predictions`.
        family: what it differs from by its size only.
        label: its rank, dimension or name, for a figure.
        subspace: what is trained.
        parameters: how many.
        draw: seed of LoRA's A or of the random subspace, or None.
    """

    name: str
    family: str
    label: str
    subspace: Subspace
    parameters: int
    draw: int | None = None

    @property
    def cell(self) -> dict[str, Any]:
        """The columns that name it."""
        return {
            "configuration": self.name,
            "family": self.family,
            "label": self.label,
            "parameters": self.parameters,
            "draw": self.draw,
        }


@dataclass(frozen=True)
class Advice:
    """The configuration to take, and what it may lose.

    Attributes:
        name: the configuration.
        qualifies: whether the kernels say that it is within tolerance, or only that it is closest.
        drop: how much lower it may score, or None where a share is given.
        share: of the other's score that it must reach, or None.
        agreement: share of test examples that must get full fine-tuning's label, or None where the
            kernels were not asked for that. It was chosen; see `least_agreement`.
        rivals: the configurations that could have been advised instead; None for all.
        usual: the configuration that is always taken without any analysis (LoRA of rank 16 on all
            linear layers), if the study has it.
    """

    name: str
    qualifies: bool = True
    drop: float | None = None
    share: float | None = None
    agreement: float | None = None
    rivals: Sequence[str] | None = None
    usual: str | None = None

    @property
    def is_share(self) -> bool:
        """Whether the tolerance is a share of the other's score, not a drop."""
        return self.drop is None

    @property
    def least(self) -> float:
        """That share; all of it where none was given."""
        return self.share or 1.0

    def within(self, score: float, other: float) -> bool:
        """Say if a score is within tolerance of another one."""
        floor = other - self.drop if self.drop is not None else self.least * other
        return score >= floor - _SLACK

    def least_agreement(self, own: float | None) -> float:
        """Return the share of test examples that must get full fine-tuning's label.

        It may be as much below what full fine-tuning agrees with itself as a score may be below its
        score. The share that the kernels were asked for stands only where that was not measured.

        Args:
            own: share to which two full fine-tunings give one label; None where it is not known.
        """
        if self.agreement is None:
            return 0.0
        return self.agreement if own is None else own - (self.drop or 0.0)

    def like_full(self, score: float, full: float, same: float, own: float | None = None) -> bool:
        """Say if a configuration is within tolerance of full fine-tuning in all that was asked.

        Args:
            score: its test score.
            full: that of full fine-tuning.
            same: share of test examples to which both give one label; NaN where it is not known.
            own: as for `least_agreement`.
        """
        return self.within(score, full) and not same < self.least_agreement(own) - _SLACK

    @property
    def title(self) -> str:
        """What readers call the configuration."""
        return title(self.name)


def title(name: str) -> str:
    """Return what readers call a configuration."""
    return "full fine-tuning" if name == FULL else name

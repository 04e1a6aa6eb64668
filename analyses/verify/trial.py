"""What a verification trains, and how: configurations and the grid of their settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from subkern.errors import UserError
from subkern.kernels.rules import parse_rule
from subkern.subspaces.base import Subspace
from subkern.training.grid_search import TrainingGrid
from subkern.training.settings import Training

from ..engine.settings import (
    Count,
    Counts,
    OptionalRates,
    Options,
    Settings,
    checked,
    choice,
    setting,
)

RATES: Mapping[str, tuple[float, ...]] = {
    "adam": (1e-5, 1e-4, 1e-3),
    "signgd": (1e-5, 1e-4, 1e-3),
    "sgd": (1e-4, 1e-3, 1e-2, 1e-1),
}
"""Learning rates tried unless told otherwise, by optimizer."""

_LOOKS = 5
"""At dev, over a training: each costs as much as several updates."""


class Trial(Options):
    """How configurations are fine-tuned; dev chooses among the grid, and the best step.

    Attributes:
        optimizer: ``adam``, ``sgd`` or ``signgd``.
        learning_rates: tried; None takes `RATES` of the optimizer.
        batch_sizes: tried.
        steps: updates.
        draws: how many seeds of LoRA's A, or of the random subspace, are trained.

    Raises:
        UserError: a value is out of range or not among the choices.
    """

    prefix: ClassVar[str] = "verify-"

    optimizer: Annotated[str, checked(choice(*RATES))] = setting("adam", "adam | sgd | signgd.")
    learning_rates: OptionalRates = setting(
        None, "Tried, with commas.", shown="1e-5,1e-4,1e-3; sgd: 1e-4,1e-3,1e-2,1e-1"
    )
    batch_sizes: Counts = setting((8,), "Tried, with commas.")
    steps: Count = setting(100, "Updates.")
    draws: Count = setting(1, "How many seeds of LoRA's A or of the subspace.")

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
    def rates(self) -> tuple[float, ...]:
        """The learning rates, ascending."""
        return self.learning_rates or RATES[self.optimizer]

    @property
    def grid(self) -> TrainingGrid:
        """The points that are tried."""
        return TrainingGrid(self.rates, self.batch_sizes)

    def training(self, rule: str) -> Training:
        """Return the settings of every fine-tuning, whatever its learning rate and batch size.

        Adam's ε is that of the kernels' ``rule`` if it is Adam's too: they are to be of one update.
        """
        return Training(
            optimizer=self.optimizer,
            steps=self.steps,
            eval_every=max(self.steps // _LOOKS, 1),
            epsilon=parse_rule(rule).epsilon,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return {**super().as_dict(), "learning_rates": list(self.rates)}

    def describe(self, rule: str) -> dict[str, Any]:
        """Return the settings, and Adam's ε where the kernels' ``rule`` decides it."""
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

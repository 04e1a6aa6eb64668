"""The settings of ``analyze learning-rate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import model_validator

from subkern.errors import UserError
from subkern.subspaces.text import parse_subspace
from subkern.training.choices import LOSSES, OPTIMIZERS, SCHEDULES

from ..engine.settings import (
    Count,
    Number,
    Positive,
    Rates,
    Seed,
    Settings,
    as_text,
    checked,
    choice,
    distinct,
    distinct_or_none,
    each,
    number,
    setting,
    words,
)

if TYPE_CHECKING:
    from subkern.training.settings import Training

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0, 5.6, 8.0, 11.0)
"""Rates tried, in units of the suggestion: finer where the edge is expected."""

SUBSPACES = ("full", "lora:r=1", "lora:r=8", "lora:r=64")


def _subspaces(name: str, values: Any) -> tuple[str, ...]:
    found = distinct(name, values)
    for line in found:
        parse_subspace(line)
    return found


def _optimizers(name: str, values: Any) -> tuple[str, ...]:
    found = distinct(name, words(name, values))
    for optimizer in found:
        choice(*OPTIMIZERS)(name, optimizer)
    return found


def _steps_before(name: str, value: Any) -> int:
    found = number(name, value)
    if found < 0 or found != int(found):
        raise UserError(f"{name} is {value}: give a whole number from 0")
    return int(found)


class Config(Settings):
    """What to analyze; the settings that all studies share are those of `Settings`.

    Attributes:
        subspaces: the configurations: what is trained, each on one line.
        optimizers: names of `subkern.training.choices.OPTIMIZERS`.
        train_batch_size: examples a step.
        steps: updates of each training.
        factors: learning rates tried, in units of each configuration's suggestion. Larger ones are
            left out once two in a row have risen by `spike`, and doubled until one does.
        warmup: updates over which the rate rises from 0.
        schedule: as `subkern.training.settings.Training`.
        loss: ``cross_entropy`` or ``squared``.
        training_seed: of the order of the examples.
        epsilon: Adam's ε.
        probe_steps: updates that the rival that trains for a few steps makes at every rate.
        kernel: whether to compute the kernel of each configuration, for the rival 2n/λ_max.
        spike: a batch's loss that rises by so many times the mean loss before training ends the
            sweep, at the second rate in a row.
        rise: a training spikes if a batch's loss rises by so much above what it was before training
            (nats, where the loss is cross-entropy).
        fitted_on: finished runs of this study, of other tasks or models, on which the factors of
            the rules are fitted; none: on the other data seeds.
        plateau: rates whose score on dev is within so much of the best are as good.
    """

    rule: str = setting("sgd", option=None)
    tuning: Annotated[str, checked(choice("full", "each"))] = setting("full", option=None)
    solvers: tuple[str, ...] | None = setting(None, option=None)
    subspaces: Annotated[tuple[str, ...], checked(_subspaces)] = setting(
        SUBSPACES,
        "A configuration: what is trained; may be repeated.",
        option="--subspace",
        repeated=True,
        shown=" ".join(SUBSPACES),
    )
    optimizers: Annotated[tuple[str, ...], checked(_optimizers)] = setting(
        ("adam",), f"Of {', '.join(OPTIMIZERS)}."
    )
    train_batch_size: Count = setting(8, "Examples a step.")
    steps: Count = setting(40, "Updates of each training.")
    factors: Rates = setting(FACTORS, "Rates tried, in units of the suggestion.")
    warmup: Annotated[int, checked(_steps_before)] = setting(0, "Updates from 0 to the full rate.")
    schedule: Annotated[str, checked(choice(*SCHEDULES))] = setting(
        "constant", f"{' | '.join(SCHEDULES)}."
    )
    loss: Annotated[str, checked(choice(*LOSSES))] = setting(
        "cross_entropy", f"{' | '.join(LOSSES)}."
    )
    training_seed: Seed = setting(0, "Of the batches' order.")
    epsilon: Positive = setting(1e-8, "Adam's.")
    probe_steps: Count = setting(7, "Of the rival that trains a little at every rate.")
    kernel: bool = setting(True, "For the rival 2n/λ_max of the kernel at the start.")
    spike: Positive = setting(3.0, "Rise of a batch's loss that ends the sweep, in first losses.")
    rise: Positive = setting(2.0, "Rise of a batch's loss that is a spike, nats.", decides="answer")
    fitted_on: Annotated[tuple[str, ...], checked(distinct_or_none, each(as_text))] = setting(
        (),
        "A finished run of another task or model: the rules' factors are fitted there; may be"
        " repeated.",
        repeated=True,
        shown="the other data seeds",
        decides="answer",
    )
    plateau: Number = setting(0.01, "Of the score: as good as the best.", decides="answer")

    @model_validator(mode="after")
    def _makes_sense(self) -> Config:
        from subkern.learning_rate import check_asked

        for optimizer in self.optimizers:
            check_asked(optimizer, self.train_batch_size, loss=self.loss, epsilon=self.epsilon)
            self.training(optimizer, 1.0)
        if 1.0 not in self.factors:
            raise UserError(f"factors {self.factors} leave out 1, the suggestion: add it")
        if self.probe_steps >= self.steps:
            raise UserError(
                f"probe_steps is {self.probe_steps} of {self.steps} steps: give fewer, or more"
                " steps"
            )
        return self

    def training(self, optimizer: str, learning_rate: float) -> Training:
        """One training's settings."""
        from subkern.training.settings import Training

        return Training(
            optimizer=optimizer,
            learning_rate=learning_rate,
            batch_size=self.train_batch_size,
            steps=self.steps,
            loss=self.loss,
            seed=self.training_seed,
            epsilon=self.epsilon,
            eval_every=self.steps,
            log_steps=(0, self.steps),
            schedule=self.schedule,
            warmup=self.warmup,
        )

"""The settings of ``analyze behavior``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import model_validator

from subkern.errors import UserError
from subkern.thresholds import Thresholds
from subkern.training.choices import LOSSES

from ..engine.settings import (
    AutoRates,
    Count,
    Number,
    Positive,
    Seed,
    Settings,
    ascending,
    checked,
    choice,
    distinct_or_none,
    each,
    one_of,
    positive,
    setting,
    whole,
)

if TYPE_CHECKING:
    from subkern.subspaces.base import Subspace
    from subkern.training.settings import Training

SHARES = (0.1, 0.3, 1.0, 3.0)
"""Learning rates of SGD tried by default, in units of the kernel's critical one, 2n/λ_max."""

_RULES = {"sgd": "sgd", "adam": "asymmetric_adam", "signgd": "asymmetric_signgd"}


class Config(Settings):
    """What to analyze; the settings that all studies share are those of `Settings`.

    Attributes:
        subspace: what is trained, on one line.
        dims: dimensions of random subspaces of it that are trained beside it, for the error
            against the width; none by default.
        projection: kind of those subspaces.
        optimizer: ``sgd``, ``adam`` or ``signgd``; it decides ``rule``.
        learning_rates: those tried, the best on dev is looked into; None or ``auto`` takes `SHARES`
            of the critical one for SGD, else what is suggested for `subspace`.
        train_batch_size: examples a step.
        steps: updates of each run.
        loss: ``cross_entropy`` or ``squared``.
        training_seed: of the order of the examples.
        epsilon: Adam's ε.
        looks: how many times, evenly over a run, logits are compared with the prediction.
        kernel_steps: at how many steps of the chosen run the kernel is computed again.
        linear_training: for Adam and SignGD also train the linearized model itself.
        kernel_share, recovered, cka, relative_change, min_gain:
        `subkern.kernel_behavior.Thresholds`.
    """

    rule: str = setting("sgd", option=None)
    tuning: Annotated[str, checked(choice("full", "each"))] = setting("full", option=None)
    subspace: str = setting("full", "What is trained.")
    dims: Annotated[tuple[int, ...], checked(distinct_or_none, each(whole), ascending)] = setting(
        (), "Random subspaces of it to train too, by dimension: the error against the width."
    )
    projection: str = setting("srht", option=None)
    optimizer: str = setting("sgd", "sgd | adam | signgd.")
    learning_rates: AutoRates = setting(
        None,
        "Tried, best on dev; auto: 0.1,0.3,1,3 of the kernel's critical one for sgd, else three as"
        " learning-rate suggests.",
        shown="auto",
        auto=True,
    )
    train_batch_size: Count = setting(8, "Examples a step.")
    steps: Count = setting(100, "Updates of each run.")
    loss: Annotated[str, checked(choice(*LOSSES))] = setting(
        "cross_entropy", "cross_entropy | squared."
    )
    training_seed: Seed = setting(0, "Of the batches' order.")
    epsilon: Positive = setting(1e-8, "Adam's.")
    looks: Count = setting(10, "Logits are taken so often.")
    kernel_steps: Count = setting(4, "Kernels are, so often.")
    linear_training: bool = setting(
        True, "For adam and signgd: train the linearized model itself too."
    )
    kernel_share: Number = setting(
        Thresholds().kernel_share, "Of the gain: the kernel.", decides="answer"
    )
    recovered: Number = setting(
        Thresholds().recovered, "Of the gain: linearized.", decides="answer"
    )
    cka: Number = setting(Thresholds().cka, "Of the kernel with its start.", decides="answer")
    relative_change: Number = setting(
        Thresholds().relative_change, "Most change of the kernel.", decides="answer"
    )
    min_gain: Number = setting(Thresholds().min_gain, "Least gain to be judged.", decides="answer")

    @model_validator(mode="before")
    @classmethod
    def _optimizer_decides(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The kernel's rule is that of the optimizer's first steps."""
        optimizer, rule = values.get("optimizer", "sgd"), values.get("rule", "sgd")
        from subkern.kernels.rules import parse_rule

        one_of("optimizer", optimizer, tuple(_RULES))
        if not isinstance(rule, str):
            return values  # its type is refused as that of any setting
        if parse_rule(rule).name not in _RULES.values():  # another optimizer's: stored before
            raise UserError(f"rule {rule} is no optimizer's: leave it out, {optimizer} decides it")
        epsilon = positive("epsilon", values.get("epsilon", 1e-8))
        options = f":eps={epsilon!r}" if optimizer == "adam" else ""
        return {**values, "rule": _RULES[optimizer] + options}

    @model_validator(mode="after")
    def _makes_sense(self) -> Config:
        _ = self.thresholds, [self.subspace_of(dim) for dim in (None, *self.dims)]
        return self

    @property
    def thresholds(self) -> Thresholds:
        """When a sign of kernel behavior counts as there."""
        return Thresholds(**{f.name: getattr(self, f.name) for f in fields(Thresholds)})

    @property
    def is_asymmetric(self) -> bool:
        """Whether the kernel has two directions."""
        return self.rule != "sgd"

    def subspace_of(self, dim: int | None) -> Subspace:
        """What is trained, or a random subspace of it."""
        from subkern.subspaces.random import RandomSubspace
        from subkern.subspaces.text import as_subspace

        inner = as_subspace(self.subspace)
        return inner if dim is None else RandomSubspace(dim, self.projection, inner=inner)

    def training(self, learning_rate: float, *, keep: bool) -> Training:
        """One run's settings; `keep` the shifts at which kernels are computed again."""
        from subkern.training.settings import Training

        return Training(
            optimizer=self.optimizer,
            learning_rate=learning_rate,
            batch_size=self.train_batch_size,
            steps=self.steps,
            loss=self.loss,
            seed=self.training_seed,
            epsilon=self.epsilon,
            eval_every=max(1, self.steps // self.looks),
            log_steps=_spread(self.steps, self.looks),
            keep_steps=_spread(self.steps, self.kernel_steps) if keep else (),
        )


def _spread(steps: int, count: int) -> tuple[int, ...]:
    """So many steps from 0 to the last, evenly."""
    return tuple(sorted({round(steps * i / count) for i in range(count + 1)}))

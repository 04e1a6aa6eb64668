"""The settings of ``analyze behavior``."""

from __future__ import annotations

from dataclasses import dataclass, fields

from subkern.errors import UserError
from subkern.kernel_behavior import Thresholds
from subkern.kernels.rules import parse_rule
from subkern.subspaces.base import Subspace
from subkern.subspaces.random import RandomSubspace
from subkern.subspaces.text import as_subspace
from subkern.training.losses import LOSSES, get_loss
from subkern.training.optimizers import OPTIMIZERS
from subkern.training.settings import Training

from ..engine.settings import Settings, decides, distinct, number, one_of, rates

__all__ = ["RATES", "SHARES", "Config"]

SHARES = (0.1, 0.3, 1.0, 3.0)
"""Learning rates of SGD tried by default, in units of the kernel's critical one, 2n/λ_max."""

RATES = (1e-5, 1e-4, 1e-3)
"""Learning rates of Adam and SignGD tried by default: what each coordinate moves in a step."""

_RULES = {"sgd": "sgd", "signgd": "asymmetric_signgd", "adam": "asymmetric_adam"}


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """What to analyse; the settings that all studies share are those of `Settings`.

    Attributes:
        subspace: what is trained, on one line.
        dims: dimensions of random subspaces of it that are trained beside it, for the error
            against the width; none by default.
        projection: kind of those subspaces.
        optimizer: ``sgd``, ``adam`` or ``signgd``; it decides ``rule``.
        learning_rates: those tried, the best on dev is looked into; None takes `SHARES` of the
            critical one for SGD, `RATES` else.
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

    subspace: str = "full"
    dims: tuple[int, ...] = ()
    projection: str = "srht"
    optimizer: str = "sgd"
    learning_rates: tuple[float, ...] | None = None
    train_batch_size: int = 8
    steps: int = 100
    loss: str = "cross_entropy"
    training_seed: int = 0
    epsilon: float = 1e-8
    looks: int = 10
    kernel_steps: int = 4
    linear_training: bool = True
    kernel_share: float = decides("answer", Thresholds().kernel_share)
    recovered: float = decides("answer", Thresholds().recovered)
    cka: float = decides("answer", Thresholds().cka)
    relative_change: float = decides("answer", Thresholds().relative_change)
    min_gain: float = decides("answer", Thresholds().min_gain)

    def __post_init__(self) -> None:
        one_of("optimizer", self.optimizer, tuple(OPTIMIZERS))
        if parse_rule(self.rule).name not in _RULES.values():  # another optimizer's: stored before
            raise UserError(
                f"rule {self.rule} is no optimizer's: leave it out, {self.optimizer} decides it"
            )
        self.keep("epsilon", number("epsilon", self.epsilon))
        self.keep("rule", self._rule)
        super().__post_init__()
        one_of("loss", self.loss, tuple(LOSSES))
        get_loss(self.loss)
        self.keep("dims", tuple(sorted(distinct("dims", self.dims, empty=True))))
        self.positive("dims", "train_batch_size", "steps", "looks", "kernel_steps")
        if self.learning_rates is not None:
            self.keep("learning_rates", rates("learning_rates", self.learning_rates))
        _ = self.thresholds, [self.subspace_of(dim) for dim in (None, *self.dims)]

    @property
    def thresholds(self) -> Thresholds:
        """When a sign of kernel behaviour counts as there."""
        return Thresholds(**{f.name: getattr(self, f.name) for f in fields(Thresholds)})

    @property
    def _rule(self) -> str:
        """The kernel's rule: of the optimizer's first steps."""
        options = f":eps={self.epsilon!r}" if self.optimizer == "adam" else ""
        return _RULES[self.optimizer] + options

    @property
    def is_asymmetric(self) -> bool:
        """Whether the kernel has two directions."""
        return self.rule != "sgd"

    def subspace_of(self, dim: int | None) -> Subspace:
        """What is trained, or a random subspace of it."""
        inner = as_subspace(self.subspace)
        return inner if dim is None else RandomSubspace(dim, self.projection, inner=inner)

    def training(self, learning_rate: float, *, keep: bool) -> Training:
        """One run's settings; `keep` the shifts at which kernels are computed again."""
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

"""How a model is trained: optimizer, learning rate, batches, loss, and what is kept on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from subkern.errors import UserError, check_choice
from subkern.one_line import check_seed
from subkern.training.choices import OPTIMIZERS, SCHEDULES
from subkern.training.losses import get_loss

__all__ = ["Diverged", "Training"]


class Diverged(UserError):  # noqa: N818
    """The loss or a logit was no longer finite.

    Attributes:
        step: updates made before it was seen.
        learning_rate: of the run.
    """

    def __init__(self, step: int, learning_rate: float) -> None:
        self.step, self.learning_rate = step, learning_rate
        super().__init__(
            f"training diverged at step {step} with learning rate {learning_rate:g}: lower it"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """As its two numbers, so that it passes between processes."""
        return type(self), (self.step, self.learning_rate)


_STEPS = ("log_steps", "keep_steps")


@dataclass(frozen=True)
class Training:
    """Settings of one training run; together with model, data and subspace they decide its result.

    No clipping; momentum and weight decay only if asked for: the kernels know none of them.

    Attributes:
        optimizer: ``sgd``, ``adam`` (β 0.9 and 0.999), ``signgd`` (θ − η sign ∇, sign(0) = 0),
            ``adamw`` (decay 0.01) or ``momentum`` (SGD with 0.9).
        learning_rate: η, before the schedule.
        batch_size: examples a step; an epoch's last batch may be smaller.
        steps: updates.
        loss: ``cross_entropy`` or ``squared``; see `subkern.training.losses`.
        seed: of the order of examples (`subkern.training.batch_order`), and of dropout.
        epsilon: ε of Adam and AdamW, the kernel rule's.
        eval_every: steps between looks at dev, where the best step is chosen.
        log_steps: steps at which the logits of every split are kept, besides the first and the
            last; None keeps those of all splits but test, at the first step and where dev is
            looked at.
        keep_steps: steps at which the shift of the coordinates is kept, besides the best.
        schedule: ``constant``, ``linear`` or ``cosine`` (down to 0 at the last step).
        warmup: steps over which the learning rate rises from 0.
        dropout: train with the model's dropout on; off, f is the function of the kernels.

    Raises:
        UserError: a choice that is not there, or a number out of its range.
    """

    optimizer: str = "adam"
    learning_rate: float = 1e-5
    batch_size: int = 8
    steps: int = 200
    loss: str = "cross_entropy"
    seed: int = 0
    epsilon: float = 1e-8
    eval_every: int = 20
    log_steps: Sequence[int] | None = None
    keep_steps: Sequence[int] = ()
    schedule: str = "constant"
    warmup: int = 0
    dropout: bool = False

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        get_loss(self.loss)
        for name, low in (("batch_size", 1), ("steps", 0), ("eval_every", 1)):
            if getattr(self, name) < low:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least {low}")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"learning rate {self.learning_rate} is not a positive number")
        check_seed("seed", self.seed)
        if not 0 <= self.epsilon < math.inf:
            raise UserError(f"epsilon {self.epsilon} is negative or not a number")
        if not 0 <= self.warmup <= self.steps:
            raise UserError(f"warmup of {self.warmup} steps does not fit in {self.steps} steps")
        for name in _STEPS:
            if wrong := [s for s in getattr(self, name) or () if not 0 <= s <= self.steps]:
                raise UserError(f"{name} holds {wrong[0]}: training has steps 0 to {self.steps}")

    @property
    def eval_steps(self) -> tuple[int, ...]:
        """Steps after which dev is looked at: every `eval_every`, and the last."""
        return (*range(self.eval_every, self.steps, self.eval_every), self.steps)

    @property
    def logged_steps(self) -> tuple[int, ...]:
        """Steps whose logits are kept, from 0 on."""
        wanted = self.eval_steps if self.log_steps is None else self.log_steps
        return tuple(sorted({0, *wanted, self.steps}))

    def describe(self) -> dict[str, Any]:
        """All settings as JSON values; those that only another optimizer reads are left out.

        Steps are in order and each once, however they were given.
        """
        values = asdict(self)
        if self.optimizer not in ("adam", "adamw"):
            del values["epsilon"]
        steps = {name: values[name] for name in _STEPS if values[name] is not None}
        return values | {name: sorted({int(s) for s in given}) for name, given in steps.items()}

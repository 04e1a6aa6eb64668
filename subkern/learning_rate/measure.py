"""Rate₀ and rate₁ of a configuration: a gradient and a forward-mode pass for each batch.

J·u is one Jacobian-vector product, so no gradient of a logit is ever held: the memory is that of a
few examples' forward, whatever the subspace.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from subkern.dynamics.linearize import pushes
from subkern.errors import UserError, check_choice
from subkern.learning_rate.curvature import critical_after_walk
from subkern.learning_rate.gradients import few_at_a_time, loss_gradient
from subkern.learning_rate.suggestion import Suggestion, geometric_mean
from subkern.one_line import check_seed
from subkern.subspaces.movable import MovableModel
from subkern.subspaces.text import as_subspace
from subkern.training.batch_order import batch_order
from subkern.training.choices import OPTIMIZERS
from subkern.training.losses import get_loss
from subkern.training.optimizers import first_update

if TYPE_CHECKING:
    from subkern.models.logit_model import LogitModel
    from subkern.prompts.prompt import EncodedExample
    from subkern.storage.progress import Progress
    from subkern.subspaces.base import Subspace

__all__ = ["NoSuggestion", "check_asked", "first_step", "suggest"]

SMALL = 4
"""Batches of fewer spike earlier with Adam: of 2 from 0.7 times rate₁ on."""

WALKED = 4  # times as many examples as for a batch: λ_max is of all at once

Examples = Sequence["EncodedExample"]
Point = Mapping[str, Tensor]


class NoSuggestion(UserError):  # noqa: N818
    """The function says no learning rate: nothing moves it, or something is not finite."""


def suggest(
    model: LogitModel,
    examples: Examples,
    *,
    subspace: Subspace | str = "full",
    optimizer: str = "adam",
    batch_size: int = 8,
    steps: int | None = None,
    loss: str = "cross_entropy",
    epsilon: float = 1e-8,
    seed: int = 0,
    batches: int = 4,
    limit: int = 8,
    progress: Progress | None = None,
) -> Suggestion:
    """Suggest the learning rate of training `model` on `examples` in `subspace`.

    With g the gradient of a batch's loss and u what the first update subtracts at learning rate 1
    (`first_update`): rate₀ = 1/RMS(J(θ₀)u₀), θ₁ = θ₀ − rate₀u₀, rate₁ = 1/RMS(J(θ₁)u₁), where u₁ is
    of the next batch; rate₁ is the mean over the next few. RMS is over the class-centered logits;
    one logit f₁ − f₀ counts as the two that it stands for; the output of a regression is taken as
    it is, in standard deviations of the labels. A linear head is part of f. For SGD
    also 2/λ_max of the Gauss-Newton matrix where four smaller steps end (`critical_after_walk`).

    Args:
        model: f at θ₀; it is left as it is.
        examples: the training examples.
        subspace: what is trained. Adapters start where `finetune` starts them.
        optimizer: of `subkern.training.choices`. Schedule and weight decay play no part.
        batch_size: examples of a step.
        steps: updates that training is to make; the suggestion is larger where they see each
            example fewer than ten times. None: it is that of many.
        loss: ``cross_entropy`` or ``squared``.
        epsilon: Adam's ε.
        seed: of the order of examples: the batches are those that training with it sees first.
        batches: over how many rate₁ is averaged, after the first; it differs between them.
        limit: most examples whose logits are looked at for a batch, others for the next one: they
            matter far less than which batch it is.
        progress: called with batches done and in all.

    Raises:
        NoSuggestion: the gradient is zero in the subspace, or a logit or rate is not finite.
        UserError: an argument that is not possible, or no examples.
    """
    began = time.monotonic()
    check_asked(
        optimizer,
        batch_size,
        steps=steps,
        loss=loss,
        epsilon=epsilon,
        seed=seed,
        batches=batches,
        limit=limit,
    )
    pace = _pace(model, examples, subspace, optimizer, loss, epsilon)
    count, looks = len(examples), 2 if len(examples) <= batch_size else 1 + batches
    looked = np.random.default_rng(seed).permutation(count)
    rates: list[float] = []
    for k, rows in enumerate(batch_order(count, batch_size, looks, seed)):
        at = np.arange(k * limit, k * limit + min(limit, count))
        seen = [examples[i] for i in looked.take(at, mode="wrap")]
        rates.append(pace.rate([examples[i] for i in rows], seen))
        if progress is not None:
            progress(k + 1, looks)
    notes, critical = [*_notes(count, batch_size, optimizer)], None
    if optimizer in ("sgd", "momentum"):
        try:
            critical = critical_after_walk(
                model,
                examples,
                learning_rate=min(rates[0], geometric_mean(rates[1:])) / 4,
                subspace=subspace,
                batch_size=batch_size,
                loss=loss,
                seed=seed,
                limit=WALKED * limit,
            )
        except UserError as error:
            notes.append(f"the curvature after a short walk is not known ({error})")
    return Suggestion(
        subspace=pace.name,
        coordinates=pace.tunable.attached.size,
        optimizer=optimizer,
        batch_size=batch_size,
        examples=count,
        steps=steps,
        rate_at_start=rates[0],
        rates_after_step=tuple(rates[1:]),
        critical=critical,
        derivative=pace.mode,
        notes=tuple(notes),
        seconds=time.monotonic() - began,
    )


def first_step(
    model: LogitModel,
    examples: Examples,
    *,
    subspace: Subspace | str = "full",
    optimizer: str = "adam",
    batch_size: int = 8,
    loss: str = "cross_entropy",
    epsilon: float = 1e-8,
    seed: int = 0,
    limit: int = 8,
) -> dict[str, Tensor]:
    """θ₁ − θ₀ = −rate₀u₀, the step after which `suggest` finds rate₁; arguments as there.

    `subkern.kernel_behavior.subspace_at` takes it, whose kernel is that after the step.

    Returns:
        The change of each coordinate that is trained, by its name.

    Raises:
        NoSuggestion: no step changes the logits, or they are not finite.
        UserError: an argument that is not possible, or no examples.
    """
    check_asked(optimizer, batch_size, loss=loss, epsilon=epsilon, seed=seed, limit=limit)
    pace = _pace(model, examples, subspace, optimizer, loss, epsilon)
    (rows,) = batch_order(len(examples), batch_size, 1, seed)
    looked = np.random.default_rng(seed).permutation(len(examples))[:limit]
    start = pace.z
    pace.rate([examples[i] for i in rows], [examples[i] for i in looked])
    return {name: value - start[name] for name, value in pace.z.items()}


def check_asked(
    optimizer: str,
    batch_size: int,
    *,
    steps: int | None = None,
    loss: str = "cross_entropy",
    epsilon: float = 1e-8,
    seed: int = 0,
    batches: int = 4,
    limit: int = 8,
) -> None:
    """Refuse arguments of `suggest` that are not possible, before a model is loaded.

    Raises:
        UserError: an unknown choice, or a number out of its range.
    """
    check_choice("optimizer", optimizer, OPTIMIZERS)
    get_loss(loss)
    check_seed("seed", seed)
    whole = {"batch size": batch_size, "steps": steps, "batches": batches, "limit": limit}
    for what, value in whole.items():
        if value is not None and value < 1:
            raise UserError(f"{what} is {value}: it must be at least 1")
    if not 0 <= epsilon < float("inf"):
        raise UserError(f"epsilon {epsilon} is negative or not a number")


def _notes(count: int, batch_size: int, optimizer: str) -> Iterator[str]:
    if batch_size < SMALL and optimizer not in ("sgd", "momentum"):
        yield "small batches may spike earlier: of 2 from 0.7 times rate₁ on"
    if count <= batch_size:
        yield f"a batch holds all {count} examples, and the second is the first again"
    elif count < 2 * batch_size:
        yield f"the second batch holds the {count - batch_size} examples left of {count}"


def _pace(
    model: LogitModel,
    examples: Examples,
    subspace: Subspace | str,
    optimizer: str,
    loss: str,
    epsilon: float,
) -> _Pace:
    """The pace of an optimizer at the start, on examples that the model takes.

    Raises:
        UserError: it does not, or there are none.
    """
    if not examples:
        raise UserError("there are no training examples: give at least one")
    model.check_tokens(examples)
    tunable = MovableModel(model, as_subspace(subspace))
    tunable.model.check_tokens(examples)
    name = subspace if isinstance(subspace, str) else str(subspace.describe().get("kind"))
    return _Pace(tunable, name, optimizer, loss, epsilon)


class _Pace:
    """How fast an optimizer's steps move the function, at the start and after the first."""

    def __init__(
        self, tunable: MovableModel, name: str, optimizer: str, loss: str, epsilon: float
    ) -> None:
        self.tunable, self.name = tunable, name
        self.optimizer, self.loss, self.epsilon = optimizer, loss, epsilon
        self.mode = "forward"
        self.z: Point = {name: value.detach() for name, value in tunable.start.items()}
        self.where = "at the start"

    def rate(self, batch: Examples, seen: Examples) -> float:
        """Rate₀ on the first `batch`, which makes the step, then rate₁; from logits of `seen`."""
        update = self._update(self.z, batch)
        rate = self._rate(self.z, update, seen)
        if self.where == "at the start":
            self.z = {name: value - rate * update[name] for name, value in self.z.items()}
            self.where = "after a step that changes the logits by 1"
        return rate

    def _update(self, z: Point, batch: Examples) -> dict[str, Tensor]:
        """What the first update at `z` subtracts at learning rate 1."""
        return {
            name: first_update(self.optimizer, gradient, self.epsilon)
            for name, gradient in loss_gradient(self.tunable, z, batch, self.loss).items()
        }

    def _rate(self, z: Point, update: Point, seen: Examples) -> float:
        """1/RMS(J(z)·update) over the logits of `seen`.

        Raises:
            NoSuggestion: the RMS is zero, to rounding, or not finite.
        """
        if not any(bool(u.any()) for u in update.values()):
            raise NoSuggestion(
                f"the loss does not change with any coordinate of '{self.name}' {self.where}: no"
                " learning rate can be suggested"
            )
        parts = list(few_at_a_time(self.tunable, seen))
        batches = [batch for _, batch in parts]
        changes = []
        for found in pushes(self.tunable, z, update, batches):
            self.mode = found.mode
            changes.append(found.change)
        change = torch.cat(changes)
        if self.loss == "likelihood":  # of completions: the change per token
            tokens = torch.tensor([e.label for part, _ in parts for e in part])
            centered = change.double() / tokens.to(change.device)[:, None]
        elif self.tunable.model.regresses:  # in standard deviations of the labels
            centered = change.double()
        else:
            centered = _centered(change.double())
        size = float(centered.square().mean().sqrt())
        if not np.isfinite(size):
            raise NoSuggestion(
                f"the logits of '{self.name}' are not finite {self.where}: no learning rate can be"
                " suggested (check the weights, or use float32)"
            )
        if size <= 10 * torch.finfo(change.dtype).eps * float(change.abs().max()):  # rounding
            raise NoSuggestion(
                f"a step in '{self.name}' does not change the logits {self.where}: no learning"
                " rate can be suggested"
            )
        return 1 / size


def _centered(change: Tensor) -> Tensor:
    """Logits' change ``[b, c]`` less its mean over classes; d of f₁ − f₀ is (−d/2, d/2)."""
    if change.shape[1] == 1:
        change = torch.cat([torch.zeros_like(change), change], 1)
    return change - change.mean(1, keepdim=True)

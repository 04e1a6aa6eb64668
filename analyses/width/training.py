"""Trainings of one model by one optimizer, and what its frozen features predict of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from subkern.agreement import cka, relative_frobenius
from subkern.dynamics import Jacobian, train_linearized, train_on_jacobian
from subkern.errors import UserError
from subkern.kernels.request import RunOptions
from subkern.learning_rate import NoSuggestion, suggest
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.storage.memory import parse_memory
from subkern.subspaces.base import Full
from subkern.subspaces.movable import MovableModel
from subkern.training.batch_order import batch_order
from subkern.training.losses import get_loss
from subkern.training.settings import Diverged
from subkern.width import WideModel, WidthRun, kernel_at_rates, train_wide

from .config import Config

__all__ = ["AT", "Training", "share", "suggested"]

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]

AT = 1.0
"""Factor of the rate at which features and predictions are looked at."""

_LOOKS = 20  # most steps at which all examples are looked at along a training


@dataclass(frozen=True)
class Training:
    """The trainings of one model by one optimizer.

    Attributes:
        config: the study's settings.
        start: makes the model where it starts.
        examples: that are trained on.
        optimizer: which.
        rate: suggested.
        factors: rates that are tried, in its units.
        centered: whether f − f₀ is trained, or f.
        batches: positions of each step's examples.
        looks: steps after which the training at factor `AT` is looked at: some, evenly spaced,
            with the first and the last.
    """

    config: Config
    start: Callable[[], WideModel]
    examples: Sequence[EncodedExample]
    optimizer: str
    rate: float
    factors: Sequence[float] = (AT,)
    centered: bool = True
    batches: list[Any] = field(init=False)
    looks: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        order = batch_order(
            len(self.examples), config.train_batch_size, config.steps, config.training_seed
        )
        object.__setattr__(self, "batches", list(order))
        looks = np.linspace(1, config.steps, min(config.steps, _LOOKS)).round().astype(int)
        object.__setattr__(self, "looks", tuple(looks.tolist()))

    def results(self) -> tuple[list[Row], Floats | None]:
        """Return the numbers, and f − f₀ along the training at factor `AT` ``[looks + 1, n, c]``.

        None instead of f − f₀ where that training diverged.
        """
        path: list[Floats] = []
        rows = list(self._rows(path))
        return rows, path[0] if path else None

    def _rows(self, path: list[Floats]) -> Iterator[Row]:
        for factor in self.factors:
            began = time.monotonic()
            wide = self.start()
            at = factor == AT
            before = self._kernel(wide) if at and self.config.kernel else None
            try:
                run = self._train(wide, factor)
            except Diverged:
                yield {"metric": "loss", "factor": factor, "value": math.nan}
                continue
            yield {"metric": "loss", "factor": factor, "value": self._loss(run, -1)}
            if at:
                path.append(run.logits)
                yield {"metric": "loss.start", "factor": AT, "value": self._loss(run, 0)}
                yield from self._moved(run)
                yield {"metric": "error", "factor": AT, "value": self._error(run)}
            if before is not None:
                after = self._kernel(wide)
                yield {"metric": "kernel.cka", "factor": AT, "value": 1 - cka(before, after)}
                distance = relative_frobenius(before, after)
                yield {"metric": "kernel.frobenius", "factor": AT, "value": distance}
            yield {"metric": "seconds", "factor": factor, "value": time.monotonic() - began}

    def _train(self, wide: WideModel, factor: float) -> WidthRun:
        return train_wide(
            wide,
            self.examples,
            optimizer=self.optimizer,
            learning_rate=self.rate * factor,
            batches=self.batches,
            loss=self.config.loss,
            epsilon=self.config.epsilon,
            centered=self.centered,
            looks=self.looks if factor == AT else (self.config.steps,),
        )

    def _kernel(self, wide: WideModel) -> Floats:
        options = RunOptions(self.config.batch_size, self.config.memory)
        return kernel_at_rates(wide, self.examples[: self.config.kernel_limit], options=options)

    def _moved(self, run: WidthRun) -> Iterator[Row]:
        """Yield how far function and features have moved after the first and last update."""
        for name, step in (("first", 1), ("", -1)):
            end = f".{name}" if name else ""
            yield {"metric": f"function{end}", "factor": AT, "value": rms(run.logits[step])}
            for layer, (change, size) in enumerate(zip(run.change[step], run.size, strict=True), 1):
                value = change / size
                yield {"metric": f"features{end}", "factor": AT, "layer": layer, "value": value}

    def _error(self, run: WidthRun) -> float:
        """Return how far the optimizer on frozen features leads from what was seen."""
        try:
            return share(run.logits - self._predicted(), run.logits)
        except Diverged:
            return math.inf

    def _predicted(self) -> Floats:
        """Return f − f₀ of the optimizer on frozen features ``[looks + 1, n, c]``.

        Gradients are held where there is room: then steps need no model. Else each step costs
        forward-mode passes of all examples.
        """
        wide, config = self.start(), self.config
        movable = MovableModel(wide.model, Full())
        how: dict[str, Any] = {
            "optimizer": lambda z: wide.optimizer(self.optimizer, z, self.rate, config.epsilon),
            "batches": self.batches,
            "loss": config.loss,
            "record": (0, *self.looks),
        }
        one = sum(p.numel() * p.element_size() for p in movable.start.values())
        if len(self.examples) * wide.model.num_logits * one < parse_memory(config.memory):
            held = Jacobian.of(movable, self.examples)
            if self.centered:
                held = replace(held, logits=torch.zeros_like(held.logits))
            found = train_on_jacobian(held, **how)
        else:
            found = train_linearized(movable, self.examples, centered=self.centered, **how)
        return np.asarray(found.values - found.values[:1])

    def _loss(self, run: WidthRun, step: int) -> float:
        """Return the mean loss over all examples after a step."""
        logits = run.logits[step] if self.centered else run.start + run.logits[step]
        labels = torch.tensor([example.label for example in self.examples])
        return float(get_loss(self.config.loss)(torch.from_numpy(logits), labels))


def suggested(
    config: Config, model: LogitModel, examples: Sequence[EncodedExample], optimizer: str, of: str
) -> float:
    """Return the learning rate that is suggested for a model, called ``of``.

    Raises:
        UserError: there is none.
    """
    try:
        found = suggest(
            model,
            examples,
            optimizer=optimizer,
            batch_size=config.train_batch_size,
            loss=config.loss,
            epsilon=config.epsilon,
            seed=config.training_seed,
        )
    except NoSuggestion as error:
        raise UserError(f"no learning rate for {of} with {optimizer}: {error}") from error
    return float(found.suggested)


def share(part: Floats, whole: Floats) -> float:
    """Return how large a part is; NaN of nothing."""
    size = rms(whole)
    return rms(part) / size if size else math.nan


def rms(values: Floats) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))

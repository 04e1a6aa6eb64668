"""One width, parametrization, optimizer and seed: trainings, and what frozen features predict."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from subkern.agreement import cka, relative_frobenius
from subkern.dynamics import Jacobian, train_linearized, train_on_jacobian
from subkern.kernels.request import RunOptions
from subkern.prompts.prompt import EncodedExample
from subkern.storage.memory import parse_memory
from subkern.subspaces.base import Full
from subkern.subspaces.movable import MovableModel
from subkern.training.batch_order import batch_order
from subkern.training.losses import get_loss
from subkern.training.settings import Diverged
from subkern.width import WideModel, WidthRun, initialize, kernel_at_rates, train_wide
from subkern.width.families import Family

from .config import Config

__all__ = ["AT", "Training", "share"]

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]

AT = 1.0
"""Factor of the rate at which features and predictions are looked at."""

_LOOKS = 20  # most steps at which all examples are looked at along a training


@dataclass(frozen=True)
class Training:
    """The trainings of one width, parametrization, optimizer and seed.

    Attributes:
        config: the study's settings.
        family: the models.
        examples: that are trained on.
        rate: suggested at the base width.
        optimizer, parametrization, width, seed: which they are.
        batches: positions of each step's examples.
        looks: steps after which the training at factor `AT` is looked at: some, evenly spaced,
            with the first and the last.
    """

    config: Config
    family: Family
    examples: Sequence[EncodedExample]
    rate: float
    optimizer: str
    parametrization: str
    width: int
    seed: int
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
        for factor in self.config.factors:
            began = time.monotonic()
            wide = self._start()
            at = factor == AT
            before = self._kernel(wide) if at and self.config.kernel else None
            try:
                run = self._train(wide, factor)
            except Diverged:
                yield {"metric": "loss", "factor": factor, "value": math.nan}
                continue
            yield {"metric": "loss", "factor": factor, "value": self._loss(run.logits[-1])}
            if at:
                path.append(run.logits)
                yield {"metric": "loss.start", "factor": AT, "value": self._loss(run.logits[0])}
                yield from self._moved(run)
                yield {"metric": "error", "factor": AT, "value": self._error(run)}
            if before is not None:
                after = self._kernel(wide)
                yield {"metric": "kernel.cka", "factor": AT, "value": 1 - cka(before, after)}
                distance = relative_frobenius(before, after)
                yield {"metric": "kernel.frobenius", "factor": AT, "value": distance}
            yield {"metric": "seconds", "factor": factor, "value": time.monotonic() - began}

    def _start(self) -> WideModel:
        return initialize(self.family, self.width, self.parametrization, self.seed)

    def _train(self, wide: WideModel, factor: float) -> WidthRun:
        return train_wide(
            wide,
            self.examples,
            optimizer=self.optimizer,
            learning_rate=self.rate * factor,
            batches=self.batches,
            loss=self.config.loss,
            epsilon=self.config.epsilon,
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
        wide, config = self._start(), self.config
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
            held = replace(held, logits=torch.zeros_like(held.logits))
            return np.asarray(train_on_jacobian(held, **how).values)
        return np.asarray(train_linearized(movable, self.examples, centered=True, **how).values)

    def _loss(self, logits: Floats) -> float:
        labels = torch.tensor([example.label for example in self.examples])
        return float(get_loss(self.config.loss)(torch.from_numpy(logits), labels))


def share(part: Floats, whole: Floats) -> float:
    """Return how large a part is; NaN of nothing."""
    size = rms(whole)
    return rms(part) / size if size else math.nan


def rms(values: Floats) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))

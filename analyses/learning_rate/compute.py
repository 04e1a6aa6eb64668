"""The numbers of ``analyze learning-rate``: what is said before training, and a sweep around it.

They are one long table, one number a row, what it is about in the other columns.

===================== ==============================================================================
column                meaning
===================== ==============================================================================
``data_seed``         seed of the k-shot split
``optimizer``         of the trainings
``subspace``          the configuration: what is trained, on one line
``parameters``        how many coordinates that is
``learning_rate``     of one training; missing where a number is about the configuration
``metric``            about the configuration: ``rate_at_start``, ``rate_after_step``,
                      ``suggested``, ``spike`` (with its interval), the means of
                      `subkern.learning_rate`; ``initial_loss``, the mean over the training
                      examples; ``gradient_l1``, ‖∇‖₁ of that loss; ``critical_rate``, 2n/λ_max of
                      the kernel at the start; ``seconds.suggestion``, ``seconds.kernel``.
                      About a training: ``rise``, the most that a batch's loss was above what it was
                      before training (∞: it diverged); ``probe``, the mean rise over the last three
                      of the probe's updates; ``loss``, the mean over the training examples after
                      the last update; ``score.dev``, ``score.test`` there; ``seconds``
``value``, ``low``, ``high`` the number, and its interval where it has one
===================== ==============================================================================
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import torch

from subkern.agreement.predictions import Score
from subkern.dynamics import critical_learning_rate
from subkern.kernels.compute import compute_kernel
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import RunOptions
from subkern.learning_rate import NoSuggestion, suggest
from subkern.learning_rate.gradients import loss_gradient
from subkern.learning_rate.suggestion import two_digits
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.storage.files import keep_json, read_json
from subkern.storage.progress import Progress
from subkern.subspaces.movable import MovableModel
from subkern.subspaces.text import as_subspace
from subkern.training.batch_order import batch_order
from subkern.training.finetune import finetune
from subkern.training.losses import get_loss
from subkern.training.monitor import labels_of, logits_of, score
from subkern.training.settings import Diverged

from ..engine.heads import at_start
from ..engine.inputs import Inputs
from ..engine.long_table import LongTable
from ..engine.parts import Computed, Prepared, Workplace, encode, metric_of
from .config import Config

TABLE = LongTable(
    {
        "data_seed": "Int64",
        "optimizer": "string",
        "subspace": "string",
        "parameters": "Int64",
        "learning_rate": "float64",
        "metric": "string",
    }
)

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]

MOST = 256.0
"""Largest factor of the suggestion that is tried while nothing spikes."""

_PROBED = 3
"""Updates at the end of a probe whose losses are averaged: one batch alone is noise."""


def compute(
    config: Config,
    inputs: Inputs,
    prepared: Prepared,
    place: Workplace,
    progress: Progress | None,
) -> Computed:
    """Suggest and train every configuration on every data seed."""
    rows: list[Row] = []
    if inputs.task.loss != "cross_entropy":  # completions have one of their own
        config = config.changed(loss=inputs.task.loss)
    bar = _Bar(config, len(inputs.splits), progress)
    for seed, splits in inputs.splits.items():
        encoded = encode(prepared.model, splits)
        model = at_start(prepared.model, encoded["train"], config.head_init)
        for optimizer in config.optimizers:
            for name in config.subspaces:
                kernel = f"{seed}/{quote(name, safe='')}"
                cell = Cell(
                    config,
                    model,
                    encoded,
                    metric_of(inputs),
                    optimizer,
                    name,
                    place.kernels,
                    kernel,
                )
                folder = place.checkpoint
                if folder is not None:
                    folder = folder / f"seed-{seed}" / optimizer / quote(name, safe=":=+,")
                about = {"data_seed": seed, "optimizer": optimizer, "subspace": name}
                rows += [{**each, **about} for each in cell.rows(folder, bar)]
    return Computed(TABLE.tidy(rows))


class _Bar:
    """Progress in updates; a configuration's rates count as those asked for."""

    def __init__(self, config: Config, seeds: int, progress: Progress | None) -> None:
        self.each, self.progress, self.done = config.steps * len(config.factors), progress, 0
        self.total = seeds * len(config.optimizers) * len(config.subspaces) * self.each

    def within(self, before: int, done: int = 0, _total: int = 0) -> None:
        """Report so many updates of the configuration at hand, `before` those of one training."""
        if self.progress is not None:
            self.progress(self.done + min(before + done, self.each), self.total)

    def next(self) -> None:
        """Go on to the next configuration."""
        self.done += self.each
        self.within(0)


@dataclass(frozen=True)
class Cell:
    """One configuration, optimizer and data seed.

    Attributes:
        config: the study's settings.
        model: f where training starts.
        encoded: the splits.
        metric: the task's.
        optimizer: of the trainings.
        subspace: what is trained, on one line.
        kernels: where the kernels at the start are kept.
        kernel: name of its own there, the same for every optimizer.
    """

    config: Config
    model: LogitModel
    encoded: Mapping[str, Sequence[EncodedExample]]
    metric: Score
    optimizer: str
    subspace: str
    kernels: MutableMapping[str, Kernel]
    kernel: str

    def rows(self, folder: Path | None, bar: _Bar) -> Iterator[Row]:
        """Yield the rows of the suggestion, then those of every training.

        What no rate can be suggested for has the one row that says so: ``suggested`` is NaN.
        """
        said = self._said(folder)
        parameters = int(said.pop("parameters"))
        interval = (said.pop("spike_low"), said.pop("spike_high"))
        for metric, value in said.items():
            reach = interval if metric == "spike" else None
            yield TABLE.row(value, reach, parameters=parameters, metric=metric)
        if np.isfinite(said["suggested"]):
            for rate, numbers in self._sweep(said, folder, bar):
                for metric, value in numbers.items():
                    yield TABLE.row(value, parameters=parameters, learning_rate=rate, metric=metric)
        bar.next()

    # --- before training ---

    def _said(self, folder: Path | None) -> dict[str, float]:
        """Return what is known before training, computed once for a folder."""
        kept = None if folder is None else folder / "before.json"
        if kept is not None and kept.exists():
            return {name: _number(value) for name, value in read_json(kept).items()}
        found = self._suggestion() | self._rivals()
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            keep_json(kept, {name: repr(value) for name, value in found.items()})
        return found

    def _suggestion(self) -> dict[str, float]:
        names = ("rate_at_start", "rate_after_step", "suggested", "spike")
        try:
            found = suggest(
                self.model,
                self.encoded["train"],
                subspace=self.subspace,
                optimizer=self.optimizer,
                batch_size=self.config.train_batch_size,
                steps=self.config.steps,
                loss=self.config.loss,
                epsilon=self.config.epsilon,
                seed=self.config.training_seed,
            )
        except NoSuggestion:
            nothing = dict.fromkeys((*names, "spike_low", "spike_high"), math.nan)
            return {**nothing, "seconds.suggestion": math.nan}
        low, high = found.spike_interval or (math.nan, math.nan)
        values = {name: getattr(found, name) for name in names}
        walked = {} if found.critical is None else {"walked_rate": found.critical}
        return {
            **{name: math.nan if each is None else each for name, each in values.items()},
            **walked,
            "spike_low": low,
            "spike_high": high,
            "seconds.suggestion": found.seconds,
        }

    def _rivals(self) -> dict[str, float]:
        """Return what other rules read."""
        tunable, train = MovableModel(self.model, as_subspace(self.subspace)), self.encoded["train"]
        gradient = loss_gradient(tunable, tunable.start, train, self.config.loss)
        found = {
            "parameters": float(tunable.attached.size),
            "initial_loss": self._mean(self._losses(logits_of(tunable, train))),
            "gradient_l1": math.fsum(float(g.abs().double().sum()) for g in gradient.values()),
        }
        return found | (self._critical() if self.config.kernel else {})

    def _critical(self) -> dict[str, float]:
        """Return 2n/λ_max of the kernel at the start."""
        if self.kernel not in self.kernels:
            self.kernels[self.kernel] = compute_kernel(
                self.model,
                self.encoded["train"],
                subspace=as_subspace(self.subspace),
                options=RunOptions(self.config.batch_size, self.config.memory),
            )
        kernel = self.kernels[self.kernel]
        seconds = float(kernel.provenance["recorded"]["seconds"])
        return {"critical_rate": critical_learning_rate(kernel), "seconds.kernel": seconds}

    # --- training ---

    def _sweep(
        self, said: Mapping[str, float], folder: Path | None, bar: _Bar
    ) -> Iterator[tuple[float, dict[str, float]]]:
        """Yield every rate that was tried, ascending, and what its training gave."""
        asked, risen = list(self.config.factors), 0
        for count in itertools.count():
            factor = asked.pop(0)
            rate = two_digits(said["suggested"] * factor)
            found = self._train(rate, folder, partial(bar.within, self.config.steps * count))
            yield rate, found
            risen = risen + 1 if found["rise"] > self.config.spike * said["initial_loss"] else 0
            if not asked and not risen and factor < MOST:
                asked.append(2 * factor)
            if not asked or risen >= 2:
                return

    def _train(self, rate: float, folder: Path | None, report: Progress) -> dict[str, float]:
        config, train = self.config, self.encoded["train"]
        try:
            found = finetune(
                self.model,
                self.encoded,
                subspace=self.subspace,
                training=config.training(self.optimizer, rate),
                metric=self.metric,
                out=None if folder is None else folder / f"lr-{rate!r}",
                overwrite=True,  # what is damaged
                progress=report,
            )
        except Diverged:
            none = dict.fromkeys(("loss", "score.dev", "score.test", "seconds"), math.nan)
            return {"rise": math.inf, "probe": math.inf, **none}
        before = self._losses(found.start_logits["train"])
        size, seed = config.train_batch_size, config.training_seed
        batches = batch_order(len(train), size, config.steps, seed)
        rises = found.losses - np.array([self._mean(before, batch) for batch in batches])
        ends = {name: found.logits[name][-1] for name in self.encoded}
        scores = {
            f"score.{name}": score(ends[name], found.labels[name], self.metric)
            for name in ("dev", "test")
        }
        return {
            "rise": float(rises.max()),
            "probe": float(rises[: config.probe_steps][-_PROBED:].mean()),
            "loss": self._mean(self._losses(ends["train"])),
            **scores,
            "seconds": found.seconds,
        }

    def _mean(self, losses: Floats, rows: Any = slice(None)) -> float:
        """Return the loss of some training examples, from each one's own."""
        if self.config.loss != "likelihood":
            return float(losses[rows].mean())
        return float(np.average(losses[rows], weights=labels_of(self.encoded["train"])[rows]))

    def _losses(self, logits: Floats) -> Floats:
        """Return the loss ``[n]`` of each training example."""
        loss, labels = get_loss(self.config.loss), labels_of(self.encoded["train"])
        pairs = zip(torch.from_numpy(logits), torch.from_numpy(labels), strict=True)
        return np.array([float(loss(row[None], label[None])) for row, label in pairs])


def _number(value: str) -> float:
    return float(value)

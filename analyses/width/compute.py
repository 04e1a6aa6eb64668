"""The numbers of ``analyze width``: trainings at every width, and what frozen features predict.

They are one long table, one number a row, what it is about in the other columns.

==================== ===============================================================================
column               meaning
==================== ===============================================================================
``data_seed``        seed of the examples
``optimizer``        of the trainings
``parametrization``  how weights and rates go with width
``width``, ``seed``  n, and the seed of the weights; missing for ``suggested``
``factor``           rate over the suggested one; `AT` where a number is of that training
``layer``            of ``features…``, from 1
``metric``           ``suggested``: rate at the base width. Of a training: ``loss`` after the last
                     update (NaN: diverged), ``loss.start``, ``seconds``. At factor `AT`, RMS over
                     training examples: ``function.first``, ``function``: f − f₀ after the first
                     and last update; ``features.first``, ``features``: change of a layer's features
                     over their size; ``error``: of the prediction from frozen features along
                     training, over f − f₀; ``distance``: of f − f₀ along training to that at twice
                     the width, over the latter; ``kernel.cka`` and ``kernel.frobenius``: 1 − CKA
                     and relative distance of the kernels before and after
``value``            the number
==================== ===============================================================================
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from subkern.agreement import cka, relative_frobenius
from subkern.dynamics import train_linearized
from subkern.errors import DamagedError, UserError
from subkern.kernels.request import RunOptions
from subkern.learning_rate import NoSuggestion, suggest
from subkern.prompts.prompt import EncodedExample
from subkern.storage.files import keep_json, read_json
from subkern.storage.progress import Progress
from subkern.subspaces.base import Full
from subkern.subspaces.movable import MovableModel
from subkern.training.batch_order import batch_order
from subkern.training.losses import get_loss
from subkern.training.settings import Diverged
from subkern.width import (
    WideModel,
    WidthRun,
    initialize,
    kernel_at_rates,
    train_wide,
)
from subkern.width.families import Family

from ..engine.inputs import Inputs
from ..engine.long_table import LongTable
from ..engine.parts import Computed, Prepared, Workplace
from .config import Config
from .reading import Reading

TABLE = LongTable(
    {
        "data_seed": "Int64",
        "optimizer": "string",
        "parametrization": "string",
        "width": "Int64",
        "seed": "Int64",
        "factor": "float64",
        "layer": "Int64",
        "metric": "string",
    }
)

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]

AT = 1.0
"""Factor of the rate at which features and predictions are looked at."""


def compute(
    config: Config,
    inputs: Inputs,
    prepared: Prepared,
    place: Workplace,
    progress: Progress | None,
) -> Computed:
    """Train every width, parametrization, optimizer and seed, on every data seed."""
    reading: Reading = prepared.chosen
    family = reading.family
    cells = [
        (data_seed, optimizer, parametrization, width, seed)
        for data_seed in inputs.splits
        for optimizer in config.optimizers
        for parametrization in config.parametrizations
        for width in config.widths
        for seed in config.seeds
    ]
    rows: list[Row] = []
    logits: dict[tuple[Any, ...], Floats] = {}
    rates: dict[tuple[int, str], float] = {}
    for done, (data_seed, optimizer, parametrization, width, seed) in enumerate(cells):
        examples = reading.examples[data_seed]
        about: Row = {"data_seed": data_seed, "optimizer": optimizer}
        if (data_seed, optimizer) not in rates:
            rate = suggested(config, family, examples, optimizer)
            rates[data_seed, optimizer] = rate
            rows.append(TABLE.row(rate, metric="suggested", **about))
        about |= {"parametrization": parametrization, "width": width, "seed": seed}
        folder = place.checkpoint
        kept = None if folder is None else folder / f"{'-'.join(map(str, about.values()))}.json"
        which = (optimizer, parametrization, width, seed)
        cell = Cell(config, family, examples, rates[data_seed, optimizer], *which)
        numbers, path = cell.results(kept)
        rows += [TABLE.row(**each, **about) for each in numbers]
        if path is not None:
            logits[tuple(about.values())] = path
        if progress is not None:
            progress(done + 1, len(cells))
    rows += _distances(config, logits)
    return Computed(TABLE.tidy(rows))


def suggested(
    config: Config, family: Family, examples: Sequence[EncodedExample], optimizer: str
) -> float:
    """Return the learning rate that is suggested at the base width, where all are the same."""
    model = initialize(family, family.base, "standard", config.seeds[0]).model
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
        raise UserError(
            f"no learning rate at width {family.base} for {optimizer}: {error}"
        ) from error
    return float(found.suggested)


@dataclass(frozen=True)
class Cell:
    """One width, parametrization, optimizer and seed.

    Attributes:
        config: the study's settings.
        family: the models.
        examples: that are trained on.
        rate: suggested at the base width.
        optimizer, parametrization, width, seed: which cell it is.
        batches: positions of each step's examples.
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

    def __post_init__(self) -> None:
        config = self.config
        order = batch_order(
            len(self.examples), config.train_batch_size, config.steps, config.training_seed
        )
        object.__setattr__(self, "batches", list(order))

    def results(self, kept: Path | None) -> tuple[list[Row], Floats | None]:
        """Return the numbers, and f − f₀ over training at factor `AT`, computed once for a file.

        None instead of f − f₀ where that training diverged.
        """
        if kept is not None and (found := _kept(kept)) is not None:
            rows = [{**row, "value": float(row["value"])} for row in found["rows"]]
            return rows, None if found["logits"] is None else np.array(found["logits"])
        path: list[Floats] = []
        rows = [{**row, "value": float(row["value"])} for row in self._rows(path)]
        logits = path[0] if path else None
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            stored = [{**row, "value": repr(row["value"])} for row in rows]
            kept_logits = None if logits is None else logits.tolist()
            keep_json(kept, {"rows": stored, "logits": kept_logits})
        return rows, logits

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
            yield {"metric": "seconds", "factor": factor, "value": time.monotonic() - began}
            if not at:
                continue
            path.append(run.logits)
            yield {"metric": "loss.start", "factor": AT, "value": self._loss(run.logits[0])}
            yield from self._moved(run)
            yield {"metric": "error", "factor": AT, "value": self._error(run)}
            if before is not None:
                after = self._kernel(wide)
                yield {"metric": "kernel.cka", "factor": AT, "value": 1 - cka(before, after)}
                distance = relative_frobenius(before, after)
                yield {"metric": "kernel.frobenius", "factor": AT, "value": distance}

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
        )

    def _kernel(self, wide: WideModel) -> Floats:
        options = RunOptions(self.config.batch_size, self.config.memory)
        return kernel_at_rates(wide, self.examples[: self.config.kernel_limit], options=options)

    def _moved(self, run: WidthRun) -> Iterator[Row]:
        """Yield how far function and features have moved after the first and last update."""
        for name, step in (("first", 1), ("", -1)):
            end = f".{name}" if name else ""
            yield {"metric": f"function{end}", "factor": AT, "value": _rms(run.logits[step])}
            for layer, (change, size) in enumerate(zip(run.change[step], run.size, strict=True), 1):
                value = change / size
                yield {"metric": f"features{end}", "factor": AT, "layer": layer, "value": value}

    def _error(self, run: WidthRun) -> float:
        """Return how far the optimizer on frozen features leads from what was seen."""
        wide = self._start()
        try:
            found = train_linearized(
                MovableModel(wide.model, Full()),
                self.examples,
                optimizer=lambda z: wide.optimizer(
                    self.optimizer, z, self.rate, self.config.epsilon
                ),
                batches=self.batches,
                loss=self.config.loss,
                centered=True,
            )
        except Diverged:
            return math.inf
        return _share(run.logits - found.values, run.logits)

    def _loss(self, logits: Floats) -> float:
        labels = torch.tensor([example.label for example in self.examples])
        return float(get_loss(self.config.loss)(torch.from_numpy(logits), labels))


def _distances(config: Config, logits: dict[tuple[Any, ...], Floats]) -> Iterator[Row]:
    """Yield the distance of each width's trajectory to that of twice the width."""
    names = ("data_seed", "optimizer", "parametrization", "width", "seed")
    for key, path in logits.items():
        about = dict(zip(names, key, strict=True))
        other = logits.get((*key[:3], 2 * about["width"], about["seed"]))
        if other is not None and path.shape == other.shape:
            value = _share(path - other, other)
            yield TABLE.row(value, metric="distance", factor=AT, **about)


def _kept(path: Path) -> Mapping[str, Any] | None:
    """Return what an interrupted run kept of a cell; None if nothing, or it is damaged."""
    try:
        return read_json(path) if path.exists() else None
    except DamagedError:
        return None


def _share(part: Floats, whole: Floats) -> float:
    """Return how large a part is; NaN of nothing."""
    size = _rms(whole)
    return _rms(part) / size if size else math.nan


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(np.square(values))))

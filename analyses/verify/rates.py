"""The learning rate of each configuration that a study judged, suggested before any training.

A finished run directory gets ``learning_rates.parquet``, a row a configuration: what
`subkern.learning_rate.suggest` says of its first draw on the first data seed, for the optimizer and
the batch size that ``--verify`` would train with. Rows are kept one by one, so that an interrupted
run goes on with the next one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import psutil

from subkern.errors import UserError
from subkern.learning_rate import Suggestion
from subkern.learning_rate import suggest as usual
from subkern.learning_rate.suggestion import CHANGED
from subkern.models.logit_model import LogitModel
from subkern.storage.progress import Progress
from subkern.storage.provenance import normalize
from subkern.training.settings import Training

from ..engine.code_identity import code_identity
from ..engine.heads import at_start
from ..engine.inputs import Inputs
from ..engine.parts import encode, load
from ..engine.run_folder import LEARNING_RATES, Results
from ..engine.settings import Settings
from .trial import Candidate, Trial, title

__all__ = ["Rate", "Rates", "suggest_rates"]

_ASKED = "asked"  # attribute of the table
_NUMBERS = ("suggested", "rate_at_start", "rate_after_step", "spike_low", "spike_high", "ratio")
_ROOM = 4  # times what is trained: its gradient, its update, where a step leads, the direction

Suggest = Callable[..., Suggestion]
"""As `subkern.learning_rate.suggest`."""


@dataclass(frozen=True)
class Rate:
    """What is said of one configuration.

    Attributes:
        name: as in :mod:`analyses.engine.predictions`.
        parameters: how many are trained.
        suggested, rate_at_start, rate_after_step, spike_low, spike_high, ratio: as
            `subkern.learning_rate.Suggestion` has them; NaN where nothing could be suggested.
        note: why nothing could be, or an empty string.
        seconds: that it took.
    """

    name: str
    parameters: int
    suggested: float
    rate_at_start: float
    rate_after_step: float
    spike_low: float
    spike_high: float
    ratio: float
    note: str
    seconds: float

    @property
    def title(self) -> str:
        """What readers call it."""
        return title(self.name)

    @property
    def falls(self) -> bool:
        """Whether the kernel at the start says little about this training."""
        return self.ratio > CHANGED


@dataclass(frozen=True)
class Rates:
    """The learning rates of a study's configurations.

    Attributes:
        optimizer, batch_size, data_seed: what they are for.
        every: one for each configuration, in the study's order.
    """

    optimizer: str
    batch_size: int
    data_seed: int
    every: Sequence[Rate]

    @classmethod
    def of(cls, results: Results) -> Rates | None:
        """Return what a run directory has of them, if anything."""
        table = results.beside.get(LEARNING_RATES)
        if table is None:
            return None
        asked = table.attrs[_ASKED]
        found = [
            Rate(
                name=str(row["configuration"]),
                parameters=int(row["parameters"]),
                note=str(row["note"]),
                seconds=float(row["seconds"]),
                **{each: float(row[each]) for each in _NUMBERS},
            )
            for row in table.to_dict("records")
        ]
        return cls(asked["optimizer"], asked["batch_size"], asked["data_seed"], found)

    def named(self, name: str) -> Rate | None:
        """Return that of a configuration, if there is one."""
        return next((each for each in self.every if each.name == name), None)

    @property
    def falling(self) -> Sequence[Rate]:
        """Those of which the kernel at the start says little."""
        return [each for each in self.every if each.falls]

    @property
    def missing(self) -> Sequence[Rate]:
        """Those without one."""
        return [each for each in self.every if each.note]


def suggest_rates(
    config: Settings,
    inputs: Inputs,
    candidates: Sequence[Candidate],
    *,
    model: Callable[[], LogitModel],
    suggest: Suggest,
    before: pd.DataFrame | None,
    keep: Callable[[pd.DataFrame], None],
    progress: Progress | None = None,
) -> bool:
    """Suggest what is not there yet, keeping the table after each; say if all was there.

    Args:
        config: the study's settings.
        inputs: what they were resolved to.
        candidates: the configurations, one draw each.
        model: loads the model, or has it.
        suggest: as `subkern.learning_rate.suggest`.
        before: the table as it is.
        keep: writes it.
        progress: called with configurations done and in all.
    """
    trial = Trial()
    training, (size, *_) = trial.training(config.rule), trial.batch_sizes
    if inputs.task.loss != "cross_entropy":
        training = replace(training, loss=inputs.task.loss)
    seed, splits = next(iter(inputs.splits.items()))
    asked = normalize(
        {
            "optimizer": training.optimizer,
            "batch_size": size,
            "epsilon": training.epsilon,
            "data_seed": seed,
            "code": code_identity(load, _row, usual),
        }
    )
    rows: dict[str, dict[str, Any]] = {}
    if before is not None and before.attrs.get(_ASKED) == asked:
        rows = {str(row["configuration"]): row for row in before.to_dict("records")}
    names = [each.name for each in candidates]
    if before is not None and list(rows) == names:
        return True
    loaded = model()
    train = encode(loaded, splits)["train"]
    started = at_start(loaded, train, config.head_init)
    report = progress or (lambda _done, _total: None)
    report(len(rows), len(names))
    for candidate in candidates:
        if candidate.name in rows:
            continue
        rows[candidate.name] = _row(started, train, candidate, training, size, suggest)
        table = pd.DataFrame([rows[name] for name in names if name in rows])
        table.attrs[_ASKED] = asked
        keep(table)
        report(len(rows), len(names))
    return False


def _row(
    model: LogitModel,
    train: Sequence[Any],
    candidate: Candidate,
    training: Training,
    batch_size: int,
    suggest: Suggest,
) -> dict[str, Any]:
    """Return the row of a configuration; what cannot be suggested is a note, not an error."""
    about = {"configuration": candidate.name, "parameters": candidate.parameters}
    nothing = {**about, **dict.fromkeys(_NUMBERS, math.nan), "seconds": 0.0}
    if candidate.parameters * 4 * _ROOM > psutil.virtual_memory().available:
        return {**nothing, "note": "too little memory is free"}
    try:
        found = suggest(
            model,
            train,
            subspace=candidate.subspace,
            optimizer=training.optimizer,
            batch_size=batch_size,
            loss=training.loss,
            epsilon=training.epsilon,
            seed=training.seed,
        ).as_dict()
    except UserError as error:
        return {**nothing, "note": str(error)}
    return {**about, **{each: found[each] for each in _NUMBERS}, "seconds": found["seconds"],
            "note": ""}  # fmt: skip

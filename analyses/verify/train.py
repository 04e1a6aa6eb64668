"""Fine-tuning every configuration, and what it is beside what the kernels predicted."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pandas as pd

from subkern.agreement import prediction_agreement, prediction_interval
from subkern.agreement.predictions import Score
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.solvers import labels_from_scores
from subkern.storage.progress import Progress
from subkern.training.grid_search import AllDiverged, GridEdgeWarning, Search, search

from ..engine.heads import at_start
from ..engine.inputs import Inputs
from ..engine.parts import encode, metric_of
from ..engine.predictions import Key, Prediction, lookup
from ..engine.run_folder import PREDICTIONS, Results
from ..engine.scores import SCORES
from .advice import FULL
from .table import row, tidy
from .trial import Candidate, Trial

__all__ = ["compare", "logit_correlation", "train_all"]

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]


def train_all(
    results: Results,
    model: LogitModel,
    inputs: Inputs,
    trial: Trial,
    candidates: Sequence[Candidate],
    folder: Path,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Fine-tune every candidate on every data seed; return the table of the verification.

    Each fine-tuning is kept below ``folder`` and is read where it is finished.
    """
    predictions = lookup(results.beside[PREDICTIONS])
    metric, rule = metric_of(inputs), str(results.config["rule"])
    rows: list[Row] = []
    bar = _Bar(len(inputs.splits) * len(candidates), progress)
    for seed, splits in inputs.splits.items():
        encoded = encode(model, splits)
        started = at_start(model, encoded["train"], results.config.get("head_init"))
        full: Floats | None = None  # logits of full fine-tuning, which comes first
        for candidate in candidates:
            predicted = predictions[Key(seed, candidate.name, candidate.draw)]
            about = {**candidate.cell, "data_seed": seed}
            place = folder / f"seed-{seed}" / _folder_name(candidate)
            judge = _Judge(results, metric, predicted)
            found = _try(started, encoded, candidate, trial, rule, metric, place, bar.within)
            new = _lost(trial) if found is None else judge.rows(found, trial)
            if found is not None:
                logits = found.best.best_logits["test"]
                full = logits if candidate.name == FULL else full
                new += [] if full is None else [_like_full(logits, full)]
            rows += [{**each, **about} for each in new]
            bar.next()
    return tidy(rows)


class _Bar:
    """Progress over several searches, each of which knows its own."""

    def __init__(self, searches: int, progress: Progress | None) -> None:
        self.searches, self.progress, self.done, self.size = searches, progress, 0, 1

    def within(self, done: int, total: int) -> None:
        """Report how far the search at hand is; all take as many steps."""
        self.size = total
        if self.progress is not None:
            self.progress(self.done * total + done, self.searches * total)

    def next(self) -> None:
        """Go on to the next search."""
        self.done += 1
        self.within(0, self.size)


def _folder_name(candidate: Candidate) -> str:
    """Return where a candidate's fine-tunings are kept: ``rank%204-s0``."""
    draw = "" if candidate.draw is None else f"-s{candidate.draw}"
    return quote(candidate.name, safe=":=+") + draw


def _try(
    model: LogitModel,
    encoded: dict[str, list[EncodedExample]],
    candidate: Candidate,
    trial: Trial,
    rule: str,
    metric: Score,
    folder: Path,
    progress: Progress,
) -> Search | None:
    """Fine-tune a candidate at every setting of the grid; None where all of them diverge."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", GridEdgeWarning
            )  # it is a row, and a note of the report
            return search(
                model,
                encoded,
                subspace=candidate.subspace,
                grid=trial.grid,
                training=trial.training(rule),
                out=folder,
                metric=metric,
                progress=progress,
            )
    except AllDiverged:
        return None


def _like_full(logits: Floats, full: Floats) -> Row:
    """Return the row that says how many test examples get the label of full fine-tuning."""
    share = prediction_agreement(labels_from_scores(full), labels_from_scores(logits))
    return row(share, metric="full_agreement")


def _lost(trial: Trial) -> list[Row]:
    """Return the rows of a search of which every point diverged."""
    points = len(trial.rates) * len(trial.batch_sizes)
    return [row(1.0, metric="diverged"), row(float(points), metric="diverged_points")]


@dataclass(frozen=True)
class _Judge:
    """Sets a fine-tuned model beside the prediction of it, on the test split."""

    results: Results
    metric: Score
    predicted: Prediction

    def rows(self, found: Search, trial: Trial) -> list[Row]:
        """Return all rows of one fine-tuning."""
        best = found.best
        rate, seconds = float(best.training["learning_rate"]), found.table["seconds"]
        return [
            *self._scores(best.best_logits["test"], best.start_logits["test"], best.labels["test"]),
            row(rate, metric="learning_rate"),
            row(float(best.training["batch_size"]), metric="batch_size"),
            row(float(best.best_step), metric="best_step"),
            row(float(trial.grid.edge(rate) is not None), metric="edge"),
            row(float(seconds.sum()), metric="seconds"),
            row(float(seconds.isna().sum()), metric="diverged_points"),
        ]

    def _scores(
        self, trained: Floats, start: Floats, labels: npt.NDArray[np.int64]
    ) -> Iterator[Row]:
        """Yield scores and agreement of logits ``[m, c]``."""
        config, score = self.results.config, SCORES[self.metric]
        for name, logits in (
            ("predicted", self.predicted.logits),
            ("trained", trained),
            ("start", start),
        ):
            interval = prediction_interval(
                score,
                labels,
                labels_from_scores(logits),
                confidence=config["confidence"],
                n_resamples=config["resamples"],
            )
            yield row(interval.value, (interval.low, interval.high), metric=name)
        yield from compare(self.predicted, trained, start)


def compare(predicted: Prediction, trained: Floats, start: Floats) -> Iterator[Row]:
    """Yield how alike predicted and trained logits ``[m, c]`` are, and their changes."""
    both = (labels_from_scores(predicted.logits), labels_from_scores(trained))
    yield row(prediction_agreement(*both), metric="prediction_agreement")
    yield row(logit_correlation(predicted.logits, trained), metric="logit_correlation")
    # The classifier may take a share of the initial logits, or none: what is added stands apart.
    changed = logit_correlation(predicted.changes, trained - start)
    yield row(changed, metric="change_correlation")


def logit_correlation(one: Floats, other: Floats) -> float:
    """Return Pearson's r of two sets of logits ``[m, c]`` over all examples and logits.

    What all logits of an example have in common decides nothing, and is taken off where c > 1. NaN
    where one side is constant.
    """
    if one.shape[1] > 1:
        one, other = (side - side.mean(axis=1, keepdims=True) for side in (one, other))
    x, y = (side.ravel() - side.mean() for side in (one, other))
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norm if norm > 0 else float("nan")

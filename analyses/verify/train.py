"""Fine-tuning every configuration, and what it is beside what the kernels predicted.

The table of a verification holds one number a row, what it is about in the other columns:

================= ==================================================================================
column            meaning
================= ==================================================================================
``data_seed``     seed of the k-shot split
``configuration`` what is trained, as in :mod:`analyses.engine.predictions`
``family``        configurations that differ in size only: a target set, a kind of subspace
``label``         the configuration within its family: its rank, its dimension
``draw``          seed of LoRA's A or of the random subspace; missing where nothing is drawn
``parameters``    how many are trained
``metric``        ``predicted``, ``trained``, ``start``: test score of the kernel's classifier, of
                  the fine-tuned model, and before training; ``prediction_agreement``: share of
                  test examples to which the first two give one label; ``logit_correlation``:
                  Pearson's r of their logits, centred over the logits of an example;
                  ``change_correlation``: the same of what each adds to the initial logits;
                  ``full_agreement``: share of test examples to which the fine-tuned model and
                  full fine-tuning of the same data seed give one label;
                  ``learning_rate``, ``batch_size``, ``best_step``: chosen on dev; ``edge``: 1 if
                  the learning rate is at an end of its grid; ``diverged``: 1 if no setting of the
                  grid could be trained; ``seconds``: of all settings of the grid that did not
                  diverge, and of suggesting them; ``diverged_points``: how many did, and kept no
                  time; ``suggested``: 1 if the learning rates were suggested for this
                  configuration, 0 if none could be, and those of the optimizer were tried;
                  ``after_step``: test score of the classifier on the kernel after the first step of
                  training, where asked for (:mod:`analyses.verify.after_step`), and
                  ``step_seconds`` that it took.
                  Of full fine-tuning also, for each repeat in another order of examples:
                  ``repeat_trained``, its score, ``repeat_agreement`` with each that came before,
                  the share of test examples to which both give one label, ``repeat_seconds``, and
                  ``repeat_diverged``: 1 if it could not be trained
``value``, ``low``, ``high`` the number and its bootstrap interval over examples, where it has one
================= ==================================================================================
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pandas as pd

from subkern.agreement import prediction_agreement, prediction_interval
from subkern.agreement.predictions import Score
from subkern.learning_rate import NoSuggestion
from subkern.learning_rate.grid import stored_suggestions, suggested_grid
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.solvers import labels_from_scores
from subkern.storage.progress import Progress
from subkern.subspaces.base import Full, Subspace
from subkern.training.grid_search import (
    AllDiverged,
    GridEdgeWarning,
    Search,
    TrainingGrid,
    search,
)
from subkern.training.result import FineTuned
from subkern.training.settings import Training

from ..engine.heads import at_start
from ..engine.inputs import Inputs
from ..engine.long_table import LongTable
from ..engine.parts import encode, metric_of
from ..engine.predictions import Key, Prediction
from ..engine.scores import SCORES
from ..engine.settings import Settings
from .after_step import predict_after_step
from .trial import FULL, Candidate, Trial

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]

_TABLE = LongTable(
    {
        "data_seed": "Int64",
        "configuration": "string",
        "family": "string",
        "label": "string",
        "draw": "Int64",
        "parameters": "Int64",
        "metric": "string",
    }
)
COLUMNS = _TABLE.columns
row, tidy = _TABLE.row, _TABLE.tidy


def train_all(
    config: Settings,
    predictions: Mapping[Key, Prediction],
    model: LogitModel,
    inputs: Inputs,
    trial: Trial,
    candidates: Sequence[Candidate],
    folder: Path,
    progress: Progress | None = None,
    *,
    search: Callable[..., Search] = search,
) -> pd.DataFrame:
    """Fine-tune every candidate on every data seed; return the table of the verification.

    Each fine-tuning is kept below ``folder`` and is read where it is finished. ``search`` trains,
    as `subkern.training.grid_search.search`.
    """
    metric = metric_of(inputs)
    rows: list[Row] = []
    each = len(candidates) * (2 if trial.after_step else 1) + trial.repeats
    bar = _Bar(len(inputs.splits) * each, progress)
    for seed, splits in inputs.splits.items():
        encoded = encode(model, splits)
        started = at_start(model, encoded["train"], config.head_init)
        train = _Trainer(search, started, encoded, metric, bar)
        full: Floats | None = None  # logits of full fine-tuning, which comes first
        stepped = _AfterStep(trial, config, train, folder / f"seed-{seed}" / "after-step")
        for candidate in candidates:
            predicted = predictions[Key(seed, candidate.name, candidate.draw)]
            place = folder / f"seed-{seed}" / _folder_name(candidate)
            training = trial.training(config.rule)
            grid = _Grid(trial, training, started, encoded["train"], candidate.subspace)
            asked = grid if trial.is_auto else trial.grid
            found = train(candidate.subspace, asked, training, place)
            if found is None:
                new = _lost(grid)
            else:
                logits = found.best.best_logits["test"]
                full = logits if candidate.name == FULL else full
                new = [*_scores(found.best, predicted, metric, config), *_outcome(found, grid)]
                new += [] if full is None else [_same_labels(logits, full, "full_agreement")]
            if trial.is_auto:
                new.append(row(float(grid.suggested), metric="suggested"))
            if candidate.name == FULL and found is not None:
                new += _repeats(found, grid.points, place, trial, config, train)
            if found is not None and trial.after_step:
                new += stepped(candidate, found.best.labels["test"])
            rows += [{**each, **candidate.cell, "data_seed": seed} for each in new]
    return tidy(rows)


def _repeats(
    first: Search,
    points: TrainingGrid,
    place: Path,
    trial: Trial,
    config: Settings,
    train: _Trainer,
) -> Iterator[Row]:
    """Train full fine-tuning again, each time in another order of examples, nothing else changed.

    The same learning rates are tried, and dev chooses among them. Yield how alike the runs are.
    """
    before = [first.best.best_logits["test"]]
    for repeat in range(1, trial.repeats + 1):
        again = trial.training(config.rule, repeat)
        other = place.with_name(f"{place.name}-repeat-{repeat}")
        found = train(Full(), points, again, other)
        if found is None:
            yield row(1.0, metric="repeat_diverged")
            continue
        logits = found.best.best_logits["test"]
        yield _score(logits, found.best.labels["test"], "repeat_trained", train.metric, config)
        yield from (_same_labels(logits, each, "repeat_agreement") for each in before)
        yield row(float(found.table["seconds"].sum()), metric="repeat_seconds")
        before.append(logits)


@dataclass
class _AfterStep:
    """Predicts on one data seed by kernels after the first step.

    Attributes:
        settings: of the classifier, which dev chose for full fine-tuning; None where each kernel
            has its own, or there is none of full fine-tuning.
    """

    trial: Trial
    config: Settings
    train: _Trainer
    folder: Path
    settings: Mapping[str, Any] | None = None

    def __call__(self, candidate: Candidate, labels: npt.NDArray[np.int64]) -> Iterator[Row]:
        """Yield score and cost of a configuration; nothing where no step changes the function."""
        training = self.trial.training(self.config.rule)
        try:
            found = predict_after_step(
                self.train.model,
                self.train.splits,
                subspace=candidate.subspace,
                training=replace(training, batch_size=self.trial.batch_sizes[0]),
                config=self.config,
                metric=self.train.metric,
                settings=self.settings,
                folder=self.folder / _folder_name(candidate),
                progress=self.train.bar.beside,
            )
        except NoSuggestion:  # it is a note of the report
            self.train.bar.next()
            return
        self.train.bar.next()
        if candidate.name == FULL and self.config.tuning == "full":
            self.settings = found.settings
        yield _score(found.logits, labels, "after_step", self.train.metric, self.config)
        yield row(found.seconds, metric="step_seconds")


@dataclass(frozen=True)
class _Trainer:
    """Fine-tunes on one data seed, over a grid, chosen on dev."""

    search: Callable[..., Search]
    model: LogitModel
    splits: Mapping[str, Sequence[EncodedExample]]
    metric: Score
    bar: _Bar

    def __call__(
        self,
        subspace: Subspace,
        grid: TrainingGrid | Callable[[Path | None], TrainingGrid],
        training: Training,
        place: Path,
    ) -> Search | None:
        """Return what was found, kept in a folder; None where all points of the grid diverge."""
        found: Search | None
        try:
            with warnings.catch_warnings():
                # It is a row, and a note of the report.
                warnings.simplefilter("ignore", GridEdgeWarning)
                found = self.search(
                    self.model,
                    self.splits,
                    subspace=subspace,
                    grid=grid,
                    training=training,
                    out=place,
                    overwrite=True,  # what is damaged
                    metric=self.metric,
                    progress=self.bar.within,
                )
        except AllDiverged:
            found = None
        self.bar.next()
        return found


class _Grid:
    """The grid of one search; called with its folder, it is made of what is suggested there.

    Attributes:
        points: the grid.
        suggested: whether its learning rates are suggested ones.
        seconds: what suggesting them took, when it was done.
    """

    def __init__(
        self,
        trial: Trial,
        training: Training,
        model: LogitModel,
        train: Sequence[EncodedExample],
        subspace: Subspace,
    ) -> None:
        self.trial, self.training, self.points = trial, training, trial.grid
        self.model, self.train, self.subspace = model, train, subspace
        self.suggested, self.seconds = False, 0.0

    def __call__(self, folder: Path | None) -> TrainingGrid:
        try:
            self.points = suggested_grid(
                self.model,
                self.train,
                subspace=self.subspace,
                training=self.training,
                batch_sizes=self.trial.batch_sizes,
                folder=folder,
            )
        except NoSuggestion:  # it is a row, and a note of the report
            return self.points
        self.suggested = True
        if folder is not None:
            kept = stored_suggestions(folder)
            self.seconds = sum(kept[size]["seconds"] for size in self.trial.batch_sizes)
        return self.points


class _Bar:
    """Progress over several searches, each of which knows its own."""

    def __init__(self, searches: int, progress: Progress | None) -> None:
        self.searches, self.progress, self.done, self.size = searches, progress, 0, 1

    def within(self, done: int, total: int) -> None:
        """Report how far the search at hand is; all take as many steps."""
        self.size = total
        if self.progress is not None:
            self.progress(self.done * total + done, self.searches * total)

    def beside(self, done: int, total: int) -> None:
        """Report how far something else is that counts as a search."""
        self.within(self.size * done // max(total, 1), self.size)

    def next(self) -> None:
        """Go on to the next search."""
        self.done += 1
        self.within(0, self.size)


def _folder_name(candidate: Candidate) -> str:
    """Return where a candidate's fine-tunings are kept: ``rank%204-s0``."""
    draw = "" if candidate.draw is None else f"-s{candidate.draw}"
    return quote(candidate.name, safe=":=+") + draw


def _same_labels(logits: Floats, others: Floats, name: str) -> Row:
    """Return the row that says to how many test examples two models give one label."""
    share = prediction_agreement(labels_from_scores(others), labels_from_scores(logits))
    return row(share, metric=name)


def _score(
    logits: Floats, labels: npt.NDArray[np.int64], name: str, metric: Score, config: Settings
) -> Row:
    """Return the row of a test score, with its bootstrap interval over examples."""
    found = prediction_interval(
        SCORES[metric],
        labels,
        labels_from_scores(logits),
        confidence=config.confidence,
        n_resamples=config.resamples,
    )
    return row(found.value, (found.low, found.high), metric=name)


def _lost(grid: _Grid) -> list[Row]:
    """Return the rows of a search of which every point diverged."""
    points = len(grid.points.trainings(grid.training))
    return [row(1.0, metric="diverged"), row(float(points), metric="diverged_points")]


def _outcome(found: Search, grid: _Grid) -> Iterator[Row]:
    """Yield what dev chose in a search, and what that took."""
    best, seconds = found.best, found.table["seconds"]
    rate, size = float(best.training["learning_rate"]), int(best.training["batch_size"])
    for metric, number in (
        ("learning_rate", rate),
        ("batch_size", float(size)),
        ("best_step", float(best.best_step)),
        ("edge", float(grid.points.edge(rate, size) is not None)),
        ("seconds", float(seconds.sum()) + grid.seconds),
        ("diverged_points", float(seconds.isna().sum())),
    ):
        yield row(number, metric=metric)


def _scores(
    best: FineTuned, predicted: Prediction, metric: Score, config: Settings
) -> Iterator[Row]:
    """Yield scores on the test split, and how alike predicted and trained logits are."""
    trained, start = best.best_logits["test"], best.start_logits["test"]
    for name, logits in (("predicted", predicted.logits), ("trained", trained), ("start", start)):
        yield _score(logits, best.labels["test"], name, metric, config)
    yield from compare(predicted, trained, start)


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

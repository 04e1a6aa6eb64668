"""The rows of the long table: errors of predictions, linearization, features, of one data seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from subkern.agreement import prediction_interval
from subkern.agreement.predictions import Score
from subkern.kernel_behavior import compare_linearized, feature_change
from subkern.kernels.kernel import Kernel
from subkern.solvers import labels_from_scores

from ..engine.classifiers import Split, predict, tune
from ..engine.scores import SCORES
from .config import Config
from .runs import Chosen, Run
from .table import row

__all__ = ["best", "measure"]

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]

SHOWN = 4
"""Test examples of each label whose logits are kept at every step, to be drawn."""


def best(runs: Sequence[Run], name: str) -> Run | None:
    """The run of a subspace with the highest dev score, then lowest dev loss; None if none ended.

    Ties go to the smaller learning rate.
    """
    ended = [run for run in runs if run.name == name and run.diverged is None]
    order = sorted(ended, key=lambda run: (-run.scores["dev"], run.dev_loss, run.learning_rate))
    return order[0] if order else None


def measure(
    config: Config, runs: Sequence[Run], chosen: Chosen | None, kernel: Kernel, split: Split,
    metric: Score, data_seed: int,
) -> list[Row]:  # fmt: skip
    """Return all rows of one data seed.

    Args:
        config: solvers and intervals.
        runs: every run.
        chosen: the one looked into; None if all diverged.
        kernel: of what is trained, at the start, train × (train, dev, test).
        split: which ids are which.
        metric: the task's.
        data_seed: for the column.
    """
    rows = [each for run in runs for each in _errors(run)]
    if chosen is not None:
        about = _cell(chosen.run)
        rows += [row(1.0, metric="chosen", step=chosen.best_step, **about)]
        rows += [each | about for each in _scores(config, chosen, kernel, split, metric)]
        rows += [each | about for each in _features(config, chosen)]
        rows += [each | about for each in _logits(chosen, split)]
        rows += [each | about for each in _linear_errors(chosen)]
    return [{**each, "data_seed": data_seed} for each in rows]


def _cell(run: Run) -> dict[str, Any]:
    return {
        "subspace": run.name,
        "parameters": run.parameters,
        "learning_rate": run.learning_rate,
    }


def _errors(run: Run) -> Iterator[Row]:
    """Yield the error of the kernel's prediction at every step, scores and cost of one run."""
    about = _cell(run)
    if run.diverged is not None:
        yield row(float(run.diverged), metric="diverged", **about)
        return
    yield row(run.seconds, metric="cost.training_seconds", **about)
    for name, value in run.scores.items():
        yield row(value, metric="score", split=name, **about)
    for name, predicted in run.predicted.items():
        for step, value in _relative(run.steps, predicted, run.real[name]):
            yield row(value, metric="error.kernel", split=name, step=step, **about)


def _linear_errors(chosen: Chosen) -> Iterator[Row]:
    """Yield the error of training the linearized model itself."""
    run = chosen.run
    for name, linear in chosen.linear.items():
        for step, value in _relative(run.steps, linear, run.real[name]):
            yield row(value, metric="error.linearized", split=name, step=step)


def _relative(
    steps: npt.NDArray[np.int64], predicted: Floats, real: Floats
) -> Iterator[tuple[int, float]]:
    """Yield ‖predicted − real‖/‖real − start‖ at every step but the first."""
    for i in range(1, len(steps)):
        moved = float(np.linalg.norm(real[i] - real[0]))
        error = float(np.linalg.norm(predicted[i] - real[i]))
        yield int(steps[i]), error / moved if moved > 0 else float("nan")


def _scores(
    config: Config, chosen: Chosen, kernel: Kernel, split: Split, metric: Score
) -> Iterator[Row]:
    """Yield test scores with intervals, and what linearization keeps."""
    labels, solver = chosen.labels["test"], config.classifiers[0]
    guesses = {
        "zero-shot": labels_from_scores(chosen.start["test"]),
        "kernel": predict(kernel, split, solver, tune(kernel, split, solver, metric)),
        "linearized": labels_from_scores(chosen.linearized["test"]),
        "trained": labels_from_scores(chosen.trained["test"]),
    }
    for name, guess in guesses.items():
        found = prediction_interval(
            SCORES[metric],
            labels,
            guess,
            confidence=config.confidence,
            n_resamples=config.resamples,
        )
        yield row(found.value, (found.low, found.high), metric=f"score.{name}", split="test")
    for name in ("train", "test"):
        logits = (chosen.start[name], chosen.linearized[name], chosen.trained[name])
        linear = compare_linearized(*logits, chosen.labels[name], metric)
        values = {**asdict(linear), "recovered": linear.recovered}
        for what, value in values.items():
            yield row(value, metric=f"linearization.{what}", split=name, step=chosen.best_step)


def _features(config: Config, chosen: Chosen) -> Iterator[Row]:
    """Yield every agreement metric of the kernel at some steps with the one at the start."""
    start = chosen.kernels[0]
    for step, kernel in chosen.kernels.items():
        table = feature_change(start, kernel, resamples=config.resamples if step else 0)
        for name, value, low, high in table[["metric", "value", "low", "high"]].itertuples(
            index=False
        ):
            yield row(value, (low, high), metric=f"features.{name}", split="train", step=step)


def _logits(chosen: Chosen, split: Split) -> Iterator[Row]:
    """Yield logits of some test examples at every step, of all of them at both ends, and labels."""
    run, labels = chosen.run, chosen.labels["test"]
    for example, label in zip(split.test, labels, strict=True):
        yield row(float(label), metric="label", split="test", example=example)
    shown = {i for label in np.unique(labels) for i in np.flatnonzero(labels == label)[:SHOWN]}
    kinds: dict[str, Mapping[str, Floats]] = {
        "real": run.real, "kernel": run.predicted, "linearized": chosen.linear,
    }  # fmt: skip
    for kind, found in kinds.items():
        if "test" not in found:
            continue
        for i, step in enumerate(run.steps):
            last = i in (0, len(run.steps) - 1)
            for j, example in enumerate(split.test):
                if last or j in shown:
                    for a, value in enumerate(found["test"][i, j]):
                        about: dict[str, Any] = {
                            "split": "test", "step": int(step), "example": example,
                        }  # fmt: skip
                        yield row(float(value), metric=f"logit.{kind}", logit=a, **about)

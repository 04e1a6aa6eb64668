"""The numbers of ``analyze behavior``: real runs, their prediction, linearization and features.

They are one long table, one number a row, what it is about in the other columns.

===================== ==============================================================================
column                meaning
===================== ==============================================================================
``data_seed``         seed of the k-shot split
``subspace``          what was trained: its one-line form, or ``random:dim=…`` of it
``parameters``        how many coordinates that is
``learning_rate``     of the run
``step``              of training
``split``             the examples the number is about
``example``           id of the one example it is about, if it is
``logit``             which of its logits
``metric``            ``error.kernel`` and ``error.linearized``: ‖predicted − real‖ over ‖real −
                      start‖ of the logits, the prediction from the kernel or from training f_lin;
                      ``diverged`` (at that step); ``chosen`` (1: the run that is looked into);
                      ``score.zero-shot``, ``score.kernel``, ``score.linearized``,
                      ``score.trained``; ``linearization.<what>``
                      (`subkern.kernel_behavior.Linearization`); ``features.<metric>`` (the kernel
                      at that
                      step against the one at the start, train × train, `subkern.agreement`);
                      ``logit.real``, ``logit.kernel``, ``logit.linearized``; ``label``; ``score``
                      (of each run); ``critical_rate``; ``cost.<what>``
``value``, ``low``, ``high`` the number, and its bootstrap interval over examples where it has one
===================== ==============================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from subkern.agreement import prediction_interval
from subkern.agreement.predictions import Score
from subkern.dynamics import critical_learning_rate
from subkern.kernel_behavior import compare_linearized, feature_change
from subkern.kernels.kernel import Kernel
from subkern.solvers import labels_from_scores
from subkern.storage.progress import Progress

from ..engine.classifiers import Split, predict, tune
from ..engine.heads import at_start
from ..engine.inputs import Inputs
from ..engine.long_table import LongTable
from ..engine.parts import Computed, Prepared, Workplace, encode, metric_of
from ..engine.scores import SCORES
from .config import Config
from .runs import Chosen, Lab, Run

TABLE = LongTable(
    {
        "data_seed": "Int64",
        "subspace": "string",
        "parameters": "Int64",
        "learning_rate": "float64",
        "step": "Int64",
        "split": "string",
        "example": "string",
        "logit": "Int64",
        "metric": "string",
    }
)

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]

SHOWN = 4
"""Test examples of each label whose logits are kept at every step, to be drawn."""


def compute(
    config: Config,
    inputs: Inputs,
    prepared: Prepared,
    place: Workplace,
    progress: Progress | None,
) -> Computed:
    """Train, predict and measure every data seed."""
    rows: list[dict[str, Any]] = []
    for seed, splits in inputs.splits.items():
        encoded = encode(prepared.model, splits)
        folder = None if place.checkpoint is None else place.checkpoint / f"seed-{seed}"
        lab = Lab(
            config,
            at_start(prepared.model, encoded["train"], config.head_init),
            encoded,
            metric_of(inputs),
            kernels=place.kernels,
            seed=seed,
            folder=folder,
            progress=progress,
        )
        split = Split(**{name: [each.id for each in found] for name, found in encoded.items()})
        rows += _one_seed(config, lab, split, seed)
    return Computed(TABLE.tidy(rows))


def _one_seed(config: Config, lab: Lab, split: Split, seed: int) -> list[dict[str, Any]]:
    """Rows of one data seed."""
    kernel = lab.kernel(None)
    critical = float("nan")
    if not config.is_asymmetric:
        critical = critical_learning_rate(kernel.select(right=list(split.train)))
    rates = lab.learning_rates(critical)
    runs = [lab.run(dim, rate) for dim in (None, *config.dims) for rate in rates]
    found = best(runs, config.subspace)
    chosen = None if found is None else lab.look_into(found)
    return [
        TABLE.row(critical, data_seed=seed, metric="critical_rate"),
        *_measure(config, runs, chosen, kernel, split, lab.metric, seed),
    ]


def best(runs: Sequence[Run], name: str) -> Run | None:
    """The run of a subspace with the highest dev score, then lowest dev loss; None if none ended.

    Ties go to the smaller learning rate.
    """
    ended = [run for run in runs if run.name == name and run.diverged is None]
    order = sorted(ended, key=lambda run: (-run.scores["dev"], run.dev_loss, run.learning_rate))
    return order[0] if order else None


def _measure(
    config: Config,
    runs: Sequence[Run],
    chosen: Chosen | None,
    kernel: Kernel,
    split: Split,
    metric: Score,
    data_seed: int,
) -> list[Row]:
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
        rows += [TABLE.row(1.0, metric="chosen", step=chosen.best_step, **about)]
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
        yield TABLE.row(float(run.diverged), metric="diverged", **about)
        return
    yield TABLE.row(run.seconds, metric="cost.training_seconds", **about)
    for name, value in run.scores.items():
        yield TABLE.row(value, metric="score", split=name, **about)
    for name, predicted in run.predicted.items():
        for step, value in _relative(run.steps, predicted, run.real[name]):
            yield TABLE.row(value, metric="error.kernel", split=name, step=step, **about)


def _linear_errors(chosen: Chosen) -> Iterator[Row]:
    """Yield the error of training the linearized model itself."""
    run = chosen.run
    for name, linear in chosen.linear.items():
        for step, value in _relative(run.steps, linear, run.real[name]):
            yield TABLE.row(value, metric="error.linearized", split=name, step=step)


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
        yield TABLE.row(found.value, (found.low, found.high), metric=f"score.{name}", split="test")
    for name in ("train", "test"):
        logits = (chosen.start[name], chosen.linearized[name], chosen.trained[name])
        linear = compare_linearized(*logits, chosen.labels[name], metric)
        values = {**asdict(linear), "recovered": linear.recovered}
        for what, value in values.items():
            yield TABLE.row(
                value, metric=f"linearization.{what}", split=name, step=chosen.best_step
            )


def _features(config: Config, chosen: Chosen) -> Iterator[Row]:
    """Yield every agreement metric of the kernel at some steps with the one at the start."""
    start = chosen.kernels[0]
    for step, kernel in chosen.kernels.items():
        table = feature_change(start, kernel, resamples=config.resamples if step else 0)
        for name, value, low, high in table[["metric", "value", "low", "high"]].itertuples(
            index=False
        ):
            yield TABLE.row(value, (low, high), metric=f"features.{name}", split="train", step=step)


def _logits(chosen: Chosen, split: Split) -> Iterator[Row]:
    """Yield logits of some test examples at every step, of all of them at both ends, and labels."""
    run, labels = chosen.run, chosen.labels["test"]
    for example, label in zip(split.test, labels, strict=True):
        yield TABLE.row(float(label), metric="label", split="test", example=example)
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
                        yield TABLE.row(float(value), metric=f"logit.{kind}", logit=a, **about)

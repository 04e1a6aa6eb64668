"""The numbers of ``analyze lora``: kernels of every rank, how they agree and what they can learn.

The long table holds one number a row, with what it is about in the other columns.

========================= ==========================================================================
column                    meaning
========================= ==========================================================================
``data_seed``             seed of the k-shot split
``targets``               what LoRA adapts; missing where the row is about full fine-tuning of the
                          whole model, or about no kernel
``adapter_seed``, ``rank`` of the LoRA; missing where the row is about no LoRA
``kernel``                ``full`` fine-tuning, ``targets`` (full fine-tuning of the adapted weights
                          only), ``lora``, or ``zero-shot`` (no kernel: the initial logits)
``reference``             the kernel it is compared with (``full``, ``targets``), if any
``solver``                the classifier solved on the kernel, if any
``split``                 the examples the number is about
``metric``                name of a metric of :mod:`subkern.agreement`, the task's metric, ``drop``
                          (the reference's minus this kernel's), ``trainable_parameters``,
                          or ``cost.<what>``; of real labels ``prediction_agreement`` is Pearson's
                          correlation of the predictions
``value``, ``low``, ``high`` the number and its bootstrap interval over examples, where it has one
========================= ==========================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from subkern.agreement import agreement_table, prediction_agreement, prediction_interval
from subkern.agreement.predictions import Score, correlation
from subkern.agreement.predictions import predicted as predicted_of
from subkern.kernels.kernel import Kernel
from subkern.kernels.sweeps.lora import LoraSweep, sweep_targets
from subkern.storage.progress import Progress

from ..engine.classifiers import (
    Predicted,
    Split,
    added_logits,
    initial_predictions,
    labels_of,
    predict,
    predicted_logits,
    solvers_of,
    tune,
)
from ..engine.inputs import Inputs
from ..engine.long_table import LongTable
from ..engine.one_step import DECREASE, ONE_STEP, Step, decrease, likeness
from ..engine.parts import Workplace, metric_of, parts
from ..engine.predictions import Key, Measured, Prediction, to_table
from ..engine.run_folder import PREDICTIONS
from ..engine.scores import SCORES
from ..study import Computed, Prepared
from .config import Config

TABLE = LongTable(
    {
        "data_seed": "Int64",
        "targets": "string",
        "adapter_seed": "Int64",
        "rank": "Int64",
        "kernel": "string",
        "reference": "string",
        "solver": "string",
        "split": "string",
        "metric": "string",
    }
)
row = TABLE.row

Row = dict[str, Any]
Cell = Mapping[str, Any]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# Larger kernels [n·c, n·c] get intervals over seeds only: a bootstrap of their spectra takes hours.
_MOST_RESAMPLED = 192


def compute(
    config: Config,
    inputs: Inputs,
    prepared: Prepared,
    place: Workplace,
    progress: Progress | None,
) -> Computed:
    """Sweep and measure every data seed; keep its kernels."""
    found = Measured()
    grid = config.grid
    for part in parts(config, inputs, prepared.model, place, progress):
        sweeps = sweep_targets(
            part.model,
            part.train,
            part.every,
            sets=config.sets,
            grid=grid,
            rule=config.rule,
            options=part.options,
        )
        for name, kernel in _named(sweeps, config).items():
            place.kernels[f"{part.seed}/{name}"] = kernel
        began = perf_counter()
        if inputs.task.classifies or inputs.task.kind == "regression":
            found.extend(measure(sweeps, part.split, metric_of(inputs), config, part.seed))
        else:
            tokens = {e.id: int(e.label) for e in part.every}
            if inputs.task.kind == "preference":
                tokens = dict.fromkeys(tokens, 1)
            rows = by_step(sweeps, part.split, tokens, config)
            found.rows += [{**each, "data_seed": part.seed} for each in rows]
        judging = row(perf_counter() - began, data_seed=part.seed, metric="cost.judging_seconds")
        found.rows.append(judging)
    return Computed(TABLE.tidy(found.rows), {PREDICTIONS: to_table(found.predictions)})


def _named(sweeps: Mapping[str, LoraSweep], config: Config) -> dict[str, Kernel]:
    """Return the kernels of one data seed by the names they are kept under."""
    found = {"full": next(iter(sweeps.values())).full}
    for targets, sweep in sweeps.items():
        found[config.kernel(targets, "targets")] = sweep.targets_full
        for (adapter_seed, rank), kernel in sweep.kernels.items():
            found[config.kernel(targets, f"lora-r{rank}-s{adapter_seed}")] = kernel
    return found


@dataclass(frozen=True)
class _Member:
    """One kernel of a sweep, train × (train, dev, test), and the columns that name it."""

    kernel: Kernel
    cell: Cell

    def key(self, config: Config, data_seed: int) -> Key | None:
        """Under which its predictions are kept: full fine-tuning and LoRA can be tried."""
        if self.cell["kernel"] == "full":
            return Key(data_seed, "full")
        if self.cell["kernel"] != "lora":
            return None
        name = config.configuration(self.cell["targets"], self.cell["rank"])
        return Key(data_seed, name, self.cell["adapter_seed"])


def measure(
    sweeps: Mapping[str, LoraSweep], split: Split, metric: Score, config: Config, data_seed: int
) -> Measured:
    """Return all rows of one data seed: agreement, scores, predictions, sizes and costs.

    Args:
        sweeps: its kernels, train × (train, dev, test), by target set; they share the full one.
        split: which ids are which.
        metric: the task's, ``accuracy`` or ``f1``.
        config: solvers, tuning and intervals.
        data_seed: for the column.
    """
    full = _Member(next(iter(sweeps.values())).full, {"kernel": "full"})
    sets = [_set_members(name, sweep) for name, sweep in sweeps.items()]
    members = [full, *(member for each in sets for member in each)]
    predicted: dict[int, Predicted] = {}
    rows = [
        *_agreement([full], [full], split, config),
        *(row for each in sets for row in _agreement([full, each[0]], each, split, config)),
        *_scores(members, split, metric, config, predicted),
        *_sizes(sweeps),
    ]
    keys = [member.key(config, data_seed) for member in members]
    return Measured(
        [{**each, "data_seed": data_seed} for each in rows],
        [Prediction.of(key, split.test, predicted[i]) for i, key in enumerate(keys) if key],
    )


def by_step(
    sweeps: Mapping[str, LoraSweep], split: Split, tokens: Mapping[str, int], config: Config
) -> Iterator[Row]:
    """Yield agreement, sizes and what one step does to held-out loss, where nothing is classified.

    Args:
        sweeps: kernels train × (train, dev, test), by target set; they share the full one.
        split: which ids are which.
        tokens: id → over how many tokens the example's logit sums.
        config: intervals.
    """
    full = _Member(next(iter(sweeps.values())).full, {"kernel": "full"})
    sets = [_set_members(name, sweep) for name, sweep in sweeps.items()]
    yield from _agreement([full], [full], split, config)
    for each in sets:
        yield from _agreement([full, each[0]], each, split, config)
    yield from _sizes(sweeps)
    whole = Step.of(full.kernel, split.train, split.test, tokens)
    counts = whole.tokens

    def drop(reference: Floats, changes: Floats, n: Floats) -> float:
        return 1 - decrease(changes, reference, n)

    none = np.zeros_like(whole.changes)
    yield _of_step(decrease, (none, whole.changes, counts), {"kernel": "zero-shot"}, config)
    for member in [full, *(m for each in sets for m in each)]:
        step = Step.of(member.kernel, split.train, split.test, tokens)
        about = {**member.cell, "solver": ONE_STEP}
        yield _of_step(decrease, (step.changes, whole.changes, counts), about, config)
        if member is full:
            continue
        about["reference"] = "full"
        yield _of_step(drop, (whole.changes, step.changes, counts), about, config)
        pair = whole.changes / counts, step.changes / counts
        yield _of_step(likeness, pair, about, config, "prediction_agreement")


def _of_step(
    function: Callable[..., float],
    arrays: tuple[Floats, ...],
    about: Cell,
    config: Config,
    metric: str = "",
) -> Row:
    found = prediction_interval(
        function, *arrays, confidence=config.confidence, n_resamples=config.resamples
    )
    name = metric or (DECREASE if function is decrease else "drop")
    return row(found.value, (found.low, found.high), **about, split="test", metric=name)


def _set_members(name: str, sweep: LoraSweep) -> list[_Member]:
    """Return the kernels of one target set: full of the adapted weights, then LoRA's."""
    members = [_Member(sweep.targets_full, {"kernel": "targets", "targets": name})]
    for (seed, rank), kernel in sweep.kernels.items():
        cell = {"kernel": "lora", "targets": name, "rank": rank, "adapter_seed": seed}
        members.append(_Member(kernel, cell))
    return members


def _agreement(
    references: Sequence[_Member], members: Sequence[_Member], split: Split, config: Config
) -> Iterator[Row]:
    """Yield every agreement metric of the members' train kernels with each of the references'."""
    train = [member.kernel.select(right=list(split.train)) for member in members]
    n, c, _, _ = train[0].shape
    for reference in references:
        yardstick, name = reference.kernel.select(right=list(split.train)), reference.cell["kernel"]
        for member, kernel in zip(members, train, strict=True):
            # Against the adapted weights, and of a kernel with itself, the value is what is read.
            compared = name == "full" and member is not reference
            resampled = compared and n * c <= _MOST_RESAMPLED
            table = agreement_table(
                yardstick,
                kernel,
                confidence=config.confidence,
                n_resamples=config.kernel_resamples if resampled else 0,
            )
            about = {**member.cell, "reference": name}
            for found in table.itertuples():
                reach = (found.low, found.high)
                yield row(found.value, reach, **about, split="train", metric=found.metric)


def _scores(
    members: Sequence[_Member],
    split: Split,
    metric: Score,
    config: Config,
    predicted: dict[int, Predicted],
) -> Iterator[Row]:
    """Yield the test scores of every solver on every kernel, and how they compare with full's.

    ``predicted`` takes what the first solver says by the member's position.
    """
    full = members[0].kernel
    zero_shot = initial_predictions(full, split.test)
    labels = labels_of(full, split.test)
    judge = _Judge(labels, metric, config)
    yield judge.score(zero_shot, {"kernel": "zero-shot"})
    real = labels.dtype.kind == "f"
    for solver in solvers_of(real, config.rule, config.solvers):
        shared = tune(full, split, solver, metric)
        first = not predicted
        start = tune(full, split, solver, metric, from_start=True) if first else {}
        reference = predict(full, split, solver, shared)
        for i, member in enumerate(members):
            settings = shared
            if config.tuning == "each" and member.kernel is not full:
                settings = tune(member.kernel, split, solver, metric)
            logits = predicted_logits(member.kernel, split, solver, settings)
            if first:
                if config.tuning == "each":
                    start = tune(member.kernel, split, solver, metric, from_start=True)
                predicted[i] = Predicted(logits, added_logits(member.kernel, split, solver, start))
            found = predicted_of(logits, labels)
            about = {**member.cell, "solver": solver}
            yield judge.score(found, about)
            if member.kernel is not full:
                yield from judge.against(reference, found, {**about, "reference": "full"})


@dataclass(frozen=True)
class _Judge:
    """Scores predictions on the test split, each with its bootstrap interval over examples."""

    labels: Integers
    metric: Score
    config: Config

    def score(self, predictions: Integers, cell: Cell) -> Row:
        """Return the row of the task's metric."""
        return self._row(self.metric, cell, SCORES[self.metric], self.labels, predictions)

    def against(self, reference: Integers, predictions: Integers, cell: Cell) -> Iterator[Row]:
        """Yield how much lower than the reference it scores, and how often it says the same."""
        score = SCORES[self.metric]

        def drop(labels: Integers, one: Integers, other: Integers) -> float:
            return score(labels, one) - score(labels, other)

        yield self._row("drop", cell, drop, self.labels, reference, predictions)
        same = correlation if self.labels.dtype.kind == "f" else prediction_agreement
        yield self._row("prediction_agreement", cell, same, reference, predictions)

    def _row(
        self, metric: str, cell: Cell, function: Callable[..., float], *arrays: Integers
    ) -> Row:
        found = prediction_interval(
            function,
            *arrays,
            confidence=self.config.confidence,
            n_resamples=self.config.resamples,
        )
        return row(found.value, (found.low, found.high), **cell, split="test", metric=metric)


def _sizes(sweeps: Mapping[str, LoraSweep]) -> Iterator[Row]:
    """Yield numbers of trained parameters, and what the sweep cost."""
    name, first = "trainable_parameters", next(iter(sweeps.values()))
    yield row(first.trainable_full, kernel="full", metric=name)
    for targets, sweep in sweeps.items():
        for rank, count in sweep.trainable.items():
            yield row(count, kernel="lora", targets=targets, rank=rank, metric=name)
    for what, value in first.cost.items():
        yield row(value, metric=f"cost.{what}")

"""The numbers of ``analyze subspace``: kernels, what they agree on, and what they can learn.

The long table holds one number a row, what it is about in the other columns:

========================= ==========================================================================
column                    meaning
========================= ==========================================================================
``data_seed``             seed of the k-shot split
``seed``                  of the random subspace or of LoRA's A; missing where nothing is drawn, or
                          where the number is over all seeds
``kernel``                ``full`` fine-tuning, ``random`` subspace, ``lora``, ``method`` (any other
                          one), ``zero-shot`` (no kernel: the initial logits), or ``constant`` (the
                          best answer that is the same for all examples)
``method``                kind of the random projection, ``rank <r>`` of LoRA, or a method's
                          one-line form
``parameters``            how many are trained: a random subspace's dimension
``solver``                the classifier solved on the kernel, if any
``split``                 the examples the number is about
``metric``                name of a metric of :mod:`subkern.agreement` (always against the full
                          kernel), the task's metric, ``distortion.<what>`` and
                          ``centred_distortion.<what>`` (:mod:`analyses.subspace.distortion`), or
                          ``cost.<what>``
``value``, ``low``, ``high`` the number and its bootstrap interval over examples, where it has one
========================= ==========================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from subkern.agreement import agreement_table, prediction_agreement, prediction_interval
from subkern.agreement.predictions import Score
from subkern.errors import UserError
from subkern.kernels.compute import compute_kernel
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import RunOptions
from subkern.kernels.sweeps.dimensions import sweep_dimensions
from subkern.kernels.sweeps.lora import LoraGrid, sweep_lora
from subkern.kernels.sweeps.lora_blocks import sweep_layers
from subkern.models.logit_model import LogitModel
from subkern.solvers import labels_from_scores
from subkern.storage.progress import Progress
from subkern.subspaces.text import as_subspace

from ..engine.classifiers import (
    Predicted,
    Split,
    added_logits,
    initial_predictions,
    labels_of,
    predicted_logits,
    tune,
)
from ..engine.inputs import Inputs
from ..engine.long_table import LongTable
from ..engine.parts import Part, Workplace, metric_of, parts
from ..engine.predictions import Key, Measured, Prediction, to_table
from ..engine.run_folder import PREDICTIONS
from ..engine.scores import SCORES
from ..study import Computed, Prepared
from . import distortion
from .config import DEFAULT_METHODS, Config

Row = dict[str, Any]
Integers = npt.NDArray[np.int64]

_TABLE = LongTable(
    {
        "data_seed": "Int64",
        "seed": "Int64",
        "kernel": "string",
        "method": "string",
        "parameters": "Int64",
        "solver": "string",
        "split": "string",
        "metric": "string",
    }
)
COLUMNS = _TABLE.columns
row, tidy = _TABLE.row, _TABLE.tidy

AGREEMENT = (
    "cka",
    "relative_frobenius_centred_scaled",
    "eigenspace_overlap_centred",
    "pearson",
    "alignment",
    "relative_frobenius",
)
_SYMMETRIC_ONLY = ("eigenspace_overlap_centred",)


def compute(
    config: Config,
    inputs: Inputs,
    prepared: Prepared,
    place: Workplace,
    progress: Progress | None,
) -> Computed:
    """Compute and measure the kernels of every data seed."""
    found = Measured()
    for part in parts(config, inputs, prepared.model, place, progress):
        sweep = compute_sweep(config, part, prepared.chosen)
        for member in (sweep.full, *sweep.others):
            if member.family != "random":  # thousands of files, and their seeds make them again
                place.kernels[f"{part.seed}/{member.name}"] = member.kernel
        began = perf_counter()
        found.extend(measure(sweep, part.split, metric_of(inputs), config, part.seed))
        judging = row(perf_counter() - began, data_seed=part.seed, metric="cost.judging_seconds")
        found.rows.append(judging)
    return Computed(tidy(found.rows), {PREDICTIONS: to_table(found.predictions)})


# --- kernels ---


@dataclass(frozen=True)
class Member:
    """One kernel, train × (train, dev, test), and what it is of.

    Attributes:
        kernel: the kernel.
        family: ``full``, ``random``, ``lora`` or ``method``.
        method: kind of projection, ``rank <r>``, or a method's one-line form.
        parameters: how many are trained.
        seed: of the draw, if there is one.
    """

    kernel: Kernel
    family: str
    method: str
    parameters: int
    seed: int | None = None

    @property
    def cell(self) -> dict[str, Any]:
        """The columns that name it."""
        return {
            "kernel": self.family,
            "method": self.method,
            "parameters": self.parameters,
            "seed": self.seed,
        }

    @property
    def configuration(self) -> str:
        """What readers call it: ``full``, ``very sparse 64``, ``LoRA rank 4``, ``bias``."""
        if self.family == "random":
            return random_name(self.method, self.parameters)
        return f"LoRA {self.method}" if self.family == "lora" else self.method

    @property
    def name(self) -> str:
        """A file name: ``full``, ``lora-rank%204-s0``, ``method-bias``."""
        words = [self.family, *([self.method] if self.family != "full" else [])]
        words += [] if self.seed is None else [f"s{self.seed}"]
        return quote("-".join(words), safe=":=,+")


def random_name(kind: str, dim: int) -> str:
    """Return what a random subspace is called: ``very sparse 64``."""
    return f"{kind.replace('_', ' ')} {dim}"


@dataclass(frozen=True)
class Sweep:
    """All kernels of one data seed.

    Attributes:
        full: that of full fine-tuning.
        others: all others; random subspaces of one kind and dimension stand together.
        cost: what computing them took, by name.
    """

    full: Member
    others: Sequence[Member]
    cost: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Engine:
    """The functions of the library that compute kernels; tests give others."""

    sweep_dimensions: Callable[..., Any] = sweep_dimensions
    sweep_lora: Callable[..., Any] = sweep_lora
    sweep_layers: Callable[..., Any] = sweep_layers
    compute_kernel: Callable[..., Kernel] = compute_kernel
    count_parameters: Callable[[LogitModel, str], int] = lambda model, method: (
        as_subspace(method).attach(model).size
    )


@dataclass(frozen=True)
class Methods:
    """The methods beside random subspaces and LoRA.

    Attributes:
        full: how many parameters full fine-tuning trains.
        parameters: one-line form -> how many parameters it trains.
        left_out: default methods that the model cannot take -> why.
        engine: computes their kernels.
    """

    full: int
    parameters: dict[str, int]
    left_out: dict[str, str]
    engine: Engine

    def describe(self) -> dict[str, Any]:
        """What is recorded beside the inputs."""
        return {"methods": dict(self.parameters), "left_out": dict(self.left_out)}


def choose_methods(config: Config, model: LogitModel, engine: Engine) -> Methods:
    """Return the methods asked for, or those defaults that the model can take.

    Raises:
        UserError: the model cannot take a method that was asked for, LoRA as asked for, or so many
            dimensions.
    """
    whole = engine.count_parameters(model, "full")
    if config.dims[-1] > whole:
        raise UserError(
            f"dims holds {config.dims[-1]}, the model has {whole} parameters: give at most that"
        )
    if config.ranks:
        engine.sweep_layers(model, config.targets, max(config.ranks), config.adapter_seeds[:1])
    parameters, left_out = {}, {}
    for method in DEFAULT_METHODS if config.methods is None else config.methods:
        try:
            parameters[method] = engine.count_parameters(model, method)
        except UserError as error:
            if config.methods is not None:
                raise
            left_out[method] = str(error)
    return Methods(whole, parameters, left_out, engine)


def compute_sweep(config: Config, part: Part, methods: Methods) -> Sweep:
    """Return every kernel of a data seed, left × right; each part resumes from its own tiles."""
    started = perf_counter()
    engine, given = methods.engine, (part.model, part.train, part.every)
    cost: dict[str, float] = {}
    others: list[Member] = []
    for dims, kinds in _by_dims(config).items():
        swept = engine.sweep_dimensions(
            *given,
            dims=dims,
            kinds=kinds,
            seeds=config.projection_seeds,
            rule=config.rule,
            allocation=config.allocation,
            options=_within(part.options, f"dimensions-{dims[-1]}"),
        )
        full = Member(swept.full, "full", "full", methods.full)
        others += [
            Member(swept.kernels[kind, seed, dim], "random", kind, dim, seed)
            for kind in kinds
            for dim in dims
            for seed in config.projection_seeds
        ]
        cost |= {f"{'+'.join(kinds)}.{name}": value for name, value in swept.cost.items()}
    if config.ranks:
        grid = LoraGrid(config.ranks, config.adapter_seeds, config.targets)
        options = _within(part.options, "lora")
        found = engine.sweep_lora(*given, grid=grid, rule=config.rule, options=options)
        cost |= {f"lora.{name}": value for name, value in found.cost.items()}
        others += [
            Member(found.kernels[seed, rank], "lora", f"rank {rank}", found.trainable[rank], seed)
            for rank in config.ranks
            for seed in config.adapter_seeds
        ]
    for i, (method, parameters) in enumerate(methods.parameters.items()):
        options = _within(part.options, f"method-{i}")
        kernel = engine.compute_kernel(*given, rule=config.rule, subspace=method, options=options)
        cost[f"{method}.seconds"] = kernel.provenance["recorded"]["seconds"]
        others.append(Member(kernel, "method", method, parameters))
    took = [value for name, value in cost.items() if name.endswith(".seconds")]
    cost["seconds"] = max(perf_counter() - started, sum(took))  # of all runs, if one was killed
    return Sweep(full, others, cost)


def _by_dims(config: Config) -> dict[tuple[int, ...], list[str]]:
    """Return the kinds that are tried in the same dimensions, by these."""
    found: dict[tuple[int, ...], list[str]] = {}
    for kind in config.kinds:
        found.setdefault(config.dims_of(kind), []).append(kind)
    return found


def _within(options: RunOptions, name: str) -> RunOptions:
    """Return the same way to run with a checkpoint folder of its own."""
    if options.checkpoint is None:
        return options
    return replace(options, checkpoint=Path(options.checkpoint) / name)


# --- what they say ---


def measure(sweep: Sweep, split: Split, metric: Score, config: Config, data_seed: int) -> Measured:
    """Return all rows of one data seed: agreement, scores, distortions, costs.

    Args:
        sweep: its kernels.
        split: which ids are which.
        metric: the task's, ``accuracy`` or ``f1``.
        config: solvers, tuning and intervals.
        data_seed: for the column.
    """
    predicted: dict[int, Predicted] = {}
    rows = [
        *_agreement(sweep, split),
        *_scores(sweep, split, metric, config, predicted),
        *_distortions(sweep, split, config),
        row(sweep.full.parameters, **sweep.full.cell, metric="trainable_parameters"),
        *(row(value, metric=f"cost.{what}") for what, value in sweep.cost.items()),
    ]
    members = [sweep.full, *sweep.others]
    kept = [i for i, member in enumerate(members) if _can_be_tried(member, config)]
    keys = {i: Key(data_seed, members[i].configuration, members[i].seed) for i in kept}
    return Measured(
        [{**each, "data_seed": data_seed} for each in rows],
        [Prediction.of(key, split.test, predicted[i]) for i, key in keys.items()],
    )


def _can_be_tried(member: Member, config: Config) -> bool:
    """Say if it may be fine-tuned: of random subspaces, those of the kind that gives the answer."""
    return member.family != "random" or member.method == config.kinds[0]


def _agreement(sweep: Sweep, split: Split) -> Iterator[Row]:
    """Yield agreement of every train kernel with the full one."""
    full = sweep.full.kernel.select(right=list(split.train))
    asked = [each for each in AGREEMENT if full.is_symmetric or each not in _SYMMETRIC_ONLY]
    for member in sweep.others:
        kernel = member.kernel.select(right=list(split.train))
        table = agreement_table(full, kernel, metrics=asked, n_resamples=0)
        for name, value in zip(table["metric"], table["value"], strict=True):
            yield row(value, **member.cell, split="train", metric=name)


def _scores(
    sweep: Sweep, split: Split, metric: Score, config: Config, predicted: dict[int, Predicted]
) -> Iterator[Row]:
    """Yield the test scores of every solver on every kernel, and how equal its predictions are.

    ``predicted`` takes what the first solver says: of full, then of the others.
    """
    full, labels = sweep.full.kernel, labels_of(sweep.full.kernel, split.test)
    test: dict[str, Any] = {"split": "test", "metric": metric}
    for name, guess in (
        ("zero-shot", initial_predictions(full, split.test)),
        ("constant", _constant(labels, metric, full.num_logits)),
    ):
        reach = _interval(SCORES[metric], config, labels, guess)
        yield row(SCORES[metric](labels, guess), reach, kernel=name, **test)
    for solver in config.classifiers:
        shared = tune(full, split, solver, metric)
        logits = predicted_logits(full, split, solver, shared)
        first = not predicted
        start = tune(full, split, solver, metric, from_start=True) if first else {}
        if first:
            predicted[0] = Predicted(logits, added_logits(full, split, solver, start))
        reference = labels_from_scores(logits)
        reach = _interval(SCORES[metric], config, labels, reference)
        value = SCORES[metric](labels, reference)
        yield row(value, reach, **sweep.full.cell, solver=solver, **test)
        for i, member in enumerate(sweep.others, start=1):
            settings = shared
            if config.tuning == "each":
                settings = tune(member.kernel, split, solver, metric)
            logits = predicted_logits(member.kernel, split, solver, settings)
            if first:
                if config.tuning == "each":
                    start = tune(member.kernel, split, solver, metric, from_start=True)
                added = added_logits(member.kernel, split, solver, start)
                predicted[i] = Predicted(logits, added)
            found = labels_from_scores(logits)
            about = {**member.cell, "solver": solver, "split": "test"}
            yield row(SCORES[metric](labels, found), **about, metric=metric)
            same = prediction_agreement(reference, found)
            yield row(same, **about, metric="prediction_agreement")


def _constant(labels: Integers, metric: Score, num_logits: int) -> Integers:
    """Return the one answer for all examples ``[m]`` that scores best."""
    guesses = [np.full_like(labels, each) for each in range(max(num_logits, 2))]
    return max(guesses, key=lambda guess: SCORES[metric](labels, guess))


def _interval(
    function: Callable[..., float], config: Config, *arrays: Integers
) -> tuple[float, float]:
    """Return the bootstrap interval over test examples."""
    found = prediction_interval(
        function, *arrays, confidence=config.confidence, n_resamples=config.resamples
    )
    return found.low, found.high


def _distortions(sweep: Sweep, split: Split, config: Config) -> Iterator[Row]:
    """Yield what random subspaces do to inner products, raw and centered, and what theory says.

    Only for gradients themselves: signs are taken in the coordinates that are trained, so under
    such rules the kernel of a random subspace is no estimate of the full one.
    """
    if config.rule != "sgd":
        return
    train = list(split.train)
    full = sweep.full.kernel.select(right=train)
    draws = [member for member in sweep.others if member.family == "random"]
    forms = {
        "distortion": distortion.pairs(full),
        "centred_distortion": distortion.pairs(full, centered=True),
    }
    # One of all these verdicts is wrong by chance as often as a single one would be (Bonferroni).
    sure = 1.0 - (1.0 - config.confidence) / (len(forms) * len(config.kinds))
    for form, pairs in forms.items():
        simulated: dict[tuple[int, ...], tuple[float, float]] = {}
        for kind in config.kinds:
            if (dims := config.dims_of(kind)) not in simulated:
                seeds = len(config.projection_seeds)
                simulated[dims] = distortion.expected_ratio(pairs, dims, seeds, sure)
            cell = {"kernel": "random", "method": kind, "split": "train"}
            yield row(1.0, simulated[dims], **cell, metric=f"{form}.expected_ratio")
    for (kind, dim), group in groupby(draws, lambda member: (member.method, member.parameters)):
        members = list(group)
        kernels = [member.kernel.select(right=train) for member in members]
        for form, pairs in forms.items():
            found = distortion.distortions(pairs, kernels, dim)
            about: dict[str, Any] = {"kernel": "random", "method": kind, "parameters": dim}
            for name, value in distortion.statistics(found):
                yield row(value, **about, split="train", metric=f"{form}.{name}")
            for name, values in distortion.draw_statistics(found):
                for member, value in zip(members, values, strict=True):
                    about["seed"] = member.seed
                    yield row(float(value), **about, split="train", metric=f"{form}.{name}")

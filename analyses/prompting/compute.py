"""The numbers of ``analyze prompting``: what each prompt's kernel says, what fine-tuning then does.

They are one long table, one number a row, what it is about in the other columns.

========================= ==========================================================================
column                    meaning
========================= ==========================================================================
``data_seed``             seed of the k-shot split
``head``                  ``prompt`` or ``linear``
``prompt``                name of the prompt, or ``linear head``
``weights``               ``pretrained`` or ``random``
``method``                ``kernel``, ``finetune``, ``zero-shot`` (the initial logits; ``probe``
                          where they are those of the linear probe), ``constant`` (the best answer
                          that is the same for all examples) or ``skipped``
``solver``                the classifier solved on the kernel, if any
``split``                 the examples the number is about
``metric``                the task's metric, ``kernel_target_alignment``, ``learning_rate``,
                          ``batch_size``, ``best_step`` or ``seconds``
``note``                  why there is no number, or what is to be said of it
``value``, ``low``, ``high`` the number and its bootstrap interval over examples, where it has one
========================= ==========================================================================
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from subkern.errors import DamagedError
from subkern.models.load import with_prompt
from subkern.models.logit_model import LogitModel
from subkern.storage.files import read_json, replacing
from subkern.storage.progress import Progress

from ..engine.classifiers import Split
from ..engine.heads import at_start
from ..engine.inputs import Inputs
from ..engine.parts import Computed, Prepared, Workplace, encode, load, metric_of
from .arms import Arm, Arms, order
from .config import Config
from .measure import constant_rows, kernel_of, kernel_rows
from .table import TABLE
from .training import training_rows

Row = dict[str, Any]


def compute(
    config: Config, inputs: Inputs, prepared: Prepared, place: Workplace, progress: Progress | None
) -> Computed:
    """Compute and measure every arm on every data seed, one model at a time.

    Each prompt on one data seed is a trial that is kept when it is done.
    """
    model, arms, loader = prepared.model, prepared.chosen, prepared.loader
    rows = [*_constants(config, inputs), *_skipped(arms)]
    total, done = len(arms.tried) * len(inputs.splits), 0
    for head, weights in order(arms.tried):
        loaded: LogitModel | None = model if (head, weights) == ("prompt", "pretrained") else None
        for arm in (a for a in arms.tried if (a.head, a.weights) == (head, weights)):
            for seed in inputs.splits:
                found = _kept(place, arm, seed)
                if found is None:
                    loaded = loaded or load(
                        config,
                        arm.of(inputs),
                        head=head,
                        weights=weights,
                        loader=loader,
                    )
                    found = _trial(config, inputs, loaded, arm, seed, place)
                    _keep(place, arm, seed, found)
                rows += found
                done += 1
                if progress is not None:
                    progress(done, total)
    return Computed(TABLE.tidy(rows))


def _trial(
    config: Config, inputs: Inputs, loaded: LogitModel, arm: Arm, seed: int, place: Workplace
) -> list[Row]:
    """Return the rows of one arm on one data seed; its kernel is saved."""
    model = loaded if arm.head == "linear" else with_prompt(loaded, arm.task)
    encoded = encode(model, inputs.splits[seed])
    model = at_start(model, encoded["train"], config.head_init)
    metric = metric_of(inputs)
    kernel = kernel_of(model, encoded, config, place, f"{seed}/{arm.key}")
    split = Split(**{name: [each.id for each in found] for name, found in encoded.items()})
    started = perf_counter()
    rows = list(kernel_rows(kernel, split, metric, config, start=_start(config, arm)))
    # the kernel may be one that an interrupted session saved: it knows what it took
    spent = kernel.provenance["recorded"]["seconds"] + perf_counter() - started
    rows.append(TABLE.row(spent, method="kernel", metric="seconds"))
    if config.finetune:
        rows += training_rows(model, encoded, metric, config, _folder(place, arm, seed))
    return [{**each, **arm.cell, "data_seed": seed} for each in rows]


def _start(config: Config, arm: Arm) -> str:
    """Return which method the initial logits are."""
    return "probe" if arm.head == "linear" and config.head_init == "probe" else "zero-shot"


def _path(place: Workplace, arm: Arm, seed: int) -> Path | None:
    """Return where the rows of a finished trial are kept."""
    if place.checkpoint is None:
        return None
    return place.checkpoint / "trials" / str(seed) / f"{arm.key}.json"


def _folder(place: Workplace, arm: Arm, seed: int) -> Path | None:
    """Return where unfinished training goes on."""
    if place.checkpoint is None:
        return None
    return place.checkpoint / "training" / str(seed) / arm.key


def _kept(place: Workplace, arm: Arm, seed: int) -> list[Row] | None:
    """Return the rows of a trial that was finished before, and is not damaged."""
    path = _path(place, arm, seed)
    if path is None or not path.is_file():
        return None
    try:
        rows: list[Row] = read_json(path)
    except DamagedError:
        return None
    return rows


def _keep(place: Workplace, arm: Arm, seed: int, rows: list[Row]) -> None:
    """Write the rows of a finished trial; what it trained is as large as the model, and goes."""
    if (path := _path(place, arm, seed)) is not None:
        with replacing(path) as part:
            part.write_text(json.dumps(rows), encoding="utf-8")
    if (folder := _folder(place, arm, seed)) is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _constants(config: Config, inputs: Inputs) -> Iterator[Row]:
    """Yield the best constant answer's score on every data seed."""
    for seed, splits in inputs.splits.items():
        labels = np.array([example.label for example in splits["test"]])
        classes = len(inputs.task.labels)
        for each in constant_rows(labels, classes, metric_of(inputs), config):
            yield {**each, "data_seed": seed}


def _skipped(arms: Arms) -> Iterator[Row]:
    """Yield a row without a number for every prompt that does not fit."""
    for name, reason in arms.skipped.items():
        cell: Row = {"prompt": name, "head": "prompt", "weights": "pretrained"}
        yield TABLE.row(float("nan"), **cell, method="skipped", note=reason)

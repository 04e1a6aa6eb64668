"""Fine-tuning with one prompt, to check what its kernel said."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from subkern.agreement import prediction_interval
from subkern.agreement.predictions import Score, labels_from_scores
from subkern.kernels.rules import parse_rule
from subkern.learning_rate import NoSuggestion
from subkern.learning_rate.grid import suggested_grid
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.subspaces.text import as_subspace
from subkern.training.finetune import Training
from subkern.training.grid_search import AllDiverged, GridEdgeWarning, TrainingGrid, search

from ..engine.scores import SCORES
from .config import Config
from .table import TABLE

Row = dict[str, Any]


def training_rows(
    model: LogitModel,
    encoded: Mapping[str, Sequence[EncodedExample]],
    metric: Score,
    config: Config,
    folder: Path | None,
) -> Iterator[Row]:
    """Yield the scores of the training that is best on dev, its settings, and what all took.

    Training that diverges at every point of the grid, or for which no rate can be suggested, gives
    one row with the reason and no number: other prompts go on. Seconds are those of every point
    that finished, whatever sessions it took. Adam's ε is the rule's, so that kernel and training
    are of one optimizer.

    Args:
        model: as it is before training.
        encoded: the splits train, dev and test.
        metric: the task's.
        config: optimizer, grid, steps.
        folder: where an interrupted search goes on.
    """
    training = Training(
        optimizer=config.optimizer,
        steps=config.steps,
        loss=config.loss,
        seed=config.seed,
        epsilon=parse_rule(config.rule).epsilon,
        eval_every=config.eval_every,
    )
    suggested = partial(
        suggested_grid,
        model,
        encoded["train"],
        subspace=as_subspace(config.subspace),
        training=training,
        batch_sizes=config.batch_sizes,
    )
    rates = config.learning_rates
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GridEdgeWarning)  # it is a note of the table
            found = search(
                model,
                encoded,
                subspace=as_subspace(config.subspace),
                grid=TrainingGrid(rates, config.batch_sizes)
                if rates
                else lambda folder: suggested(folder=folder),
                training=training,
                out=folder,
                overwrite=True,  # what is damaged
                metric=metric,
            )
    except (AllDiverged, NoSuggestion) as error:
        yield TABLE.row(
            float("nan"), method="finetune", split="test", metric=metric, note=str(error)
        )
        return
    best = found.best
    for split in ("dev", "test"):
        labels = np.array([example.label for example in encoded[split]])
        guess = labels_from_scores(best.best_logits[split])
        reach = prediction_interval(
            SCORES[metric],
            labels,
            guess,
            confidence=config.confidence,
            n_resamples=config.resamples,
        )
        yield TABLE.row(
            reach.value, (reach.low, reach.high), method="finetune", split=split, metric=metric
        )
    chosen = best.settings["training"]
    for name in ("learning_rate", "batch_size"):
        yield TABLE.row(float(chosen[name]), method="finetune", metric=name, note=found.warning)
    yield TABLE.row(float(best.best_step), method="finetune", metric="best_step")
    spent = float(found.table["seconds"].sum())
    yield TABLE.row(spent, method="finetune", metric="seconds")

"""Fine-tuning with one prompt, to check what its kernel said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analyses.lora_measure import SCORES
from analyses.prompting_config import Config
from analyses.prompting_table import row
from subkern.agreement import prediction_interval
from subkern.agreement.predictions import Score
from subkern.finetune import Diverged, Grid, Training, search
from subkern.models import LogitModel
from subkern.prompts import EncodedExample
from subkern.running import as_subspace
from subkern.solvers.base import labels_from_scores

__all__ = ["training_rows"]

Row = dict[str, Any]


def training_rows(
    model: LogitModel,
    encoded: Mapping[str, Sequence[EncodedExample]],
    metric: Score,
    config: Config,
    folder: Path | None,
) -> Iterator[Row]:
    """Yield the scores of the training that is best on dev, and its settings.

    Training that diverges at every point of the grid gives one row with its note and no number.

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
        eval_every=config.eval_every,
    )
    try:
        found = search(
            model,
            encoded,
            subspace=as_subspace(config.subspace),
            grid=Grid(config.learning_rates, config.batch_sizes),
            training=training,
            out=folder,
            metric=metric,
        )
    except Diverged as error:
        yield row(float("nan"), method="finetune", split="test", metric=metric, note=str(error))
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
        yield row(
            reach.value, (reach.low, reach.high), method="finetune", split=split, metric=metric
        )
    chosen = best.settings["training"]
    note = _edge(chosen["learning_rate"], config)
    for name in ("learning_rate", "batch_size"):
        yield row(float(chosen[name]), method="finetune", metric=name, note=note)
    yield row(float(best.best_step), method="finetune", metric="best_step")


def _edge(rate: float, config: Config) -> str | None:
    """Return a warning if the best learning rate is at the edge of a grid of several."""
    rates = config.learning_rates
    if len(rates) < 2 or rate not in (rates[0], rates[-1]):
        return None
    end = "lowest" if rate == rates[0] else "highest"
    return f"the best learning rate is the {end} of the grid"

"""Fine-tuning in any subspace: `transformers.Trainer`, the best step on dev, a folder that resumes.

    found = finetune(model, splits, subspace="lora:r=8", training=Training(steps=200), out="run")
    found.scores["test"]

Updates are those of the kernels: f without dropout, no momentum, no weight decay, and the batches
of `subkern.training.batch_order`, so that `subkern.dynamics` predicts this very run.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from subkern.agreement.predictions import Score
from subkern.errors import UserError
from subkern.models.autograd_mode import check_mode
from subkern.models.checks import check_function
from subkern.models.digest import weights_digest
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import fingerprint_examples
from subkern.storage.lock import only_run
from subkern.storage.progress import Progress
from subkern.storage.provenance import environment, normalize
from subkern.subspaces.base import Subspace
from subkern.subspaces.movable import MovableModel
from subkern.subspaces.text import as_subspace
from subkern.training.monitor import RunMonitor, Splits, Trajectory, labels_of, logits_of, score
from subkern.training.result import FineTuned
from subkern.training.run_folder import TrainingFolder
from subkern.training.settings import Diverged, Training
from subkern.training.trainer import optimizer_of, train

__all__ = ["Diverged", "FineTuned", "Training", "add_splits", "finetune", "run_settings"]


def finetune(
    model: LogitModel,
    splits: Splits,
    *,
    subspace: Subspace | str = "full",
    training: Training | None = None,
    metric: Score = "accuracy",
    out: str | Path | None = None,
    overwrite: bool = False,
    checkpoint_seconds: float = 60.0,
    progress: Progress | None = None,
) -> FineTuned:
    """Train a copy of `model` in the coordinates of `subspace`; `model` is left as it is.

    Args:
        model: f at θ₀.
        splits: examples by split; ``train`` is needed, ``dev`` chooses the best step, others are
            scored there.
        subspace: what is trained.
        training: how; `Training`'s defaults.
        metric: ``accuracy`` or ``f1``.
        out: folder to keep the run in. The same call goes on from its last checkpoint, and ends
            where it would have without stopping (bit for bit on a CPU); a finished run is read.
        overwrite: replace a run of other settings in `out`.
        checkpoint_seconds: between checkpoints; 0 writes one after every step.
        progress: called with steps done and in all.

    Raises:
        Diverged: a loss or logit was not finite.
        UserError: no training examples, a function that is not one (`check_function`), or `out`
            holds a run of other settings.
    """
    training, subspace = training or Training(), as_subspace(subspace)
    _check_splits(splits, model)
    settings = run_settings(model, splits, subspace, training, metric)
    with only_run(out):
        folder = None
        if out is not None:
            folder = TrainingFolder(out, settings, overwrite=overwrite, every=checkpoint_seconds)
            if (found := folder.finished()) is not None:
                return found
        check_function(model, splits["train"])
        tunable = MovableModel(model, subspace, dropout=training.dropout)
        try:
            trajectory, seconds = _run(tunable, splits, training, metric, folder, progress)
        except Diverged as error:
            if folder is not None:
                folder.diverged(error)
            raise
        found = _result(tunable, splits, settings, metric, trajectory, seconds)
        if folder is not None:
            folder.finish(found)
        return found


def add_splits(
    model: LogitModel,
    found: FineTuned,
    splits: Splits,
    *,
    subspace: Subspace | str,
    metric: Score = "accuracy",
) -> FineTuned:
    """The run `found`, scored on `splits` too, at its start and at its best step."""
    new = {name: examples for name, examples in splits.items() if name not in found.scores}
    if not new:
        return found
    tunable = MovableModel(model, as_subspace(subspace))
    start = {name: logits_of(tunable, examples) for name, examples in new.items()}
    tunable.move(found.shift)
    best = {name: logits_of(tunable, examples) for name, examples in new.items()}
    labels = {name: labels_of(examples) for name, examples in new.items()}
    scores = {name: score(best[name], labels[name], metric) for name in new}
    known = {name: fingerprint_examples(examples) for name, examples in new.items()}
    examples = {**found.settings["examples"], **known}
    return replace(
        found,
        settings={**found.settings, "examples": examples},
        scores={**found.scores, **scores},
        start_logits={**found.start_logits, **start},
        best_logits={**found.best_logits, **best},
        labels={**found.labels, **labels},
    )


def run_settings(
    model: LogitModel, splits: Splits, subspace: Subspace, training: Training, metric: Score
) -> dict[str, Any]:
    """Everything that decides a run, as JSON values."""
    settings: dict[str, Any] = normalize(
        {
            "model": model.description,
            "weights": weights_digest(model),
            "readout": model.readout.describe(),
            "logits": "binary" if model.binary else "all",
            "dtype": str(model.dtype).removeprefix("torch."),
            "subspace": subspace.describe(),
            "training": training.describe(),
            "metric": metric,
            "examples": {name: fingerprint_examples(e) for name, e in splits.items()},
            "environment": environment(),
        }
    )
    return settings


def _check_splits(splits: Splits, model: LogitModel) -> None:
    if not splits.get("train"):
        raise UserError("there are no training examples: give splits['train'] at least one")
    check_mode(model)
    for name, examples in splits.items():
        if not examples:
            raise UserError(f"split '{name}' is empty: leave it out or give it examples")
        model.check_tokens(examples)


def _run(
    tunable: MovableModel,
    splits: Splits,
    training: Training,
    metric: Score,
    folder: TrainingFolder | None,
    progress: Progress | None,
) -> tuple[Trajectory, float]:
    """Train to the last step from wherever the folder stands; seconds of all sessions."""
    optimizer = optimizer_of(tunable, training)
    begin, before, trajectory = 0, 0.0, Trajectory()
    if folder is not None:
        begin, before, trajectory = folder.resume(tunable, optimizer)
    started = time.monotonic() - before
    recorder = RunMonitor(tunable, splits, training, metric, trajectory)
    recorder.begin()

    def on_step(step: int, loss: float) -> None:
        recorder.after(step, loss)
        if folder is not None and step < training.steps:
            seconds = time.monotonic() - started
            folder.checkpoint(step, seconds, tunable, optimizer, trajectory)
        if progress is not None:
            progress(step, training.steps)

    train(tunable, splits["train"], training, optimizer, begin=begin, on_step=on_step)
    gc.collect()  # the Trainer is in a circle with its callbacks, and holds the optimizer
    return trajectory, time.monotonic() - started


def _result(
    tunable: MovableModel,
    splits: Splits,
    settings: Mapping[str, Any],
    metric: Score,
    trajectory: Trajectory,
    seconds: float,
) -> FineTuned:
    """The run, with the logits of every split at its start and at its best step."""
    at_start = {n: logits[0] for n, logits in trajectory.logits.items()}
    tunable.move({n: z * 0 for n, z in tunable.shift().items()})
    start = {n: at_start[n] if n in at_start else logits_of(tunable, e) for n, e in splits.items()}
    tunable.move(trajectory.best_shift)
    best = {name: logits_of(tunable, examples) for name, examples in splits.items()}
    labels = {name: labels_of(examples) for name, examples in splits.items()}
    return FineTuned(
        settings=settings,
        best_step=trajectory.best_step,
        shift=trajectory.best_shift,
        scores={name: score(best[name], labels[name], metric) for name in splits},
        steps=np.array(trajectory.steps, dtype=np.int64),
        logits={name: np.stack(logits) for name, logits in trajectory.logits.items()},
        start_logits=start,
        best_logits=best,
        labels=labels,
        losses=np.array(trajectory.losses),
        looks=np.array(trajectory.looks, dtype=np.float64).reshape(-1, 3),
        shifts=trajectory.kept,
        adapter=tunable.adapter(),
        seconds=seconds,
    )

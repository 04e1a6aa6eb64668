"""What kernels say after the first step of training: at θ₁ = θ₀ − rate₀u₀ instead of at the start.

The step is that by which `subkern.learning_rate.suggest` finds the learning rate: the first update
of the optimizer, on the first batch, so large that the logits change by RMS 1. LoRA, which starts
at B = 0, trains all of its parameters only from there on.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from subkern.agreement.predictions import Score
from subkern.errors import DamagedError
from subkern.kernel_behavior import subspace_at
from subkern.kernels.compute import compute_kernel
from subkern.kernels.request import RunOptions
from subkern.learning_rate.measure import first_step
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.storage.files import read_json, write_json
from subkern.storage.progress import Progress
from subkern.storage.provenance import NUMERICS, fingerprint, normalize
from subkern.subspaces.base import Subspace
from subkern.training.settings import Training

from ..engine.classifiers import Split, predicted_logits, tune
from ..engine.code_identity import code_identity
from ..engine.settings import Settings

__all__ = ["Stepped", "predict_after_step"]

Floats = npt.NDArray[np.float64]
_FILE, _TILES = "predicted.json", "tiles-"


@dataclass(frozen=True)
class Stepped:
    """What the judge's classifier says on one kernel after a step.

    Attributes:
        logits: of the test examples ``[m, c]``.
        settings: of the classifier.
        seconds: of step, kernel and classifier.
    """

    logits: Floats
    settings: Mapping[str, Any]
    seconds: float


def predict_after_step(
    model: LogitModel,
    splits: Mapping[str, Sequence[EncodedExample]],
    *,
    subspace: Subspace,
    training: Training,
    config: Settings,
    metric: Score,
    settings: Mapping[str, Any] | None,
    folder: Path,
    progress: Progress | None = None,
) -> Stepped:
    """Solve the study's first classifier on the kernel after the first step of a training.

    Args:
        model: f at θ₀.
        splits: train, dev and test.
        subspace: what is trained.
        training: optimizer, batch size, ε, loss and seed of the step.
        config: rule, classifiers, tuning, and how to compute.
        metric: by which dev chooses.
        settings: of the classifier; None: dev chooses them on this kernel.
        folder: where the outcome is kept, and read the next time.
        progress: called with kernel entries done and in all.

    Raises:
        NoSuggestion: no step changes the function.
    """
    step = ("optimizer", "batch_size", "epsilon", "loss", "seed")
    asked = normalize(
        {
            "step": {name: getattr(training, name) for name in step},
            "settings": settings,
            "numerics": NUMERICS,
            "code": code_identity(predict_after_step),
        }
    )
    if (known := _read(folder / _FILE, asked)) is not None:
        return known
    began = perf_counter()
    ids = {name: [each.id for each in splits[name]] for name in ("train", "dev", "test")}
    split, solver = Split(**ids), config.classifiers[0]
    shift = first_step(
        model, splits["train"], subspace=subspace, **{name: asked["step"][name] for name in step}
    )
    there = subspace_at(model, subspace, shift)
    # Another number of threads rounds the step otherwise: its tiles are of another kernel.
    tiles = folder / f"{_TILES}{fingerprint(there.describe())[:8]}"
    options = RunOptions(config.batch_size, config.memory, progress, tiles)
    kernel = compute_kernel(
        model,
        splits["train"],
        [each for name in ids for each in splits[name]],
        rule=config.rule,
        subspace=there,
        options=options,
    )
    chosen = tune(kernel, split, solver, metric) if settings is None else settings
    logits = predicted_logits(kernel, split, solver, chosen)
    found = Stepped(logits, chosen, perf_counter() - began)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / _FILE,
        {
            "asked": asked,
            "logits": logits.tolist(),
            "settings": normalize(chosen),
            "seconds": found.seconds,
        },
    )
    for left in folder.glob(f"{_TILES}*"):
        shutil.rmtree(left)
    return found


def _read(path: Path, asked: Mapping[str, Any]) -> Stepped | None:
    """Return what is kept of the same question; what is damaged is computed again."""
    try:
        kept = read_json(path)
        if kept["asked"] != asked:
            return None
        return Stepped(np.array(kept["logits"]), kept["settings"], float(kept["seconds"]))
    except (FileNotFoundError, DamagedError, KeyError, TypeError):
        return None

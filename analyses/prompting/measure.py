"""The rows of one prompt on one data seed: what its kernel says, and what fine-tuning then does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subkern.agreement import kernel_target_alignment, prediction_interval
from subkern.agreement.blocks import UndefinedError
from subkern.agreement.predictions import Score
from subkern.kernels.compute import compute_kernel
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import RunOptions, kernel_identity
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.solvers import make_solver
from subkern.storage.provenance import differences

from ..engine.classifiers import Split, initial_predictions, labels_of, tune
from ..engine.scores import SCORES
from ..study import Workplace
from .config import Config
from .table import TABLE

Row = dict[str, Any]
Integers = npt.NDArray[np.int64]
Encoded = Mapping[str, Sequence[EncodedExample]]

ALIGNMENT = "kernel_target_alignment"


def kernel_of(
    model: LogitModel, encoded: Encoded, config: Config, place: Workplace, name: str
) -> Kernel:
    """Return the kernel train × (train, dev, test), the saved one if this very one was saved."""
    left = list(encoded["train"])
    right = [*left, *encoded["dev"], *encoded["test"]]
    method: dict[str, Any] = {"rule": config.rule, "subspace": config.subspace}
    if name in place.kernels:
        saved = place.kernels[name]
        identity = kernel_identity(model, left, right, **method)
        if not differences(identity, saved.provenance, only_asked=True):
            return saved
    tiles = None if place.checkpoint is None else place.checkpoint / "tiles" / Path(name)
    options = RunOptions(config.batch_size, config.memory, None, tiles)
    kernel = compute_kernel(model, left, right, options=options, **method)
    place.kernels[name] = kernel
    options.clear()
    return kernel


def kernel_rows(
    kernel: Kernel, split: Split, metric: Score, config: Config, *, start: str
) -> Iterator[Row]:
    """Yield the initial logits' scores, kernel-target alignment and the classifiers' scores.

    ``start`` is the method that the initial logits are: ``zero-shot``, or ``probe``.
    """
    for name in ("dev", "test"):
        ids = getattr(split, name)
        guess = initial_predictions(kernel, ids)
        yield _scored(labels_of(kernel, ids), guess, metric, config, method=start, split=name)
    about: dict[str, Any] = {"method": "kernel", "split": "train", "metric": ALIGNMENT}
    train = kernel.select(right=list(split.train))
    try:
        yield TABLE.row(kernel_target_alignment(train), **about)
    except UndefinedError as error:
        yield TABLE.row(float("nan"), **about, note=str(error))
    for solver in config.classifiers:
        settings = tune(kernel, split, solver, metric)
        fitted = make_solver(solver, **settings).fit(train, f0=train.left_logits)
        for name in ("dev", "test"):
            part = kernel.select(right=list(getattr(split, name)))
            guess = fitted.predict(part, f0=part.right_logits)
            yield _scored(
                labels_of(kernel, part.right_ids), guess, metric, config,
                method="kernel", solver=solver, split=name,
            )  # fmt: skip


def constant_rows(labels: Integers, classes: int, metric: Score, config: Config) -> Iterator[Row]:
    """Yield the test score of the one answer for all examples that scores best."""
    guesses = [np.full_like(labels, each) for each in range(classes)]
    best = max(guesses, key=lambda guess: SCORES[metric](labels, guess))
    yield _scored(labels, best, metric, config, method="constant", split="test")


def _scored(labels: Integers, guess: Integers, metric: Score, config: Config, **cell: Any) -> Row:
    """Return the row of a score with its bootstrap interval over examples."""
    found = prediction_interval(
        SCORES[metric],
        labels,
        guess,
        confidence=config.confidence,
        n_resamples=config.resamples,
    )
    return TABLE.row(found.value, (found.low, found.high), metric=metric, **cell)

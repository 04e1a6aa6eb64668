"""Classifiers solved on the kernels of a study: chosen on dev, asked about test.

Solvers measure regularization in units of the kernel's mean eigenvalue, so all kernels are on one
scale whatever LoRA's α, and the same settings mean the same for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from subkern.agreement.predictions import Score, predicted
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.solvers import SOLVERS, default_grid, make_solver, select
from subkern.solvers.base import REAL_SOLVERS
from subkern.solvers.directions import reverse_of

from .settings import solvers_for

__all__ = [
    "Predicted",
    "Split",
    "added_logits",
    "initial_predictions",
    "labels_of",
    "predict",
    "predicted_logits",
    "solvers_of",
    "tune",
]

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """Ids of the examples of one data seed."""

    train: Sequence[str]
    dev: Sequence[str]
    test: Sequence[str]


@dataclass(frozen=True)
class Predicted:
    """What a kernel says of logits after training.

    Attributes:
        logits: scores of the classifier that dev chose ``[m, c]``.
        changes: what the kernel adds to the initial logits ``[m, c]`` (`added_logits`).
    """

    logits: Floats
    changes: Floats


def solvers_of(real: bool, rule: str, asked: Sequence[str] | None) -> tuple[str, ...]:
    """Return what learns real labels from the kernels of a rule, or what is asked for.

    Raises:
        UserError: a solver is asked for that tells classes apart.
    """
    usual = solvers_for(rule)
    if not real:
        return tuple(asked or usual)
    if tuple(asked or usual) == usual:
        return tuple(each for each in usual if SOLVERS[each].takes_real)
    for each in asked or ():
        if not SOLVERS[each].takes_real:
            raise UserError(
                f"solver {each} tells classes apart and the labels are real numbers: use"
                f" {', '.join(REAL_SOLVERS)}"
            )
    return tuple(asked or ())


def tune(
    kernel: Kernel, split: Split, solver: str, metric: Score, *, from_start: bool = False
) -> dict[str, Any]:
    """Return the point of the solver's default grid that, fitted on train, does best on dev.

    With ``from_start``, of those that start from the initial logits as they are, as training does.
    """
    train, dev = _part(kernel, split.train), _part(kernel, split.dev)
    grid = default_grid(solver, reverse=reverse_of(dev) is not None)
    chosen = select(
        make_solver(solver),
        grid | {"f0_scale": (1.0,)} if from_start else grid,
        train,
        dev,
        f0=train.left_logits,
        dev_f0=dev.right_logits,
        metric=metric,
    )
    return chosen.params


def predicted_logits(
    kernel: Kernel, split: Split, solver: str, settings: Mapping[str, Any]
) -> Floats:
    """Return the scores ``[m, c]`` that ``solver``, fitted on train, gives the test examples."""
    train, test = _part(kernel, split.train), _part(kernel, split.test)
    fitted = make_solver(solver, **settings).fit(train, f0=train.left_logits)
    found = np.asarray(fitted.decision_function(test, f0=test.right_logits), dtype=np.float64)
    return found.reshape(len(split.test), -1)


def added_logits(kernel: Kernel, split: Split, solver: str, settings: Mapping[str, Any]) -> Floats:
    """Return what the kernel adds to the test examples' initial logits f₀, ``[m, c]``.

    Training starts from f₀, and so should ``settings`` (`tune` with ``from_start``). NaN of solvers
    to which f₀ is a feature among others (`svc`).
    """
    if not SOLVERS[solver].adds_f0:
        return np.full((len(split.test), kernel.num_logits), np.nan)
    start = _part(kernel, split.test).right_logits
    whole = predicted_logits(kernel, split, solver, settings)
    return whole if start is None else whole - start.reshape(whole.shape)


def predict(kernel: Kernel, split: Split, solver: str, settings: Mapping[str, Any]) -> Integers:
    """Return the labels ``[m]`` that ``solver``, fitted on train, gives the test examples."""
    return predicted(
        predicted_logits(kernel, split, solver, settings), labels_of(kernel, split.test)
    )


def initial_predictions(kernel: Kernel, ids: Sequence[str]) -> Integers:
    """Return the labels ``[m]`` that the initial logits give these examples: zero-shot."""
    logits = _part(kernel, ids).right_logits
    if logits is None:
        raise ValueError("the kernel carries no initial logits")
    return predicted(logits, labels_of(kernel, ids))


def labels_of(kernel: Kernel, ids: Sequence[str]) -> Integers:
    """Return the true labels ``[m]`` of these examples."""
    labels = _part(kernel, ids).right_labels
    if labels is None:
        raise ValueError("the kernel carries no labels")
    return labels


def _part(kernel: Kernel, ids: Sequence[str]) -> Kernel:
    """Return the columns of these examples."""
    return kernel.select(right=list(ids))

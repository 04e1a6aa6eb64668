"""Agreement of what the kernels lead to: the predictions of classifiers solved on them."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from sklearn.metrics import accuracy_score, f1_score

from subkern.errors import UserError

__all__ = [
    "REAL",
    "Score",
    "accuracy_gap",
    "correlation",
    "predicted",
    "prediction_agreement",
    "score_predictions",
]

Score = Literal["accuracy", "f1", "log_likelihood", "pearson", "spearman", "r2"]
REAL: tuple[Score, ...] = ("pearson", "spearman", "r2")
"""Scores of real predictions against real labels; the greater, the better."""


def _same_length(**arrays: ArrayLike) -> list[np.ndarray]:
    """Return the arguments as flat arrays of one length, or raise `UserError`."""
    flat = {name: np.asarray(value) for name, value in arrays.items()}
    shapes = {name: list(value.shape) for name, value in flat.items()}
    if len({value.shape for value in flat.values()}) > 1 or any(
        value.ndim != 1 for value in flat.values()
    ):
        raise UserError(f"expected one label per example in each of them, found shapes {shapes}")
    if not next(iter(flat.values())).size:
        raise UserError("there are no predictions to compare: give at least one example")
    return list(flat.values())


def score_predictions(
    labels: ArrayLike, predictions: ArrayLike, metric: Score = "accuracy"
) -> float:
    """Return accuracy, or F1 of class 1 (MRPC, QQP), both between 0 and 1; of real labels
    Pearson's or Spearman's correlation, or R² = 1 - Σ(y - p)²/Σ(y - mean y)².

    F1 is 0 where neither labels nor predictions hold a 1, a correlation where either does not vary,
    R² where the labels do not. Raises `UserError` on lengths that differ, an unknown metric, a
    metric of labels of the other kind, or F1 of labels other than 0 and 1.
    """
    true, predicted = _same_length(labels=labels, predictions=predictions)
    if metric in REAL:
        if true.dtype.kind != "f":
            raise UserError(f"metric {metric!r} is of real labels: use 'accuracy' or 'f1'")
        return correlation(true, predicted, metric)
    if true.dtype.kind == "f" and (true % 1).any():
        raise UserError(f"metric {metric!r} is of classes, these labels are real: use 'pearson'")
    if metric == "accuracy":
        return float(accuracy_score(true, predicted))
    if metric != "f1":
        raise UserError(f"metric {metric!r} is not known: use 'accuracy' or 'f1'")
    found = sorted(set(true.tolist()) | set(predicted.tolist()))
    if not set(found) <= {0, 1}:
        raise UserError(
            f"f1 is of class 1 against class 0 and the labels are {found}: use 'accuracy'"
        )
    return float(f1_score(true, predicted, zero_division=0.0))


def correlation(labels: ArrayLike, predictions: ArrayLike, metric: Score = "pearson") -> float:
    """Return `score_predictions` of real numbers, ``[m]`` both, without its checks."""
    true, found = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    if metric == "spearman":
        true, found = rankdata(true), rankdata(found)
    true = true - true.mean()
    if metric == "r2":
        left = np.square(np.asarray(labels, np.float64) - found).sum()
        whole = np.square(true).sum()
        return float(1 - left / whole) if whole > 0 else 0.0
    found = found - found.mean()
    size = float(np.linalg.norm(true) * np.linalg.norm(found))
    return float(np.clip(true @ found / size, -1, 1)) if size > 0 else 0.0


def prediction_agreement(reference: ArrayLike, other: ArrayLike) -> float:
    """Return the share of examples on which two classifiers predict the same label.

    Formula
        ``mean_j [p_j = p'_j]`` over predicted labels ``[m]``.
    Range
        0 to 1, a share of examples.
    Good
        above 0.95. It can be high while both are wrong, and low at equal accuracy; read it with
        `accuracy_gap`.
    Source
        the usual observed agreement (without Cohen's correction for chance).
    """
    first, second = _same_length(reference=reference, other=other)
    return float(np.mean(first == second))


def accuracy_gap(
    labels: ArrayLike, reference: ArrayLike, other: ArrayLike, *, metric: Score = "accuracy"
) -> float:
    """Return how much worse the classifier of the other kernel is.

    Formula
        ``score(labels, p) - score(labels, p')``, score the accuracy or the F1 of class 1.
    Range
        -1 to 1, in units of the score (0.01 is one point); above 0 if the reference is better.
    Good
        within the noise of the test set: with m examples about ``1 / sqrt(m)``, 0.03 for 1,000.
    Source
        as reported in Malladi et al. 2023.

    All three are labels ``[m]``.
    """
    true, first, second = _same_length(labels=labels, reference=reference, other=other)
    return score_predictions(true, first, metric) - score_predictions(true, second, metric)


Labels = NDArray[np.int64]


def predicted(scores: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Return what scores ``[m, c]`` predict: labels, or the one score where these are real."""
    if np.asarray(labels).dtype.kind == "f":
        return np.asarray(scores, dtype=np.float64)[:, 0]
    return labels_from_scores(scores)


def labels_from_scores(scores: ArrayLike) -> Labels:
    """Return labels from scores ``[m, c]``: the largest, or for c = 1 the sign (above 0 is class
    1).

    Ties go to the smaller label. On initial logits f0 this is the zero-shot classifier.
    """
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 2:
        raise UserError(
            f"scores have shape {list(array.shape)}: expected [m, c], one row per example"
        )
    if array.shape[1] == 1:
        return (array[:, 0] > 0).astype(np.int64)
    return array.argmax(axis=1).astype(np.int64)

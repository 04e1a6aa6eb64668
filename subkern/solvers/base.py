"""What all solvers share: orientation, labels, initial logits, and the scikit-learn surface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from subkern.agreement.blocks import Array, KernelLike, as_blocks
from subkern.agreement.predictions import Labels, Score, labels_from_scores, score_predictions
from subkern.errors import UserError
from subkern.kernels.belonging import Side
from subkern.prompts.marked import MISSING
from subkern.solvers.directions import reverse_of
from subkern.symmetry import SYMMETRY_RTOL, asymmetry

__all__ = [
    "ASYMMETRIC_SOLVERS",
    "REAL_SOLVERS",
    "KernelSolver",
    "Problem",
    "encode_targets",
    "labels_from_scores",
]


ASYMMETRIC_SOLVERS = ("asym", "asym-ridge", "row-logistic")
"""Registered solvers with ``requires_symmetric = False``, for refusals to name."""
REAL_SOLVERS = ("ridge", "svr", "asym-ridge")
"""Registered solvers with ``takes_real = True``."""


@dataclass(frozen=True)
class Problem:
    """A checked training problem: everything `KernelSolver._solve` may look at."""

    kernel: Array
    """``[n, c, n, c]``, train on both sides."""
    labels: Labels
    """``[n]``, 0 to c-1 (0 or 1 where c = 1), or real numbers, float64."""
    targets: Array
    """``[n, c]``, one-hot, or +1 and -1 where c = 1; real labels themselves."""
    offset: Array
    """``[n, c]``, ``f0 / f0_scale``, zeros where there is no f0."""


def encode_targets(labels: Labels, logits: int) -> Array:
    """Return targets ``[n, c]``: one-hot rows, or +1 for class 1 and -1 for class 0 where c = 1;
    real labels are their own.
    """
    if labels.dtype.kind == "f":
        return np.asarray(labels, dtype=np.float64)[:, None]
    if logits == 1:
        return np.where(labels[:, None] == 1, 1.0, -1.0)
    targets: Array = np.zeros((len(labels), logits))
    targets[np.arange(len(labels)), labels] = 1.0
    return targets


def _check_labels(
    y: ArrayLike | None, count: int, logits: int, name: str, *, real: bool = False
) -> Labels:
    """Return labels as integers ``[count]`` in 0..c-1, or raise `UserError`.

    Of one logit they may be real numbers; 0.0 and 1.0 alone are classes.
    """
    if y is None:
        raise UserError(
            f"{name} is missing and the kernel brings none: give one label per example ({count})"
        )
    array = np.asarray(y)
    if array.shape != (count,):
        raise UserError(
            f"{name} has shape {list(array.shape)}: expected [{count}], one label per example"
        )
    most = max(logits, 2)
    numbers = logits == 1 and array.dtype.kind == "f" and bool(np.isfinite(array).all())
    if numbers and (real or not np.isin(array, (0, 1)).all()):
        return np.asarray(array, dtype=np.float64)
    if array.dtype.kind not in "biuf" or not np.isin(array, np.arange(most)).all():
        found = sorted({str(label) for label in array.tolist()})[:8]
        raise UserError(f"{name} holds {', '.join(found)}: expected label indices 0 to {most - 1}")
    return array.astype(np.int64)


class KernelSolver(ClassifierMixin, BaseEstimator, ABC):
    """Base of all classifiers on precomputed kernels.

    The training kernel is ``[n, c, n, c]``, or ``[n, n]`` for a single logit: the difference of
    two, whose sign picks class 0 or 1. The evaluation kernel is ``[n, c, m, c]``: *training
    examples on the left*, as kernel files have them (scikit-learn's own precomputed kernels are the
    other way round). Labels are indices in logit order. A `Kernel` may stand for any
    of these; it brings labels where ``y`` is None, never f0, and what is fitted on one refuses a
    `Kernel` of other training examples, labels, weights, rule, readout or subspace.

    Initial logits f0 ``[n, c]`` enter as ``f0 / f0_scale``: the solver learns what is to be added
    to them, and adds them back when it predicts. ``f0_scale=None`` ignores f0. What is given to
    `fit` must be given to prediction. A logit of an option that an example lacks (−10,000) is left
    out of what is fitted and never predicted, also with ``f0_scale=None``.

    An asymmetric kernel, of a rule such as ``asymmetric_signgd``, has a second direction, the
    *reverse* ``[n, c, m, c]`` (see `subkern.solvers.directions`). A `Kernel` brings it; with arrays
    it is ``reverse=`` of the prediction methods. `fit` needs none: there it is the transpose. Only
    `AsymmetricLSSVMSolver` looks at it; solvers that need a symmetric kernel refuse others.

    A new solver implements `_solve`, which sets ``coef_`` ``[n, c]``, and `_scores` if its scores
    are not ``offset + sum_ia coef[i, a] K[i, a, j, b]``, or `_scores_of_both` if they need the
    reverse.
    """

    requires_symmetric: ClassVar[bool] = True
    adds_f0: ClassVar[bool] = True
    """Whether scores are ``f0 / f0_scale`` plus what the kernel gives; if not, f0 is a feature."""

    takes_real: ClassVar[bool] = False
    """Whether labels may be real numbers, of one logit, which scores then are to be."""

    f0_scale: float | None
    coef_: Array
    classes_: Labels
    trained_on_: Side | None
    """What the training kernel says that it is of; None of an array."""

    @abstractmethod
    def _solve(self, problem: Problem) -> None:
        """Learn from a checked problem."""

    def _scores(self, kernel: Array, offset: Array) -> Array:
        """Return scores ``[m, c]`` on a checked evaluation kernel ``[n, c, m, c]``."""
        return offset + np.tensordot(self.coef_, kernel, axes=([0, 1], [0, 1]))

    def _scores_of_both(self, kernel: Array, reverse: Array | None, offset: Array) -> Array:
        """Return scores ``[m, c]`` from a kernel and its reverse, ``[n, c, m, c]``, if known."""
        return self._scores(kernel, offset)

    def fit(self, K: KernelLike, y: ArrayLike | None = None, f0: ArrayLike | None = None) -> Self:
        """Learn from a training kernel ``[n, c, n, c]`` or ``[n, n]``, labels ``[n]`` and initial
        logits ``[n, c]``.

        Raises `UserError` if shapes, labels or the symmetry of the kernel are not as described
        above.
        """
        kernel = as_blocks(K, "training kernel")
        n, c, m, _ = kernel.shape
        if n != m:
            raise UserError(
                f"training kernel is {n} x {m} examples: give the kernel of train against train"
            )
        self.symmetric_ = self._check_symmetry(kernel)
        given = getattr(K, "left_labels", None) if y is None else y
        labels = _check_labels(given, n, c, "y", real=y is None)
        self.regresses_ = labels.dtype.kind == "f"
        if self.regresses_ and not self.takes_real:
            raise UserError(
                f"{type(self).__name__} tells classes apart and the labels are real numbers: use"
                f" {', '.join(REAL_SOLVERS)}"
            )
        self.trained_on_ = self._training_side(K, y)
        self.n_train_, self.num_logits_ = n, c
        self.classes_ = np.arange(max(c, 2))
        self.uses_f0_ = f0 is not None and self.f0_scale is not None
        targets, offset, gone = encode_targets(labels, c), self._offset(f0, n), missing(f0, (n, c))
        if gone.any():  # an option that an example lacks is nothing to be fitted
            offset = np.where(gone, MISSING if self.adds_f0 else 0.0, offset)
            targets = np.where(gone, offset, targets)
        self._solve(Problem(kernel, labels, targets, offset))
        return self

    def decision_function(
        self, K: KernelLike, f0: ArrayLike | None = None, reverse: KernelLike | None = None
    ) -> Array:
        """Return scores ``[m, c]`` from an evaluation kernel ``[n, c, m, c]`` (train on the left),
        f0 ``[m, c]`` and, where the kernel is asymmetric, its reverse ``[n, c, m, c]``.

        Raises `UserError` if the kernel is not of these training examples, or f0 is missing or
        unexpected.
        """
        check_is_fitted(self, "classes_")
        if self.trained_on_ is not None:
            self.trained_on_.require_together(Side.of(K, "left", "the evaluation kernel"))
            self.trained_on_.require_same_examples(Side.of(reverse, "left", "the reverse kernel"))
        kernel = as_blocks(K, "evaluation kernel")
        n, c, m, _ = kernel.shape
        if (n, c) != (self.n_train_, self.num_logits_):
            raise UserError(
                f"evaluation kernel has {n} examples with {c} logits on its left, the solver was "
                f"fitted on {self.n_train_} with {self.num_logits_}: train goes on the left"
            )
        if self.f0_scale is not None and (f0 is not None) != self.uses_f0_:
            fitted = "with" if self.uses_f0_ else "without"
            raise UserError(
                f"the solver was fitted {fitted} initial logits f0: predict {fitted} them too"
            )
        gone, offset = missing(f0, (m, c)), self._offset(f0, m)
        if gone.any():
            offset = np.where(gone, MISSING if self.adds_f0 else 0.0, offset)
        scores = self._scores_of_both(kernel, reverse_of(K, reverse), offset)
        return np.where(gone, MISSING, scores) if gone.any() else scores

    def predict(
        self, K: KernelLike, f0: ArrayLike | None = None, reverse: KernelLike | None = None
    ) -> Any:
        """Return labels ``[m]``: the largest score, or its sign for a single logit; the score
        itself if it was fitted to real labels.
        """
        scores = self.decision_function(K, f0, reverse)
        return scores[:, 0] if self.regresses_ else labels_from_scores(scores)

    def score(
        self,
        K: KernelLike,
        y: ArrayLike | None = None,
        f0: ArrayLike | None = None,
        metric: Score = "accuracy",
        reverse: KernelLike | None = None,
    ) -> float:
        """Return accuracy, or F1 of class 1, against labels ``[m]`` (the kernel's right labels if
        None); of real labels `subkern.agreement.predictions.REAL`.
        """
        predicted = self.predict(K, f0, reverse)
        given = getattr(K, "right_labels", None) if y is None else y
        return score_predictions(
            _check_labels(given, len(predicted), self.num_logits_, "y", real=self.regresses_),
            predicted,
            metric,
        )

    @staticmethod
    def _training_side(kernel: KernelLike, y: ArrayLike | None) -> Side | None:
        """Return what a training kernel is of; labels that are given replace its own."""
        rows, columns = (Side.of(kernel, side, "the training kernel") for side in ("left", "right"))
        if rows is None or columns is None:
            return None
        if rows.ids != columns.ids:
            raise UserError(
                f"the training kernel's rows and columns are other examples ({rows.ids[0]} … and"
                f" {columns.ids[0]} …): give the kernel of train against train"
            )
        return rows if y is None else replace(rows, labels=None)

    def _check_symmetry(self, kernel: Array) -> bool:
        """Say whether a training kernel is symmetric; refuse one that is not and has to be."""
        found = asymmetry(kernel)
        if found > SYMMETRY_RTOL and self.requires_symmetric:
            raise UserError(
                f"{type(self).__name__} needs a symmetric training kernel, this one differs from "
                f"its transpose by {found:.1e} of its largest entry: it learns functions of one "
                "feature map, an asymmetric rule has two; use a solver for both "
                f"({', '.join(ASYMMETRIC_SOLVERS)}), or a kernel of rule sgd or signgd"
            )
        return found <= SYMMETRY_RTOL

    def _offset(self, f0: ArrayLike | None, count: int) -> Array:
        """Return ``f0 / f0_scale`` as ``[count, c]``, zeros without f0."""
        scale = self.f0_scale
        if scale is not None and not (np.isfinite(scale) and scale > 0):
            raise UserError(
                f"f0_scale={scale!r} is not above 0: give a positive number, or None to ignore f0"
            )
        if f0 is None or scale is None:
            return np.zeros((count, self.num_logits_))
        array = _numbers(f0)
        if array.ndim == 1 and self.num_logits_ == 1:
            array = array[:, None]
        if array.shape != (count, self.num_logits_):
            raise UserError(
                f"f0 has shape {list(array.shape)}: expected [{count}, {self.num_logits_}]"
            )
        if not np.isfinite(array).all():
            raise UserError("f0 holds NaN or infinite values: recompute the initial logits")
        return array / scale


def missing(f0: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which logits ``[n, c]`` are of options that an example lacks, by its initial ones."""
    array = np.zeros(shape) if f0 is None else _numbers(f0)
    return array <= MISSING if array.shape == shape else np.zeros(shape, dtype=bool)


def _numbers(f0: Any) -> Array:
    """Return initial logits, NumPy or torch, as float64."""
    if hasattr(f0, "detach"):
        f0 = f0.detach().cpu().double().numpy()
    return np.asarray(f0, dtype=np.float64)

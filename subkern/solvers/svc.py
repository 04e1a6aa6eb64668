"""Support vector classification on a scalar kernel made of the logits' kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from sklearn.svm import SVC

from subkern.agreement.blocks import Array, centre
from subkern.agreement.predictions import Labels
from subkern.errors import UserError
from subkern.solvers.base import KernelSolver, Problem
from subkern.solvers.folds import stratified_folds
from subkern.solvers.spectral import DEFAULT_GRID, check_regularization, most_regularised

__all__ = ["SVCSolver", "class_scores", "reduce_logits"]

_BORDER = 1e-5  # of decisions, which are ±1 at support vectors; ten times where libsvm stops

Reduction = Literal["difference", "trace"]


def reduce_logits(kernel: Array, reduction: Reduction = "difference") -> Array:
    """Reduce ``[n, c, m, c]`` to the scalar kernel ``[n, m]`` that a support vector machine needs.

    ``difference`` is the mean over pairs of logits a < b of the kernel of ``f_b - f_a``, ``2 (sum_a
    K[i,a,j,a] - sum_ab K[i,a,j,b] / c) / (c - 1)``: blind to a shift common to all logits, as
    softmax is, and for c = 2 exactly the kernel of the binary logit. ``trace`` is ``sum_a
    K[i,a,j,a] / c``. A single logit stays as it is. Both keep positive semi-definite kernels so.
    """
    c = kernel.shape[1]
    if reduction not in ("difference", "trace"):
        raise UserError(f"reduction={reduction!r} is not known: use 'difference' or 'trace'")
    if c == 1:
        return kernel[:, 0, :, 0]
    trace = np.einsum("iaja->ij", kernel)
    if reduction == "trace":
        return trace / c
    return 2.0 * (trace - kernel.sum(axis=(1, 3)) / c) / (c - 1)


def class_scores(decision: Array, present: Labels, logits: int) -> Array:
    """Spread decisions of a scikit-learn classifier over all classes: scores ``[m, c]``.

    ``decision`` is ``[m]`` for two classes seen in training, ``[m, seen]`` for more. Classes that
    training never saw get one less than the lowest score of the row. A single logit keeps its one
    column.
    """
    if decision.ndim == 1:
        decision = decision[:, None] if logits == 1 else np.stack([-decision, decision], axis=1)
    if logits == 1:
        return decision
    scores = np.repeat(decision.min(axis=1, keepdims=True) - 1.0, logits, axis=1)
    scores[:, present] = decision
    return scores


class SVCSolver(KernelSolver):
    """scikit-learn's `SVC` (hinge loss, intercept, one against one) on the kernel reduced to one
    scalar a pair.

    The logits are reduced by `reduce_logits`; the result is divided by the mean squared distance of
    the training examples from their centre, so that the penalty ``C = 1 / regularization`` means
    the same at every scale and for nearly constant kernels.

    libsvm cannot start from an offset. f0 therefore joins as further features: the kernel of the
    vectors ``f0 / f0_scale``, reduced likewise, is added, and the machine learns how much to trust
    them.

    Symmetric kernels only: the quadratic form that libsvm minimizes drops the antisymmetric part,
    prediction would not.

    With ``regularization=None`` it is the one of ``grid`` with the best accuracy in stratified
    cross-validation, ties going to the larger.

    Args:
        regularization: ``1 / C``; None chooses it.
        grid: candidates.
        cv: folds, at most the examples of the rarest class.
        reduction: ``difference`` or ``trace``.
        f0_scale: divides f0; None ignores f0.
        random_state: seed of the folds.

    Attributes:
        machine_: the fitted `sklearn.svm.SVC`.
        regularization_: ``1 / C``.
        cv_curve_: regularization to cross-validated error rate; empty where it was given.
    """

    adds_f0 = False

    def __init__(
        self,
        regularization: float | None = None,
        grid: Sequence[float] = DEFAULT_GRID,
        cv: int = 5,
        reduction: Reduction = "difference",
        f0_scale: float | None = 1.0,
        random_state: int = 0,
    ) -> None:
        self.regularization = regularization
        self.grid = grid
        self.cv = cv
        self.reduction = reduction
        self.f0_scale = f0_scale
        self.random_state = random_state

    def _solve(self, problem: Problem) -> None:
        """Reduce the logits, choose the penalty and fit."""
        labels = problem.labels
        if len(np.unique(labels)) < 2:
            raise UserError(f"all training labels are {labels[0]}: SVCSolver needs two classes")
        candidates = check_regularization(self.regularization, tuple(self.grid))
        reduced = reduce_logits(problem.kernel, self.reduction)
        self.unit_ = float(np.trace(centre(reduced[:, None, :, None])[:, 0, :, 0])) / len(labels)
        if self.unit_ <= 1e-12 * float(np.abs(reduced).max()):
            raise UserError(
                "the reduced training kernel does not tell any two examples apart: it is constant"
            )
        self.offset_ = problem.offset
        gram = self._gram(problem.kernel, problem.offset)
        self.cv_curve_: dict[float, float] = {}
        chosen = 0
        if len(candidates) > 1:
            errors = self._cross_validate(gram, labels, candidates)
            self.cv_curve_ = dict(zip(candidates, errors.tolist(), strict=True))
            chosen = most_regularised(errors)
        self.regularization_ = candidates[chosen]
        self.machine_ = _machine(self.regularization_).fit(gram, labels)

    def _gram(self, kernel: Array, offset: Array) -> Array:
        """Return the scalar kernel ``[n, m]`` with the training examples on the left, f0
        included.
        """
        shared = np.einsum("ia,jb->iajb", self.offset_, offset)
        return reduce_logits(kernel, self.reduction) / self.unit_ + reduce_logits(
            shared, self.reduction
        )

    def _cross_validate(self, gram: Array, labels: Labels, candidates: list[float]) -> Array:
        """Return the error rate on held-out examples for each candidate.

        An example on the border of two classes, on whose side rounding decides, is half an error.
        """
        wrong = np.zeros(len(candidates))
        for train, held in stratified_folds(labels, self.cv, self.random_state):
            for i, candidate in enumerate(candidates):
                machine = _machine(candidate).fit(gram[np.ix_(train, train)], labels[train])
                across = gram[np.ix_(held, train)]
                missed = machine.predict(across) != labels[held]
                wrong[i] += np.sum(np.where(_on_border(machine, across), 0.5, missed))
        return wrong / len(labels)

    def _scores(self, kernel: Array, offset: Array) -> Array:
        """Return the machine's decisions as scores ``[m, c]``."""
        decision = np.asarray(self.machine_.decision_function(self._gram(kernel, offset).T))
        return class_scores(decision, self.machine_.classes_, self.num_logits_)


def _on_border(machine: SVC, gram: Array) -> Array:
    """Return which examples no pair of classes is told of, ``[m]``, to what libsvm stops at."""
    machine.decision_function_shape = "ovo"
    pairs = np.abs(machine.decision_function(gram)).reshape(len(gram), -1)
    machine.decision_function_shape = "ovr"
    return pairs.min(axis=1) <= _BORDER


def _machine(regularization: float) -> SVC:
    """Return scikit-learn's machine with a penalty of ``1 / regularization``."""
    return SVC(C=1.0 / regularization, kernel="precomputed", tol=1e-6, break_ties=True)

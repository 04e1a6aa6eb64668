"""Multinomial kernel logistic regression, solved to its unique optimum."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from scipy.linalg import solve
from scipy.special import expit, log_softmax, softmax
from sklearn.exceptions import ConvergenceWarning

from subkern.agreement.blocks import Array
from subkern.agreement.predictions import Labels
from subkern.solvers.base import KernelSolver, Problem, encode_targets
from subkern.solvers.folds import stratified_folds
from subkern.solvers.spectral import (
    DEFAULT_GRID,
    Eigenbasis,
    check_regularization,
    most_regularised,
)

__all__ = ["LogisticSolver"]

# Directions below this share of the largest eigenvalue are rounding and carry no feature.
NULL = 1e-12


class LogisticSolver(KernelSolver):
    """Kernel logistic regression on all logits jointly, any number of classes.

    Minimizes ``mean_i CE(softmax(f0_i / f0_scale + (K alpha)_i), y_i) + r mu / 2 alpha' K alpha``
    over alpha ``[n, c]``, mu the mean eigenvalue of K; a single logit uses the sigmoid. Written in
    the eigenbasis of K it is strongly convex, and Newton's method with backtracking in float64 runs
    until the gradient there is below ``tol``. At the optimum ``alpha = (Y - P) / (n r mu)``, Y
    one-hot and P the fitted probabilities, which is how it is computed. Symmetric kernels only:
    without one feature map ``alpha' K alpha`` is no squared norm, and there is no minimum to find.

    With ``regularization=None`` r is the one of ``grid`` with the smallest cross entropy in
    stratified cross-validation, ties going to the larger; to choose on a dev set use
    `subkern.solvers.select`.

    Args:
        regularization: r, as a share of the mean eigenvalue; None chooses it.
        grid: candidates for r.
        cv: folds, at most the examples of the rarest class.
        f0_scale: divides f0; None ignores f0.
        tol: bound on the norm of the gradient, for a kernel with mean eigenvalue 1.
        max_iter: Newton steps; running out of them warns (`sklearn.exceptions.ConvergenceWarning`).
        random_state: seed of the folds.

    Attributes:
        coef_: ``[n, c]``, alpha.
        regularization_: r.
        cv_curve_: r to cross-validated cross entropy in nats; empty where r was given.
        gradient_norm_, n_iter_: how the last fit ended.
    """

    def __init__(
        self,
        regularization: float | None = None,
        grid: Sequence[float] = DEFAULT_GRID,
        cv: int = 5,
        f0_scale: float | None = 1.0,
        tol: float = 1e-8,
        max_iter: int = 100,
        random_state: int = 0,
    ) -> None:
        self.regularization = regularization
        self.grid = grid
        self.cv = cv
        self.f0_scale = f0_scale
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def _solve(self, problem: Problem) -> None:
        """Choose r, descend the path to it, and keep alpha."""
        candidates = check_regularization(self.regularization, tuple(self.grid))
        self.cv_curve_: dict[float, float] = {}
        chosen = 0
        if len(candidates) > 1:
            losses = self._cross_validate(problem, candidates)
            self.cv_curve_ = dict(zip(candidates, losses.tolist(), strict=True))
            chosen = most_regularised(losses)
        self.coef_ = self._path(problem, candidates[: chosen + 1])[-1]
        self.regularization_ = candidates[chosen]
        if self.gradient_norm_ > self.tol:
            warnings.warn(
                f"kernel logistic regression stopped after {self.n_iter_} Newton steps at gradient "
                f"norm {self.gradient_norm_:.1e} (tol {self.tol:.1e}): raise max_iter",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _path(self, problem: Problem, candidates: list[float]) -> list[Array]:
        """Return alpha ``[n, c]`` for each r, largest first, each started at the one before."""
        basis = Eigenbasis.of(problem.kernel)
        kept = basis.values > NULL * basis.values[-1]
        features = basis.vectors[:, kept] * np.sqrt(basis.values[kept] / basis.mean)
        weights = np.zeros(features.shape[1])
        solutions = []
        for share in candidates:
            objective = _Objective(features, problem.offset, problem.labels, share)
            weights, self.gradient_norm_, self.n_iter_ = _newton(
                objective, weights, self.tol, self.max_iter
            )
            solutions.append(-objective.residuals(weights) / (share * basis.mean))
        return solutions

    def _cross_validate(self, problem: Problem, candidates: list[float]) -> Array:
        """Return the mean cross entropy of held-out examples for each r."""
        losses = np.zeros(len(candidates))
        for train, held in stratified_folds(problem.labels, self.cv, self.random_state):
            part = Problem(
                problem.kernel[train][:, :, train],
                problem.labels[train],
                problem.targets[train],
                problem.offset[train],
            )
            across = problem.kernel[train][:, :, held]
            for i, alpha in enumerate(self._path(part, candidates)):
                logits = problem.offset[held] + np.tensordot(alpha, across, axes=([0, 1], [0, 1]))
                losses[i] += _cross_entropy(logits, problem.labels[held])
        return losses / len(problem.labels)


def _cross_entropy(logits: Array, labels: Labels) -> float:
    """Return the cross entropy in nats, added over examples."""
    if logits.shape[1] == 1:
        return float(np.sum(np.logaddexp(0.0, logits[:, 0] * (1.0 - 2.0 * labels))))
    return -float(np.sum(log_softmax(logits, axis=1)[np.arange(len(labels)), labels]))


class _Objective:
    """``mean CE(offset + features w) + share / 2 |w|^2`` over weights w ``[r]``, features ``[n*c,
    r]``.
    """

    def __init__(self, features: Array, offset: Array, labels: Labels, share: float) -> None:
        self.features, self.offset, self.labels, self.share = features, offset, labels, share
        self.ones = encode_targets(labels, offset.shape[1])
        if offset.shape[1] == 1:
            self.ones = 0.5 * (self.ones + 1.0)

    def _logits(self, weights: Array) -> Array:
        return self.offset + (self.features @ weights).reshape(self.offset.shape)

    def _probabilities(self, weights: Array) -> Array:
        logits = self._logits(weights)
        return expit(logits) if logits.shape[1] == 1 else softmax(logits, axis=1)

    def value(self, weights: Array) -> float:
        """Return the objective."""
        loss = _cross_entropy(self._logits(weights), self.labels) / len(self.labels)
        return loss + 0.5 * self.share * float(weights @ weights)

    def residuals(self, weights: Array) -> Array:
        """Return ``(P - Y) / n``, the gradient with respect to the logits."""
        return (self._probabilities(weights) - self.ones) / len(self.labels)

    def gradient(self, weights: Array) -> Array:
        """Return the gradient with respect to the weights."""
        return self.features.T @ self.residuals(weights).ravel() + self.share * weights

    def newton_step(self, weights: Array, gradient: Array) -> Array:
        """Return ``H^-1 g``; the curvature of one example is ``diag(p) - p p'``, ``p (1 - p)`` for
        one logit.
        """
        n, c = self.offset.shape
        p = self._probabilities(weights)[:, :, None]
        rows = self.features.reshape(n, c, -1)
        mean = p * rows if c == 1 else np.sum(p * rows, axis=1, keepdims=True)
        curved = (p * (rows - mean)).reshape(self.features.shape) / n
        hessian = self.features.T @ curved
        hessian[np.diag_indices_from(hessian)] += self.share
        return np.asarray(solve(hessian, gradient, assume_a="pos"))


def _newton(
    objective: _Objective, weights: Array, tol: float, max_iter: int
) -> tuple[Array, float, int]:
    """Minimize by Newton steps with backtracking; return weights, norm of the gradient and steps
    taken.
    """
    value, gradient = objective.value(weights), objective.gradient(weights)
    for taken in range(max_iter):
        norm = float(np.linalg.norm(gradient))
        if norm <= tol:
            return weights, norm, taken
        step = objective.newton_step(weights, gradient)
        decrease, size = float(gradient @ step), 1.0
        # The last term lets the final steps pass, whose decrease is below rounding of the value.
        bound = value + 1e-14 * abs(value)
        while (
            moved_value := objective.value(weights - size * step)
        ) > bound - 1e-4 * size * decrease:
            size *= 0.5
            if size < 1e-10:
                return weights, norm, taken
        weights, value = weights - size * step, moved_value
        gradient = objective.gradient(weights)
    return weights, float(np.linalg.norm(gradient)), max_iter

"""Support vector regression of the targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.base import clone
from sklearn.svm import SVR

from subkern.agreement.blocks import Array, as_matrix
from subkern.errors import UserError
from subkern.solvers.base import KernelSolver, Problem
from subkern.solvers.folds import stratified_folds
from subkern.solvers.machines import Logits, split_kernel, split_logits
from subkern.solvers.spectral import most_regularised

__all__ = ["PENALTIES", "SVRSolver"]

PENALTIES: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Candidates for C. libsvm's steps grow in proportion to C: 1,000 takes ten times as long."""


class SVRSolver(KernelSolver):
    """scikit-learn's `SVR` (epsilon-insensitive loss, intercept) on one-hot (or +1, -1) targets.

    Regresses ``t - f0 / f0_scale`` and adds ``f0 / f0_scale`` back, so f0 counts in full (unlike in
    `SVCSolver`). The kernel of a machine is divided by the mean squared distance of its training
    samples from their centre, so that C means the same at every scale and for nearly constant
    kernels. The ``svr`` solver of the LM-Kernel-FT code is ``logits="joint"`` with C = 1 on the
    kernel as it is: here ``C = units_[0]``.

    It needs a symmetric, positive semi-definite kernel: libsvm minimizes ``a' K a / 2 + ...``, in
    which the antisymmetric part of K drops out, while prediction would use it: the machine would
    not predict the function that it fitted. For asymmetric kernels see `AsymmetricLSSVMSolver`.

    With ``C=None`` it is the one of ``grid`` with the smallest squared error in stratified
    cross-validation, ties going to the smaller.

    Args:
        C: penalty; None chooses it.
        epsilon: errors up to this are free, in the units of the targets.
        grid: candidates for C.
        cv: folds, at most the examples of the rarest class.
        logits: ``joint`` (one machine, one intercept) or ``separate`` (c machines), see
            `subkern.solvers.machines`.
        f0_scale: divides f0; None ignores f0.
        tol: how far from optimal libsvm may stop, in the units of the targets.
        random_state: seed of the folds.

    Attributes:
        machines_: the fitted `sklearn.svm.SVR`, one or c of them.
        units_: what their kernels were divided by.
        C_: the chosen C; ``regularization_`` is its inverse.
        cv_curve_: C to cross-validated squared error, added over logits; empty where C was given.
    """

    takes_real = True

    def __init__(
        self,
        C: float | None = None,
        epsilon: float = 0.1,
        grid: Sequence[float] = PENALTIES,
        cv: int = 5,
        logits: Logits = "joint",
        f0_scale: float | None = 1.0,
        tol: float = 1e-4,
        random_state: int = 0,
    ) -> None:
        self.C = C
        self.epsilon = epsilon
        self.grid = grid
        self.cv = cv
        self.logits = logits
        self.f0_scale = f0_scale
        self.tol = tol
        self.random_state = random_state

    def _solve(self, problem: Problem) -> None:
        """Choose C and fit."""
        candidates = self._candidates()
        wanted = problem.targets - problem.offset
        self.cv_curve_: dict[float, float] = {}
        chosen = 0
        if len(candidates) > 1:
            errors = self._cross_validate(problem, wanted, candidates)
            self.cv_curve_ = dict(zip(candidates, errors.tolist(), strict=True))
            chosen = most_regularised(errors, self.tol)  # libsvm knows them no better
        self.C_ = candidates[chosen]
        self.regularization_ = 1.0 / self.C_
        self._fitted = self._fit(problem.kernel, wanted, self.C_)
        self.machines_ = [one.machine for one in self._fitted]
        self.units_ = [one.unit for one in self._fitted]

    def _candidates(self) -> list[float]:
        """Return the candidates for C, most regularized first; `UserError` on bad settings."""
        if not (np.isfinite(self.epsilon) and self.epsilon >= 0):
            raise UserError(f"epsilon={self.epsilon!r} is negative: give the error that is free")
        candidates = list(self.grid) if self.C is None else [self.C]
        if not candidates:
            raise UserError("the grid of C is empty: give at least one value above 0")
        for value in candidates:
            if not (np.isfinite(value) and value > 0):
                raise UserError(f"C={value!r} is not above 0: give the penalty of an error")
        return sorted(float(value) for value in candidates)

    def _fit(self, kernel: Array, wanted: Array, penalty: float) -> list[_Machine]:
        """Return the machines fitted to ``wanted`` ``[n, c]``."""
        parts = zip(
            split_kernel(kernel, self.logits), split_logits(wanted, self.logits), strict=True
        )
        machine = SVR(C=penalty, epsilon=self.epsilon, kernel="precomputed", tol=self.tol)
        return [_Machine.fit(clone(machine), part, own) for part, own in parts]

    def _predict(self, machines: list[_Machine], kernel: Array) -> Array:
        """Return predictions ``[m, c]``."""
        parts = zip(machines, split_kernel(kernel, self.logits), strict=True)
        return np.hstack([one.predict(part) for one, part in parts])

    def _cross_validate(self, problem: Problem, wanted: Array, candidates: list[float]) -> Array:
        """Return the squared error of held-out examples, added over logits, for each C."""
        errors = np.zeros(len(candidates))
        for train, held in stratified_folds(problem.labels, self.cv, self.random_state):
            rows = problem.kernel[train]
            for i, candidate in enumerate(candidates):
                machines = self._fit(rows[:, :, train], wanted[train], candidate)
                found = self._predict(machines, rows[:, :, held])
                errors[i] += float(np.sum((wanted[held] - found) ** 2))
        return errors / len(wanted)

    def _scores(self, kernel: Array, offset: Array) -> Array:
        """Return ``offset`` plus the machines' predictions."""
        return offset + self._predict(self._fitted, kernel)


@dataclass(frozen=True)
class _Machine:
    """An `SVR` on a kernel ``[n, k, n, k]`` flattened and divided by ``unit``."""

    machine: SVR
    unit: float

    @classmethod
    def fit(cls, machine: SVR, kernel: Array, wanted: Array) -> _Machine:
        """Fit ``machine`` to ``wanted`` ``[n, k]``; raises `UserError` on a constant kernel."""
        gram = as_matrix(kernel)
        unit = (float(np.trace(gram)) - float(gram.sum()) / len(gram)) / len(gram)
        if unit <= 1e-12 * float(np.abs(gram).max()):
            raise UserError(
                "the training kernel does not tell any two examples apart: it is constant"
            )
        return cls(machine.fit(gram / unit, wanted.ravel()), unit)

    def predict(self, kernel: Array) -> Array:
        """Return predictions ``[m, k]`` from a kernel ``[n, k, m, k]``."""
        found = self.machine.predict(as_matrix(kernel).T / self.unit)
        return np.asarray(found, dtype=np.float64).reshape(kernel.shape[2:])

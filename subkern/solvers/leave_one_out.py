"""Solvers that choose their regularization by leaving out one example at a time, in closed form."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from subkern.agreement.blocks import Array
from subkern.agreement.predictions import predicted
from subkern.errors import UserError
from subkern.solvers.base import KernelSolver, Problem
from subkern.solvers.spectral import DEFAULT_GRID, check_regularization, most_regularised

__all__ = ["LeastSquaresSolver", "LeaveOneOutSolver"]


class LeaveOneOutSolver(KernelSolver):
    """Base of solvers that know their leave-one-out scores at every candidate.

    Attributes:
        loo_scores_: ``[n, c]``, leave-one-out scores of the training examples, f0 included.
        loo_error_: mean over examples of their squared error, added over logits; infinite where
            they are not finite.
        loo_accuracy_: accuracy of these scores; NaN of real labels.
        loo_curve_: candidate to leave-one-out error.
    """

    def _choose(
        self, problem: Problem, candidates: Sequence[float], residuals: Sequence[Array]
    ) -> int:
        """Return which candidate's residuals ``[n, c]`` are smallest, and keep what they say.

        Candidates are most regularized first, and ties go to the first.
        """
        errors = np.array([float(np.mean(np.sum(each**2, axis=1))) for each in residuals])
        errors[~np.isfinite(errors)] = np.inf
        chosen = most_regularised(errors)
        self.loo_scores_ = problem.targets - residuals[chosen]
        self.loo_error_ = float(errors[chosen])
        found = predicted(self.loo_scores_, problem.labels)
        real = problem.labels.dtype.kind == "f"
        self.loo_accuracy_ = float("nan") if real else float(np.mean(found == problem.labels))
        self.loo_curve_ = dict(zip(candidates, errors.tolist(), strict=True))
        return chosen


class LeastSquaresSolver(LeaveOneOutSolver):
    """Base of the solvers whose one setting is a share r of the mean eigenvalue.

    A new one implements `_solutions`.
    """

    def __init__(
        self,
        regularization: float | None = None,
        grid: Sequence[float] = DEFAULT_GRID,
        f0_scale: float | None = 1.0,
    ) -> None:
        self.regularization = regularization
        self.grid = grid
        self.f0_scale = f0_scale

    @abstractmethod
    def _solutions(self, problem: Problem, candidates: list[float]) -> list[tuple[Array, Array]]:
        """Return alpha ``[n, c]`` and leave-one-out residuals ``[n, c]`` at every candidate."""

    def _candidates(self) -> list[float]:
        """Return the candidates for r, most regularized first; `UserError` on bad ones."""
        return check_regularization(self.regularization, tuple(self.grid))

    def _solve(self, problem: Problem) -> None:
        """Choose r by leave-one-out and keep alpha."""
        candidates = self._candidates()
        if len(candidates) > 1 and len(problem.labels) < 2:
            raise UserError(
                "one training example leaves none when it is left out: give regularization="
            )
        solved = self._solutions(problem, candidates)
        chosen = self._choose(problem, candidates, [residuals for _, residuals in solved])
        self.coef_ = solved[chosen][0]
        self.regularization_ = candidates[chosen]

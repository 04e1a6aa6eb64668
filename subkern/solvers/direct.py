"""Least squares on a kernel that need not be symmetric."""

from __future__ import annotations

import numpy as np

from subkern.agreement.blocks import Array, as_matrix
from subkern.errors import UserError
from subkern.solvers.base import Problem
from subkern.solvers.leave_one_out import LeastSquaresSolver

__all__ = ["AsymmetricRidgeSolver"]

# An inverse loses all but a few digits of float64 beyond this condition number (1-norm).
SINGULAR = 1e13


class AsymmetricRidgeSolver(LeastSquaresSolver):
    """Least squares of one-hot (or +1, -1) targets on all logits jointly, on an asymmetric kernel.

    ``(K' + r mu I) alpha = t - f0 / f0_scale``, mu the mean singular value of K; scores are ``f0 /
    f0_scale + K' alpha``. On a symmetric kernel it is `RidgeSolver`. The transpose is what makes it
    training: a step of size ``alpha_ia`` on logit a of example i under a rule u moves logit b of x
    by ``alpha_ia <u(g_ia), g_b(x)> = alpha_ia K[i, a, x, b]``, the rule on the left, so scores of
    the training examples are ``K' alpha``, not ``K alpha``. Training on the squared loss with a
    frozen kernel, ``d alpha / d tau = t - f``, ends at r = 0 if the eigenvalues of K have positive
    real parts; r > 0 stands for stopping early. It needs K(train, X) only.

    r = 0 is least squares with the alpha of smallest norm. A matrix ``K' + r mu I`` that is
    singular all the same (K has a negative eigenvalue) is solved likewise.

    With ``regularization=None`` r is the one of ``grid`` with the smallest leave-one-example-out
    error, in closed form as in `RidgeSolver` (the residual is ``G_ii^-1 alpha_i`` with ``G = (K' +
    r mu I)^-1``, whether or not G is symmetric). Ties go to the larger r.

    Args:
        regularization: r, as a share of the mean singular value; 0 for none; None chooses it.
        grid: candidates for r, above 0.
        f0_scale: divides f0; None ignores f0.

    Attributes:
        coef_: ``[n, c]``, alpha.
        regularization_: r.
        loo_scores_: ``[n, c]``, leave-one-out scores of the training examples at r, f0 included;
            NaN where the matrix is singular.
        loo_error_: mean over examples of their squared error, added over logits; infinite there.
        loo_accuracy_: accuracy of these scores.
        loo_curve_: r to leave-one-out error, for every candidate.
    """

    requires_symmetric = False
    takes_real = True

    def _candidates(self) -> list[float]:
        """Return the candidates for r, most regularized first; 0 alone is one of them too."""
        return [0.0] if self.regularization == 0 else super()._candidates()

    def _solutions(self, problem: Problem, candidates: list[float]) -> list[tuple[Array, Array]]:
        """Return alpha and leave-one-out residuals ``[n, c]`` at every candidate."""
        matrix = as_matrix(problem.kernel).T
        mean = float(np.linalg.svd(matrix, compute_uv=False).mean())
        if mean <= 0:
            raise UserError("training kernel is zero: there is nothing to learn from")
        wanted = problem.targets - problem.offset
        return [_solve_one(matrix, wanted, share * mean) for share in candidates]


def _solve_one(matrix: Array, wanted: Array, shift: float) -> tuple[Array, Array]:
    """Return alpha ``[n, c]`` of ``(matrix + shift I) alpha = wanted`` and its leave-one-out
    residuals ``[n, c]``, NaN where the matrix is singular.
    """
    n, c = wanted.shape
    shifted = matrix + shift * np.eye(n * c)
    try:
        inverse = np.linalg.inv(shifted)
        condition = float(np.linalg.norm(shifted, 1) * np.linalg.norm(inverse, 1))
    except np.linalg.LinAlgError:
        condition = float("inf")
    if not condition < SINGULAR:
        alpha = np.linalg.lstsq(shifted, wanted.ravel(), rcond=None)[0]
        return np.asarray(alpha, dtype=np.float64).reshape(n, c), np.full((n, c), np.nan)
    alpha = (inverse @ wanted.ravel()).reshape(n, c)
    each = np.arange(n)
    blocks = inverse.reshape(n, c, n, c)[each, :, each, :]
    return alpha, np.asarray(np.linalg.solve(blocks, alpha[:, :, None])[:, :, 0])

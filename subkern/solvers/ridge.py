"""Kernel ridge regression on the logits, with leave-one-out in closed form."""

from __future__ import annotations

import numpy as np

from subkern.agreement.blocks import Array
from subkern.solvers.base import Problem
from subkern.solvers.leave_one_out import LeastSquaresSolver
from subkern.solvers.spectral import Eigenbasis

__all__ = ["RidgeSolver"]


class RidgeSolver(LeastSquaresSolver):
    """Ridge regression of one-hot (or +1, -1, or real) targets on all logits jointly.

    ``(K + r mu I) alpha = t - f0 / f0_scale`` over the ``n*c`` pairs of example and logit, mu the
    mean eigenvalue of K; scores are ``f0 / f0_scale + K' alpha``. This is where gradient flow on
    the squared loss stops early, or ends for r = 0. Symmetric kernels only: it works in their
    eigenbasis; `AsymmetricRidgeSolver` solves the same equations for any kernel.

    With ``regularization=None`` r is the one of ``grid`` with the smallest leave-one-out error. One
    *example* is left out at a time, with all its logits: with ``G = (K + r mu I)^-1`` the residual
    of the model that has never seen example i is ``G_ii^-1 alpha_i``, ``G_ii`` its c x c block (the
    block form of Allen's PRESS). Ties go to the larger r.

    Args:
        regularization: r, as a share of the mean eigenvalue; None chooses it.
        grid: candidates for r.
        f0_scale: divides f0; None ignores f0.

    Attributes:
        coef_: ``[n, c]``, alpha.
        regularization_: r.
        loo_scores_: ``[n, c]``, leave-one-out scores of the training examples at r, f0 included.
        loo_error_: mean over examples of the squared leave-one-out error, added over logits, at r.
        loo_accuracy_: accuracy of the leave-one-out predictions at r.
        loo_curve_: r to leave-one-out error, for every candidate.
    """

    takes_real = True

    def _solutions(self, problem: Problem, candidates: list[float]) -> list[tuple[Array, Array]]:
        """Return alpha and leave-one-out residuals ``[n, c]`` at every candidate."""
        basis = Eigenbasis.of(problem.kernel)
        wanted = problem.targets - problem.offset
        return [_leave_one_out(basis, wanted, share) for share in candidates]


def _leave_one_out(basis: Eigenbasis, wanted: Array, share: float) -> tuple[Array, Array]:
    """Return alpha ``[n, c]`` and the leave-one-out residuals ``[n, c]`` for one regularization."""
    n, c = wanted.shape
    inverse = 1.0 / (basis.values + share * basis.mean)
    alpha = (basis.vectors @ (inverse * (basis.vectors.T @ wanted.ravel()))).reshape(n, c)
    rows = basis.vectors.reshape(n, c, n * c)
    blocks = (rows * inverse) @ rows.transpose(0, 2, 1)
    residuals = np.asarray(np.linalg.solve(blocks, alpha[:, :, None])[:, :, 0], dtype=np.float64)
    return alpha, residuals

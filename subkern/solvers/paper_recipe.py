"""The conventions of the LM-Kernel-FT code (Malladi et al. 2023), for comparison with its
numbers.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import lstsq
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from threadpoolctl import threadpool_limits

from subkern.agreement.blocks import NOISE, Array, as_matrix
from subkern.errors import UserError
from subkern.solvers.base import KernelSolver, Problem
from subkern.solvers.folds import stratified_folds
from subkern.solvers.svc import class_scores

__all__ = ["LstsqSolver", "RowLogisticSolver"]


def _regularised(kernel: Array, share: float) -> Array:
    """Return the matrix ``[n*c, n*c]`` with ``share`` of its operator norm added to the
    diagonal.
    """
    if not (np.isfinite(share) and share >= 0):
        raise UserError(
            f"regularization={share!r} is negative: give a share of the operator norm, 0 for none"
        )
    matrix = as_matrix(kernel)
    if share == 0:
        return matrix
    return matrix + share * float(np.linalg.norm(matrix, 2)) * np.eye(len(matrix))


class LstsqSolver(KernelSolver):
    """Least squares on flattened targets: the ``lstsq`` solver of LM-Kernel-FT.

    Solves ``(K + r ||K||_2 I) alpha = t - f0 / f0_scale`` for the ``n*c`` pairs of example and
    logit in the sense of least squares (smallest alpha where K is singular to 1e-10); t is one-hot,
    or +1 and -1 for a single logit. Scores are ``f0 / f0_scale + K' alpha``. The same model as
    `RidgeSolver`, with r measured against the largest eigenvalue and not chosen. Symmetric kernels
    only: on others that code solves with K and predicts with K', and does not fit even its training
    examples; `AsymmetricRidgeSolver` solves with K'.

    Args:
        regularization: r, as a share of the operator norm.
        f0_scale: divides f0; None ignores f0 (there, any scale of 0 or less does).

    Attributes:
        coef_: ``[n, c]``, alpha.
        rank_: rank of the system, as LAPACK's ``gelsy`` saw it.
    """

    def __init__(self, regularization: float = 0.0, f0_scale: float | None = 1.0) -> None:
        self.regularization = regularization
        self.f0_scale = f0_scale

    def _solve(self, problem: Problem) -> None:
        """Solve the flattened system."""
        matrix = _regularised(problem.kernel, self.regularization)
        wanted = problem.targets - problem.offset
        # The driver of torch.linalg.lstsq on a CPU; its cut-off, eps * n, takes rounding for rank.
        cutoff = max(float(np.finfo(np.float64).eps) * len(matrix), NOISE)
        solution, _, self.rank_, _ = lstsq(
            matrix, wanted.ravel(), cond=cutoff, lapack_driver="gelsy"
        )
        self.coef_ = solution.reshape(wanted.shape)


class RowLogisticSolver(KernelSolver):
    """Logistic regression with kernel rows as features: the ``logistic`` solver of LM-Kernel-FT.

    The features of example j are its kernel with every training example, ``K[:, :, j, :]``; ten
    penalties C from 1e-4 to 1e4 are compared by accuracy in stratified folds in the order of the
    examples, and scikit-learn's `LogisticRegression` is fitted with the best. Not kernel logistic
    regression: the penalty is on the weights of kernel values, so it acts as if the kernel were
    squared. For that see `LogisticSolver`.

    Beyond that code, which takes a single logit and ignores f0: several logits give ``n * c * c``
    features, and f0 joins as c more features ``f0 / f0_scale``. An asymmetric kernel is used from
    the same side throughout.

    Args:
        regularization: share of the operator norm added to the diagonal of the training kernel.
        cv: folds, at most the examples of the rarest class.
        max_iter: steps of the optimizer.
        f0_scale: divides f0; None ignores f0.

    Attributes:
        model_: the fitted `LogisticRegression`.
        C_: its penalty.
    """

    requires_symmetric = False
    adds_f0 = False

    def __init__(
        self,
        regularization: float = 0.0,
        cv: int = 5,
        max_iter: int = 10_000,
        f0_scale: float | None = 1.0,
    ) -> None:
        self.regularization = regularization
        self.cv = cv
        self.max_iter = max_iter
        self.f0_scale = f0_scale

    def _solve(self, problem: Problem) -> None:
        """Choose the penalty in folds and fit on all rows."""
        if len(np.unique(problem.labels)) < 2:
            raise UserError(
                f"all training labels are {problem.labels[0]}: RowLogisticSolver needs two classes"
            )
        kernel = _regularised(problem.kernel, self.regularization).reshape(problem.kernel.shape)
        search = GridSearchCV(
            LogisticRegression(max_iter=self.max_iter, random_state=0),
            {"C": np.logspace(-4, 4, 10)},
            scoring="accuracy",
            cv=stratified_folds(problem.labels, self.cv, seed=None),
        )
        # Thousands of tiny matrix products: threads cost more than they bring.
        with threadpool_limits(limits=1):
            search.fit(self._features(kernel, problem.offset), problem.labels)
        self.model_, self.C_ = search.best_estimator_, float(search.best_params_["C"])

    def _features(self, kernel: Array, offset: Array) -> Array:
        """Return features ``[m, n*c*c]``, f0 appended where there is one."""
        rows = kernel.transpose(2, 0, 1, 3).reshape(kernel.shape[2], -1)
        return np.hstack([rows, offset]) if self.uses_f0_ else rows

    def _scores(self, kernel: Array, offset: Array) -> Array:
        """Return log probabilities ``[m, c]``, or the log odds ``[m, 1]`` of a single logit."""
        logs = self.model_.predict_log_proba(self._features(kernel, offset))
        if self.num_logits_ == 1:
            return logs[:, 1:] - logs[:, :1]
        return class_scores(logs, self.model_.classes_, self.num_logits_)

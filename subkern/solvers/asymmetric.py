"""The least squares support vector machine for asymmetric kernels (He et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from subkern.agreement.blocks import Array, as_matrix
from subkern.errors import UserError
from subkern.prompts.marked import MISSING
from subkern.solvers.base import Problem
from subkern.solvers.leave_one_out import LeaveOneOutSolver
from subkern.solvers.machines import Logits, one_against_rest, split_kernel, split_logits

__all__ = ["GAMMAS", "AsymmetricLSSVMSolver"]

GAMMAS: tuple[float, ...] = tuple(10.0**-power for power in range(-6, 3))
"""Candidates for gamma, the inverses of `subkern.solvers.DEFAULT_GRID`."""

# 1 / gamma this close to a singular value, as a share of the largest one, makes the system singular
# to half the digits: the direction is left out, as the solution of smallest norm does.
POLE = 1e-8

Unit = Literal["mean", "raw"]


class AsymmetricLSSVMSolver(LeaveOneOutSolver):
    """AsK-LS: least squares with two feature maps, for asymmetric (and symmetric) kernels.

    With ``K[i, j] = <s(x_i), t(x_j)>`` (``asymmetric_signgd``: s the sign of the gradient, t the
    gradient) it fits a function of each, ``f_t(x) = <w, t(x)> = sum_i alpha_i K(x_i, x)`` and
    ``f_s(x) = <v, s(x)> = sum_i beta_i K(x, x_i)``, at the stationary point of ``<w, v> + gamma / 2
    sum_i (y_i - f_t(x_i))^2 + (y_i - f_s(x_i))^2``. Its KKT system is::

        [ rho I     K   ] [alpha]   [y]
        [   K'    rho I ] [beta ] = [y],    rho = 1 / gamma,

    the system of He et al. (2022) after multiplying alpha and beta by the labels ±1, without
    intercepts (as in the LM-Kernel-FT code: f0 plays their part). y is +1 at the label and -1
    elsewhere, less ``f0 / f0_scale``. That is where it differs from that code, which writes H = y K
    y with 0 as a target (whole rows vanish) and with f0 taken off inside the product.

    Scores are ``f0 / f0_scale + lam f_t + (1 - lam) f_s``. ``lam=1``, the default, is the function
    that training moves: a step on x_i changes f(x) by ``K(x_i, x)``, the rule on the side of the
    training example. It needs only K(train, X). ``lam < 1`` mixes in the function of the rule's own
    features and needs the reverse K(X, train) too. For a symmetric kernel alpha = beta, both
    functions agree, and with one logit it is `RidgeSolver` with ``regularization = 1 / gamma``.

    The system is indefinite, singular where rho meets a singular value of K: close to one the
    solution blows up, unless K is symmetric. Such directions (to 1e-8) are left out; `condition_`
    tells.

    With ``gamma=None`` it is the one of ``grid`` with the smallest leave-one-example-out squared
    error of the mixed scores, in closed form from the inverse of the system, as in `RidgeSolver`;
    ties go to the smaller gamma.

    Args:
        gamma: weight of the errors; None chooses it.
        lam: share of f_t, from 0 to 1 (λ of the LM-Kernel-FT code).
        grid: candidates for gamma.
        unit: gamma is in units of ``1 / mean singular value of K`` (``mean``, so that no scale of
            the kernel matters) or as in the papers (``raw``).
        logits: ``joint`` or ``separate``, see `subkern.solvers.machines`.
        f0_scale: divides f0; None ignores f0.

    Attributes:
        alpha_, beta_: ``[n, c]``, coefficients of f_t and f_s.
        gamma_: the chosen gamma; ``regularization_`` is its inverse.
        condition_: condition number of the system (the worst of the machines).
        loo_scores_: ``[n, c]``, leave-one-out scores at gamma, f0 included.
        loo_error_: mean over examples of their squared error, added over logits; infinite where
            the system is singular.
        loo_accuracy_: accuracy of these scores.
        loo_curve_: gamma to leave-one-out error, for every candidate.

    Source: M. He, F. He, L. Shi, X. Huang, J. Suykens, Learning with asymmetric kernels: least
    squares and feature interpretation, IEEE TPAMI 2023 (arXiv:2202.01397).
    """

    requires_symmetric = False

    def __init__(
        self,
        gamma: float | None = None,
        lam: float = 1.0,
        grid: Sequence[float] = GAMMAS,
        unit: Unit = "mean",
        logits: Logits = "joint",
        f0_scale: float | None = 1.0,
    ) -> None:
        self.gamma = gamma
        self.lam = lam
        self.grid = grid
        self.unit = unit
        self.logits = logits
        self.f0_scale = f0_scale

    def _solve(self, problem: Problem) -> None:
        """Choose gamma by leave-one-out and keep both sets of coefficients."""
        candidates = self._candidates()
        one = replace(problem, targets=one_against_rest(problem.labels, problem.kernel.shape[1]))
        gone = one.offset <= MISSING
        wanted = split_logits(np.where(gone, 0.0, one.targets - one.offset), self.logits)
        systems = [_System.of(kernel) for kernel in split_kernel(problem.kernel, self.logits)]
        pairs = list(zip(systems, wanted, strict=True))
        residuals = [
            np.hstack([s.left_out(t, self._rho(s, gamma), self.lam) for s, t in pairs])
            for gamma in candidates
        ]
        self.gamma_ = candidates[self._choose(one, candidates, residuals)]
        self.regularization_ = 1.0 / self.gamma_
        solved = [s.solve(t, self._rho(s, self.gamma_)) for s, t in pairs]
        self.alpha_, self.beta_ = (np.hstack(side) for side in zip(*solved, strict=True))
        self.coef_ = self.alpha_
        self.condition_ = max(s.condition(self._rho(s, self.gamma_)) for s in systems)

    def _candidates(self) -> list[float]:
        """Return the candidates for gamma, most regularized first; `UserError` on bad settings."""
        if self.unit not in ("mean", "raw"):
            raise UserError(f"unit={self.unit!r} is not known: use 'mean' or 'raw'")
        if not 0 <= self.lam <= 1:
            raise UserError(f"lam={self.lam!r} is no share: give 0 (f_s) to 1 (f_t, K(train, X))")
        candidates = list(self.grid) if self.gamma is None else [self.gamma]
        if not candidates:
            raise UserError("the grid of gamma is empty: give at least one value above 0")
        for value in candidates:
            if not (np.isfinite(value) and value > 0):
                raise UserError(f"gamma={value!r} is not above 0: give the weight of the errors")
        return sorted(float(value) for value in candidates)

    def _rho(self, system: _System, gamma: float) -> float:
        """Return 1 / gamma in the kernel's units."""
        return (float(system.values.mean()) if self.unit == "mean" else 1.0) / gamma

    def _scores_of_both(self, kernel: Array, reverse: Array | None, offset: Array) -> Array:
        """Return ``offset + lam f_t + (1 - lam) f_s``."""
        if reverse is None and self.symmetric_:
            reverse = kernel
        if reverse is None and self.lam < 1:
            raise UserError(
                f"lam={self.lam!r} needs K(X, train) besides K(train, X) and the kernel has one "
                "direction: give reverse= (a Kernel of an asymmetric rule carries it), or lam=1"
            )
        scores = offset
        for share, coef, side in (
            (self.lam, self.alpha_, kernel),
            (1.0 - self.lam, self.beta_, reverse),
        ):
            if share > 0 and side is not None:
                scores = scores + share * self._expand(coef, side)
        return scores

    def _expand(self, coef: Array, kernel: Array) -> Array:
        """Return ``sum_ia coef[i, a] K[i, a, j, b]`` as ``[m, c]``, each machine its own logits."""
        machines = zip(
            split_logits(coef, self.logits), split_kernel(kernel, self.logits), strict=True
        )
        return np.hstack([np.tensordot(own, part, axes=([0, 1], [0, 1])) for own, part in machines])


@dataclass(frozen=True)
class _System:
    """The KKT system of one machine in the singular basis of its kernel, ``K = U diag(s) V'``.

    There it falls apart into 2 x 2 systems ``[rho, s; s, rho]`` with the eigenvalues ``rho + s``
    (alpha and beta alike) and ``rho - s`` (opposite), so one decomposition serves every gamma.
    """

    left: Array
    """``[n*k, n*k]``, columns: U."""
    values: Array
    """``[n*k]``, s, descending."""
    right: Array
    """``[n*k, n*k]``, columns: V."""

    @classmethod
    def of(cls, kernel: Array) -> _System:
        """Decompose a training kernel ``[n, k, n, k]``; raises `UserError` if it is zero."""
        left, values, right = np.linalg.svd(as_matrix(kernel))
        if values[0] <= 0:
            raise UserError("training kernel is zero: there is nothing to learn from")
        return cls(left, values, right.T)

    def gains(self, rho: float) -> tuple[Array, Array]:
        """Return ``1 / (rho + s)`` and ``1 / (rho - s)``, the latter 0 where it is a pole."""
        difference = rho - self.values
        pole = np.abs(difference) <= POLE * self.values[0]
        return 1.0 / (rho + self.values), np.where(pole, 0.0, 1.0 / np.where(pole, 1.0, difference))

    def condition(self, rho: float) -> float:
        """Return the condition number of the system, infinity at a pole."""
        sizes = np.concatenate([rho + self.values, np.abs(rho - self.values)])
        least = float(sizes.min())
        return float(sizes.max()) / least if least > POLE * self.values[0] else float("inf")

    def solve(self, wanted: Array, rho: float) -> tuple[Array, Array]:
        """Return alpha and beta ``[n, k]``, of smallest norm where the system is singular."""
        alike, opposite = self.gains(rho)
        p, q = self.left.T @ wanted.ravel(), self.right.T @ wanted.ravel()
        even, odd = 0.5 * (p + q) * alike, 0.5 * (p - q) * opposite
        alpha, beta = self.left @ (even + odd), self.right @ (even - odd)
        return alpha.reshape(wanted.shape), beta.reshape(wanted.shape)

    def left_out(self, wanted: Array, rho: float, lam: float) -> Array:
        """Return leave-one-example-out residuals ``[n, k]`` of ``lam f_t + (1 - lam) f_s``.

        Taking the equations and unknowns of example i out of ``M z = b`` leaves it the residual
        ``(M^-1)_ii^-1 z_i``; its block is 2k x 2k, alpha and beta. NaN if the system is singular.
        """
        n, k = wanted.shape
        if not np.isfinite(self.condition(rho)):
            return np.full((n, k), np.nan)
        alike, opposite = self.gains(rho)
        same, cross = 0.5 * (alike + opposite), 0.5 * (alike - opposite)
        u, v = (side.reshape(n, k, n * k) for side in (self.left, self.right))
        vt, ut = v.transpose(0, 2, 1), u.transpose(0, 2, 1)
        upper = np.concatenate([(u * same) @ ut, (u * cross) @ vt], axis=2)
        lower = np.concatenate([(v * cross) @ ut, (v * same) @ vt], axis=2)
        blocks = np.concatenate([upper, lower], axis=1)
        both = np.concatenate(self.solve(wanted, rho), axis=1)
        residuals = np.linalg.solve(blocks, both[:, :, None])[:, :, 0]
        # The rows of alpha state K beta = f_s, those of beta K' alpha = f_t.
        return np.asarray((1.0 - lam) * residuals[:, :k] + lam * residuals[:, k:])

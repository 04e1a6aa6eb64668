"""Gradient flow in function space: gradient descent in the limit of small steps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg
import xarray as xr
from scipy.integrate import solve_ivp

from subkern.dynamics.problem import Floats, Problem, trajectory
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel

__all__ = ["gradient_flow"]

# Eigenvalues below this share of the largest are rounding; at t = ∞ they count as 0.
_ROUNDING = 1e-12


def gradient_flow(
    train: Kernel,
    evaluation: Kernel | None = None,
    *,
    times: npt.ArrayLike,
    loss: str = "squared",
    tolerance: float = 1e-9,
) -> xr.DataArray:
    """Logits of the linearized model under gradient flow on the mean loss of all examples.

    df(x)/dt = −1/n Σ_ia r_ia K[(i, a), x], r = ∂ℓ/∂f. Time is learning rate × steps: SGD with all
    examples in a batch gets there as the learning rate goes to 0.

    * ``squared``: closed form. With K = U Λ Uᵀ, train against train, and t the targets,
      f(x, T) = f₀(x) − K(x, ·) U φ(Λ) Uᵀ (f₀ − t) with φ(λ) = (1 − e^{−λT/n})/λ; T = ∞ is kernel
      regression without regularization, φ = 1/λ (0 where λ is).
    * ``cross_entropy``: no closed form. f = f₀ + K α with dα/dt = −r/n is integrated for the
      nc coefficients α by LSODA (`scipy.integrate.solve_ivp`), which turns to a stiff method where
      the kernel's spectrum asks for it.

    Args:
        train: symmetric kernel of the n training examples, with labels and initial logits.
        evaluation: of the training examples with the m that are followed; None means `train`.
        times: ascending, each once, from 0 on; ``inf`` for the squared loss only.
        loss: ``squared`` or ``cross_entropy``.
        tolerance: relative error of the integration.

    Returns:
        Logits ``[t, m, c]``, dims ``time``, ``example``, ``logit``.

    Raises:
        UserError: the kernels do not fit, or a time does not.
    """
    problem = Problem.of_sgd(train, evaluation, loss, "gradient flow")
    if not train.is_symmetric:
        raise UserError("the kernel is not symmetric: gradient flow needs train against train")
    at = _check_times(times, loss)
    solve = _closed if loss == "squared" else _integrated
    coefficients = solve(problem, at, tolerance)
    followed = np.tensordot(coefficients, problem.evaluation, axes=([1, 2], [0, 1]))
    values = problem.evaluation_start + followed
    return trajectory(values, problem.ids, "time", at, optimizer="gradient flow", loss=loss)


def _check_times(times: npt.ArrayLike, loss: str) -> Floats:
    """Times ``[t]``, checked."""
    at = np.atleast_1d(np.asarray(times, dtype=np.float64))
    if at.ndim != 1 or at.size == 0 or not (at >= 0).all() or (at[1:] <= at[:-1]).any():
        raise UserError(f"times {at.tolist()} are not ascending numbers from 0 on, each once")
    if loss != "squared" and np.isinf(at).any():
        raise UserError(f"{loss} has no limit at time inf: its logits grow for ever; leave it out")
    return at


def _closed(problem: Problem, times: Floats, _: float) -> Floats:
    """Coefficients α ``[t, n, c]`` of the squared loss by eigendecomposition."""
    n, c = problem.start.shape
    values, vectors = scipy.linalg.eigh(problem.kernel.reshape(n * c, n * c))
    floor = _ROUNDING * max(float(values[-1]), 0.0)
    small = values <= floor
    safe = np.where(small, 1.0, values)
    amplitude = vectors.T @ (problem.start - problem.targets).reshape(-1)
    found = []
    for time in times:
        if np.isinf(time):
            grown = np.where(small, 0.0, 1.0 / safe)
        else:  # −expm1(−λT/n)/λ goes to T/n as λ goes to 0
            grown = np.where(small, time / n, -np.expm1(-safe * (time / n)) / safe)
        found.append(-(vectors @ (grown * amplitude)).reshape(n, c))
    return np.asarray(found)


def _integrated(problem: Problem, times: Floats, tolerance: float) -> Floats:
    """Coefficients α ``[t, n, c]`` of the cross-entropy by integration.

    In units of the kernel's mean diagonal, so that the state and the logits are of one size.
    """
    n, c = problem.start.shape
    matrix = problem.kernel.reshape(n * c, n * c)
    scale = float(np.trace(matrix)) / (n * c) or 1.0
    unit = matrix / scale

    def logits(state: Floats) -> Floats:
        return problem.start + (unit @ state).reshape(n, c)

    def slope(_: float, state: Floats) -> Floats:
        return -problem.residual(logits(state)).reshape(-1) / n

    def jacobian(_: float, state: Floats) -> Floats:
        blocks = _hessian(logits(state))
        return -np.einsum("iab,ibj->iaj", blocks, unit.reshape(n, c, n * c)).reshape(n * c, -1) / n

    if times[-1] == 0.0:
        return np.zeros((len(times), n, c))
    found = solve_ivp(
        slope,
        (0.0, float(times[-1]) * scale),
        np.zeros(n * c),
        method="LSODA",
        t_eval=times * scale,
        jac=jacobian,
        rtol=tolerance,
        atol=tolerance,
    )
    if not found.success:
        raise UserError(f"gradient flow cannot be integrated: {found.message}; use shorter times")
    coefficients: Floats = found.y.T.reshape(len(times), n, c) / scale
    return coefficients


def _hessian(logits: Floats) -> Floats:
    """Second derivatives ``[n, c, c]`` of each example's cross-entropy by its logits ``[n, c]``."""
    if logits.shape[1] == 1:
        p = 0.5 * (1 + np.tanh(0.5 * logits))
        return (p * (1 - p))[:, :, None]
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    diagonal: Floats = np.einsum("ia,ab->iab", p, np.eye(p.shape[1]))
    return diagonal - p[:, :, None] * p[:, None, :]

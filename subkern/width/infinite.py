"""The perceptron at infinite width: its neural tangent kernel, and an entrywise first step.

Both are of `Perceptrons` with base width 1 under ``ntp``, for rates η = 1: sums over units are
means over Gaussian pre-activations there.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
import numpy.typing as npt
from scipy.special import erf

from subkern.errors import UserError, check_choice

__all__ = ["first_step", "perceptron_kernel"]

Floats = npt.NDArray[np.float64]

_REACH = 9.0  # standard deviations that are integrated over: beyond lie 2e-19


def perceptron_kernel(
    first: npt.ArrayLike,
    second: npt.ArrayLike | None = None,
    *,
    depth: int = 2,
    activation: str = "erf",
    gain: float = 1.0,
) -> Floats:
    """The neural tangent kernel Θ ``[n, m]`` of infinitely wide perceptrons, in closed form.

    With Σ the covariance of a layer's pre-activations and E over N(0, Σ),
    ``Θ_0 = ⟨x, x'⟩ + 1`` and ``Θ_l = E[φφ'] + 1 + g_l² E[φ̇φ̇'] Θ_{l-1}``: the layer's own weights,
    its bias, what it passes on; g_l is `gain`, and 1 for the output layer (Jacot et al., 2018; Lee
    et al., 2019, appendix E). Gradients are by the weights themselves, so the input layer, which
    starts as N(0, gain²/k), has ⟨x, x'⟩ and not its k-th part.

    Args:
        first: features x ``[n, k]``.
        second: features x' ``[m, k]``; None means `first`.
        depth: hidden layers.
        activation: ``erf`` (Williams, 1997) or ``relu`` (Cho & Saul, 2009).
        gain: of the hidden layers.

    Raises:
        UserError: an activation without a closed form.
    """
    check_choice("activation of the analytic kernel", activation, ("erf", "relu"))
    x = np.asarray(first, dtype=np.float64)
    y = x if second is None else np.asarray(second, dtype=np.float64)
    k = x.shape[1]
    pair = _erf_pair if activation == "erf" else _relu_pair
    start = gain**2 / k
    cross, left, right = start * (x @ y.T), start * (x**2).sum(1), start * (y**2).sum(1)
    theta = x @ y.T + 1
    for layer in range(1, depth + 1):
        g2 = gain**2 if layer < depth else 1.0
        mean, slope = pair(cross, left[:, None], right[None, :])
        theta = mean + 1 + g2 * slope * theta
        cross, left, right = g2 * mean, g2 * pair(left, left, left)[0], g2 * pair(*[right] * 3)[0]
    return theta


def _erf_pair(cross: Floats, left: Floats, right: Floats) -> tuple[Floats, Floats]:
    """E[φφ'] and E[φ̇φ̇'] of φ = erf."""
    square = (1 + 2 * left) * (1 + 2 * right)
    mean = 2 / np.pi * np.arcsin(2 * cross / np.sqrt(square))
    return mean, 4 / np.pi / np.sqrt(square - 4 * cross**2)


def _relu_pair(cross: Floats, left: Floats, right: Floats) -> tuple[Floats, Floats]:
    """E[φφ'] and E[φ̇φ̇'] of φ = max(0, ·)."""
    scale = np.sqrt(left * right)
    cosine = np.clip(np.divide(cross, scale, out=np.zeros_like(scale), where=scale > 0), -1, 1)
    angle = np.arccos(cosine)
    slope = (np.pi - angle) / (2 * np.pi)
    return scale * (np.sin(angle) / (2 * np.pi) + slope * cosine), slope


def first_step(
    train: npt.ArrayLike,
    derivatives: npt.ArrayLike,
    evaluation: npt.ArrayLike,
    *,
    activation: str = "erf",
    epsilon: float = 0.0,
    gain: float = 1.0,
    nodes: int = 60,
) -> Floats:
    """What one entrywise step changes the function by ``[m]``, one hidden layer of infinite width.

    ``Δf(x') = −⟨∇f(x'), Q(Σ_i χ_i ∇f(x_i))⟩`` with ``Q(g) = g/(|g| + ε)``: Adam's first step, or
    SignGD's for ε = 0. This is the nonlinear kernel of Yang & Littwin (2023): it takes all χ of a
    batch at once and is no sum over them. A unit is its incoming weights w ~ N(0, gain²/k) and its
    outgoing one v ~ N(0, 1), both integrated over by Gauss-Legendre quadrature on each side of 0.

    The signs jump at v = 0 and, for one feature, at w = 0, between nodes: there the error falls
    exponentially in `nodes`. With more features signs jump elsewhere too and it falls as 1/nodes;
    the cost is ``(2 nodes)^(k + 1)``.

    Args:
        train: features ``[n, k]`` of the batch, k small.
        derivatives: χ ``[n]``, of the batch's loss by each f(x_i).
        evaluation: features ``[m, k]``.
        activation: ``erf`` or ``relu``.
        epsilon: ε.
        gain: of the hidden layer.
        nodes: on each side of 0, on each axis.

    Raises:
        UserError: too many features.
    """
    check_choice("activation of the analytic step", activation, ("erf", "relu"))
    x, chi, y = (np.asarray(each, dtype=np.float64) for each in (train, derivatives, evaluation))
    k = x.shape[1]
    if (2 * nodes) ** (k + 1) > 10**8:
        raise UserError(f"{k} features with {nodes} nodes are too many: use fewer of either")
    points, weights = _gauss(nodes)
    w = np.stack(np.meshgrid(*[points] * k, indexing="ij"), -1).reshape(-1, k) * gain / k**0.5
    mass = reduce(np.multiply.outer, [weights] * k).reshape(-1)
    value, slope = _erf_unit if activation == "erf" else _relu_unit
    moved, moved_slope = value(w @ y.T), slope(w @ y.T)  # [points, m]

    def q(g: Floats) -> Floats:
        size = np.abs(g) + epsilon
        return np.divide(g, size, out=np.zeros_like(g), where=size > 0)

    change = q(chi.sum()[None])[0] + (mass * q(value(w @ x.T) @ chi)) @ moved
    back = slope(w @ x.T) * chi  # [points, n]: what reaches a unit with v = 1
    for j, column in enumerate(np.column_stack([x, np.ones(len(x))]).T):  # weights, then the bias
        steps = q(np.multiply.outer(points, back @ column))  # [v, points]
        incoming = (weights * points) @ steps  # E[v Q(v g)] at every w
        seen = y[:, j] if j < k else np.ones(len(y))
        change = change + ((mass * incoming) @ moved_slope) * seen
    return -np.asarray(change)


def _gauss(nodes: int) -> tuple[Floats, Floats]:
    """Points and weights ``[2·nodes]`` of N(0, 1), none of them 0."""
    x, weight = np.polynomial.legendre.leggauss(nodes)
    x, weight = (x + 1) * _REACH / 2, weight * _REACH / 2
    weight = weight * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    return np.concatenate([-x[::-1], x]), np.concatenate([weight[::-1], weight])


_erf_unit = (erf, lambda h: 2 / np.sqrt(np.pi) * np.exp(-(h**2)))
_relu_unit = (lambda h: np.maximum(h, 0), lambda h: (h > 0).astype(np.float64))

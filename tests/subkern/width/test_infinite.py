"""The kernel at infinite width: closed forms against integrals, finite widths against them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad
from scipy.special import erf

from subkern.dynamics import Jacobian
from subkern.errors import UserError
from subkern.subspaces.base import Full
from subkern.subspaces.movable import MovableModel
from subkern.training.optimizers import first_update
from subkern.width import (
    PARAMETRIZATIONS,
    WideModel,
    first_step,
    initialize,
    kernel_at_rates,
    perceptron_kernel,
)
from subkern.width.families import Perceptrons
from tests.support.vectors import vector_examples

X = np.random.default_rng(0).normal(size=(5, 3))
CASES = [("erf", 1.0), ("relu", 2**0.5)]


def slope(widths: Sequence[int], errors: Sequence[Sequence[float]]) -> float:
    """Return the exponent of the width, fitted to all seeds."""
    x = np.repeat(np.log(widths), len(errors[0]))
    return float(np.polyfit(x, np.log(errors).ravel(), 1)[0])


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize(("activation", "gain"), CASES)
def test_one_layer_is_the_integral(activation: str, gain: float) -> None:
    """E[φφ'] and E[φ̇φ̇'] of two pre-activations, integrated."""
    x, y = X[0], X[1]
    covariance = gain**2 / 3 * np.array([[x @ x, x @ y], [x @ y, y @ y]])
    inverse, scale = np.linalg.inv(covariance), 2 * np.pi * np.sqrt(np.linalg.det(covariance))
    value, derivative = {
        "erf": (erf, lambda h: 2 / np.sqrt(np.pi) * np.exp(-(h**2))),
        "relu": (lambda h: max(h, 0.0), lambda h: float(h > 0)),
    }[activation]
    low = 0 if activation == "relu" else -8

    def mean(of: object) -> float:
        def density(b: float, a: float) -> float:
            h = np.array([a, b])
            return float(of(a) * of(b) * np.exp(-h @ inverse @ h / 2) / scale)  # type: ignore[operator]

        return float(dblquad(density, low, 8, low, 8, epsabs=1e-9)[0])

    wanted = mean(value) + 1 + mean(derivative) * (x @ y + 1)
    found = perceptron_kernel(X[:1], X[1:2], depth=1, activation=activation, gain=gain)
    assert found.shape == (1, 1)
    assert found[0, 0] == pytest.approx(wanted, abs=1e-6)


def gradients_of(wide: WideModel, n: int) -> dict[str, np.ndarray]:
    """Return each parameter's gradients ``[n, …]`` of the one logit, and its exponents."""
    found = Jacobian.of(MovableModel(wide.model, Full()), vector_examples(n)).gradients
    return {name: each[:, 0].flatten(1).numpy() for name, each in found.items()}


def kernel_from(wide: WideModel, n: int) -> np.ndarray:
    """Return the kernel at the rates of SGD, from its definition."""
    rates = wide.rates("sgd")
    return sum(rates[name] * (g @ g.T) for name, g in gradients_of(wide, n).items())  # type: ignore[return-value]


@pytest.mark.parametrize(("activation", "gain"), CASES)
def test_kernels_of_finite_widths_converge_to_it_as_the_root_of_the_width(
    activation: str, gain: float
) -> None:
    theta = perceptron_kernel(X, depth=2, activation=activation, gain=gain)
    np.testing.assert_allclose(theta, theta.T)
    family, widths, seeds = (
        Perceptrons(torch.from_numpy(X), 1, 2, activation, gain),
        (16, 64, 256),
        20,
    )
    errors = [
        [relative(kernel_from(initialize(family, n, "ntp", s), 5), theta) for s in range(seeds)]
        for n in widths
    ]
    assert slope(widths, errors) == pytest.approx(-0.5, abs=0.12)  # over seeds it spreads by 0.04
    assert np.mean(errors[-1]) < 2 * widths[-1] ** -0.5


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_the_kernel_at_rates_is_its_definition(parametrization: str) -> None:
    wide = initialize(Perceptrons(torch.from_numpy(X), base=4), 16, parametrization)
    found = kernel_at_rates(wide, vector_examples(5), vector_examples(3))
    assert found.shape == (5, 1, 3, 1)
    np.testing.assert_allclose(found[:, 0, :, 0], kernel_from(wide, 5)[:, :3], rtol=1e-10)


@pytest.mark.parametrize("activation", ["erf", "relu"])
def test_one_example_and_feature_has_a_closed_form(activation: str) -> None:
    """SignGD: E[sign φ(h) φ(h')] + E|v| E[1(φ̇) φ̇(h')] (sign(x)x' + 1) + 1."""
    x, y = 0.7, -1.3
    found = first_step([[x]], [-0.4], [[y]], activation=activation)
    if activation == "erf":  # a sign is an erf of infinite spread
        own = 2 / np.pi * np.arcsin(2 * x * y / np.sqrt(2 * x**2 * (1 + 2 * y**2)))
        passed = 2 / np.sqrt(np.pi) / np.sqrt(1 + 2 * y**2)
    else:  # x and y have other signs: no unit is on for both
        own, passed = 0.0, 0.0
    wanted = own + np.sqrt(2 / np.pi) * passed * (y + 1) + 1
    assert found[0] == pytest.approx(wanted, abs=1e-10)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("activation", ["erf", "relu"])
def test_first_steps_of_finite_widths_converge_to_the_quadrature(
    activation: str, epsilon: float
) -> None:
    x, chi = np.array([[0.4], [-1.2], [0.9]]), np.array([0.8, -1.1, 0.5])
    infinite = first_step(x, chi, x, activation=activation, epsilon=epsilon, nodes=500)
    family = Perceptrons(torch.from_numpy(x), 1, 1, activation)
    optimizer, widths = "adam" if epsilon else "signgd", (32, 256, 2048)

    def error(n: int, seed: int) -> float:
        wide, change = initialize(family, n, "ntp", seed), np.zeros(3)
        gradients = gradients_of(wide, 3)
        for name, each in wide.exponents(optimizer).items():
            update = first_update(
                optimizer, torch.from_numpy(chi @ gradients[name]), epsilon * n**-each.d
            )
            change -= n**-each.c * (gradients[name] @ update.numpy())
        return relative(change, infinite)

    errors = [[error(n, seed) for seed in range(20)] for n in widths]
    assert slope(widths, errors) == pytest.approx(-0.5, abs=0.12)
    assert np.mean(errors[-1]) < 2 * widths[-1] ** -0.5


def test_the_first_step_of_a_batch_is_no_sum_over_it() -> None:
    x, chi = X[:2, :1], np.array([1.0, -0.7])
    both = first_step(x, chi, x)
    alone = [first_step(x[[i]], chi[[i]], x) for i in (0, 1)]
    assert np.abs(both - alone[0] - alone[1]).max() > 0.1


def test_what_has_no_closed_form_is_said() -> None:
    with pytest.raises(UserError, match="unknown activation of the analytic kernel 'tanh'"):
        perceptron_kernel(X, activation="tanh")
    with pytest.raises(UserError, match="unknown activation of the analytic step 'tanh'"):
        first_step(X, np.ones(5), X, activation="tanh")
    with pytest.raises(UserError, match="5 features with 60 nodes are too many"):
        first_step(np.ones((1, 5)), [1.0], np.ones((1, 5)))

"""Kernels that are equal to rounding (1e-12) agree and classify alike (to 1e-6)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from subkern.agreement import METRICS, UndefinedError, eigenspace_overlap
from subkern.agreement.blocks import Array
from subkern.solvers import SOLVERS, make_solver

N, M = 12, 5
Pair = tuple[Array, Array]


def gram(seed: int, c: int, rank: int, columns: int = N) -> Array:
    """A kernel ``[12, c, columns, c]`` of this rank; square, or with others."""
    rows = np.random.default_rng(seed).standard_normal((N + columns, c, rank))
    return np.einsum("iap,jbp->iajb", rows[:N], rows[:N] if columns == N else rows[N:])


def blocks(of: int) -> Array:
    """A kernel of equal blocks: entries, and eigenvalues, tie."""
    return np.kron(np.eye(N // of), np.ones((of, of)))[:, None, :, None]


def rounded(kernel: Array, seed: int) -> Array:
    noise = np.random.default_rng(seed).standard_normal(kernel.shape)
    if kernel.shape[0] == kernel.shape[2]:
        noise = (noise + noise.transpose(2, 3, 0, 1)) / 2
    return kernel + 1e-12 * float(np.abs(kernel).max()) * noise


PAIRS: dict[str, Callable[[], Pair]] = {
    "full rank": lambda: (gram(0, 2, 40), gram(1, 2, 40)),
    "rank 2": lambda: (gram(0, 2, 2), gram(1, 2, 2)),
    "reference of rank 2": lambda: (gram(0, 2, 2), gram(1, 2, 40)),
    "other of rank 3, one logit": lambda: (gram(0, 1, 40), gram(1, 1, 3)),
    "the same": lambda: (gram(0, 2, 40), 3 * gram(0, 2, 40)),
    "train against test": lambda: (gram(0, 2, 40, M), gram(1, 2, 40, M)),
    "train against test, rank 2": lambda: (gram(0, 2, 2, M), gram(1, 2, 2, M)),
    "constant reference": lambda: (np.ones((N, 1, N, 1)), gram(1, 1, 5)),
    "constant other": lambda: (gram(0, 1, 5), np.ones((N, 1, N, 1))),
    "zero other": lambda: (gram(0, 1, 5), np.zeros((N, 1, N, 1))),
    "identity": lambda: (blocks(1), gram(1, 1, 5)),
    "blocks": lambda: (blocks(4), blocks(3)),
    "zeros among entries": lambda: (blocks(6) * gram(0, 1, 5), gram(1, 1, 5)),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", METRICS)
def test_no_metric_is_of_rounding(name: str, pair: str) -> None:
    metric = METRICS[name]
    reference, other = PAIRS[pair]()
    n, _, m, _ = reference.shape
    if metric.needs_symmetric and n != m:
        pytest.skip("of symmetric kernels only")

    def value(*kernels: Array) -> float:
        try:
            return metric(*kernels, np.arange(n) % 2, np.arange(m) % 2)
        except UndefinedError:
            return float("nan")

    found = value(reference, other)
    for seed in range(3):
        again = value(rounded(reference, seed), rounded(other, 10 + seed))
        assert again == pytest.approx(found, rel=1e-6, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize(("c", "rank"), [(1, 40), (1, 2), (2, 40), (2, 2)])
@pytest.mark.parametrize("name", SOLVERS)
def test_no_solver_fits_rounding(name: str, c: int, rank: int) -> None:
    train, test = gram(0, c, rank), gram(0, c, rank, M)
    labels = (train[:, 0, 0, 0] > np.median(train[:, 0, 0, 0])).astype(int)
    found = make_solver(name).fit(train, labels).decision_function(test)
    for seed in range(3):
        fitted = make_solver(name).fit(rounded(train, seed), labels)
        again = fitted.decision_function(rounded(test, 10 + seed))
        np.testing.assert_allclose(again, found, rtol=0, atol=1e-6 * max(1, np.abs(found).max()))


@pytest.mark.parametrize(
    ("name", "c", "rank", "whole", "seed"),
    [
        ("ridge", 1, 1, True, 29),
        ("logistic", 2, 2, False, 25),
        ("logistic", 2, 1, False, 6),
        ("svr", 1, 1, False, 39),
        ("svr", 2, 2, True, 5),
        ("svr", 3, 2, True, 6),
        ("svr", 3, 2, True, 17),
    ],
)
def test_no_grid_is_decided_by_rounding(
    name: str, c: int, rank: int, whole: bool, seed: int
) -> None:
    """Candidates that do alike tie, and the most regularized wins: each of these once did not."""
    rows = np.random.default_rng(seed).standard_normal((N + 5, c, rank))[:N]
    rows = np.round(rows) if whole else rows
    kernel = np.einsum("iap,jbp->iajb", rows, rows)
    halves = (rows[:, 0, 0] > 0).astype(int)
    labels = halves if name == "logistic" else np.arange(N) % max(2, c)

    def chosen(kernel: Array) -> float:
        return float(make_solver(name).fit(kernel, labels).regularization_)

    found = chosen(kernel)
    assert all(chosen(rounded(kernel, noise)) == found for noise in range(4))


def test_an_example_on_the_border_is_half_an_error() -> None:
    """Its side is decided by rounding; whatever it is, the penalty is the same."""
    at = np.array([-2.0, -1.0, 0.0, 1.0, 2.0, 0.0])
    kernel = np.outer(at, at)[:, None, :, None]
    labels = np.array([0, 0, 0, 1, 1, 1])
    curves = [
        make_solver("svc").fit(each, labels).cv_curve_
        for each in (kernel, *(rounded(kernel, seed) for seed in range(4)))
    ]
    assert all(curve == curves[0] for curve in curves)


def test_eigenspaces_that_exist_are_compared() -> None:
    low, full = gram(0, 1, 2), gram(1, 1, 40)
    assert eigenspace_overlap(low, full) == eigenspace_overlap(low, full, k=2)
    assert eigenspace_overlap(low, low.copy()) == pytest.approx(1)
    for kernels, k in (((low, full), 3), ((blocks(1), full), None), ((blocks(4), full), 2)):
        with pytest.raises(UndefinedError, match="singular values tie, or are zero"):
            eigenspace_overlap(*kernels, k=k)
    assert eigenspace_overlap(blocks(4), blocks(4), k=3) == pytest.approx(1)

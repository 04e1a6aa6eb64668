"""Solvers for asymmetric kernels against dense systems, refits, and their symmetric relatives."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.base import clone

from subkern.errors import UserError
from subkern.solvers import (
    AsymmetricLSSVMSolver,
    AsymmetricRidgeSolver,
    KernelSolver,
    RidgeSolver,
    default_grid,
    labels_from_scores,
    select,
)
from subkern.solvers.directions import reverse_of

COUNTS = [1, 2, 3]


def problem(c: int, n: int = 12, m: int = 9, seed: int = 0) -> SimpleNamespace:
    """Return both directions of the kernel of sign(g) and g, gradients ``[n, c, 40]``."""
    rng = np.random.default_rng(seed)
    spread = 1 / np.sqrt(np.arange(1, 41))
    train, test = rng.normal(size=(n, c, 40)) * spread, rng.normal(size=(m, c, 40)) * spread
    weights = rng.normal(size=40)
    classes = max(c, 2)
    y, test_y = (labels_from_scores(each @ weights) for each in (train, test))
    y[:classes] = y[classes : 2 * classes] = np.arange(classes)
    one, two = (np.einsum("iap,jbp->iajb", np.sign(train), g) for g in (train, test))
    return SimpleNamespace(
        train=one,
        test=two,
        reverse=np.einsum("iap,jbp->iajb", train, np.sign(test)),
        symmetric=np.einsum("iap,jbp->iajb", train, train),
        symmetric_test=np.einsum("iap,jbp->iajb", train, test),
        y=y,
        test_y=test_y,
        f0=rng.normal(size=(n, c)),
        test_f0=rng.normal(size=(m, c)),
    )


def targets(y: np.ndarray, c: int) -> np.ndarray:
    """+1 at the label, -1 elsewhere."""
    return 2.0 * y[:, None] - 1 if c == 1 else 2 * np.eye(c)[y] - 1


def kkt(matrix: np.ndarray, wanted: np.ndarray, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """Solve the dense system of He et al. for alpha and beta, each multiplied by its label."""
    size = len(matrix)
    system = np.block([[rho * np.eye(size), matrix], [matrix.T, rho * np.eye(size)]])
    both = np.linalg.solve(system, np.concatenate([wanted, wanted]))
    return both[:size], both[size:]


@pytest.mark.parametrize("c", COUNTS)
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_asym_equals_the_dense_system(c: int, lam: float):
    p = problem(c)
    n, m = 12, 9
    solver = AsymmetricLSSVMSolver(2.7, lam, unit="raw", f0_scale=5.0).fit(p.train, p.y, p.f0)
    matrix = p.train.reshape(n * c, n * c)
    alpha, beta = kkt(matrix, (targets(p.y, c) - p.f0 / 5).ravel(), 1 / 2.7)
    np.testing.assert_allclose(solver.alpha_.ravel(), alpha, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(solver.beta_.ravel(), beta, rtol=1e-9, atol=1e-11)
    right = p.test.reshape(n * c, m * c).T @ alpha
    left = p.reverse.reshape(n * c, m * c).T @ beta
    expected = (lam * right + (1 - lam) * left).reshape(m, c) + p.test_f0 / 5
    scores = solver.decision_function(p.test, p.test_f0, p.reverse)
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-10)


def test_asym_equals_the_label_form_of_the_paper():
    # H = y K y and a right-hand side of ones, decision sum_i alpha_i y_i K(x_i, x): one logit.
    p = problem(1)
    y, matrix = 2.0 * p.y - 1, p.train[:, 0, :, 0]
    labeled = y[:, None] * matrix * y
    system = np.block([[np.eye(12) / 3, labeled], [labeled.T, np.eye(12) / 3]])
    solution = np.linalg.solve(system, np.ones(24))
    expected = 0.5 * p.test[:, 0, :, 0].T @ (solution[:12] * y)
    expected += 0.5 * p.reverse[:, 0, :, 0].T @ (solution[12:] * y)
    solver = AsymmetricLSSVMSolver(3.0, 0.5, unit="raw").fit(p.train, p.y)
    scores = solver.decision_function(p.test, reverse=p.reverse)
    np.testing.assert_allclose(scores[:, 0], expected, rtol=1e-9)


def test_asym_fits_errors_of_alpha_over_gamma():
    # The conditions of optimality: the errors of f_t are beta / gamma, those of f_s alpha / gamma.
    p = problem(2)
    gamma = 5.0
    solver = AsymmetricLSSVMSolver(gamma, unit="raw").fit(p.train, p.y)
    right = AsymmetricLSSVMSolver(gamma, 1.0, unit="raw").fit(p.train, p.y)
    back = p.train.transpose(2, 3, 0, 1)
    left = AsymmetricLSSVMSolver(gamma, 0.0, unit="raw").fit(p.train, p.y)
    wanted = targets(p.y, 2)
    np.testing.assert_allclose(
        wanted - right.decision_function(p.train), solver.beta_ / gamma, atol=1e-12
    )
    np.testing.assert_allclose(
        wanted - left.decision_function(p.train, reverse=back), solver.alpha_ / gamma, atol=1e-12
    )


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_asym_of_a_symmetric_kernel_is_ridge(lam: float):
    p = problem(1)
    solver = AsymmetricLSSVMSolver(20.0, lam, f0_scale=2.0).fit(p.symmetric, p.y, p.f0)
    ridge = RidgeSolver(1 / 20.0, f0_scale=2.0).fit(p.symmetric, p.y, p.f0)
    np.testing.assert_allclose(
        solver.decision_function(p.symmetric_test, p.test_f0),
        ridge.decision_function(p.symmetric_test, p.test_f0),
        rtol=1e-8,
    )
    np.testing.assert_allclose(solver.alpha_, solver.beta_, rtol=1e-7)
    np.testing.assert_allclose(solver.loo_scores_, ridge.loo_scores_, rtol=1e-6)


def test_asym_of_a_symmetric_kernel_chooses_as_ridge_does():
    p = problem(1)
    solver = AsymmetricLSSVMSolver().fit(p.symmetric, p.y)
    ridge = RidgeSolver().fit(p.symmetric, p.y)
    assert solver.regularization_ == pytest.approx(ridge.regularization_)
    assert list(solver.loo_curve_.values()) == pytest.approx(
        list(ridge.loo_curve_.values()), rel=1e-6
    )


@pytest.mark.parametrize("logits", ["joint", "separate"])
@pytest.mark.parametrize("c", COUNTS)
@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
def test_asym_leave_one_out_equals_refitting(c: int, lam: float, logits: str):
    p = problem(c, n=8)
    settings = {"lam": lam, "unit": "raw", "logits": logits, "f0_scale": 3.0}
    solver = AsymmetricLSSVMSolver(4.0, **settings).fit(p.train, p.y, p.f0)
    for i in range(8):
        kept = np.delete(np.arange(8), i)
        part = AsymmetricLSSVMSolver(4.0, **settings)
        part.fit(p.train[kept][:, :, kept], p.y[kept], p.f0[kept])
        back = p.train.transpose(2, 3, 0, 1)[kept][:, :, [i]]
        seen = part.decision_function(p.train[kept][:, :, [i]], p.f0[[i]], back)
        np.testing.assert_allclose(solver.loo_scores_[i], seen[0], rtol=1e-8, atol=1e-9)
    errors = np.sum((targets(p.y, c) - solver.loo_scores_) ** 2, axis=1)
    assert solver.loo_error_ == pytest.approx(errors.mean())


def test_asym_takes_the_gamma_with_least_error_and_ties_go_down():
    p = problem(2)
    grid = (0.1, 1.0, 10.0, 100.0)
    solver = AsymmetricLSSVMSolver(grid=grid).fit(p.train, p.y)
    singles = {g: AsymmetricLSSVMSolver(g).fit(p.train, p.y).loo_error_ for g in grid}
    assert solver.loo_curve_ == pytest.approx(singles)
    assert solver.gamma_ == min(singles, key=lambda g: singles[g])
    exact = AsymmetricLSSVMSolver(grid=grid).fit(p.train, p.y, targets(p.y, 2))
    assert exact.gamma_ == 0.1
    np.testing.assert_array_equal(exact.alpha_, 0)


def test_separate_logits_are_one_machine_against_the_rest_each():
    p = problem(3)
    solver = AsymmetricLSSVMSolver(5.0, 0.5, logits="separate").fit(p.train, p.y)
    scores = solver.decision_function(p.test, reverse=p.reverse)
    for a in range(3):
        one = AsymmetricLSSVMSolver(5.0, 0.5).fit(p.train[:, a, :, a], (p.y == a).astype(int))
        alone = one.decision_function(p.test[:, a, :, a], reverse=p.reverse[:, a, :, a])
        np.testing.assert_allclose(scores[:, [a]], alone, rtol=1e-9)
    joint = AsymmetricLSSVMSolver(5.0, 0.5, logits="joint").fit(p.train, p.y)
    assert np.abs(joint.decision_function(p.test, reverse=p.reverse) - scores).max() > 0.01


def test_orthogonal_classes_in_closed_form():
    # K = diag(k): K' alpha + rho beta = y and rho alpha + K beta = y give alpha = beta = y/(rho+k).
    diagonal = np.array([1.0, 2.0, 4.0])
    solver = AsymmetricLSSVMSolver(2.0, unit="raw").fit(np.diag(diagonal), [0, 1, 0])
    expected = np.array([-1.0, 1.0, -1.0]) / (0.5 + diagonal)
    np.testing.assert_allclose(solver.alpha_[:, 0], expected, rtol=1e-12)
    np.testing.assert_allclose(solver.beta_[:, 0], expected, rtol=1e-12)
    assert solver.condition_ == pytest.approx(4.5 / 0.5)


def test_a_pole_takes_the_solution_of_smallest_norm():
    # K = [[0, 1], [1/2, 0]] has the singular values 1 and 1/2; rho = 1 makes the system singular.
    matrix = np.array([[0.0, 1.0], [0.5, 0.0]])
    solver = AsymmetricLSSVMSolver(1.0, unit="raw").fit(matrix, [0, 1])
    system = np.block([[np.eye(2), matrix], [matrix.T, np.eye(2)]])
    least = np.linalg.lstsq(system, np.array([-1.0, 1, -1, 1]), rcond=1e-10)[0]
    np.testing.assert_allclose(solver.alpha_.ravel(), least[:2], atol=1e-12)
    np.testing.assert_allclose(solver.beta_.ravel(), least[2:], atol=1e-12)
    assert np.isinf(solver.condition_)
    assert np.isinf(solver.loo_error_)
    beside = AsymmetricLSSVMSolver(unit="raw", grid=(1.0, 0.5)).fit(matrix, [0, 1])
    assert beside.gamma_ == 0.5
    # The identity is singular there as well, but alpha = beta = y / 2 solves it.
    even = AsymmetricLSSVMSolver(1.0).fit(np.eye(3), [0, 1, 1])
    np.testing.assert_allclose(even.alpha_[:, 0], [-0.5, 0.5, 0.5], rtol=1e-12)


@pytest.mark.parametrize("solver", [AsymmetricLSSVMSolver(lam=0.5), AsymmetricRidgeSolver()])
def test_order_of_examples_and_of_classes_does_not_matter(solver: KernelSolver):
    p = problem(3)
    plain = clone(solver).fit(p.train, p.y, p.f0)
    scores = plain.decision_function(p.test, p.test_f0, p.reverse)
    rng = np.random.default_rng(0)
    order, to = rng.permutation(12), np.array([2, 0, 1])
    moved = clone(solver).fit(p.train[order][:, :, order], p.y[order], p.f0[order])
    again = moved.decision_function(p.test[order], p.test_f0, p.reverse[order])
    np.testing.assert_allclose(again, scores, rtol=1e-7, atol=1e-9)
    # Logit a becomes logit to[a].
    back = np.argsort(to)
    named = clone(solver).fit(p.train[:, back][:, :, :, back], to[p.y], p.f0[:, back])
    across, around = (kernel[:, back][:, :, :, back] for kernel in (p.test, p.reverse))
    found = named.decision_function(across, p.test_f0[:, back], around)
    np.testing.assert_allclose(found, scores[:, back], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("c", COUNTS)
@pytest.mark.parametrize("share", [0.02, 1.0])
def test_asym_ridge_equals_the_transposed_system(c: int, share: float):
    p = problem(c)
    matrix = p.train.reshape(12 * c, 12 * c)
    shift = share * np.linalg.svd(matrix, compute_uv=False).mean()
    wanted = (np.eye(c)[p.y] if c > 1 else 2.0 * p.y[:, None] - 1) - p.f0 / 4
    alpha = np.linalg.solve(matrix.T + shift * np.eye(12 * c), wanted.ravel())
    expected = (p.test.reshape(12 * c, 9 * c).T @ alpha).reshape(9, c) + p.test_f0 / 4
    solver = AsymmetricRidgeSolver(share, f0_scale=4.0).fit(p.train, p.y, p.f0)
    np.testing.assert_allclose(solver.decision_function(p.test, p.test_f0), expected, rtol=1e-9)


@pytest.mark.parametrize("share", [None, 0.05])
def test_asym_ridge_of_a_symmetric_kernel_is_ridge(share: float | None):
    p = problem(3)
    solver = AsymmetricRidgeSolver(share).fit(p.symmetric, p.y, p.f0)
    ridge = RidgeSolver(share).fit(p.symmetric, p.y, p.f0)
    assert solver.regularization_ == ridge.regularization_
    np.testing.assert_allclose(solver.coef_, ridge.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(solver.loo_scores_, ridge.loo_scores_, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("c", COUNTS)
def test_asym_ridge_leave_one_out_equals_refitting(c: int):
    p = problem(c, n=8)
    shift = 0.1 * np.linalg.svd(p.train.reshape(8 * c, -1), compute_uv=False).mean()
    solver = AsymmetricRidgeSolver(0.1).fit(p.train, p.y, p.f0)
    for i in range(8):
        kept = np.delete(np.arange(8), i)
        part = p.train[kept][:, :, kept]
        # The same absolute shift on the smaller kernel.
        share = shift / np.linalg.svd(part.reshape(7 * c, -1), compute_uv=False).mean()
        left = AsymmetricRidgeSolver(share).fit(part, p.y[kept], p.f0[kept])
        seen = left.decision_function(p.train[kept][:, :, [i]], p.f0[[i]])
        np.testing.assert_allclose(solver.loo_scores_[i], seen[0], rtol=1e-8, atol=1e-9)


def test_asym_ridge_is_where_training_on_the_frozen_kernel_ends():
    # Steps alpha += eta (t - f) on the squared loss; f moves by the kernel, its rule on the left.
    p = problem(1)
    train, across = p.train[:, 0, :, 0], p.test[:, 0, :, 0]
    wanted = 2.0 * p.y - 1
    assert np.linalg.eigvals(train).real.min() > 0
    f, test_f = p.f0[:, 0].copy(), p.test_f0[:, 0].copy()
    eta = 1 / np.linalg.norm(train, 2)
    for _ in range(20_000):
        step = eta * (wanted - f)
        f, test_f = f + train.T @ step, test_f + across.T @ step
    np.testing.assert_allclose(f, wanted, atol=1e-9)
    solver = AsymmetricRidgeSolver(0.0).fit(p.train, p.y, p.f0)
    np.testing.assert_allclose(
        solver.decision_function(p.test, p.test_f0)[:, 0], test_f, rtol=1e-6, atol=1e-8
    )


def test_asym_ridge_without_ridge_takes_the_smallest_alpha():
    # Two equal examples: K' is singular, and equal labels give them equal coefficients.
    p = problem(1, n=6)
    twice = [0, 0, 1, 2, 3, 4, 5]
    kernel, y = p.train[twice][:, :, twice], p.y[twice]
    solver = AsymmetricRidgeSolver(0.0).fit(kernel, y)
    assert solver.coef_[0] == pytest.approx(solver.coef_[1])
    once = AsymmetricRidgeSolver(0.0).fit(p.train, p.y)
    np.testing.assert_allclose(
        solver.decision_function(p.test[twice]), once.decision_function(p.test), rtol=1e-8
    )
    assert np.isinf(solver.loo_error_)
    assert np.isfinite(once.loo_error_)


def test_the_reverse_comes_from_the_argument_the_kernel_or_the_transpose():
    p = problem(2)
    solver = AsymmetricLSSVMSolver(5.0, 0.3).fit(p.train, p.y)
    expected = solver.decision_function(p.test, reverse=p.reverse)
    held = SimpleNamespace(values=p.test, reverse=p.reverse, right_labels=p.test_y)
    np.testing.assert_array_equal(solver.decision_function(held), expected)
    wanted = solver.score(p.test, p.test_y, reverse=p.reverse)
    assert solver.score(held) == wanted
    ids = tuple("abcdefghijkl")
    square = SimpleNamespace(values=p.train, left_ids=ids, right_ids=ids)
    back = p.train.transpose(2, 3, 0, 1)
    np.testing.assert_array_equal(reverse_of(square), back)
    np.testing.assert_array_equal(reverse_of(square, 2 * back), 2 * back)
    assert reverse_of(p.train) is None
    assert reverse_of([[1.0]]) is None


def test_one_direction_is_enough_where_lam_is_1():
    p = problem(2)
    solver = AsymmetricLSSVMSolver(5.0).fit(p.train, p.y)
    np.testing.assert_array_equal(
        solver.decision_function(p.test), solver.decision_function(p.test, reverse=p.reverse)
    )


def test_select_chooses_gamma_lam_and_scale_together():
    p = problem(2, n=16, m=40)
    grid = {"gamma": (1.0, 30.0), "lam": (0.0, 1.0), "f0_scale": (None, 4.0)}
    given = {"y": p.y, "dev_y": p.test_y, "f0": p.f0, "dev_f0": p.test_f0}
    found = select(AsymmetricLSSVMSolver(), grid, p.train, p.test, dev_reverse=p.reverse, **given)
    assert len(found.candidates) == 8
    for point in found.candidates:
        settings = {name: value for name, value in point.items() if name != "dev_score"}
        one = AsymmetricLSSVMSolver(**settings).fit(p.train, p.y, p.f0)
        assert one.score(p.test, p.test_y, p.test_f0, reverse=p.reverse) == point["dev_score"]
    assert found.dev_score == max(point["dev_score"] for point in found.candidates)


def test_equal_dev_scores_keep_the_function_that_training_moves():
    p = problem(1)
    given = {"y": p.y, "dev_y": p.y, "dev_reverse": p.symmetric}
    grid = default_grid("asym", f0=False, reverse=True)
    found = select(AsymmetricLSSVMSolver(), grid, p.symmetric, p.symmetric, **given)
    assert found.params["lam"] == 1.0
    ties = [each for each in found.candidates if each["dev_score"] == found.dev_score]
    assert found.params["gamma"] == min(each["gamma"] for each in ties)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: AsymmetricLSSVMSolver(0).fit(p.train, p.y), "gamma=0 is not above 0"),
        (lambda p: AsymmetricLSSVMSolver(lam=2).fit(p.train, p.y), "lam=2"),
        (lambda p: AsymmetricLSSVMSolver(grid=()).fit(p.train, p.y), "grid of gamma is empty"),
        (lambda p: AsymmetricLSSVMSolver(unit="sd").fit(p.train, p.y), "unit='sd'"),
        (lambda p: AsymmetricLSSVMSolver(logits="all").fit(p.train, p.y), "logits='all'"),
        (lambda p: AsymmetricLSSVMSolver().fit(0 * p.train, p.y), "kernel is zero"),
        (
            lambda p: AsymmetricLSSVMSolver(lam=0.5).fit(p.train, p.y).predict(p.test),
            r"lam=0.5 needs K\(X, train\)",
        ),
        (
            lambda p: (
                AsymmetricLSSVMSolver()
                .fit(p.train, p.y)
                .predict(p.test, reverse=p.reverse.transpose(2, 3, 0, 1))
            ),
            "train goes on the left of both",
        ),
        (lambda p: AsymmetricRidgeSolver(-1).fit(p.train, p.y), "regularization=-1"),
        (lambda p: AsymmetricRidgeSolver().fit(0 * p.train, p.y), "kernel is zero"),
        (
            lambda p: AsymmetricRidgeSolver().fit(p.train[:1, :, :1], p.y[:1]),
            "give regularization=",
        ),
    ],
)
def test_bad_input_is_one_line(call: Callable[..., object], message: str):
    with pytest.raises(UserError, match=message) as caught:
        call(problem(2))
    assert "\n" not in str(caught.value)

"""Support vector regression against scikit-learn's on the same kernel."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.svm import SVR

from subkern.errors import UserError
from subkern.solvers import SVRSolver

COUNTS = [1, 3]


def problem(c: int, n: int = 20, m: int = 15) -> SimpleNamespace:
    """Return kernels of random gradients ``[n, c, 30]`` with labels a linear model can learn."""
    rng = np.random.default_rng(c)
    train, test = rng.normal(size=(n, c, 30)), rng.normal(size=(m, c, 30))
    scores = train @ rng.normal(size=30)
    y = scores.argmax(axis=1) if c > 1 else (scores[:, 0] > 0).astype(int)
    y[:4] = [0, 1, 0, 1] if c == 1 else [0, 1, 2, 2]
    return SimpleNamespace(
        train=np.einsum("iap,jbp->iajb", train, train),
        test=np.einsum("iap,jbp->iajb", train, test),
        targets=np.eye(c)[y] if c > 1 else 2.0 * y[:, None] - 1,
        y=y,
        f0=rng.normal(size=(n, c)),
        test_f0=rng.normal(size=(m, c)),
    )


def unit(gram: np.ndarray) -> float:
    """Mean squared distance of the samples from their centre."""
    centred = gram - gram.mean(axis=0) - gram.mean(axis=1)[:, None] + gram.mean()
    return float(np.diag(centred).mean())


@pytest.mark.parametrize("c", COUNTS)
def test_joint_svr_equals_scikit_learn_on_the_flattened_kernel(c: int):
    p = problem(c)
    gram, across = p.train.reshape(20 * c, -1), p.test.reshape(20 * c, -1)
    wanted = (p.targets - p.f0 / 8).ravel()
    model = SVR(C=3.0 / unit(gram), epsilon=0.2, kernel="precomputed", tol=1e-6).fit(gram, wanted)
    expected = model.predict(across.T).reshape(15, c) + p.test_f0 / 8
    solver = SVRSolver(3.0, 0.2, f0_scale=8.0, tol=1e-6).fit(p.train, p.y, p.f0)
    scores = solver.decision_function(p.test, p.test_f0)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_separate_svr_equals_one_machine_a_logit():
    p = problem(3)
    solver = SVRSolver(0.5, 0.05, logits="separate", tol=1e-6).fit(p.train, p.y)
    scores = solver.decision_function(p.test)
    assert len(solver.machines_) == 3
    for a in range(3):
        gram = p.train[:, a, :, a]
        model = SVR(C=0.5 / unit(gram), epsilon=0.05, kernel="precomputed", tol=1e-6)
        expected = model.fit(gram, p.targets[:, a]).predict(p.test[:, a, :, a].T)
        np.testing.assert_allclose(scores[:, a], expected, rtol=1e-4, atol=1e-4)


def test_the_paper_code_s_machine_is_c_of_the_units():
    p = problem(1)
    gram = p.train[:, 0, :, 0]
    model = SVR(kernel="precomputed").fit(gram, p.targets[:, 0])
    scaled = SVRSolver(unit(gram)).fit(p.train, p.y)
    assert scaled.units_ == pytest.approx([unit(gram)])
    np.testing.assert_allclose(
        scaled.decision_function(p.test)[:, 0],
        model.predict(p.test[:, 0, :, 0].T),
        atol=5e-3,
    )


def test_a_wide_tube_leaves_f0_and_a_constant():
    p = problem(3)
    solver = SVRSolver(1.0, epsilon=0.6).fit(p.train, p.y)
    np.testing.assert_allclose(solver.decision_function(p.test), 0.5, atol=0.11)
    assert np.ptp(solver.decision_function(p.test)) < 1e-9
    exact = SVRSolver(1.0, f0_scale=2.0).fit(p.train, p.y, 2 * p.targets)
    np.testing.assert_allclose(exact.decision_function(p.test, p.test_f0), p.test_f0 / 2, atol=0.11)


def test_order_of_classes_does_not_matter():
    p = problem(3)
    to = np.array([2, 0, 1])
    back = np.argsort(to)
    plain = SVRSolver(1.0, tol=1e-6).fit(p.train, p.y).decision_function(p.test)
    named = SVRSolver(1.0, tol=1e-6).fit(p.train[:, back][:, :, :, back], to[p.y])
    found = named.decision_function(p.test[:, back][:, :, :, back])
    np.testing.assert_allclose(found, plain[:, back], atol=1e-4)


def test_a_scale_of_the_kernel_does_not_matter():
    p = problem(3)
    scores = [
        SVRSolver().fit(scale * p.train, p.y).decision_function(scale * p.test)
        for scale in (1.0, 1e4)
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-3)


@pytest.mark.parametrize("logits", ["joint", "separate"])
def test_svr_chooses_c_by_cross_validation(logits: str):
    p = problem(3)
    solver = SVRSolver(grid=(0.001, 1.0, 10.0), logits=logits).fit(p.train, p.y)
    assert min(solver.cv_curve_, key=lambda each: solver.cv_curve_[each]) == solver.C_
    assert solver.regularization_ == 1 / solver.C_
    single = SVRSolver(solver.C_, logits=logits).fit(p.train, p.y)
    assert single.cv_curve_ == {}
    np.testing.assert_array_equal(
        single.decision_function(p.test), solver.decision_function(p.test)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: SVRSolver(0).fit(p.train, p.y), "C=0 is not above 0"),
        (lambda p: SVRSolver(grid=()).fit(p.train, p.y), "grid of C is empty"),
        (lambda p: SVRSolver(epsilon=-1).fit(p.train, p.y), "epsilon=-1"),
        (lambda p: SVRSolver(1, logits="all").fit(p.train, p.y), "logits='all'"),
        (lambda p: SVRSolver(1).fit(np.ones((20, 20)), p.y % 2), "it is constant"),
    ],
)
def test_bad_input_is_one_line(call: Callable[..., object], message: str):
    with pytest.raises(UserError, match=message) as caught:
        call(problem(3))
    assert "\n" not in str(caught.value)

"""Solvers against brute force, scikit-learn on explicit features, and each other."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.svm import SVC

from subkern.errors import UserError
from subkern.solvers import (
    SOLVERS,
    KernelSolver,
    LogisticSolver,
    LstsqSolver,
    RidgeSolver,
    RowLogisticSolver,
    SVCSolver,
    labels_from_scores,
    make_solver,
    reduce_logits,
    score_predictions,
    select,
)

COUNTS = [1, 2, 3]


def problem(c: int, n: int = 24, m: int = 30, seed: int = 0) -> SimpleNamespace:
    """Return kernels of random gradients ``[n, c, p]`` with labels that a linear model can mostly
    learn.
    """
    rng = np.random.default_rng(seed)
    spread = 1 / np.arange(1, 41)
    train, test = rng.normal(size=(n, c, 40)) * spread, rng.normal(size=(m, c, 40)) * spread
    weights = rng.normal(size=40)
    classes = max(c, 2)

    def labels(rows: np.ndarray) -> np.ndarray:
        scores = rows @ weights + 0.1 * rng.normal(size=rows.shape[:2])
        return labels_from_scores(scores)

    y, test_y = labels(train), labels(test)
    y[:classes] = y[classes : 2 * classes] = np.arange(classes)
    return SimpleNamespace(
        train=np.einsum("iap,jbp->iajb", train, train),
        test=np.einsum("iap,jbp->iajb", train, test),
        y=y,
        test_y=test_y,
        f0=rng.normal(size=(n, c)),
        test_f0=rng.normal(size=(m, c)),
        features=train,
        test_features=test,
    )


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("c", COUNTS)
def test_every_solver_learns_and_has_the_shapes_it_promises(name: str, c: int):
    p = problem(c, n=40)
    params = {"regularization": 0.02} if name == "lstsq" else {}
    solver = make_solver(name, **params).fit(p.train, p.y)
    assert solver.decision_function(p.test).shape == (30, c)
    assert set(solver.predict(p.test)) <= set(range(max(c, 2)))
    assert solver.score(p.test, p.test_y) > 1.3 / max(c, 2)
    one = p.test[:, :, :1]
    np.testing.assert_allclose(
        solver.decision_function(one), solver.decision_function(p.test)[:1], atol=1e-9
    )


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_are_scikit_learn_estimators(name: str):
    p = problem(2)
    solver = make_solver(name, f0_scale=3.0)
    copy = clone(solver.fit(p.train, p.y, p.f0))
    assert copy.get_params() == solver.get_params()
    with pytest.raises(NotFittedError):
        copy.predict(p.test)
    copy.set_params(f0_scale=None).fit(p.train, p.y, p.f0)
    plain = make_solver(name).fit(p.train, p.y)
    np.testing.assert_array_equal(copy.decision_function(p.test), plain.decision_function(p.test))


@pytest.mark.parametrize("name", SOLVERS)
def test_kernel_objects_and_tensors_equal_arrays(name: str):
    p = problem(2)
    plain = make_solver(name).fit(p.train, p.y, p.f0)
    held = SimpleNamespace(values=p.train, left_labels=p.y, right_labels=p.y)
    across = SimpleNamespace(values=p.test, left_labels=p.y, right_labels=p.test_y)
    solver = make_solver(name).fit(held, f0=torch.from_numpy(p.f0))
    expected = plain.decision_function(p.test, p.test_f0)
    np.testing.assert_array_equal(solver.decision_function(across, p.test_f0), expected)
    assert solver.score(across, f0=p.test_f0) == plain.score(p.test, p.test_y, p.test_f0)
    tensor = make_solver(name).fit(torch.from_numpy(p.train), torch.from_numpy(p.y), p.f0)
    np.testing.assert_array_equal(tensor.decision_function(p.test, p.test_f0), expected)


# Not row-logistic: its penalty is on weights of raw kernel values, as in the paper's code. svr: its
# own file, to the tolerance of its machine.
@pytest.mark.parametrize("name", sorted(set(SOLVERS) - {"row-logistic", "svr"}))
def test_a_scale_of_the_kernel_does_not_matter(name: str):
    p = problem(3)
    solvers = [make_solver(name).fit(scale * p.train, p.y) for scale in (1, 1e4)]
    np.testing.assert_allclose(
        solvers[0].decision_function(p.test),
        solvers[1].decision_function(1e4 * p.test),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("c", COUNTS)
@pytest.mark.parametrize("with_f0", [False, True])
def test_ridge_leave_one_out_equals_brute_force(c: int, with_f0: bool):
    p = problem(c, n=14)
    f0 = p.f0 if with_f0 else None
    solver = RidgeSolver(0.05, f0_scale=2.0).fit(p.train, p.y, f0)
    penalty = 0.05 * np.trace(p.train.reshape(14 * c, -1)) / (14 * c)
    for i in range(14):
        kept = np.delete(np.arange(14), i)
        part = p.train[kept][:, :, kept]
        # The same absolute penalty on the smaller kernel.
        share = penalty / (np.trace(part.reshape(13 * c, -1)) / (13 * c))
        left = RidgeSolver(share, f0_scale=2.0).fit(part, p.y[kept], f0 if f0 is None else f0[kept])
        seen = left.decision_function(p.train[kept][:, :, [i]], f0 if f0 is None else f0[[i]])
        np.testing.assert_allclose(solver.loo_scores_[i], seen[0], rtol=1e-10, atol=1e-10)


def test_ridge_equals_the_normal_equations_on_features():
    p = problem(2)
    solver = RidgeSolver(0.1).fit(p.train, p.y, p.f0)
    rows, wanted = p.features.reshape(48, 40), (np.eye(2)[p.y] - p.f0).ravel()
    penalty = 0.1 * np.trace(rows @ rows.T) / 48
    weights = np.linalg.solve(rows.T @ rows + penalty * np.eye(40), rows.T @ wanted)
    np.testing.assert_allclose(
        solver.decision_function(p.test, p.test_f0),
        p.test_features @ weights + p.test_f0,
        rtol=1e-8,
    )


def test_ridge_takes_the_grid_point_with_least_error_and_ties_go_up():
    p = problem(2)
    grid = (0.001, 0.1, 10.0)
    solver = RidgeSolver(grid=grid).fit(p.train, p.y)
    singles = {share: RidgeSolver(share).fit(p.train, p.y).loo_error_ for share in grid}
    assert solver.loo_curve_ == pytest.approx(singles)
    assert solver.regularization_ == min(singles, key=lambda share: singles[share])
    # Targets that f0 already hits leave nothing to learn: every candidate has error 0.
    assert RidgeSolver(grid=grid).fit(p.train, p.y, np.eye(2)[p.y]).regularization_ == 10.0


@pytest.mark.parametrize("solver", [RidgeSolver(), LstsqSolver(0.1)])
@pytest.mark.parametrize("c", COUNTS)
def test_exact_initial_logits_leave_no_coefficients(solver: KernelSolver, c: int):
    p = problem(c)
    targets = np.eye(c)[p.y] if c > 1 else 2.0 * p.y[:, None] - 1
    solver.set_params(f0_scale=4.0).fit(p.train, p.y, 4.0 * targets)
    np.testing.assert_array_equal(solver.coef_, 0)
    np.testing.assert_array_equal(solver.decision_function(p.test, 4.0 * p.test_f0), p.test_f0)


def test_certain_initial_logits_leave_logistic_nothing_to_learn():
    p = problem(3)
    solver = LogisticSolver(0.1).fit(p.train, p.y, 50 * np.eye(3)[p.y])
    np.testing.assert_allclose(solver.coef_, 0, atol=1e-9)


@pytest.mark.parametrize("share", [1e-3, 0.1])
def test_logistic_equals_scikit_learn_for_one_logit(share: float):
    p = problem(1)
    solver = LogisticSolver(share).fit(p.train, p.y)
    rows = p.features[:, 0]
    penalty = share * np.trace(p.train[:, 0, :, 0]) / 24
    model = LogisticRegression(C=1 / (24 * penalty), fit_intercept=False, tol=1e-10, max_iter=10**5)
    expected = model.fit(rows, p.y).decision_function(p.test_features[:, 0])
    np.testing.assert_allclose(
        solver.decision_function(p.test)[:, 0], expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_equals_multinomial_scikit_learn(classes: int):
    # One weight vector a class on shared features is the kernel <x, x'> delta_ab.
    rng = np.random.default_rng(0)
    rows, test = rng.normal(size=(30, 8)), rng.normal(size=(20, 8))
    y = labels_from_scores(rows @ rng.normal(size=(8, classes)) + rng.normal(size=(30, classes)))
    kernels = [np.einsum("ij,ab->iajb", rows @ x.T, np.eye(classes)) for x in (rows, test)]
    solver = LogisticSolver(0.05).fit(kernels[0], y)
    penalty = 0.05 * np.trace(rows @ rows.T) / 30
    if classes == 2:
        # There scikit-learn has one vector v = w_1 - w_0, and |w_0|^2 + |w_1|^2 = |v|^2 / 2.
        penalty *= 0.5
    strength = 1 / (30 * penalty)
    model = LogisticRegression(C=strength, fit_intercept=False, tol=1e-10, max_iter=10**5)
    expected = model.fit(rows, y).predict_proba(test)
    scores = solver.decision_function(kernels[1])
    np.testing.assert_allclose(softmax(scores, axis=1), expected, atol=1e-6)


@pytest.mark.parametrize("c", COUNTS)
def test_logistic_is_stationary_in_the_coefficients(c: int):
    p = problem(c)
    solver = LogisticSolver(0.01, f0_scale=2.0).fit(p.train, p.y, p.f0)
    assert solver.gradient_norm_ <= solver.tol
    matrix = p.train.reshape(24 * c, 24 * c)
    penalty = 0.01 * np.trace(matrix) / (24 * c)

    def objective(flat: np.ndarray) -> float:
        z = p.f0 / 2 + (matrix @ flat).reshape(24, c)
        z = np.hstack([np.zeros((24, 1)), z]) if c == 1 else z
        picked = z[np.arange(24), p.y]
        loss = np.mean(np.log(np.exp(z).sum(axis=1)) - picked)
        return loss + penalty / 2 * flat @ matrix @ flat

    best = solver.coef_.ravel()
    rng = np.random.default_rng(0)
    for _ in range(20):
        step = rng.normal(size=best.shape) * 0.1 * np.abs(best).mean()
        assert objective(best) < objective(best + step)
        slope = (objective(best + 1e-4 * step) - objective(best - 1e-4 * step)) / 2e-4
        assert abs(slope) < 1e-7


def test_logistic_chooses_by_cross_validation_and_warns_when_it_stops_early():
    p = problem(2, n=40)
    solver = LogisticSolver().fit(p.train, p.y)
    assert solver.regularization_ == min(solver.cv_curve_, key=lambda r: solver.cv_curve_[r])
    assert 1e-6 < solver.regularization_ < 100
    with pytest.warns(ConvergenceWarning, match="raise max_iter"):
        LogisticSolver(1e-3, max_iter=1).fit(p.train, p.y)


@pytest.mark.parametrize("share", [1e-6, 1e-2])
def test_logistic_converges_on_separable_nearly_constant_kernels(share: float):
    p = problem(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solver = LogisticSolver(share).fit(p.train + 1e4, p.y)
    assert solver.gradient_norm_ <= solver.tol


@pytest.mark.parametrize("c", [1, 3])
def test_svc_equals_scikit_learn(c: int):
    p = problem(c)
    solver = SVCSolver(0.1, reduction="trace").fit(p.train, p.y)
    gram, across = (np.einsum("iaja->ij", kernel) / c for kernel in (p.train, p.test))
    spread = np.mean(np.diag(gram)) - gram.mean()
    model = SVC(C=10 / spread, kernel="precomputed", tol=1e-6).fit(gram, p.y)
    expected = model.decision_function(across.T).reshape(30, -1)
    np.testing.assert_allclose(solver.decision_function(p.test), expected, rtol=1e-4, atol=1e-4)


def test_logits_reduce_to_the_mean_difference_kernel():
    p = problem(3)
    gradients = [p.features[:, b] - p.features[:, a] for a in range(3) for b in range(a + 1, 3)]
    expected = np.mean([rows @ rows.T for rows in gradients], axis=0)
    np.testing.assert_allclose(reduce_logits(p.train), expected, atol=1e-10)
    two = p.train[:, :2, :, :2]
    binary = two[:, 1, :, 1] - two[:, 0, :, 1] - two[:, 1, :, 0] + two[:, 0, :, 0]
    np.testing.assert_allclose(reduce_logits(two), binary, atol=1e-10)


def test_svc_learns_from_initial_logits_where_the_kernel_says_nothing():
    p = problem(2, n=60, m=60)
    noise = [np.random.default_rng(i).normal(size=(60, 2, 40)) for i in (1, 2)]
    train, test = (np.einsum("iap,jbp->iajb", noise[0], rows) for rows in noise)
    f0, test_f0 = (np.eye(2)[y] * 3 for y in (p.y, p.test_y))
    assert SVCSolver(1.0).fit(train, p.y, f0).score(test, p.test_y, test_f0) > 0.95
    assert SVCSolver(1.0).fit(train, p.y).score(test, p.test_y) < 0.75


@pytest.mark.parametrize("share", [0.0, 1e-2])
def test_lstsq_equals_the_normal_route_of_the_paper(share: float):
    # One-hot targets over (example, logit), torch.linalg.lstsq, regularization times the largest
    # singular value on the diagonal, f0 / scale taken off and added back.
    p = problem(2, n=12)
    matrix = torch.from_numpy(p.train.reshape(24, 24))
    matrix = matrix + share * torch.linalg.svdvals(matrix).max() * torch.eye(
        24, dtype=torch.float64
    )
    targets = torch.eye(2, dtype=torch.float64)[torch.from_numpy(p.y)].reshape(-1, 1)
    targets = targets - torch.from_numpy(p.f0.reshape(-1, 1)) / 10
    alpha = torch.linalg.lstsq(matrix, targets).solution
    expected = (p.test.reshape(24, 60).T @ alpha.numpy()).reshape(30, 2) + p.test_f0 / 10
    solver = LstsqSolver(share, f0_scale=10.0).fit(p.train, p.y, p.f0)
    np.testing.assert_allclose(solver.decision_function(p.test, p.test_f0), expected, rtol=1e-7)
    assert solver.rank_ == 24


def test_row_logistic_equals_cross_validated_regression_on_rows():
    p = problem(1, n=40)
    solver = RowLogisticSolver().fit(p.train, p.y)
    rows, across = p.train[:, 0, :, 0], p.test[:, 0, :, 0].T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = LogisticRegressionCV(max_iter=10_000, random_state=0).fit(rows, p.y)
    assert np.isclose(solver.C_, np.ravel(model.C_)[0])
    np.testing.assert_array_equal(solver.predict(p.test), model.predict(across))


def test_row_logistic_takes_an_asymmetric_kernel_from_one_side():
    p = problem(1)
    left = np.sign(p.features[:, 0])
    train, test = left @ p.features[:, 0].T, left @ p.test_features[:, 0].T
    solver = RowLogisticSolver().fit(train, p.y)
    assert solver.score(train, p.y) > 0.9
    assert solver.score(test, p.test_y) > 0.6


@pytest.mark.parametrize("name", ["ridge", "lstsq", "logistic", "svc", "svr"])
def test_an_asymmetric_kernel_is_refused_with_the_reason(name: str):
    p = problem(2)
    rows = p.features.reshape(48, 40)
    asymmetric = (np.sign(rows) @ rows.T).reshape(24, 2, 24, 2)
    with pytest.raises(UserError, match="an asymmetric rule has two") as caught:
        make_solver(name).fit(asymmetric, p.y)
    others = [each for each, kind in SOLVERS.items() if not kind.requires_symmetric]
    assert len(others) == 3
    assert "\n" not in str(caught.value)
    assert all(each in str(caught.value) for each in others)


def test_labels_come_from_the_largest_score_or_the_sign():
    np.testing.assert_array_equal(labels_from_scores([[0.1, 0.2], [1, 1]]), [1, 0])
    np.testing.assert_array_equal(labels_from_scores([[0.1], [-0.1], [0]]), [1, 0, 0])


@pytest.mark.parametrize("name", ["svc", "row-logistic"])
def test_a_class_without_training_examples_is_never_predicted(name: str):
    p = problem(3)
    seen = p.y != 1
    kernel, across = p.train[seen][:, :, seen], p.test[seen]
    solver = make_solver(name).fit(kernel, p.y[seen])
    assert solver.decision_function(across).shape == (30, 3)
    assert set(solver.predict(across)) == {0, 2}


def test_select_prefers_more_regularisation_at_equal_dev_score():
    p = problem(2)
    grid = {"regularization": (1e-9, 1e-8), "f0_scale": (10.0, None, 1e9)}
    found = select(
        LstsqSolver(),
        grid,
        p.train,
        p.train,
        y=p.y,
        dev_y=p.y,
        f0=p.f0,
        dev_f0=p.f0,
    )
    scores = {point["dev_score"] for point in found.candidates}
    assert len(found.candidates) == 6
    assert scores == {1.0} == {found.dev_score}
    assert found.params == {"regularization": 1e-8, "f0_scale": None}
    assert found.solver.f0_scale is None


def test_select_finds_the_scale_of_useful_initial_logits():
    p = problem(2, n=12, m=60)
    noise = [np.random.default_rng(i).normal(size=(k, 2, 40)) for i, k in ((1, 12), (2, 60))]
    train, dev = (np.einsum("iap,jbp->iajb", noise[0], rows) for rows in noise)
    f0, dev_f0 = np.eye(2)[p.y], np.eye(2)[p.test_y]
    grid = {"f0_scale": (None, 1.0)}
    found = select(
        RidgeSolver(), grid, train, dev, y=p.y, dev_y=p.test_y, f0=f0, dev_f0=dev_f0, metric="f1"
    )
    assert found.params == {"f0_scale": 1.0}
    assert found.dev_score == 1
    assert score_predictions(p.test_y, found.solver.predict(dev, dev_f0), "f1") == 1


def fitted(c: int = 2) -> tuple[SimpleNamespace, KernelSolver]:
    p = problem(c)
    return p, RidgeSolver(0.1).fit(p.train, p.y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, s: s.fit(p.test, p.y), "24 x 30 examples"),
        (lambda p, s: s.fit(p.train, p.y[:-1]), r"\[23\]: expected \[24\]"),
        (lambda p, s: s.fit(p.train, p.y + 1), "label indices 0 to 1"),
        (lambda p, s: s.fit(p.train, ["good"] * 24), "holds good"),
        (lambda p, s: s.fit(p.train), "y is missing"),
        (lambda p, s: s.fit(p.train * np.nan, p.y), "NaN"),
        (lambda p, s: s.fit(p.train * 0, p.y), "no positive eigenvalue"),
        (lambda p, s: s.fit(p.train - 5, p.y), "not positive semi-definite"),
        (lambda p, s: s.fit(p.train, p.y, p.f0[:, :1]), r"expected \[24, 2\]"),
        (lambda p, s: s.predict(p.test.transpose(2, 3, 0, 1)), "train goes on the left"),
        (lambda p, s: s.predict(p.test, p.test_f0), "without initial logits"),
        (lambda p, s: s.fit(p.train, p.y, p.f0).predict(p.test), "with initial logits"),
        (lambda p, s: RidgeSolver(-1).fit(p.train, p.y), "regularization=-1"),
        (lambda p, s: RidgeSolver(grid=()).fit(p.train, p.y), "grid is empty"),
        (lambda p, s: RidgeSolver().fit(p.train[:1, :, :1], p.y[:1]), "give regularization="),
        (lambda p, s: LstsqSolver(-1).fit(p.train, p.y), "regularization=-1"),
        (lambda p, s: LogisticSolver().fit(p.train[:2, :, :2], [0, 1]), "two examples of each"),
        (lambda p, s: SVCSolver().fit(p.train, 0 * p.y), "two classes"),
        (lambda p, s: SVCSolver(reduction="sum").fit(p.train, p.y), "'sum'"),
        (lambda p, s: RowLogisticSolver().fit(p.train, 0 * p.y), "two classes"),
        (lambda p, s: s.set_params(f0_scale=0).fit(p.train, p.y, p.f0), "f0_scale=0"),
        (lambda p, s: labels_from_scores([0, 1]), r"\[2\]: expected"),
        (lambda p, s: make_solver("rigde"), "did you mean ridge"),
        (lambda p, s: make_solver("ridge", alpha=1), "no parameter 'alpha'"),
        (lambda p, s: select(s, {"alpha": [1]}, p.train, p.test), "no parameter 'alpha'"),
        (lambda p, s: select(s, {"regularization": []}, p.train, p.test), "no values"),
        (lambda p, s: select(s, {"f0_scale": [1]}, p.train, p.test), "no f0"),
    ],
)
def test_bad_input_is_one_line(call: Callable[..., object], message: str):
    with pytest.raises(UserError, match=message) as caught:
        call(*fitted())
    assert "\n" not in str(caught.value)

"""Agreement metrics against hand calculations, independent formulas and their invariances."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subkern.agreement import (
    METRICS,
    UndefinedError,
    accuracy_gap,
    alignment,
    centre,
    cka,
    effective_rank,
    eigenspace_overlap,
    entry_difference,
    get_metric,
    kernel_target_alignment,
    optimal_scale,
    pearson,
    prediction_agreement,
    relative_frobenius,
    score_predictions,
    spearman,
    spectral_epsilon,
    stable_rank,
)
from subkern.errors import UserError

SCALE_FREE = [
    "cka",
    "alignment",
    "pearson",
    "spearman",
    "relative_frobenius_scaled",
    "relative_frobenius_centred_scaled",
    "entry_mean_scaled",
    "entry_median_scaled",
    "entry_median_centred_scaled",
    "kernel_target_alignment",
    "effective_rank",
    "effective_rank_centred",
    "stable_rank",
    "eigenspace_overlap",
    "eigenspace_overlap_centred",
    "spectral_epsilon_scaled",
]
# A kernel is its own best match: what each metric of two kernels then is.
OF_ITSELF = {"lower": 0.0, "higher": 1.0, "reference": 1.0}


def gram(seed: int, n: int = 7, c: int = 2, features: int = 30) -> np.ndarray:
    """Return a random kernel ``[n, c, n, c]`` of full rank."""
    rows = np.random.default_rng(seed).normal(size=(n * c, features)) + 0.5
    return (rows @ rows.T).reshape(n, c, n, c)


def rectangle(seed: int, n: int = 6, c: int = 2, m: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, c, m, c)) + 0.3


seeds = st.integers(0, 2**32 - 1)
logits = st.integers(1, 3)


@given(seed=seeds, c=logits, square=st.booleans())
@settings(max_examples=25, deadline=None)
def test_every_metric_stays_in_its_range_and_is_best_at_itself(seed: int, c: int, square: bool):
    make = gram if square else rectangle
    first, second = make(seed, c=c), make(seed + 1, c=c)
    labels = np.arange(first.shape[0]) % max(2, c), np.arange(first.shape[2]) % max(2, c)
    for metric in METRICS.values():
        if metric.needs_symmetric and not square:
            continue
        value = metric(first, second, *labels)
        assert metric.low - 1e-12 <= value <= metric.high + 1e-12, metric.name
        if metric.kernels == 2:
            assert metric(first, first, *labels) == pytest.approx(
                OF_ITSELF[metric.better], abs=1e-9
            )


@given(seed=seeds, scale=st.floats(1e-3, 1e3))
@settings(max_examples=25, deadline=None)
def test_a_positive_scale_of_the_other_kernel_does_not_matter(seed: int, scale: float):
    first, second, labels = gram(seed), gram(seed + 1), np.arange(7) % 2
    for name in SCALE_FREE:
        metric = METRICS[name]
        same = metric(first, scale * second, labels, labels)
        assert same == pytest.approx(metric(first, second, labels, labels), rel=1e-6, abs=1e-8), (
            name
        )


@given(seed=seeds, order=st.permutations(range(7)))
@settings(max_examples=25, deadline=None)
def test_the_order_of_examples_does_not_matter(seed: int, order: list[int]):
    first, second, labels = gram(seed), gram(seed + 1), np.arange(7) % 2
    moved = [kernel[order][:, :, order] for kernel in (first, second)]
    for metric in METRICS.values():
        value = metric(*moved, labels[order], labels[order])
        assert value == pytest.approx(metric(first, second, labels, labels), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_torch_and_kernel_objects_equal_numpy(name: str, dtype: torch.dtype):
    first, second = (gram(i).astype(str(dtype).split(".")[1]) for i in (0, 1))
    labels = np.arange(7) % 2
    tensors = [torch.from_numpy(kernel).requires_grad_() for kernel in (first, second)]
    objects = [SimpleNamespace(values=kernel) for kernel in (first, second)]
    expected = METRICS[name](first, second, labels, labels)
    assert METRICS[name](*tensors, labels, labels) == expected
    assert METRICS[name](*objects, labels, labels) == expected


def test_a_matrix_is_a_kernel_of_one_logit():
    first, second = gram(0, c=1), gram(1, c=1)
    assert cka(first[:, 0, :, 0], second[:, 0, :, 0]) == cka(first, second)


@pytest.mark.parametrize("make", [gram, rectangle])
def test_cka_equals_explicit_centring_matrices(make: Callable[..., np.ndarray]):
    first, second = make(3), make(4)
    n, c, m, _ = first.shape
    left, right = (np.kron(np.eye(k) - 1 / k, np.eye(c)) for k in (n, m))
    centred = [left @ k.reshape(n * c, m * c) @ right for k in (first, second)]
    expected = np.trace(centred[0] @ centred[1].T)
    expected /= np.sqrt(np.trace(centred[0] @ centred[0].T) * np.trace(centred[1] @ centred[1].T))
    assert cka(first, second) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(centre(first).reshape(n * c, m * c), centred[0], atol=1e-12)


def test_cka_of_orthogonal_features_by_hand():
    # Centred features (1,-1,1,-1) and (1,1,-1,-1) are orthogonal: <xx', yy'> = (x'y)^2 = 0.
    x, y = np.array([1.0, -1, 1, -1]), np.array([1.0, 1, -1, -1])
    assert cka(np.outer(x, x), np.outer(y, y)) == pytest.approx(0, abs=1e-15)
    # Half of the mass shared: <xx', xx' + yy'> = 16, norms 4 and sqrt(32).
    half = np.outer(x, x) + np.outer(y, y)
    assert cka(np.outer(x, x), half) == pytest.approx(2**-0.5)
    # A constant shift is invisible to CKA, not to alignment.
    assert cka(np.outer(x, x), half + 100) == pytest.approx(2**-0.5)
    assert alignment(np.outer(x, x), half + 100) < 0.1


def test_differences_by_hand():
    first, second = np.array([[2.0, 1], [1, 4]]), np.array([[1.0, 1], [1, 2]])
    # difference (1, 0, 0, 2); norms sqrt(5) and sqrt(22)
    assert relative_frobenius(first, second) == pytest.approx((5 / 22) ** 0.5)
    assert entry_difference(first, second) == pytest.approx((1 / 2 + 0 + 0 + 1 / 2) / 4)
    assert entry_difference(first, second, reduce="median") == pytest.approx(0.25)
    # s = (2 + 1 + 1 + 8) / (1 + 1 + 1 + 4) = 12/7
    assert optimal_scale(first, second) == pytest.approx(12 / 7)
    assert relative_frobenius(first, second, scaled=True) == pytest.approx(
        (1 - 12**2 / (22 * 7)) ** 0.5
    )


@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_the_optimal_scale_is_the_best_and_turns_differences_into_alignment(seed: int):
    first, second = rectangle(seed), rectangle(seed + 1)
    best = relative_frobenius(first, second, scaled=True)
    scale = optimal_scale(first, second)
    for factor in (0.9, 1.1):
        assert best <= relative_frobenius(first, factor * scale * second)
    assert best == pytest.approx((1 - alignment(first, second) ** 2) ** 0.5, abs=1e-9)
    centred = relative_frobenius(first, second, scaled=True, centred=True)
    assert centred == pytest.approx((1 - cka(first, second) ** 2) ** 0.5, abs=1e-9)


def test_entries_of_zero_show_in_the_mean_and_not_in_the_median():
    first, second = np.array([[0.0, 0], [1, 1]]), np.array([[0.0, 1], [1, 2]])
    assert entry_difference(first, second) == np.inf
    assert entry_difference(first, second, reduce="median") == pytest.approx(0.5)


def test_correlations_equal_scipy():
    first, second = rectangle(0).round(1), rectangle(1).round(1)  # with ties
    second = (second + 0.5 * first).round(2)
    flat = first.ravel(), second.ravel()
    assert pearson(first, second) == pytest.approx(scipy.stats.pearsonr(*flat).statistic)
    assert spearman(first, second) == pytest.approx(scipy.stats.spearmanr(*flat).statistic)
    assert spearman(first, np.exp(first)) == pytest.approx(1)
    assert pearson(first, 3 * first - 2) == pytest.approx(1)


@pytest.mark.parametrize(
    ("diagonal", "entropy_rank", "stable"),
    [([1, 1, 1, 1], 4, 4), ([5, 0, 0, 0], 1, 1), ([2, 2, 0, 0], 2, 2), ([2, 1, 1, 0], 8**0.5, 1.5)],
)
def test_ranks_by_hand(diagonal: list[float], entropy_rank: float, stable: float):
    # Shares (1/2, 1/4, 1/4) have entropy 1.5 ln 2.
    kernel = np.diag(np.array(diagonal, dtype=float))
    rectangular = np.hstack([kernel, np.zeros((4, 3))])
    for each in (kernel, rectangular):
        assert effective_rank(each) == pytest.approx(entropy_rank)
        assert stable_rank(each) == pytest.approx(stable)


def test_eigenspace_overlap_by_hand():
    first, second = np.diag([9.0, 8, 1, 0.5]), np.diag([9.0, 1, 8, 0.5])
    assert eigenspace_overlap(first, second, k=1) == pytest.approx(1)
    assert eigenspace_overlap(first, second, k=2) == pytest.approx(0.5)
    assert eigenspace_overlap(first, second) == pytest.approx(1)  # k = 4 is everything
    wide = np.hstack([second, np.zeros((4, 2))])
    assert eigenspace_overlap(np.hstack([first, np.ones((4, 2))]), wide, k=1) < 1
    assert eigenspace_overlap(np.hstack([first, np.zeros((4, 2))]), wide, k=2) == pytest.approx(0.5)
    # A rotation by 30 degrees: cos^2 = 3/4.
    turn = np.array([[np.cos(np.pi / 6), -0.5], [0.5, np.cos(np.pi / 6)]])
    turned = turn @ np.diag([2.0, 1]) @ turn.T
    assert eigenspace_overlap(np.diag([2.0, 1]), turned, k=1) == pytest.approx(0.75)


def test_spectral_epsilon_by_hand():
    # Generalized eigenvalues 1.2, 0.9 on the range of K.
    first = np.diag([4.0, 2, 0])
    inside, outside = np.diag([4.8, 1.8, 0]), np.diag([4.8, 1.8, 0.1])
    assert spectral_epsilon(first, inside) == pytest.approx(0.2)
    assert spectral_epsilon(first, inside, scaled=True) == pytest.approx(0.3 / 2.1)
    assert spectral_epsilon(first, outside) == np.inf
    assert spectral_epsilon(first, outside, scaled=True) == np.inf
    assert spectral_epsilon(first, np.diag([4.0, 0, 0]), scaled=True) == 1
    # Beside the range only: no (1 + eps) K bounds it either.
    beside = np.array([[4.0, 0, 1], [0, 2, 0], [1, 0, 0]])
    assert spectral_epsilon(first, beside) == np.inf


@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_spectral_epsilon_is_the_smallest_that_bounds_both_sides(seed: int):
    first, second = gram(seed), gram(seed)
    second = second + 0.05 * gram(seed + 1)
    epsilon = spectral_epsilon(first, second)
    flat = [kernel.reshape(14, 14) for kernel in (first, second)]

    def holds(eps: float) -> bool:
        sides = flat[1] - (1 - eps) * flat[0], (1 + eps) * flat[0] - flat[1]
        return all(np.linalg.eigvalsh(side)[0] > -1e-9 * np.trace(flat[0]) for side in sides)

    assert holds(epsilon * (1 + 1e-6))
    assert not holds(epsilon * 0.98)


def test_target_alignment_by_hand():
    y = np.array([0, 0, 1, 1])
    sign = 2.0 * y - 1
    assert kernel_target_alignment(np.outer(sign, sign), y) == pytest.approx(1)
    assert kernel_target_alignment(np.eye(4), y, centred=False) == pytest.approx(0.5)
    onehot = np.eye(3)[[0, 1, 2, 2]].ravel()
    ideal = np.outer(onehot, onehot).reshape(4, 3, 4, 3)
    assert kernel_target_alignment(ideal, [0, 1, 2, 2]) == pytest.approx(1)
    assert kernel_target_alignment(ideal[:, :, :2], [0, 1, 2, 2], [0, 1]) == pytest.approx(1)
    carried = SimpleNamespace(values=np.outer(sign, sign), left_labels=y, right_labels=y)
    assert kernel_target_alignment(carried) == pytest.approx(1)


def test_predictions_by_hand():
    labels, first, second = [0, 1, 1, 0], [0, 1, 1, 1], [0, 1, 0, 0]
    assert prediction_agreement(first, second) == 0.5
    assert accuracy_gap(labels, first, second) == 0
    assert accuracy_gap(labels, labels, second) == 0.25
    assert score_predictions(labels, first, "f1") == pytest.approx(0.8)
    assert score_predictions([0, 0], [0, 0], "f1") == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cka(np.eye(3), np.eye(4)), "differ in shape"),
        (lambda: cka(np.eye(3), np.full((3, 3), np.nan)), "9 NaN"),
        (lambda: cka(np.ones(3), np.ones(3)), r"\[3\]: expected \[n, m\]"),
        (lambda: cka(np.ones((2, 2, 2, 3)), np.ones((2, 2, 2, 3))), "expected"),
        (lambda: cka(np.ones((0, 3)), np.ones((0, 3))), "at least one"),
        (lambda: cka("kernel", np.eye(3)), "is a str"),
        (lambda: spectral_epsilon(np.ones((2, 3)), np.ones((2, 3))), "square"),
        (lambda: spectral_epsilon(np.triu(np.ones((3, 3))), np.eye(3)), "symmetric"),
        (lambda: spectral_epsilon(np.diag([1.0, -1]), np.eye(2)), "semi-definite"),
        (lambda: eigenspace_overlap(np.eye(3), np.eye(3), k=4), "k=4"),
        (lambda: entry_difference(np.eye(3), np.eye(3), reduce="max"), "'max'"),
        (lambda: kernel_target_alignment(np.eye(3)), "needs labels"),
        (lambda: kernel_target_alignment(np.eye(3), [0, 1]), r"expected \[3\]"),
        (lambda: kernel_target_alignment(gram(0), [0, 1, 2, 0, 0, 0, 0]), "0 to 1"),
        (lambda: prediction_agreement([0, 1], [0]), "one label per example"),
        (lambda: score_predictions([0, 2], [0, 2], "f1"), "f1"),
        (lambda: score_predictions([0, 1], [0, 1], "auc"), "'auc'"),
        (lambda: get_metric("cca"), "'cca'.*cka"),
    ],
)
def test_bad_input_is_one_line(call: Callable[[], object], message: str):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("metric", [cka, pearson, spearman])
def test_constant_kernels_have_no_direction(metric: Callable[..., float]):
    with pytest.raises(UndefinedError):
        metric(np.full((4, 4), 1 / 3), np.eye(4))


def test_kernels_of_other_examples_are_refused():
    first = SimpleNamespace(values=np.eye(2), left_ids=["a", "b"], right_ids=["a", "b"])
    second = SimpleNamespace(values=np.eye(2), left_ids=["a", "b"], right_ids=["b", "a"])
    with pytest.raises(UserError, match=r"right side .*\('a' and 'b' at 0\)"):
        cka(first, second)
    assert cka(first, first) == 1

"""Bootstrap intervals and the table of all metrics."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from subkern.agreement import (
    METRICS,
    accuracy_gap,
    agreement_table,
    cka,
    interval,
    intervals,
    prediction_agreement,
    prediction_interval,
)
from subkern.agreement.resampling import kernel_pair
from subkern.errors import UserError


def sample(seed: int, n: int = 24, m: int | None = None, rank: int = 40) -> tuple[np.ndarray, ...]:
    """Return the kernel of random features and of a random subspace of them, train against train or
    test.
    """
    rng = np.random.default_rng(seed)
    spread = 1 / np.sqrt(np.arange(1, 61))
    left = rng.normal(size=(n, 60)) * spread
    right = left if m is None else rng.normal(size=(m, 60)) * spread
    basis = np.random.default_rng(99).normal(size=(60, rank)) / rank**0.5
    return left @ right.T, left @ basis @ basis.T @ right.T


def test_copies_of_an_example_do_not_repeat_its_self_similarity():
    kernel = np.full((5, 5), 1.0) + 9 * np.eye(5)
    pair = kernel_pair(kernel, 2 * kernel, np.arange(5), None, None)
    rows = np.array([0, 0, 0, 3, 4])
    drawn = pair.resample(rows, rows, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn.reference[:, 0, :, 0], kernel)
    np.testing.assert_array_equal(drawn.other, 2 * drawn.reference)
    np.testing.assert_array_equal(drawn.labels, rows)


def test_a_resample_is_symmetric_and_takes_all_logits_along():
    values = np.random.default_rng(0).normal(size=(12, 12))
    kernel = (values + values.T).reshape(6, 2, 6, 2)
    rows = np.array([1, 1, 2, 5, 5, 5])
    drawn = kernel_pair(kernel, kernel, None, None, None).resample(
        rows, rows, np.random.default_rng(1)
    )
    np.testing.assert_array_equal(drawn.reference, drawn.reference.transpose(2, 3, 0, 1))
    np.testing.assert_array_equal(drawn.reference[2, :, 0], kernel[2, :, 1])
    assert np.isin(drawn.reference, kernel).all()


def test_rows_and_columns_of_a_rectangle_are_drawn_apart():
    kernel = np.arange(12.0).reshape(3, 4)
    pair = kernel_pair(kernel, kernel, [0, 1, 0], [0, 1, 0, 1], None)
    drawn = pair.resample(np.array([2, 2, 0]), np.array([3, 3, 1, 0]), np.random.default_rng(0))
    np.testing.assert_array_equal(drawn.reference[:, 0, :, 0], kernel[[2, 2, 0]][:, [3, 3, 1, 0]])
    np.testing.assert_array_equal(drawn.right_labels, [1, 1, 1, 0])


@pytest.mark.parametrize("m", [None, 30])
def test_an_interval_holds_its_value_repeats_and_narrows_with_confidence(m: int | None):
    first, second = sample(0, m=m)
    wide = interval("cka", first, second, n_resamples=200)
    assert wide == interval("cka", first, second, n_resamples=200)
    assert -1 <= wide.low < wide.value < wide.high <= 1
    assert wide.value == cka(first, second)
    narrow = interval("cka", first, second, n_resamples=200, confidence=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert interval("cka", first, second, n_resamples=200, random_state=1) != wide


def test_equal_kernels_have_an_interval_of_no_width():
    first, _ = sample(0)
    assert interval(cka, first, first, n_resamples=50).low == pytest.approx(1)
    found = interval("relative_frobenius", first, first, n_resamples=50)
    assert (found.low, found.value, found.high) == (0, 0, 0)


@pytest.mark.parametrize("name", ["cka", "relative_frobenius_scaled", "entry_median_scaled"])
def test_intervals_cover_the_value_expected_at_that_size(name: str):
    # Binomial(40, 0.9) is below 31 with probability 0.01; the seeds are fixed.
    expected = np.mean([METRICS[name](*sample(1000 + seed)) for seed in range(300)])
    found = [interval(name, *sample(seed), n_resamples=100) for seed in range(40)]
    assert sum(each.low <= expected <= each.high for each in found) >= 31


def test_metrics_without_interval_say_so():
    first, second = sample(0)
    with pytest.raises(UserError, match="spectral_epsilon has no bootstrap interval"):
        interval("spectral_epsilon", first, second)
    value, nothing = intervals(
        [METRICS["cka"], METRICS["spectral_epsilon"]], first, second, n_resamples=20
    )
    assert np.isfinite(value.low)
    assert np.isfinite(nothing.value)
    assert np.isnan([nothing.low, nothing.high]).all()


def test_intervals_of_predictions():
    rng = np.random.default_rng(0)
    labels, first = rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    second = np.where(rng.random(200) < 0.9, first, 1 - first)
    found = prediction_interval(prediction_agreement, first, second, n_resamples=500)
    # Normal approximation of a share: 1.96 sqrt(p (1 - p) / m).
    half = 1.96 * (found.value * (1 - found.value) / 200) ** 0.5
    assert found.high - found.low == pytest.approx(2 * half, rel=0.2)
    gap = prediction_interval(accuracy_gap, labels, first, second, n_resamples=200)
    assert gap.low <= gap.value <= gap.high


def test_the_table_holds_every_metric_that_applies():
    first, second = sample(0)
    table = agreement_table(first, second, labels=np.arange(24) % 2, n_resamples=20).set_index(
        "metric"
    )
    assert list(table.index) == list(METRICS)
    assert table.loc["cka", "reference"] == pytest.approx(1)
    assert table.loc["effective_rank", "reference"] > table.loc["effective_rank", "value"]
    bounded = table.dropna(subset=["low"])
    assert set(table.index) - set(bounded.index) == {"spectral_epsilon", "spectral_epsilon_scaled"}
    assert (bounded.low <= bounded.value).all()
    assert (bounded.value <= bounded.high).all()


def test_the_table_leaves_out_what_does_not_apply():
    first, second = sample(0, m=30)
    names = set(agreement_table(first, second, n_resamples=0).metric)
    left_out = {"spectral_epsilon", "spectral_epsilon_scaled", "kernel_target_alignment"}
    assert names == set(METRICS) - left_out
    labeled = [
        SimpleNamespace(
            values=kernel, left_labels=np.arange(24) % 2, right_labels=np.arange(30) % 2
        )
        for kernel in (first, second)
    ]
    assert "kernel_target_alignment" in set(agreement_table(*labeled, n_resamples=5).metric)


def test_an_undefined_metric_is_nan_in_the_table():
    table = agreement_table(np.ones((4, 4)), np.eye(4), metrics=["cka", "alignment"], n_resamples=5)
    assert np.isnan(table.value[0])
    assert table.value[1] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["spectral_epsilon"]}, "symmetric"),
        ({"metrics": ["kernel_target_alignment"]}, "labels"),
        ({"metrics": ["ckaa"]}, "did you mean cka"),
        ({"confidence": 95}, "confidence=95"),
        ({"n_resamples": -1}, "n_resamples=-1"),
        ({"labels": [0, 1], "right_labels": [0]}, r"expected \[24\]"),
    ],
)
def test_bad_requests_are_one_line(options: dict[str, object], message: str):
    with pytest.raises(UserError, match=message):
        agreement_table(*sample(0, m=30), **options)

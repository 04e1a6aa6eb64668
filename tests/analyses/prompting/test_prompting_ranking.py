"""Rank correlation over prompts and regret, against slow versions of their own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from analyses.engine.ranking import FEWEST, rank_correlation
from analyses.prompting.findings import regret

SCORES = st.integers(0, 6).map(lambda n: n / 6)  # ties are common, as on small dev sets


def ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks, ties sharing theirs: how many are below, and half of how many are equal."""
    below = (values[None, :] < values[:, None]).sum(1)
    equal = (values[None, :] == values[:, None]).sum(1)
    return below + (equal - 1) / 2


def column(values: list[float]) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


@given(st.data(), st.integers(2, 8), st.integers(1, 3))
def test_spearman_is_the_correlation_of_ranks(data: st.DataObject, p: int, s: int) -> None:
    x, y = (data.draw(hnp.arrays(float, (p, s), elements=SCORES)) for _ in range(2))
    found = rank_correlation(x, y, resamples=10)
    wanted = [
        np.corrcoef(ranks(a), ranks(b))[0, 1]
        for a, b in zip(x.T, y.T, strict=True)
        if np.ptp(a) > 0 and np.ptp(b) > 0
    ]
    assert found.count == p
    if not wanted:
        assert math.isnan(found.value)
        return
    assert found.value == pytest.approx(np.mean(wanted), abs=1e-12)
    if p >= FEWEST:
        assert -1 - 1e-9 <= found.low <= found.high <= 1 + 1e-9
    else:
        assert math.isnan(found.low)


def test_perfect_order_is_1_whatever_the_scale() -> None:
    truth = column([0.5, 0.6, 0.7, 0.8, 0.9])
    found = rank_correlation(np.exp(10 * truth), truth)
    assert found.value == pytest.approx(1)
    assert (found.low, found.high) == pytest.approx((1, 1))
    assert rank_correlation(-truth, truth).value == pytest.approx(-1)


def test_the_interval_is_wide_where_one_prompt_decides() -> None:
    rng = np.random.default_rng(0)
    truth = np.append(rng.normal(size=7), 9.0)
    noise = np.append(rng.normal(size=7), 9.0)
    found = rank_correlation(column(list(noise)), column(list(truth)), resamples=400)
    assert found.low < 0 < found.value < found.high
    narrow = rank_correlation(
        column(list(noise)), column(list(truth)), confidence=0.5, resamples=400
    )
    assert found.low < narrow.low < narrow.high < found.high


def test_two_data_seeds_are_averaged_and_not_mixed() -> None:
    truth = np.array([[0.5, 0.9], [0.6, 0.8], [0.7, 0.7]])
    predictor = np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
    assert rank_correlation(predictor, truth).value == pytest.approx(1)
    assert rank_correlation(predictor[:, ::-1], truth).value == pytest.approx(-1)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"two arrays \[p, s\]"):
        rank_correlation(np.zeros((2, 1)), np.zeros((3, 1)))


def test_regret() -> None:
    truth = column([0.5, 0.9, 0.7])
    assert regret(column([0, 1, 0.5]), truth) == 0
    assert regret(column([0, 0.5, 1]), truth) == pytest.approx(0.2)
    assert regret(column([1, 1, 0]), truth) == pytest.approx(0.9 - 0.7)  # a tie: either
    assert regret(None, truth) == pytest.approx(0.9 - 0.7)
    both = np.hstack([truth, truth])
    assert regret(np.array([[0, 1], [1, 0], [0, 0]]), both) == pytest.approx(0.2)

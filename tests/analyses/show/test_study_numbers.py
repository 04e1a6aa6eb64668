"""One standard error of a test score: a formula for accuracy, the bootstrap for F1."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analyses.engine.run_folder import Results
from analyses.engine.scores import SCORES
from analyses.lora.compute import TABLE
from analyses.show.study_numbers import score_error
from subkern.agreement import prediction_interval

row, tidy = TABLE.row, TABLE.tidy


def of_task(metric: str, tests: int) -> Results:
    inputs = {"task": {"name": "x", "metric": metric}, "examples": {"13": {"test": tests}}}
    return Results("lora", {"confidence": 0.9}, inputs, tidy([]))


def test_an_accuracy_s_is_the_binomial_one() -> None:
    rows = tidy([row(0.7, metric="accuracy"), row(0.9, metric="accuracy")])
    assert score_error(of_task("accuracy", 100), rows) == pytest.approx(0.04)
    assert score_error(of_task("accuracy", 100), tidy([row(1.0, metric="accuracy")])) == 0


def test_f1_s_is_that_of_its_bootstrap_and_not_the_binomial_one() -> None:
    """20 of 200 labels are 1: F1 hangs on those few, an accuracy of its size on all 200."""
    rng = np.random.default_rng(0)
    labels = (np.arange(200) < 20).astype(np.int64)
    guesses = np.where(rng.random(200) < 0.9, labels, 1 - labels)
    found = prediction_interval(SCORES["f1"], labels, guesses, confidence=0.9, n_resamples=4000)
    draws = [
        SCORES["f1"](labels[i], guesses[i])
        for i in (rng.integers(0, 200, 200) for _ in range(4000))
    ]
    rows = tidy([row(found.value, (found.low, found.high), metric="f1")])
    error = score_error(of_task("f1", 200), rows)
    assert error == pytest.approx(np.std(draws), rel=0.05)
    assert error > 1.5 * math.sqrt(found.value * (1 - found.value) / 200)


def test_f1_s_is_the_mean_of_the_runs_that_have_an_interval() -> None:
    rows = tidy([row(0.5, (0.4, 0.6)), row(0.5, (0.3, 0.7)), row(0.5)])
    wanted = 0.15 / stats.norm.ppf(0.95)
    assert score_error(of_task("f1", 50), rows) == pytest.approx(wanted)
    assert math.isnan(score_error(of_task("f1", 50), tidy([row(0.5, metric="f1")])))

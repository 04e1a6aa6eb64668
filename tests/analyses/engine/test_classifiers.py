"""Classifiers of a study: what a kernel adds to the initial logits, whatever it takes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from analyses.engine.classifiers import Predicted, Split, added_logits, predicted_logits, tune
from analyses.engine.predictions import Key, Prediction
from analyses.verify.train import compare
from subkern.kernels.kernel import Kernel
from subkern.solvers import make_solver

SPLIT = Split([f"train-{i}" for i in range(12)], ["dev-0"], [f"test-{i}" for i in range(9)])
SCALES = (None, 1.0, 10.0)


def kernel(c: int) -> Kernel:
    """Return the kernel of made-up features of all examples, with labels and initial logits."""
    rng = np.random.default_rng(c)
    ids = [*SPLIT.train, *SPLIT.dev, *SPLIT.test]
    features, f0 = rng.normal(size=(len(ids), c, 40)), rng.normal(size=(len(ids), c))
    labels, n = np.arange(len(ids)) % max(c, 2), len(SPLIT.train)
    return Kernel(
        np.einsum("ncp,mdp->ncmd", features[:n], features),
        left_ids=ids[:n],
        right_ids=ids,
        left_labels=labels[:n],
        right_labels=labels,
        left_logits=f0[:n],
        right_logits=f0,
        provenance={},
    )


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("solver", ["ridge", "logistic", "lstsq", "svr"])
def test_what_is_added_starts_from_the_initial_logits(solver: str, c: int) -> None:
    whole = kernel(c)
    settings = tune(whole, SPLIT, solver, "accuracy", from_start=True)
    assert settings["f0_scale"] == 1
    train, test = (whole.select(right=list(ids)) for ids in (SPLIT.train, SPLIT.test))
    f0, zeros = np.asarray(test.right_logits), np.zeros((len(SPLIT.test), c))
    fitted = make_solver(solver, **settings).fit(train, f0=train.left_logits)
    added = added_logits(whole, SPLIT, solver, settings)
    own = fitted.decision_function(test, f0=zeros).reshape(-1, c)
    np.testing.assert_allclose(added, own, atol=1e-12)
    found = predicted_logits(whole, SPLIT, solver, settings)
    np.testing.assert_allclose(found, f0 + added, atol=1e-12)


@pytest.mark.parametrize("solver", ["svc", "row-logistic"])
def test_where_initial_logits_are_features_nothing_is_added_to_them(solver: str) -> None:
    settings = {"f0_scale": 1.0}
    assert np.isfinite(predicted_logits(kernel(3), SPLIT, solver, settings)).all()
    assert np.isnan(added_logits(kernel(3), SPLIT, solver, settings)).all()


@pytest.mark.parametrize("scale", SCALES)
def test_a_change_foretold_correlates_whatever_the_classifier_takes_of_the_start(
    scale: float | None,
) -> None:
    rng = np.random.default_rng(0)
    start, changes = rng.normal(size=(2, 50, 3))
    said = Predicted(changes + (0 if scale is None else start / scale), changes)
    prediction = Prediction.of(Key(13, "full"), [str(i) for i in range(50)], said)
    rows: dict[str, Any] = {
        row["metric"]: row["value"] for row in compare(prediction, start + 0.5 * changes, start)
    }
    assert rows["change_correlation"] == pytest.approx(1)
    assert rows["logit_correlation"] < 1 - 1e-3

"""Examples with fewer options than others: logits they lack are neither fitted nor predicted."""

from __future__ import annotations

import numpy as np
import pytest

from subkern.kernels.kernel import Kernel
from subkern.prompts.marked import MISSING
from subkern.solvers import SOLVERS, evaluate, make_solver


def problem(seed: int = 0) -> tuple[Kernel, Kernel]:
    """20 examples of two options and 20 of three; kernels are zero where an option lacks."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(40, 3, 6))
    labels = np.where(np.arange(40) % 2 == 0, rng.integers(0, 2, 40), rng.integers(0, 3, 40))
    features[np.arange(40), labels] += 1.5  # the right option looks alike everywhere
    f0 = 0.1 * rng.normal(size=(40, 3))
    features[::2, 2], f0[::2, 2] = 0.0, MISSING
    values = np.einsum("iad,jbd->iajb", features, features)
    ids = [f"e{i}" for i in range(40)]
    kernel = Kernel(values, ids, ids, labels, labels, None, f0, f0)
    return kernel.select(ids[:30], ids[:30]), kernel.select(ids[:30], ids[30:])


@pytest.mark.parametrize("name", sorted(SOLVERS))
@pytest.mark.parametrize("scale", [None, 1.0, 10.0])
def test_what_lacks_is_never_predicted(name: str, scale: float | None) -> None:
    train, test = problem()
    solver = make_solver(name, f0_scale=scale).fit(train, f0=train.left_logits)
    scores = solver.decision_function(test, f0=test.right_logits)
    assert (scores[::2, 2] == MISSING).all()
    assert np.isfinite(scores).all()
    assert (solver.predict(test, f0=test.right_logits)[::2] < 2).all()
    assert solver.score(test, f0=test.right_logits) > 0.5


def test_the_regularization_is_chosen_by_what_is_there() -> None:
    """10,000 squared drowned every leave-one-out error, and the most regularized was taken."""
    train, test = problem()
    solver = make_solver("ridge").fit(train, f0=train.left_logits)
    assert solver.loo_error_ < 2
    assert solver.regularization_ < max(solver.loo_curve_)
    assert evaluate("ridge", train, test)["eval accuracy"] >= 0.7

"""Linearization compared, kernels along training, and the verdict from both."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from subkern.errors import UserError
from subkern.kernel_behavior import (
    Evidence,
    Thresholds,
    compare_linearized,
    feature_change,
    judge,
    kernels_over_training,
    subspace_at,
)
from subkern.kernels.compute import compute_kernel
from subkern.subspaces.movable import MovableModel
from subkern.subspaces.text import parse_subspace
from tests.support import oracles
from tests.support.families import FAMILIES, random_examples

GPT2 = next(f for f in FAMILIES if (f.name, f.kind) == ("gpt2", "causal"))
SUBSPACES = ("full", "bias", "lora:r=2,alpha=4", "random:dim=6,kind=srht")


def shifts(tunable: MovableModel, *sizes: float) -> dict[int, dict[str, torch.Tensor]]:
    """One random direction at several sizes, the position as the step."""
    generator = torch.Generator().manual_seed(0)
    drawn = {
        n: torch.randn(z.shape, generator=generator, dtype=z.dtype)
        for n, z in tunable.start.items()
    }
    return {i: {n: size * v for n, v in drawn.items()} for i, size in enumerate(sizes)}


@pytest.mark.parametrize("rule", ["sgd", "asymmetric_signgd"])
@pytest.mark.parametrize("text", SUBSPACES)
def test_features_are_exactly_unchanged_at_zero_steps(text: str, rule: str) -> None:
    model, examples = oracles.logit_model(GPT2), random_examples(5)
    start = compute_kernel(model, examples, rule=rule, subspace=text)
    tunable = MovableModel(model, parse_subspace(text))
    found = dict(
        kernels_over_training(
            model, examples, subspace=text, shifts=shifts(tunable, 0.0, 0.05), rule=rule
        )
    )
    np.testing.assert_array_equal(found[0].values, start.values)
    table = feature_change(start, found[0]).set_index("metric")
    assert table["unchanged"].all()
    for name in ("relative_frobenius", "entry_mean", "entry_median"):
        assert table["value"][name] == 0.0
    assert {"cka", "relative_frobenius_scaled", "relative_frobenius_centred"} <= set(table.index)
    moved = feature_change(start, found[1]).set_index("metric")
    assert moved["value"]["relative_frobenius"] > 1e-6
    assert not moved["unchanged"]["cka"]


@pytest.mark.parametrize("text", SUBSPACES)
def test_the_kernel_along_training_is_that_of_the_moved_model(text: str) -> None:
    """Against autograd at z₀ + shift, by the chain rule written out for P."""
    model, examples = oracles.logit_model(GPT2), random_examples(3)
    tunable = MovableModel(model, parse_subspace(text))
    shift = shifts(tunable, 0.05)[0]
    tunable.move(shift)
    z = list(tunable.coordinates.values())
    rows = []
    for example in examples:
        logits = tunable(tunable.model.collate([example]))[0]
        rows.append(torch.stack([oracles.gradient(each, z) for each in logits]))
    wanted = oracles.kernel(torch.stack(rows))
    found = compute_kernel(model, examples, subspace=subspace_at(model, text, shift))
    assert oracles.error(found.values, wanted) < 1e-9
    assert found.left_logits is not None
    with torch.no_grad():
        f = tunable(tunable.model.collate(examples)).numpy()
    np.testing.assert_allclose(found.left_logits, f, rtol=1e-9)


def test_a_subspace_at_a_checkpoint_is_refused_politely() -> None:
    model = oracles.logit_model(GPT2)
    at = parse_subspace("full").at(MovableModel(model, parse_subspace("full")).tensors())  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="give the subspace it is around"):
        subspace_at(model, at, {})


def test_linearization_compared_by_hand() -> None:
    start = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    trained = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    linear = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = compare_linearized(start, linear, trained, [1, 1, 0, 1])
    assert (found.zero_shot, found.linearized, found.trained) == (0.5, 0.75, 1.0)
    assert found.recovered == 0.5
    assert found.same_predictions == 0.75
    assert found.distance == pytest.approx(math.sqrt(2) / 2)


def test_no_gain_and_no_movement_have_no_share() -> None:
    f = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = compare_linearized(f, f, f, [0, 1])
    assert math.isnan(found.recovered)
    assert math.isnan(found.distance)
    assert compare_linearized(f, f, f[::-1], [0, 1]).recovered != 0  # training made it worse
    with pytest.raises(UserError, match="the same examples"):
        compare_linearized(f, f[:1], f, [0, 1])


GOOD = Evidence(
    zero_shot=0.6, kernel=0.78, linearized=0.75, trained=0.8, cka=0.97, relative_change=0.2
)


@pytest.mark.parametrize(
    ("changes", "behavior", "signs"),
    [
        ({}, "yes", (True, True, True)),
        ({"kernel": 0.7}, "partly", (False, True, True)),
        ({"linearized": 0.65}, "partly", (True, False, True)),
        ({"cka": 0.5}, "partly", (True, True, False)),
        ({"relative_change": 1.5}, "partly", (True, True, False)),
        ({"kernel": 0.6, "linearized": 0.6, "cka": 0.5}, "no", (False, False, False)),
        ({"trained": 0.61}, "undecided", (None, None, True)),
        ({"trained": 0.5}, "undecided", (None, None, True)),
        ({"cka": math.nan}, "partly", (True, True, False)),
    ],
)
def test_verdicts(changes: dict[str, float], behavior: str, signs: tuple[Any, ...]) -> None:
    found = judge(replace(GOOD, **changes))
    assert (found.behavior, (found.solves, found.linear, found.fixed)) == (behavior, signs)
    assert str(found) == f"kernel behavior: {behavior}"
    assert math.isnan(found.kernel_share) == (behavior == "undecided")


def test_what_is_exactly_at_its_threshold_holds() -> None:
    """Whatever binary fractions make of whole per cents."""
    for zero in range(90):
        start, kernel, linear, trained, little = ((zero + more) / 100 for more in (0, 8, 5, 10, 2))
        found = judge(Evidence(start, kernel, linear, trained, 0.3 * 3, 1 + 1e-15))
        assert (zero, found.behavior) == (zero, "yes")
        found = judge(Evidence(start, little, little, little, 0.95, 0.5))
        assert (zero, found.behavior) == (zero, "yes")


@pytest.mark.parametrize("trained", [0.6, 0.5])
def test_no_gain_is_undecided_whatever_gain_is_asked_for(trained: float) -> None:
    found = judge(replace(GOOD, trained=trained), Thresholds(min_gain=0))
    assert (found.behavior, found.solves, found.linear) == ("undecided", None, None)
    assert math.isnan(found.kernel_share)
    assert math.isnan(found.recovered)
    assert judge(replace(GOOD, trained=0.6001), Thresholds(min_gain=0)).solves


def test_a_verdict_has_the_numbers_and_what_was_asked_for() -> None:
    found = judge(GOOD, asked := Thresholds(recovered=0.9))
    assert (found.gain, found.kernel_share, found.recovered) == pytest.approx((0.2, 0.9, 0.75))
    assert (found.evidence, found.asked) == (GOOD, asked)


def test_thresholds_move_the_verdict_and_are_checked() -> None:
    assert judge(GOOD, Thresholds(cka=0.99)).behavior == "partly"
    assert judge(replace(GOOD, trained=0.61), Thresholds(min_gain=0)).behavior == "yes"
    with pytest.raises(UserError, match="threshold recovered is -1"):
        Thresholds(recovered=-1)
    with pytest.raises(UserError, match="threshold cka is nan"):
        Thresholds(cka=math.nan)
    with pytest.raises(UserError, match=r"threshold min_gain is 5, .* \(0.02 is two points\)$"):
        Thresholds(min_gain=5)
    with pytest.raises(UserError, match="threshold cka is 2, which nothing reaches"):
        Thresholds(cka=2)

"""Numbers of kernels that do not belong together are refused, in one line that says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from subkern.agreement import agreement_table, cka
from subkern.dynamics import Jacobian, sgd, train_on_jacobian
from subkern.errors import UserError
from subkern.features.error import sketch_error
from subkern.kernel_behavior import feature_change
from subkern.kernels.compute import compute_kernel
from subkern.kernels.kernel import Kernel
from subkern.prompts.prompt import EncodedExample, content_digest
from subkern.solvers import RidgeSolver, evaluate, select
from tests.support.toys import WIDTH, toy, toy_examples

N, M = 4, 3
Change = dict[str, Any]
MADE = {
    "weights": "aa",
    "readout": {"kind": "words"},
    "rule": "sgd",
    "subspace": {"kind": "full"},
    "model": {"name": "m", "prompt": {"template": "*sent_0*"}},
}


def kernel(columns: int = M, **change: Any) -> Kernel:
    """A kernel of 4 training examples with themselves, or with `columns` others."""
    rows = np.random.default_rng(0).standard_normal((N + M, 5))
    square = columns == N
    right = slice(0, N) if square else slice(N, N + columns)
    values = (rows[:N] @ rows[right].T)[:, None, :, None]
    provenance = {**MADE, **change.pop("made", {})}
    ids = [f"train-{i}" for i in range(N)]
    parts: dict[str, Any] = {
        "left_labels": [0, 1, 0, 1],
        "left_content": [f"text:{i}" for i in range(N)],
        "left_logits": np.zeros((N, 1)),
    } | change
    other = {
        "right_labels": np.arange(columns) % 2,
        "right_content": [f"text:t{i}" for i in range(columns)],
    }
    if square:
        other = {f"right_{k}": parts[f"left_{k}"] for k in ("labels", "content")}
    other["right_logits"] = np.zeros((columns, 1))
    names = ids if square else [f"test-{i}" for i in range(columns)]
    return Kernel(values, ids, names, provenance=provenance, **parts, **other)


USES: dict[str, Callable[[Kernel, Kernel], object]] = {
    "evaluate": lambda k, e: evaluate("ridge", k, e),
    "evaluate, dev": lambda k, e: evaluate("ridge", k, kernel(), e),
    "score": lambda k, e: RidgeSolver().fit(k).score(e),
    "select": lambda k, e: select(RidgeSolver(), {"f0_scale": (None,)}, k, e),
    "dynamics": lambda k, e: sgd(k, e, learning_rate=0.1, batches=[[0, 1]]),
}
OTHER_EXAMPLES: list[tuple[Change, str]] = [
    ({"left_content": ["text:0", "text:x", "text:2", "text:3"]}, "'train-1' holds other text"),
    ({"left_labels": [0, 1, 1, 1]}, r"the label of 'train-2' \(0 and 1\)"),
]
OTHERWISE_MADE: list[tuple[Change, str]] = [
    ({"made": {"weights": "bb"}}, 'weights: "aa" of the training kernel, "bb"'),
    ({"made": {"rule": "signgd"}}, 'rule: "sgd" of'),
    ({"made": {"readout": {"kind": "linear"}}}, 'readout.kind: "words" of'),
    ({"made": {"subspace": {"kind": "lora"}}}, 'subspace.kind: "full" of'),
    ({"made": {"model": {"prompt": {"template": "x"}}}}, r"model.prompt.template: "),
]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(("change", "message"), OTHER_EXAMPLES + OTHERWISE_MADE)
def test_what_is_solved_together_belongs_together(use: str, change: Change, message: str) -> None:
    USES[use](kernel(N), kernel())
    with pytest.raises(UserError, match=message) as caught:
        USES[use](kernel(N), kernel(**change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("use", USES)
def test_what_is_not_known_of_both_is_not_compared(use: str) -> None:
    unknown: Change = {"left_labels": [0, 1, 0, 1], "left_content": None}
    made = dict.fromkeys(MADE)
    USES[use](kernel(N), kernel(**unknown, made=made))
    named_otherwise = {"model": {"name": "a copy", "prompt": MADE["model"]["prompt"]}}
    USES[use](kernel(N), kernel(made=named_otherwise))


def test_plain_arrays_are_taken_as_they_are() -> None:
    train, other = kernel(N), kernel(made={"weights": "bb"})
    RidgeSolver().fit(train).score(other.values, other.right_labels)
    RidgeSolver().fit(train.values, [0, 1, 0, 1]).score(other)
    RidgeSolver().fit(train, [1, 0, 1, 0]).score(kernel())  # labels that are given are meant


def test_rows_and_columns_of_a_training_kernel_are_the_same_examples() -> None:
    square = kernel(N)
    renamed = Kernel(square.values, square.left_ids, list("abcd"), [0, 1, 0, 1])
    with pytest.raises(UserError, match="rows and columns are other examples"):
        RidgeSolver().fit(renamed)


COMPARISONS: list[Callable[[Kernel, Kernel], object]] = [
    cka,
    lambda a, b: agreement_table(a, b, n_resamples=0),
    lambda a, b: feature_change(a, b),
]


@pytest.mark.parametrize("compare", COMPARISONS)
@pytest.mark.parametrize(("change", "message"), OTHER_EXAMPLES)
def test_only_kernels_of_the_same_examples_are_compared(
    compare: Callable[[Kernel, Kernel], object], change: Change, message: str
) -> None:
    for columns in (N, M):
        with pytest.raises(UserError, match=message):
            compare(kernel(columns), kernel(columns, **change))
    compare(kernel(N), kernel(N, made={"weights": "bb", "subspace": {"kind": "lora"}}))
    known, contents = kernel(), ["text:0", "text:1", "text:x"]
    wrong = Kernel(known.values, known.left_ids, known.right_ids, right_content=contents)
    with pytest.raises(UserError, match=r"right side.*'test-0' holds other text"):
        compare(kernel(), wrong)


def test_metrics_compare_models_and_rules_but_features_over_training_do_not() -> None:
    made = {"rule": "signgd", "model": {"name": "other"}}
    cka(kernel(N), kernel(N, made=made))
    with pytest.raises(UserError, match='rule: "sgd" of the kernel at the start'):
        feature_change(kernel(N), kernel(N, made=made))


def test_tokens_are_comparable_within_one_model_only() -> None:
    content = {"left_content": [f"tokens:{i}" for i in range(N)]}
    other = {"left_content": [f"tokens:{i}x" for i in range(N)]}
    with pytest.raises(UserError, match="other text"):
        cka(kernel(N, **content), kernel(N, **other))
    cka(kernel(N, **content), kernel(N, **other, made={"model": {"name": "other"}}))


def test_kernels_stored_before_content_was_are_known_by_the_digest_of_their_rows() -> None:
    def older(digest: str, columns: int = M) -> Kernel:
        return kernel(
            columns,
            left_content=None,
            made={"examples": {"left": digest, "right": "r"}},
        )

    evaluate("ridge", older("a" * 16, N), older("a" * 16))
    with pytest.raises(UserError, match="different examples that have the same ids"):
        evaluate("ridge", older("a" * 16, N), older("b" * 16))
    evaluate("ridge", older("a" * 16, N), older("b" * 64))  # of a selection: another digest


def test_computed_kernels_know_what_their_examples_hold(tmp_path: Any) -> None:
    def use(p: Any, features: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return features @ p["w"]

    model, examples = toy(use, w=(WIDTH, 3)), toy_examples()
    first = compute_kernel(model, examples)
    assert first.left_content == tuple(e.content for e in examples)
    assert Kernel.load(first.save(tmp_path / "K")).right_content == first.right_content
    assert first.select(right=slice(1, 2)).right_content == (examples[1].content,)
    tokens = [replace(e, input_ids=e.input_ids[::-1], content="") for e in examples]
    with pytest.raises(UserError, match="'e0' holds other text"):
        evaluate("ridge", first, compute_kernel(model, tokens))
    with pytest.raises(UserError, match="other text"):
        sketch_error(first, compute_kernel(model, tokens), 4)
    with torch.no_grad():
        next(iter(model.parameters())).mul_(2)
    changed = compute_kernel(model, examples)
    cka(first, changed)
    with pytest.raises(UserError, match="do not belong together, weights: "):
        evaluate("ridge", first, changed)
    with pytest.raises(UserError, match="do not belong together, weights: "):
        sketch_error(first, changed, 4)


def test_content_is_the_texts_where_they_are_known() -> None:
    same = [EncodedExample("a", 0, (1, 2), 1), EncodedExample("b", 1, (1, 2), 1)]
    assert same[0].content == same[1].content != EncodedExample("a", 0, (1, 2), 0).content
    assert same[0].content.startswith("tokens:")
    known = EncodedExample("a", 0, (1, 2), 1, content_digest("text", ("film good",)))
    assert known == same[0]
    assert known.content.startswith("text:")


def test_an_id_does_not_name_two_examples() -> None:
    with pytest.raises(UserError, match="'a' names different examples left and right"):
        Kernel(
            np.ones((1, 1, 2, 1)),
            ["a"],
            ["b", "a"],
            left_content=["text:1"],
            right_content=["text:1", "text:2"],
        )


def test_gradients_at_other_points_are_not_trained_together() -> None:
    def jacobian(**point: float) -> Jacobian:
        at = {name: torch.tensor([value]) for name, value in point.items()}
        gradients = {name: torch.ones(1, 1, 1) for name in at}
        return Jacobian(gradients, at, torch.zeros(1, 1), torch.tensor([0]), ("a",))

    def train(followed: Jacobian) -> None:
        make = torch.optim.SGD
        train_on_jacobian(jacobian(w=1.0), followed, optimizer=make, batches=[[0]])

    train(jacobian(w=1.0))
    with pytest.raises(UserError, match="at different points \\('w' differs\\)"):
        train(jacobian(w=2.0))
    with pytest.raises(UserError, match="different coordinates"):
        train(jacobian(w=1.0, b=0.0))

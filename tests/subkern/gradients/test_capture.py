"""Recorded operations, their gradient factors, and the forms of their contraction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from subkern.gradients.capture import Captured, NotCovered, capture
from subkern.gradients.contract import (
    BLOCK,
    blocked_gram,
    contract,
    dense,
    explicit,
    factored,
    group_block,
    matched_rows,
    parameter_block,
)
from subkern.gradients.factors import DenseFactor, Factor, OuterFactor, RowFactor, merge
from subkern.gradients.plan import validate
from subkern.kernels.compute import compute_kernel
from subkern.kernels.request import RunOptions
from subkern.models.logit_model import LogitModel, named_parameters
from subkern.subspaces.base import Full
from tests.support import oracles
from tests.support.toys import CLASSES, VOCAB, WIDTH, Use, toy, toy_examples

SQUARE = {"w": (WIDTH, WIDTH)}
GAIN = {"w": (WIDTH,)}
NORM = {"w": (WIDTH,), "b": (WIDTH,)}
TABLE = {"e": (VOCAB, WIDTH)}


@dataclass(frozen=True)
class Case:
    """An operation and what is expected of its recording.

    Attributes:
        use: the operation.
        shapes: of its parameters.
        uncovered: those that no rule covers.
        together: whether a batch can be captured.
        kinds: expected factors, if they are of interest.
    """

    use: Use
    shapes: dict[str, tuple[int, ...]]
    uncovered: str = ""
    together: bool = True
    kinds: dict[str, type] = field(default_factory=dict)


def first_rows(x: Tensor, table: Tensor) -> Tensor:
    """Add row 0 of `table` to position 0, row 1 to position 1 and so on."""
    return x + table[: x.shape[1]]


def in_place(y: Tensor, x: Tensor) -> Tensor:
    y += x
    return y


class Scale(torch.autograd.Function):
    """x·w in the old style: no rule sees it, and `torch.func` refuses it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return g * w, (g * x).sum_to_size(w.shape)


def flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


COVERED: dict[str, Case] = {
    "linear": Case(
        lambda p, x, i: F.linear(x, p.w, p.b),
        {"w": (4, WIDTH), "b": (4,)},
        kinds={"w": OuterFactor},
    ),
    "linear without bias": Case(lambda p, x, i: F.linear(x, p.w), {"w": (4, WIDTH)}),
    "linear of keywords": Case(
        lambda p, x, i: F.linear(input=x, weight=p.w, bias=p.b), {"w": (4, WIDTH), "b": (4,)}
    ),
    "linear, flat": Case(
        lambda p, x, i: F.linear(flat(x), p.w, p.b).view(*x.shape[:2], 4),
        {"w": (4, WIDTH), "b": (4,)},
    ),
    "addmm": Case(
        lambda p, x, i: torch.addmm(p.b, flat(x), p.w).view(*x.shape[:2], 4),
        {"w": (WIDTH, 4), "b": (4,)},
        kinds={"w": OuterFactor, "b": DenseFactor},
    ),
    "matmul": Case(lambda p, x, i: x @ p.w, {"w": (WIDTH, 4)}, kinds={"w": OuterFactor}),
    "matmul of the transpose": Case(lambda p, x, i: x @ p.w.T, {"w": (4, WIDTH)}),
    "torch.matmul of the transpose": Case(lambda p, x, i: torch.matmul(x, p.w.t()), SQUARE),
    "linear of the transpose": Case(lambda p, x, i: F.linear(x, p.w.T), {"w": (WIDTH, 4)}),
    "both ways round": Case(
        lambda p, x, i: F.linear(x, p.w).sin() @ p.w, SQUARE, kinds={"w": DenseFactor}
    ),
    "used twice": Case(
        lambda p, x, i: F.linear(F.linear(x, p.w).sin(), p.w), SQUARE, kinds={"w": OuterFactor}
    ),
    "embedding": Case(lambda p, x, i: x * F.embedding(i, p.e), TABLE, kinds={"e": RowFactor}),
    "embedding, flat": Case(
        lambda p, x, i: x * F.embedding(i.flatten(), p.e).view(x.shape),
        TABLE,
        kinds={"e": RowFactor},
    ),
    "embedding with padding row": Case(
        lambda p, x, i: x * F.embedding(i, p.e, padding_idx=3), TABLE, kinds={"e": RowFactor}
    ),
    "tied": Case(
        lambda p, x, i: F.linear(F.embedding(i, p.e), p.e), TABLE, kinds={"e": RowFactor}
    ),
    "large decoder": Case(
        lambda p, x, i: F.linear(x, p.w), {"w": (100, WIDTH)}, kinds={"w": RowFactor}
    ),
    "large decoder, all of it read": Case(
        lambda p, x, i: F.linear(x, p.w).unflatten(-1, (5, 20)).sum(-1),
        {"w": (100, WIDTH)},
        kinds={"w": OuterFactor},
    ),
    "layer norm": Case(lambda p, x, i: F.layer_norm(x, (WIDTH,), p.w, p.b), NORM),
    "layer norm, eps 0.1": Case(lambda p, x, i: F.layer_norm(x, (WIDTH,), p.w, p.b, 0.1), NORM),
    "layer norm, eps 0": Case(lambda p, x, i: F.layer_norm(x, (WIDTH,), p.w, p.b, 0.0), NORM),
    "layer norm, gain": Case(lambda p, x, i: F.layer_norm(x, (WIDTH,), p.w), GAIN),
    "layer norm, bias": Case(lambda p, x, i: F.layer_norm(x, (WIDTH,), None, p.w), GAIN),
    "layer norm, no affine": Case(
        lambda p, x, i: F.layer_norm(x * p.w, (WIDTH,)), GAIN, kinds={"w": DenseFactor}
    ),
    "layer norm of two axes": Case(
        lambda p, x, i: F.layer_norm(x.unflatten(-1, (2, 3)), (2, 3), p.w, p.b).flatten(2),
        {"w": (2, 3), "b": (2, 3)},
    ),
    "rms norm": Case(lambda p, x, i: F.rms_norm(x, (WIDTH,), p.w), GAIN),
    "rms norm, eps": Case(lambda p, x, i: F.rms_norm(x, (WIDTH,), weight=p.w, eps=0.3), GAIN),
    "mul": Case(lambda p, x, i: x * p.w, GAIN),
    "mul, parameter first": Case(lambda p, x, i: p.w * x, GAIN),
    "mul by a number": Case(lambda p, x, i: x * p.w, {"w": ()}),
    "mul, leading axes of one": Case(lambda p, x, i: x * p.w, {"w": (1, 1, WIDTH)}),
    "mul, outer product": Case(lambda p, x, i: (x[..., None] * p.w).sum(-2), {"w": (WIDTH, 4)}),
    "mul, column": Case(lambda p, x, i: (x[..., None] * p.w).sum(-1), {"w": (WIDTH, 1)}),
    "add": Case(lambda p, x, i: x + p.w, GAIN),
    "add, parameter first": Case(lambda p, x, i: p.w + x, GAIN),
    "add, leading axis of one": Case(lambda p, x, i: x + p.w, {"w": (1, WIDTH)}),
    "add, broadcast input": Case(lambda p, x, i: x[..., :1] + p.w, GAIN),
    "Gemma's gain": Case(lambda p, x, i: x * (1.0 + p.w.double()), GAIN),
    "shift on the right": Case(lambda p, x, i: x * (p.w + 1), GAIN),
    "positions [1, t, d]": Case(
        lambda p, x, i: x + F.embedding(torch.arange(x.shape[1])[None], p.e),
        TABLE,
        kinds={"e": RowFactor},
    ),
    "positions with norm": Case(
        lambda p, x, i: x
        + F.layer_norm(F.embedding(torch.arange(x.shape[1])[None], p.e), (WIDTH,), p.w, p.b),
        TABLE | NORM,
    ),
    "changed after a copy": Case(lambda p, x, i: in_place(F.linear(x, p.w).clone(), x), SQUARE),
    "changed before use": Case(lambda p, x, i: F.linear(in_place(x.clone(), x), p.w), SQUARE),
    "unused": Case(lambda p, x, i: F.linear(x, p.w), SQUARE | {"spare": (5,)}),
    "read but not used": Case(
        lambda p, x, i: F.linear(x, p.w) * float(p.spare.shape[0] + p.spare.dim()),
        SQUARE | {"spare": (5,)},
    ),
}  # fmt: skip

NOT_COVERED: dict[str, Case] = {
    "exp": Case(lambda p, x, i: x * p.w.exp(), GAIN, "w"),
    "subtraction": Case(lambda p, x, i: x - p.w, GAIN, "w"),
    "division": Case(lambda p, x, i: x / p.w, GAIN, "w"),
    "index": Case(lambda p, x, i: x * p.e[i], TABLE, "e"),
    "einsum": Case(lambda p, x, i: torch.einsum("btd,dk->btk", x, p.w), SQUARE, "w"),
    "list": Case(lambda p, x, i: x * torch.cat([p.w, p.b])[::2], NORM, "wb"),
    "square": Case(lambda p, x, i: x * (p.w * p.w), GAIN, "w"),
    "two parameters": Case(lambda p, x, i: x * (p.w + p.b), NORM, "wb"),
    "scaled shift": Case(lambda p, x, i: x * torch.add(p.w, 1, alpha=2), GAIN, "w"),
    "scaled addmm": Case(
        lambda p, x, i: torch.addmm(p.b, flat(x), p.w, alpha=2).view(x.shape),
        {"w": (WIDTH, WIDTH), "b": (WIDTH,)},
        "wb",
    ),
    "covered and not": Case(lambda p, x, i: F.linear(x, p.w) @ p.w.tanh(), SQUARE, "w"),
    "output changed in place": Case(
        lambda p, x, i: in_place(F.linear(x * p.b, p.w), x), SQUARE | {"b": (WIDTH,)}, "w"
    ),
    "normed table": Case(
        lambda p, x, i: first_rows(x, F.layer_norm(p.e, (WIDTH,), p.w, p.b)), TABLE | NORM, "ewb"
    ),
    "one covered, one not": Case(
        lambda p, x, i: F.linear(x, p.w) * p.b.exp(), {"w": (WIDTH, WIDTH), "b": (WIDTH,)}, "b"
    ),
}  # fmt: skip


def table_norm(rows: int) -> Use:
    """Norm `rows` rows that all examples share, as DeBERTa-v3 does its relative positions."""
    return lambda p, x, i: first_rows(
        x, F.layer_norm(F.embedding(torch.arange(rows), p.e), (WIDTH,), p.w, p.b)
    )


# The first axis of what is shared is as long as a batch (3) or its padded tokens (3·5, 2·5).
SHARED: dict[str, Case] = {
    f"{rows} rows": Case(table_norm(rows), {"e": (rows, WIDTH)} | NORM, together=False)
    for rows in (5, 10, 15, 24)
} | {
    "positions [t, d]": Case(
        lambda p, x, i: x + F.embedding(torch.arange(x.shape[1]), p.e), TABLE, together=False
    ),
    "time first": Case(
        lambda p, x, i: F.linear(x.transpose(0, 1), p.w).transpose(0, 1), SQUARE, together=False
    ),
    "time first, flat": Case(
        lambda p, x, i: (
            F.linear(flat(x.transpose(0, 1)), p.w).view(x.shape[1], x.shape[0], -1).transpose(0, 1)
        ),
        SQUARE,
        together=False,
    ),
}

HIDDEN = {
    "custom function": Case(lambda p, x, i: Scale.apply(x, p.w), GAIN, "w", together=False),
    "custom function too": Case(
        lambda p, x, i: Scale.apply(x * p.w, p.w), GAIN, "w", together=False
    ),
}

ALL = COVERED | NOT_COVERED | SHARED | HIDDEN
BATCH = toy_examples()


def expected(model: LogitModel, parameters: dict) -> dict[str, Tensor]:
    """Return every parameter's gradients ``[n, c, …]``, by autograd, example by example."""
    jacobians = {n: oracles.jacobian(model, BATCH, [p]) for n, p in parameters.items()}
    return {n: j.unflatten(-1, parameters[n].shape) if parameters[n].dim() else j[..., 0]
            for n, j in jacobians.items()}  # fmt: skip


def assert_equal(captured: Captured, wanted: dict[str, Tensor], rows: slice) -> None:
    for name, grads in wanted.items():
        for i, grad in enumerate(grads[rows]):
            found = torch.zeros_like(grad)
            if name in captured.factors:
                found = captured.factors[name][i].dense(grad.shape[1:])
            torch.testing.assert_close(found, grad, rtol=0, atol=1e-13, msg=f"{name} of {i}")


@pytest.mark.parametrize("name", ALL)
def test_factors_are_the_gradients_of_autograd(name: str) -> None:
    case = ALL[name]
    model = toy(case.use, **case.shapes)
    parameters = named_parameters(model)
    uncovered = [f"p.{n}" for n in case.uncovered]
    wanted = expected(model, parameters)
    assert max(float(grad.abs().max()) for grad in wanted.values()) > 1e-3
    for i, example in enumerate(BATCH):
        assert_equal(capture(model, parameters, [example], uncovered), wanted, slice(i, i + 1))
    if case.together:
        captured = capture(model, parameters, BATCH, uncovered)
        assert_equal(captured, wanted, slice(None))
        for parameter, kind in case.kinds.items():
            assert {type(f) for f in captured.factors[f"p.{parameter}"]} == {kind}, parameter


@pytest.mark.parametrize("name", ALL)
def test_plan_knows_how_to_capture(name: str) -> None:
    case = ALL[name]
    model = toy(case.use, **case.shapes)
    plan = validate(Full().attach(model), BATCH, batch_size=3)
    assert set(plan.uncovered) == {f"p.{n}" for n in case.uncovered}
    assert plan.batch_size == (3 if case.together else 1)
    assert len(plan.reasons) == len(case.uncovered) + (not case.together)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("batch_size", [None, 3])
def test_kernel_equals_autograd(name: str, batch_size: int | None) -> None:
    model = toy(ALL[name].use, **ALL[name].shapes)
    options = RunOptions(batch_size=batch_size)
    kernel = compute_kernel(model, BATCH[:2], BATCH, options=options)
    rows = oracles.jacobian(model, BATCH)
    assert oracles.error(kernel.values, oracles.kernel(rows[:2], rows)) <= 1e-12


@pytest.mark.parametrize("name", NOT_COVERED)
def test_a_parameter_without_a_rule_is_never_left_out_in_silence(name: str) -> None:
    case = NOT_COVERED[name]
    model = toy(case.use, **case.shapes)
    with pytest.raises(NotCovered) as caught:
        capture(model, named_parameters(model), BATCH)
    assert set(caught.value.uncovered) == {f"p.{n}" for n in case.uncovered}


@pytest.mark.parametrize("rows", [5, 10, 15, 24])
def test_a_shared_table_is_refused_in_a_batch_of_any_size(rows: int) -> None:
    """Whatever batch its length coincides with, some batch that the plan tries shows it."""
    case = SHARED[f"{rows} rows"]
    model = toy(case.use, **case.shapes)
    batch = toy_examples((5, 3, 4, 5, 2))
    rows_of = oracles.jacobian(model, batch)
    for size in (2, 3, 5):
        kernel = compute_kernel(model, batch, options=RunOptions(batch_size=size))
        assert oracles.error(kernel.values, oracles.kernel(rows_of)) <= 1e-12


def test_only_the_asked_parameters_are_captured() -> None:
    model = toy(lambda p, x, i: F.linear(x, p.w, p.b).exp(), w=(4, WIDTH), b=(4,))
    (bias,) = (p for n, p in named_parameters(model).items() if n == "p.b")
    captured = capture(model, {"p.b": bias}, BATCH)
    assert captured.factors.keys() == {"p.b"}
    assert_equal(captured, {"p.b": oracles.jacobian(model, BATCH, [bias])}, slice(None))


def test_capture_leaves_the_model_as_it_was() -> None:
    model = toy(ALL["one covered, one not"].use, **ALL["one covered, one not"].shapes)
    parameters = named_parameters(model)
    parameters["p.w"].requires_grad_(False)
    for batch, error in ((BATCH, False), (BATCH[:1], False), (BATCH, True)):
        try:
            capture(model, parameters, batch, [] if error else ["p.b"])
        except NotCovered:
            assert error
        required = {n: p.requires_grad for n, p in parameters.items()}
        assert required == {"p.w": False, "p.b": True}
        assert all(p.grad is None for p in parameters.values())


def test_positions_with_a_zero_cotangent_are_dropped() -> None:
    model = toy(lambda p, x, i: F.linear(x, p.w), w=(4, WIDTH))
    captured = capture(model, named_parameters(model), BATCH)
    lengths = [len(e.input_ids) for e in BATCH]
    assert [len(f.inputs) for f in captured.factors["p.w"]] == lengths  # no padding
    early = [type(e)(e.id, e.label, e.input_ids, 1) for e in BATCH]
    captured = capture(model, named_parameters(model), early)
    assert [len(f.inputs) for f in captured.factors["p.w"]] == [2, 2, 2]


def test_shared_inputs_are_kept_once() -> None:
    shapes = dict.fromkeys(("q", "k", "v"), (4, WIDTH))
    model = toy(lambda p, x, i: sum(F.linear(x, w) for w in (p.q, p.k, p.v)), **shapes)
    factors = capture(model, named_parameters(model), BATCH).factors
    assert len({f.inputs.data_ptr() for name in factors for f in factors[name]}) == len(BATCH)


# --- contraction ---

C, D_OUT, D_IN = 2, 7, 5
SHAPE = torch.Size((D_OUT, D_IN))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outers(counts: list[int], seed: int, transposed: bool = False) -> list[Factor]:
    g = generator(seed)
    return [
        OuterFactor(
            torch.randn(t, D_IN, generator=g, dtype=torch.float64),
            torch.randn(t, C, D_OUT, generator=g, dtype=torch.float64),
            transposed,
        )
        for t in counts
    ]


def rows(ids: list[list[int]], seed: int) -> list[Factor]:
    g = generator(seed)
    return [
        RowFactor(
            torch.tensor(sorted(i), dtype=torch.long),
            torch.randn(len(i), C, D_IN, generator=g, dtype=torch.float64),
        )
        for i in ids
    ]


def denses(n: int, seed: int) -> list[Factor]:
    g = generator(seed)
    return [DenseFactor(torch.randn(C, *SHAPE, generator=g, dtype=torch.float64)) for _ in range(n)]


SIDES: dict[str, list[Factor]] = {
    "outer": outers([3, 1, 4], 0),
    "outer, some empty": outers([0, 2, 0], 1),
    "outer, all empty": outers([0, 0], 2),
    "rows": rows([[0, 2, 5], [2], [6, 5]], 3),
    "rows, some empty": rows([[], [1, 2, 6], []], 4),
    "rows, all empty": rows([[], []], 5),
    "rows of their own": rows([[3], [3, 4]], 6),
    "dense": denses(3, 7),
    "mixed": [*outers([2], 8), *rows([[1, 5]], 9), *denses(1, 10), *outers([0], 11)],
}


def loop(left: list[Factor], right: list[Factor]) -> np.ndarray:
    """Return the block by its definition: whole gradients, one inner product at a time."""
    block = np.zeros((len(left), C, len(right), C))
    for i, k, j, l in product(*map(range, block.shape)):  # noqa: E741
        grads = left[i].dense(SHAPE)[k], right[j].dense(SHAPE)[l]
        block[i, k, j, l] = float((grads[0] * grads[1]).sum())
    return block


@pytest.mark.parametrize("left", SIDES)
@pytest.mark.parametrize("right", SIDES)
def test_block_equals_its_definition(left: str, right: str) -> None:
    block = parameter_block(SIDES[left], SIDES[right], SHAPE)
    assert block.dtype == torch.float64
    np.testing.assert_allclose(block, loop(SIDES[left], SIDES[right]), rtol=0, atol=1e-12)


def factored_alone(left: Sequence[OuterFactor], right: Sequence[OuterFactor]) -> Tensor:
    return factored([left], [right])


@pytest.mark.parametrize("form", [explicit, factored_alone, lambda a, b: dense(a, b, SHAPE)])
@pytest.mark.parametrize("right", [name for name in SIDES if name.startswith("outer")])
def test_every_form_of_a_linear_layer_is_the_same(form: object, right: str) -> None:
    left = SIDES["outer"]
    np.testing.assert_allclose(form(left, SIDES[right]), loop(left, SIDES[right]), atol=1e-12)


@pytest.mark.parametrize(
    ("d_in", "d_out"), [(3, 700), (700, 3), (BLOCK, 2), (1031, 3), (1500, 2), (96, 64)]
)
def test_forms_agree_at_sizes_that_do_not_divide_a_block(d_in: int, d_out: int) -> None:
    g = generator()
    sides = [
        [
            OuterFactor(
                torch.randn(t, d_in, generator=g), torch.randn(t, 2, d_out, generator=g), False
            )
            for t in counts
        ]
        for counts in ([2, 3], [4, 1, 0])
    ]
    whole = [
        torch.stack([torch.einsum("tco,ti->coi", f.cotangents.double(), f.inputs.double())
                     for f in side])
        for side in sides
    ]  # fmt: skip
    wanted = torch.einsum("icop,jdop->icjd", *whole)
    for form in (explicit, factored_alone, lambda a, b: dense(a, b, torch.Size((d_out, d_in)))):
        gap = form(*sides) - wanted
        assert float(gap.abs().max()) <= 2e-6 * float(wanted.abs().max())


def test_explicit_is_formed_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = explicit(SIDES["outer"], SIDES["outer"])
    monkeypatch.setattr("subkern.gradients.contract.TILE_BYTES", 1)
    monkeypatch.setattr(
        "subkern.gradients.contract.BLOCK", 2 * D_IN
    )  # two rows of seven: one is left
    torch.testing.assert_close(explicit(SIDES["outer"], SIDES["outer"]), wanted)


@pytest.mark.parametrize("d_in", [1, 2, 4, 8])
def test_short_rows_are_taken_many_at_once(d_in: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """LoRA's B of rank 1, 2 or 4: a product for each of 384 rows took most of a kernel's time."""
    g, blocks = generator(), []

    def counting(left: Tensor, right: Tensor, block: int = BLOCK) -> Tensor:
        blocks.append(block)
        return blocked_gram(left, right, block)

    monkeypatch.setattr("subkern.gradients.contract.blocked_gram", counting)
    side = [
        OuterFactor(torch.randn(3, d_in, generator=g), torch.randn(3, 2, 384, generator=g), False)
    ]
    explicit(side, side)
    assert min(blocks) >= BLOCK // 8


@pytest.mark.parametrize(("left_tokens", "right_tokens"), [(1, 1), (2, 3), (100, 2)])
def test_layers_that_share_inputs_add_up_whatever_the_tile(
    left_tokens: int, right_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subkern.gradients.contract.LEFT_TOKENS", left_tokens)
    monkeypatch.setattr("subkern.gradients.contract.RIGHT_TOKENS", right_tokens)
    layers = [
        [
            [
                OuterFactor(f.inputs, other.cotangents, False)
                for f, other in zip(side, others, strict=True)
            ]
            for others in (side, outers(counts, 9))
        ]
        for counts, side in [(c, outers(c, seed)) for seed, c in enumerate(([2, 0, 4], [3, 1]))]
    ]
    wanted = sum(loop(a, b) for a, b in zip(*layers, strict=True))
    np.testing.assert_allclose(factored(*layers), wanted, atol=1e-12)
    grouped = group_block(list(zip(*layers, strict=True)))
    np.testing.assert_allclose(grouped, wanted, atol=1e-12)


def test_rows_meet_only_where_ids_match() -> None:
    assert (matched_rows(SIDES["rows"], SIDES["rows of their own"]) == 0).all()
    assert (matched_rows(SIDES["rows"], SIDES["rows"]) != 0).any()


def test_merging_adds_gradients() -> None:
    parts = [outers([2], 0)[0], rows([[1, 4]], 1)[0], denses(1, 2)[0], rows([[4, 5]], 3)[0]]
    for chosen in ([0, 0], [1, 3], [0, 1], [0, 1, 2], [2, 2], [1, 2]):
        some = [parts[i] for i in chosen]
        wanted = torch.stack([f.dense(SHAPE) for f in some]).sum(0)
        torch.testing.assert_close(merge(some, SHAPE).dense(SHAPE), wanted)


def test_a_parameter_one_side_never_saw_adds_nothing() -> None:
    logits = torch.zeros(3, C, dtype=torch.float64)
    left = Captured({"a": SIDES["outer"], "b": SIDES["dense"]}, logits)
    right = Captured({"b": SIDES["dense"]}, logits)
    block = contract(left, right, {"a": SHAPE, "b": SHAPE}, C)
    np.testing.assert_allclose(block, loop(SIDES["dense"], SIDES["dense"]), atol=1e-12)


@pytest.mark.parametrize("size", [1, BLOCK, BLOCK + 1, 10 * BLOCK, 1_000_003])
def test_blocked_products_keep_float32_accurate(size: int) -> None:
    g = generator()
    left, right = (torch.rand(k, size, generator=g) + 0.5 for k in (3, 2))
    wanted = left.double() @ right.double().T
    found = blocked_gram(left, right)
    assert found.dtype == torch.float64
    assert float(((found - wanted) / wanted).abs().max()) <= 3e-7


def test_number_of_logits_of_the_toy() -> None:
    assert toy(lambda p, x, i: x * p.w, w=(WIDTH,)).num_logits == CLASSES

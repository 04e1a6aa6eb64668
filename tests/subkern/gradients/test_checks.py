"""What is refused before any kernel is computed, and what is found out about a model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subkern import UserError
from subkern.gradients.plan import MustMove, validate
from subkern.kernels.compute import compute_kernel
from subkern.kernels.request import RunOptions
from subkern.kernels.sweeps.lora import LoraGrid, sweep_lora
from subkern.models.logit_model import Batch, LinearReadout, LogitModel, named_parameters
from subkern.prompts.prompt import EncodedExample
from subkern.subspaces.base import Full
from tests.support import oracles
from tests.support.families import CASES, FAMILIES, Family, case_id, random_examples
from tests.support.toys import WIDTH, toy, toy_examples

BATCH = toy_examples((5, 3, 4, 6))


def dropout(p: nn.ParameterDict, x: Tensor, ids: Tensor) -> Tensor:
    return F.dropout(x * p.w, 0.3, training=True)


def batch_mean(p: nn.ParameterDict, x: Tensor, ids: Tensor) -> Tensor:
    return x * p.w - x.mean(0, keepdim=True)


def ignores_the_mask(p: nn.ParameterDict, x: Tensor, ids: Tensor) -> Tensor:
    return x * p.w - x.mean(1, keepdim=True)  # over the padding too


REFUSED: dict[str, tuple[Callable, str]] = {
    "dropout": (dropout, r"two evaluations .* differ by .*dropout is on.*model\.eval\(\)"),
    "batch": (batch_mean, r"logits of example 'e\d' change by .* its batch or padding"),
    "mask": (ignores_the_mask, r"logits of example 'e\d' change by .* ignores the attention mask"),
}


def nan_at(length: int) -> Callable:
    def use(p: nn.ParameterDict, x: Tensor, ids: Tensor) -> Tensor:
        long = torch.arange(x.shape[1])[None, :, None] >= length - 1
        return torch.where(long, torch.nan, 1.0) * x * p.w

    return use


def compute(model: LogitModel, engine: str) -> None:
    compute_kernel(model, BATCH, engine=engine)


@pytest.mark.parametrize("engine", ["factors", "reference"])
@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_line(name: str, engine: str) -> None:
    use, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as caught:
        compute(toy(use, w=(WIDTH,)), engine)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ["factors", "reference"])
def test_logits_that_are_not_finite_name_the_example(engine: str) -> None:
    message = r"^logits of example 'e[023]' are not finite: .*float32$"  # e1 has three tokens
    with pytest.raises(UserError, match=message):
        compute(toy(nan_at(4), w=(WIDTH,)), engine)


def test_few_long_examples_do_not_slip_through() -> None:
    batch = toy_examples((5, 5, 5, 5, 5, 5, 9))
    with pytest.raises(UserError, match="ignores the attention mask"):
        compute_kernel(toy(ignores_the_mask, w=(WIDTH,)), batch)
    with pytest.raises(UserError, match=r"not finite|hold nan"):
        compute_kernel(toy(nan_at(9), w=(WIDTH,)), batch)


@pytest.mark.parametrize("family", FAMILIES[:3], ids=case_id)
def test_dropout_left_on_is_refused(family: Family) -> None:
    model, batch = oracles.logit_model(family), random_examples(4, read=family.read)
    compute_kernel(model, batch)
    model.train()
    with pytest.raises(UserError, match="dropout is on"):
        compute_kernel(model, batch)
    with pytest.raises(UserError, match="dropout is on"):
        sweep_lora(model, batch, grid=LoraGrid((1,)))


def test_a_mask_that_is_not_passed_on_is_refused() -> None:
    family = FAMILIES[0]
    model, batch = oracles.logit_model(family), random_examples(4, read=family.read)
    whole = model.module.forward
    model.module.forward = lambda input_ids, attention_mask: whole(input_ids=input_ids)
    with pytest.raises(UserError, match="ignores the attention mask"):
        compute_kernel(model, batch)


def test_mean_pooling_knows_the_mask() -> None:
    family = next(f for f in FAMILIES if (f.name, f.kind) == ("bert", "encoder"))
    readout = LinearReadout(16, 3, pooling="mean").double()
    model = LogitModel(family.build(), readout).eval()
    batch = random_examples(4)
    kernel, reference = (
        compute_kernel(model, batch, engine=engine).values for engine in ("factors", "reference")
    )
    assert oracles.error(kernel, reference) <= 1e-10


@pytest.mark.parametrize(("family", "tied"), CASES, ids=case_id)
def test_plan_captures_in_batches_wherever_it_can(family: Family, tied: bool) -> None:
    model = oracles.logit_model(family, tied=tied)
    batch = random_examples(5, read=family.read)
    plan = validate(Full().attach(model), batch)
    one_by_one = {"deberta-v2", "deberta-v3", "mamba"}
    assert plan.batch_size == (1 if family.name in one_by_one else 32)
    assert bool(plan.uncovered) is (family.name in one_by_one)
    assert len(plan.uncovered) < 0.6 * len(named_parameters(model))
    assert plan.bytes_per_token > 0


def test_validity_is_one_pass_over_a_few_examples() -> None:
    """One backward by autograd, and every other evaluation is one that is captured or f itself."""
    model = toy(lambda p, x, i: x * p.w, w=(WIDTH,))
    evaluated: list[int] = []
    forward = model.forward

    def counted(batch: Batch) -> Tensor:
        evaluated.append(len(batch))
        return forward(batch)

    model.forward = counted  # type: ignore[method-assign]
    coordinates = Full().attach(model)
    must_move = [MustMove(tuple(coordinates.parameters), Full().describe())]
    plan = validate(coordinates, toy_examples((5, 3, 4, 6, 8, 7)), must_move)
    assert plan.batch_size == 32
    autograd, of_f, alone, together = [1], [2, 1, 1, 1], [1, 1, 1], [2, 3]
    assert sorted(evaluated) == sorted([*autograd, *of_f, *alone, *together])


@pytest.mark.parametrize("length", [3, 4, 6])
def test_an_undefined_gradient_of_any_probed_example_is_refused(length: int) -> None:
    """A root of 0 has an infinite slope: of one of the three examples that are captured."""

    def root(p: nn.ParameterDict, x: Tensor, ids: Tensor) -> Tensor:
        others = (ids != 0).sum(1)[:, None, None] != length
        return x + (p.w + others.to(x)).sqrt()

    model = toy(root, w=(WIDTH,))
    with torch.no_grad():
        next(model.parameters()).zero_()
    batch = toy_examples((5, 3, 4, 6, 8, 7))
    named = next(e.id for e in batch if len(e.input_ids) == length)
    message = rf"the gradient of 'p\.w' is not finite for example '{named}'"
    with pytest.raises(UserError, match=message):
        compute_kernel(model, batch)


@pytest.mark.parametrize("batch_size", [0, -3])
def test_batch_size_must_be_positive(batch_size: int) -> None:
    with pytest.raises(UserError, match=rf"^batch size {batch_size} is not positive"):
        RunOptions(batch_size=batch_size)


def example(name: str, *ids: int, read: int = 0) -> EncodedExample:
    return EncodedExample(name, 0, ids, read)


A, B = example("a", 3, 4), example("b", 5, 6)
EXAMPLES: dict[str, tuple[list, list | None, str]] = {
    "none": ([], [A], "no examples on the left"),
    "none right": ([A], [], "no examples on the right"),
    "repeated": ([A, B, A], None, r"'a' stands twice on the left"),
    "repeated right": ([A], [B, B], r"'b' stands twice on the right"),
    "other text": ([A], [example("a", 4, 4)], r"'a' names different texts left and right"),
    "other position": ([A], [example("a", 3, 4, read=1)], r"'a' .* left and right"),
}


@pytest.mark.parametrize("case", EXAMPLES)
def test_examples_must_make_sense(case: str) -> None:
    left, right, message = EXAMPLES[case]
    model = toy(lambda p, x, i: x * p.w, w=(WIDTH,))
    for run in (compute_kernel, sweep_lora):
        with pytest.raises(UserError, match=message):
            run(model, left, right)


@pytest.mark.parametrize("choice", [{"rule": "sdg"}, {"engine": "fast"}])
def test_unknown_choices_name_the_known(choice: dict[str, str]) -> None:
    model = toy(lambda p, x, i: x * p.w, w=(WIDTH,))
    ((what, value),) = choice.items()
    with pytest.raises(UserError, match=rf"^unknown {what} '{value}': use "):
        compute_kernel(model, [A], **choice)

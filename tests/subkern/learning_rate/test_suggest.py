"""Rates against explicit Jacobians, central differences and one step of real training, float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from subkern.errors import UserError
from subkern.learning_rate import NoSuggestion, Suggestion, measure, suggest
from subkern.learning_rate.curvature import critical_after_walk
from subkern.learning_rate.gradients import loss_gradient
from subkern.learning_rate.suggestion import two_digits
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.subspaces.movable import MovableModel
from subkern.subspaces.random import RandomSubspace
from subkern.subspaces.text import FORMS, parse_subspace
from subkern.training.batch_order import batch_order
from subkern.training.finetune import Training, finetune
from subkern.training.optimizers import first_update, make_optimizer
from tests.support import oracles
from tests.support.families import FAMILIES, Family, case_id, random_examples
from tests.support.toys import CLASSES, WIDTH, toy, toy_examples

BY_NAME = {(f.name, f.kind): f for f in FAMILIES}
BERT, GPT2 = BY_NAME["bert", "masked"], BY_NAME["gpt2", "causal"]
ENCODER = BY_NAME["bert", "encoder"]
LLAMA = BY_NAME["llama", "causal"]
N, SIZE = 7, 3
SEED = 5
ADAPTERS = ("lora:r=2,alpha=4", "lora:r=1,dora=true", "lora:r=2,init=pissa", "lora:r=2,rslora=true",
    "ia3:targets=query+value,feedforward=value", "ln", "prompt:n=2", "prefix:n=2", "vera:r=4",
    "loha:r=2", "lokr:r=2", "lora:r=2,init=olora", "lora:r=2,init=gaussian", "oft:block=4",
    "boft:block=4")  # fmt: skip

Examples = Sequence[EncodedExample]


def data(family: Family = BERT, n: int = N) -> list[EncodedExample]:
    return random_examples(n, read=family.read, seed=3, num_labels=2)


def both(model: LogitModel, examples: Examples, **asked: Any) -> tuple[float, float]:
    """Return both rates from the first two batches, all examples looked at."""
    asked = {"batch_size": SIZE, "seed": SEED, "batches": 1, "limit": len(examples), **asked}
    found = suggest(model, examples, **asked)
    return found.rate_at_start, found.rates_after_step[0]


def rms(change: Tensor) -> float:
    """Return RMS of ``[n, c]``, class-centered; one logit counts as the two it stands for."""
    centered = change / 2 if change.shape[1] == 1 else change - change.mean(1, keepdim=True)
    return float(centered.square().mean().sqrt())


def update(optimizer: str, gradient: Tensor) -> Tensor:
    """Return the textbook's first step."""
    if optimizer == "sgd":
        return gradient
    return torch.sign(gradient) if optimizer == "signgd" else gradient / (gradient.abs() + 1e-8)


# --- the oracle: gradients one example at a time, a Jacobian held in memory ---


def explicit(
    model: LogitModel, parameters: Sequence[Tensor], examples: Examples, optimizer: str
) -> tuple[float, float]:
    """Return both rates from Jacobians; the parameters are moved."""
    rates = []
    for batch in batch_order(len(examples), SIZE, 2, SEED):
        seen = [examples[i] for i in batch]
        logits = torch.stack([oracles.logits_alone(model, e) for e in seen])
        labels = torch.tensor([e.label for e in seen])
        if logits.shape[1] == 1:
            loss = F.softplus(-(2 * labels - 1) * logits[:, 0]).mean()
        else:
            loss = F.cross_entropy(logits, labels)
        u = update(optimizer, oracles.gradient(loss, list(parameters)))
        rates.append(1 / rms(oracles.jacobian(model, examples, parameters) @ u))  # type: ignore[arg-type]
        with torch.no_grad():
            for p, d in zip(parameters, u.split([p.numel() for p in parameters]), strict=True):
                p -= rates[0] * d.view(p.shape)
    return rates[0], rates[1]


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "signgd"])
@pytest.mark.parametrize(
    ("family", "tied", "c", "text"),
    [
        (BERT, True, 2, "full"),
        (BERT, False, 3, "full"),
        (GPT2, True, 1, "full"),
        (LLAMA, False, 2, "full"),
        (ENCODER, True, 2, "full"),
        (BERT, True, 2, "bias"),
        (GPT2, True, 2, "lora:r=2,alpha=4,seed=3"),
        (ENCODER, True, 2, "lora:r=1"),  # the head is trained beside it
    ],
    ids=case_id,
)
def test_rates_are_those_of_explicit_jacobians(
    family: Family, tied: bool, c: int, text: str, optimizer: str
) -> None:
    examples = data(family)
    found = both(
        oracles.logit_model(family, c, tied=tied), examples, subspace=text, optimizer=optimizer
    )
    there = parse_subspace(text).attach(oracles.logit_model(family, c, tied=tied))
    wanted = explicit(there.model, list(there.parameters.values()), examples, optimizer)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("text", ["full", "lora:r=2,alpha=4,seed=3", "random:dim=5,kind=srht"])
def test_the_first_step_is_the_one_that_rates_are_measured_after(text: str) -> None:
    """SignGD's moves every coordinate by rate₀, and SGD's by rate₀ times the gradient."""
    model, examples = oracles.logit_model(BERT, 2), data()
    asked: dict[str, Any] = {"subspace": text, "batch_size": SIZE, "seed": SEED, "limit": N}
    for optimizer in ("signgd", "sgd"):
        step = measure.first_step(model, examples, optimizer=optimizer, **asked)
        rate = both(model, examples, subspace=text, optimizer=optimizer)[0]
        tunable = MovableModel(model, parse_subspace(text))
        (rows,) = batch_order(N, SIZE, 1, SEED)
        gradient = loss_gradient(
            tunable, tunable.start, [examples[i] for i in rows], "cross_entropy"
        )
        assert step.keys() == gradient.keys()
        for name, g in gradient.items():
            torch.testing.assert_close(step[name], -rate * update(optimizer, g))


# --- the derivative by central differences of f, in every kind of subspace ---


def by_differences(
    tunable: MovableModel, examples: Examples, optimizer: str
) -> tuple[float, float]:
    """Return both rates from logits and autograd's gradients alone."""
    whole = tunable.model.collate(examples)
    z = {n: v.detach().clone() for n, v in tunable.start.items()}
    rates = []
    for rows in batch_order(len(examples), SIZE, 2, SEED):
        leaves = {n: v.clone().requires_grad_() for n, v in z.items()}
        batch = tunable.model.collate([examples[i] for i in rows])
        labels = torch.tensor([examples[i].label for i in rows])
        loss = F.cross_entropy(tunable.function(leaves, batch), labels)
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        u = {n: torch.zeros_like(v) if g is None else update(optimizer, g)
             for (n, v), g in zip(z.items(), found, strict=True)}  # fmt: skip
        norm = max(float(v.abs().max()) for v in u.values())
        h = 1e-5 / norm
        with torch.no_grad():
            ahead, behind = (
                tunable.function({n: z[n] + s * h * u[n] for n in z}, whole) for s in (1, -1)
            )
        rates.append(1 / rms((ahead - behind) / (2 * h)))
        z = {n: z[n] - rates[0] * u[n] for n in z}
    return rates[0], rates[1]


@pytest.mark.parametrize(
    "text", [*ADAPTERS, "random:dim=6,kind=srht", "random:dim=5,kind=gaussian,inner=lora:r=2"]
)
def test_rates_are_those_of_central_differences(text: str) -> None:
    examples = data()
    model = oracles.logit_model(BERT, 2)
    found = both(model, examples, subspace=text)
    wanted = by_differences(MovableModel(model, parse_subspace(text)), examples, "adam")
    # PEFT takes DoRA's norms for constants where it differentiates: its J is not quite that of f
    np.testing.assert_allclose(found, wanted, rtol=0.1 if "dora" in text else 1e-4)


def test_every_kind_of_subspace_is_tried() -> None:
    tried = {text.partition(":")[0] for text in (*ADAPTERS, "random:")}
    adapters = {k for k, form in FORMS.items() if "=" in form or k in ("ln", "random")}
    assert adapters <= tried


# --- against real training ---


@pytest.mark.parametrize("text", ["full", "lora:r=2,alpha=4", "random:dim=6,kind=srht", "ln"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "signgd"])
def test_one_real_step_moves_the_function_by_its_share(optimizer: str, text: str) -> None:
    """At learning rate ε·rate₀ the trainer's first update changes the logits by RMS ε."""
    examples, model = data(), oracles.logit_model(BERT, 2)
    rate, _ = both(model, examples, subspace=text, optimizer=optimizer)
    for share, tolerance in ((1e-3, 2e-2), (1e-5, 2e-4)):
        asked = Training(
            optimizer, share * rate, SIZE, 1, seed=SEED, log_steps=(0, 1), eval_every=1
        )
        run = finetune(model, {"train": examples}, subspace=text, training=asked)
        before, after = run.logits["train"]
        assert rms(torch.from_numpy(after - before)) == pytest.approx(share, rel=tolerance)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "signgd"])
def test_first_updates_are_the_optimizers_own(name: str) -> None:
    gradient = torch.tensor([3.0, -1e-3, 1e-9, 0.0, -1e-30], dtype=torch.float64)
    parameter = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    parameter.grad = gradient.clone()
    if name == "adamw":  # decay takes away a share of the parameter, not of the gradient
        optimizer: torch.optim.Optimizer = torch.optim.AdamW([parameter], lr=0.5)
    else:
        optimizer = make_optimizer(name, [parameter], 0.5)
    optimizer.step()
    torch.testing.assert_close(
        -parameter.detach() / 0.5, first_update(name, gradient), rtol=1e-12, atol=0
    )
    zero = first_update(name, gradient * 0, epsilon=0.0)
    assert not zero.any()


# --- what it leaves, and what it does not depend on ---


def test_the_model_is_left_as_it_was() -> None:
    model = oracles.logit_model(BERT, 2)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    state = torch.random.get_rng_state()
    for text in ("full", "lora:r=2,init=pissa", "prefix:n=2"):
        both(model, data(), subspace=text)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_one_logit_has_the_rate_of_the_two_that_it_stands_for() -> None:
    two, one = (
        both(oracles.logit_model(BERT, c), data(), subspace="bias") for c in (2, 1)
    )  # fmt: skip
    np.testing.assert_allclose(one, two, rtol=1e-9)


def test_the_batches_are_those_that_training_sees_first() -> None:
    """Each rate after the step is that of its batch alone, as the next one after the same first."""
    model, examples = oracles.logit_model(BERT, 2), data()
    asked: dict[str, Any] = {"subspace": "bias", "batch_size": SIZE, "limit": N, "seed": SEED}
    found = suggest(model, examples, batches=4, **asked)
    assert suggest(model, examples, batches=4, **asked).rates_after_step == found.rates_after_step
    assert (
        found.rates_after_step[:1] == suggest(model, examples, batches=1, **asked).rates_after_step
    )
    assert len(set(found.rates_after_step)) > 2
    order = [list(rows) for rows in batch_order(N, SIZE, 5, SEED)]
    assert sorted(len(rows) for rows in order) == [1, 3, 3, 3, 3]
    assert [len(rows) for rows in order[:3]] == [3, 3, 1]


def test_a_lower_limit_looks_at_other_examples_for_each_batch() -> None:
    model, examples = oracles.logit_model(BERT, 2), data()
    done: list[tuple[int, int]] = []
    asked: dict[str, Any] = {"subspace": "bias", "batch_size": SIZE, "seed": SEED}
    few = suggest(model, examples, limit=2, progress=lambda k, of: done.append((k, of)), **asked)
    assert done == [(k, 5) for k in range(1, 6)]
    assert few.rates_after_step != suggest(model, examples, limit=N, **asked).rates_after_step


def test_a_batch_of_all_examples_comes_again_and_that_is_said() -> None:
    model, examples = oracles.logit_model(BERT, 2), data()
    for size in (N, 50):
        found = suggest(model, examples, subspace="bias", batch_size=size)
        assert len(found.rates_after_step) == 1
        assert found.notes == ("a batch holds all 7 examples, and the second is the first again",)
    short = suggest(model, examples, subspace="bias", batch_size=4)
    assert short.notes == ("the second batch holds the 3 examples left of 7",)
    one = suggest(model, examples[:1], subspace="bias", batch_size=8)
    assert one.examples == 1


def test_operations_without_forward_mode_take_two_backwards() -> None:
    class OnlyBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            found: Tensor = 2 * x * cotangents[0]
            return found

    def model(plain: bool) -> LogitModel:
        def use(p: Any, x: Tensor, ids: Tensor) -> Tensor:
            y = x @ p["w"]
            return OnlyBackward.apply(y) if plain else y * y  # type: ignore[no-any-return]

        return toy(use, w=(WIDTH, CLASSES))

    one, other = (suggest(model(plain), toy_examples(), batch_size=2) for plain in (True, False))
    assert (one.derivative, other.derivative) == ("two backwards", "forward")
    np.testing.assert_allclose(one.rates_after_step, other.rates_after_step, rtol=1e-12)


# --- what cannot be said ---


def test_a_subspace_that_moves_nothing_is_one_line() -> None:
    def use(p: Any, x: Tensor, ids: Tensor) -> Tensor:
        return x[..., :CLASSES] + 0 * p["w"].sum()

    with pytest.raises(NoSuggestion, match=r"^the loss does not change with any .* at the start"):
        suggest(toy(use, w=(WIDTH,)), toy_examples())

    def unused(p: Any, x: Tensor, ids: Tensor) -> Tensor:
        return x[..., :CLASSES]

    with pytest.raises(NoSuggestion, match=r"'full' at the start: no learning rate"):
        suggest(toy(unused, w=(WIDTH,)), toy_examples())


def test_what_moves_all_logits_alike_is_one_line() -> None:
    def use(p: Any, x: Tensor, ids: Tensor) -> Tensor:
        return 0.1 * x[..., :1].expand(*x.shape[:-1], CLASSES) + p["w"] / 3

    with pytest.raises(NoSuggestion, match="does not change"):
        suggest(toy(use, w=(1,)), toy_examples(), optimizer="sgd")


def test_logits_that_are_not_finite_are_one_line() -> None:
    model = oracles.logit_model(BERT, 2)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(NoSuggestion, match="are not finite at the start"):
        suggest(model, data(), subspace="bias")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"optimizer": "lion"}, "unknown optimizer 'lion': use sgd or adam or signgd"),
        ({"batch_size": 0}, "batch size is 0: it must be at least 1"),
        ({"batches": 0}, "batches is 0"),
        ({"limit": -1}, "limit is -1"),
        ({"loss": "hinge"}, "loss 'hinge' is unknown"),
        ({"epsilon": float("nan")}, "epsilon nan is negative or not a number"),
        ({"seed": -1}, "seed"),
    ],
)
def test_mistakes_are_one_line(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        suggest(oracles.logit_model(BERT, 2), data(), **asked)
    with pytest.raises(UserError, match="no training examples"):
        suggest(oracles.logit_model(BERT, 2), [])


# --- what the rates say ---


def suggestion(
    optimizer: str = "adam", start: float = 1e-3, *after: float, steps: int | None = None
) -> Suggestion:
    return Suggestion("full", 10, optimizer, 8, 32, steps, start, after or (1e-3,))


def test_suggestion_spike_and_grid_are_of_the_rate_after_one_step() -> None:
    found = suggestion("adam", 4e-3, 2e-3, 5e-4)
    assert found.rate_after_step == pytest.approx(1e-3)
    assert (found.suggested, found.grid) == (2.5e-4, (8.3e-5, 2.5e-4, 7.5e-4))
    assert found.spike == pytest.approx(3.2e-3)
    error = 2.0  # of two rates, one standard error is half of what lies between them
    assert found.spike_interval == pytest.approx((1.4e-3 / error, 5.8e-3 * error))
    assert suggestion().spike_interval == pytest.approx((1.4e-3, 5.8e-3))
    assert set(found.as_dict()) >= {"suggested", "spike_low", "grid", "warning", "seconds"}


def test_a_training_that_sees_examples_less_often_takes_larger_steps() -> None:
    """8 of 32 examples a step: 40 updates see each ten times, 25 6.25 times, 4 once."""
    rates = [suggestion(steps=steps).suggested for steps in (None, 400, 40, 25, 20, 4)]
    assert rates == [2.5e-4, 2.5e-4, 2.5e-4, 4e-4, 5e-4, 5e-4]
    assert suggestion(steps=4).visits == 1
    assert suggestion(steps=4).grid == (1.7e-4, 5e-4, 1.4e-3)  # 1.4: the earliest spike seen
    assert suggestion("sgd", steps=4).suggested == suggestion("sgd").suggested
    assert replace(suggestion(steps=4), examples=4).visits == 4  # a batch holds no more than all


def test_sgd_takes_the_curvature_after_a_walk() -> None:
    found = replace(suggestion("sgd"), critical=4e-3)
    assert (found.suggested, found.spike, found.spike_interval) == (8e-4, 4e-3, (2e-3, 8e-3))
    momentum = replace(suggestion("momentum"), critical=4e-3)
    assert (momentum.suggested, momentum.spike) == (8e-5, None)


def test_sgd_without_it_takes_the_smaller_rate() -> None:
    assert [suggestion("sgd", start).suggested for start in (5e-4, 2e-3)] == [4e-5, 8e-5]
    found = suggestion("sgd")
    assert (found.spike, found.spike_interval, found.as_dict()["spike_low"]) == (None,) * 3


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_the_walk_is_sgd_s(optimizer: str) -> None:
    model, examples = oracles.logit_model(BERT, 2), data()
    asked: dict[str, Any] = {"subspace": "lora:r=2,alpha=4", "batch_size": SIZE, "seed": SEED}
    found = suggest(model, examples, optimizer=optimizer, **asked)
    rate = min(found.rate_at_start, found.rate_after_step) / 4
    walked = critical_after_walk(model, examples, learning_rate=rate, **asked)
    assert found.critical == (None if optimizer == "adam" else pytest.approx(walked))


def test_a_walk_that_is_not_possible_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> float:
        raise UserError("the Gauss-Newton matrix is zero")

    monkeypatch.setattr(measure, "critical_after_walk", none)
    found = suggest(oracles.logit_model(BERT, 2), data(), subspace="bias", optimizer="sgd")
    assert found.critical is None
    assert "is not known (the Gauss-Newton matrix is zero)" in found.notes[-1]


def test_a_function_that_steepens_is_warned_of() -> None:
    assert suggestion("adam", 1.9e-3).warning is None
    warning = suggestion("adam", 8e-3).warning
    assert warning is not None
    assert warning.startswith("rates fall 8 times with the first step: the kernel at the start")


def test_two_digits() -> None:
    assert [two_digits(x) for x in (1.26e-3, 9.96e-5, 0.5)] == [1.3e-3, 1e-4, 0.5]


def test_random_subspaces_of_adapters_have_a_rate() -> None:
    subspace = RandomSubspace(4, inner=parse_subspace("lora:r=2,alpha=4"))
    found = suggest(oracles.logit_model(GPT2), random_examples(6), subspace=subspace)
    assert (found.subspace, found.coordinates) == ("random", 4)


def test_half_precision_has_the_rates_of_single() -> None:
    asked: dict[str, Any] = {"subspace": "lora:r=2,alpha=4", "optimizer": "sgd"}
    half, single = (
        both(oracles.logit_model(BERT, 2, dtype=dtype), data(), **asked)
        for dtype in (torch.bfloat16, torch.float32)
    )
    np.testing.assert_allclose(half, single, rtol=0.1)


@pytest.mark.parametrize(("optimizer", "in_alpha", "in_rank"), [("adam", -1, 0), ("sgd", -2, 1)])
def test_how_the_rate_at_the_start_goes_with_rank_and_alpha(
    optimizer: str, in_alpha: int, in_rank: int
) -> None:
    """At B = 0 in powers of α exactly; in those of r as a mean over A, E[aᵀAᵀAa] = r|a|²/(3d)."""
    model, examples = oracles.logit_model(BERT, 2), data()

    def rate(rank: int, alpha: int) -> float:
        found = [
            both(model, examples, subspace=f"lora:r={rank},alpha={alpha},seed={seed}",
                optimizer=optimizer, epsilon=0.0)[0]
            for seed in range(4)
        ]  # fmt: skip
        return float(np.exp(np.log(found).mean()))

    usual = rate(4, 8)
    assert rate(4, 32) == pytest.approx(usual * 4.0**in_alpha, rel=1e-9)
    assert rate(16, 8) == pytest.approx(usual * 4.0**in_rank, rel=0.2)

"""f(x; z₀) + J·(z − z₀) against explicit Jacobians, in every kind of subspace, float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from subkern.dynamics import (
    Jacobian,
    critical_learning_rate,
    sgd,
    signgd,
    train_linearized,
    train_on_jacobian,
)
from subkern.dynamics.linearize import (
    LinearizedModel,
    initial_logits,
    linearized_logits,
    pull,
    push,
)
from subkern.errors import UserError
from subkern.kernels.compute import compute_kernel
from subkern.models.logit_model import LogitModel
from subkern.subspaces.movable import MovableModel
from subkern.subspaces.random import RandomSubspace
from subkern.subspaces.text import parse_subspace
from subkern.training.batch_order import batch_order
from subkern.training.optimizers import SignGD
from tests.support import oracles
from tests.support.families import FAMILIES, Family, case_id, random_examples
from tests.support.toys import CLASSES, WIDTH, toy, toy_examples

BERT, GPT2 = (next(f for f in FAMILIES if (f.name, f.kind) == k) for k in (
    ("bert", "masked"), ("gpt2", "causal")
))  # fmt: skip
ODD = ("deberta-v2", "modernbert", "llama", "gemma2", "bloom", "mamba")  # one of each kind
SUBSPACES = ("full", "bias", "lora:r=2,alpha=4", "random:dim=6,kind=srht")


def tunable(text: str, family: Family = GPT2, c: int = 2) -> MovableModel:
    return MovableModel(oracles.logit_model(family, c), parse_subspace(text))


def direction(model: MovableModel, size: float = 1.0, seed: int = 0) -> dict[str, Tensor]:
    """A random shift of this norm."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        n: torch.randn(z.shape, generator=generator, dtype=z.dtype) for n, z in model.start.items()
    }
    norm = sum(float(v.square().sum()) for v in drawn.values()) ** 0.5
    return {n: v * (size / norm) for n, v in drawn.items()}


@pytest.mark.parametrize("family", [GPT2, BERT], ids=case_id)
@pytest.mark.parametrize("text", SUBSPACES)
def test_linearized_logits_are_those_of_the_explicit_jacobian(text: str, family: Family) -> None:
    examples = random_examples(5, read=family.read)
    model = tunable(text, family)
    shift = direction(model)
    jacobian = Jacobian.of(model, examples)
    moved = {n: z + shift[n] for n, z in model.start.items()}
    wanted = jacobian.linear(moved, slice(None)).numpy()
    found = linearized_logits(model, shift, examples, batch_size=2)
    change = np.abs(wanted - jacobian.logits.numpy()).max()
    assert change > 1e-6
    assert np.abs(found - wanted).max() < 1e-10 * change


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(f, marks=() if f.name in ODD and f.kind != "encoder" else pytest.mark.slow)
        for f in FAMILIES
    ],
    ids=case_id,
)
def test_every_family_has_a_linearization(family: Family) -> None:
    """Central differences of the nonlinear f agree with J·v: forward mode or two backwards."""
    examples = random_examples(2, read=family.read)
    model = MovableModel(oracles.logit_model(family), parse_subspace("full"))
    v, h = direction(model), 1e-4
    lin = linearized_logits(model, v, examples) - initial_logits(model, examples)
    batch = model.model.collate(examples)
    with torch.no_grad():
        ahead, behind = (
            model.function({n: z + s * h * v[n] for n, z in model.start.items()}, batch)
            for s in (1, -1)
        )
    wanted = ((ahead - behind) / (2 * h)).numpy()
    assert np.abs(lin - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("text", SUBSPACES)
def test_linearization_error_falls_as_the_square_of_the_step(text: str) -> None:
    examples = random_examples(4)
    model = tunable(text)
    errors = []
    for size in (4e-3, 2e-3, 1e-3):
        shift = direction(model, size)
        with torch.no_grad():
            f = model.move(shift)(model.model.collate(examples)).numpy()
        errors.append(np.abs(f - linearized_logits(model, shift, examples)).max())
    ratios = np.asarray(errors[:-1]) / np.asarray(errors[1:])
    np.testing.assert_allclose(ratios, 4, rtol=0.05)


def test_zero_shift_is_the_initial_logits_exactly() -> None:
    model, examples = tunable("full"), random_examples(3)
    zero = {n: torch.zeros_like(z) for n, z in model.start.items()}
    wanted = initial_logits(model, examples)
    np.testing.assert_array_equal(linearized_logits(model, zero, examples), wanted)
    with torch.no_grad():
        usual = model(model.model.collate(examples)).numpy()
    np.testing.assert_allclose(wanted, usual, rtol=1e-12)


def test_linearization_does_not_depend_on_where_the_model_stands() -> None:
    model, examples = tunable("lora:r=2,alpha=4"), random_examples(3)
    shift = direction(model)
    before = linearized_logits(model, shift, examples)
    model.move(shift)
    np.testing.assert_array_equal(linearized_logits(model, shift, examples), before)


class OnlyBackward(torch.autograd.Function):
    """x² without a forward-mode derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        found: Tensor = 2 * x * cotangents[0]
        return found


def test_operations_without_forward_mode_take_two_backwards() -> None:
    def use(p: Any, x: Tensor, ids: Tensor) -> Tensor:
        y = x @ p["w"]
        return OnlyBackward.apply(y) if plain else y * y  # type: ignore[no-any-return]

    model = MovableModel(toy(use, w=(WIDTH, CLASSES)), parse_subspace("full"))
    examples, v = toy_examples(), direction(model, 0.3)
    plain = False
    wanted = linearized_logits(model, v, examples)
    plain = True
    batch = model.model.collate(examples)
    with pytest.raises(RuntimeError):
        torch.func.jvp(lambda z: model.function(z, batch), (model.start,), (v,))
    np.testing.assert_allclose(linearized_logits(model, v, examples), wanted, rtol=1e-12)


def test_other_errors_are_not_taken_for_a_missing_derivative() -> None:
    def use(p: Any, x: Tensor, ids: Tensor) -> Tensor:
        return x @ p["w"] @ p["w"]  # shapes do not fit

    model = MovableModel(toy(use, w=(WIDTH, CLASSES)), parse_subspace("full"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        linearized_logits(model, direction(model), toy_examples())


def test_pull_is_the_adjoint_of_push() -> None:
    model, examples = tunable("bias", c=3), random_examples(3)
    batch, v = model.model.collate(examples), direction(model)
    u = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, pushed = push(model, v, batch)
    pulled = pull(model, u, batch)
    right = sum(float((pulled[n] * v[n]).sum()) for n in v)
    assert float((u * pushed).sum()) == pytest.approx(right, rel=1e-10)


OPTIMIZERS: dict[str, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.02),
    "adam": partial(torch.optim.Adam, lr=1e-3),
    "signgd": partial(SignGD, lr=1e-3),
}


@pytest.mark.parametrize("text", ["full", "random:dim=6,kind=srht"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_by_jvps_is_training_on_the_jacobian(name: str, text: str) -> None:
    examples = random_examples(8, num_labels=2)
    train, model = examples[:6], tunable(text)
    order = list(batch_order(6, 3, 20, seed=1))
    found = train_linearized(
        model, train, examples, optimizer=OPTIMIZERS[name], batches=order, record=(0, 5, 20)
    )
    jacobians = Jacobian.of(model, train), Jacobian.of(model, examples)
    wanted = train_on_jacobian(
        *jacobians, optimizer=OPTIMIZERS[name], batches=order, record=(0, 5, 20)
    )
    moved = np.abs(wanted.values - wanted.values[0]).max()
    assert moved > 1e-3
    assert np.abs(found.values - wanted.values).max() <= 1e-8 * max(moved, 1.0)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("text", SUBSPACES)
def test_training_the_linearized_model_equals_dynamics(text: str, c: int, loss: str) -> None:
    """The library's kernel, 20 steps of the recursion; against torch's SGD on f_lin."""
    examples = random_examples(7, num_labels=max(c, 2))
    train, model = examples[:5], oracles.logit_model(GPT2, c)
    subspace = parse_subspace(text)
    order = list(batch_order(5, 2, 20, seed=3))
    kernels = [compute_kernel(model, train, side, subspace=subspace) for side in (train, examples)]
    rate = 0.3 * critical_learning_rate(kernels[0])
    predicted = sgd(*kernels, learning_rate=rate, batches=order, loss=loss)
    trained = train_linearized(
        MovableModel(model, subspace),
        train,
        examples,
        optimizer=partial(torch.optim.SGD, lr=rate),
        batches=order,
        loss=loss,
    )
    assert 0.05 < np.abs(trained.values - trained.values[0]).max() < 100
    assert np.abs(predicted.values - trained.values).max() <= 1e-8


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
@pytest.mark.parametrize("text", ["params:mlp", "lora:r=2,alpha=4"])
def test_signgd_on_the_linearized_model_equals_dynamics(text: str, loss: str) -> None:
    """The library's kernel of signs; one logit and batches of one, where it is exact.

    Not over attention's own weights: some entries are rounding noise in one example and not in
    another, SignGD steps by the noise's signs, and the kernel counts them as 0.
    """
    examples = random_examples(7)
    train, model = examples[:5], oracles.logit_model(GPT2, 1)
    subspace, rate = parse_subspace(text), 1e-3
    rule = "asymmetric_signgd:zero_tolerance=1e-13"  # small entries are steps too, in float64
    order = list(batch_order(5, 1, 20, seed=3))
    kernels = [
        compute_kernel(model, train, side, subspace=subspace, rule=rule)
        for side in (train, examples)
    ]
    predicted = signgd(*kernels, learning_rate=rate, batches=order, loss=loss)
    trained = train_linearized(
        MovableModel(model, subspace),
        train,
        examples,
        optimizer=partial(SignGD, lr=rate),
        batches=order,
        loss=loss,
    )
    assert np.abs(trained.values - trained.values[0]).max() > 0.05
    assert np.abs(predicted.values - trained.values).max() <= 1e-8


def test_real_training_follows_dynamics_at_small_learning_rates() -> None:
    """The error of the prediction after T/η steps falls with the learning rate: lazy training."""
    examples = random_examples(6)
    train, model = examples[:4], oracles.logit_model(GPT2)
    kernels = [compute_kernel(model, train, side) for side in (train, examples)]
    errors = []
    for rate in (1e-3, 5e-4):
        order = list(batch_order(4, 2, 10, seed=0))
        predicted = sgd(*kernels, learning_rate=rate, batches=order)
        real = MovableModel(model, parse_subspace("full"))
        optimizer = torch.optim.SGD(real.coordinates.values(), lr=rate)
        for rows in order:
            optimizer.zero_grad()
            labels = torch.tensor([train[i].label for i in rows])
            logits = real(real.model.collate([train[i] for i in rows]))
            torch.nn.functional.cross_entropy(logits, labels).backward()
            optimizer.step()
        with torch.no_grad():
            last = real(real.model.collate(examples)).numpy()
        errors.append(np.abs(predicted.values[-1] - last).max())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)


def test_linearized_model_leaves_the_model_as_it_is() -> None:
    model, examples = tunable("full"), random_examples(3)
    before = {n: z.clone() for n, z in model.start.items()}
    linear = LinearizedModel(model)
    linear(model.model.collate(examples)).sum().backward()
    assert all(torch.equal(before[n], z) for n, z in model.start.items())
    assert all(z.grad is None for z in model.coordinates.values())
    assert all(z.grad is not None for z in linear.coordinates.values())


def test_shifts_of_other_subspaces_are_refused() -> None:
    model, examples = tunable("bias"), random_examples(2)
    with pytest.raises(UserError, match="the shift and the coordinates differ in"):
        linearized_logits(model, {"z": torch.zeros(3)}, examples)
    shapes = {n: torch.zeros(1) for n in model.start}
    with pytest.raises(UserError, match="give the shift of this subspace"):
        linearized_logits(model, shapes, examples)
    with pytest.raises(UserError, match="no examples"):
        linearized_logits(model, direction(model), [])


def test_a_shift_that_moves_nothing_the_logits_read_changes_nothing() -> None:
    def use(p: Any, x: Tensor, ids: Tensor) -> Tensor:
        return OnlyBackward.apply(x[..., :CLASSES])  # type: ignore[no-any-return]

    model = MovableModel(toy(use, w=(WIDTH, CLASSES)), parse_subspace("full"))
    examples = toy_examples()
    found = linearized_logits(model, direction(model), examples)
    np.testing.assert_array_equal(found, initial_logits(model, examples))


def test_random_subspaces_of_adapters_have_a_linearization() -> None:
    subspace = RandomSubspace(4, inner=parse_subspace("lora:r=2,alpha=4"))
    model, examples = MovableModel(oracles.logit_model(GPT2), subspace), random_examples(3)
    shift = direction(model)
    wanted = Jacobian.of(model, examples).linear(shift, slice(None))
    assert isinstance(model.model, LogitModel)
    np.testing.assert_allclose(
        linearized_logits(model, shift, examples), wanted.numpy(), atol=1e-12
    )

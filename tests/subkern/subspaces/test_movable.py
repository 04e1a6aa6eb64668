"""Models in the coordinates that are trained: gradients, tangents, moving, every subspace."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from subkern.errors import UserError
from subkern.kernels.engines.reference import reference_kernel
from subkern.models.logit_model import Batch, LogitModel, named_parameters
from subkern.projections.dense import dense_matrix
from subkern.projections.displace import displace
from subkern.projections.spec import KINDS
from subkern.subspaces import movable
from subkern.subspaces.base import Full
from subkern.subspaces.movable import MovableModel, SlowSubspaceWarning
from subkern.subspaces.random import RandomSubspace
from subkern.subspaces.text import parse_subspace
from tests.support import oracles
from tests.support.families import FAMILIES, random_examples

BY_NAME = {(f.name, f.kind): f for f in FAMILIES}
BERT, GPT2 = BY_NAME["bert", "masked"], BY_NAME["gpt2", "causal"]
SUBSPACES = (
    "full",
    "bias",
    "lora:r=2,targets=query",
    "random:dim=40,kind=srht",
    "random:dim=30,kind=gaussian,allocation=global,inner=bias",
)
subspaces = pytest.mark.parametrize("text", SUBSPACES)


def make(text: str, c: int = 3) -> tuple[LogitModel, MovableModel]:
    model = oracles.logit_model(BERT, c)
    return model, MovableModel(model, parse_subspace(text))


def batch_of(model: LogitModel, n: int = 4) -> Batch:
    return model.collate(random_examples(n, read=BERT.read, seed=2))


def random_like(tensors: dict[str, Tensor], scale: float, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        n: scale * torch.randn(t.shape, generator=generator, dtype=t.dtype)
        for n, t in tensors.items()
    }


def test_a_projection_that_takes_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movable, "_MANY", 1e4)
    with pytest.warns(SlowSubspaceWarning, match=r"dim=40,kind=sparse draws \S+ random numbers"):
        make("random:dim=40,kind=sparse")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make("random:dim=40,kind=srht")
        make("random:dim=2,kind=gaussian,inner=norm")


# --- z ↦ P z ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("allocation", ["global", "per-parameter"])
def test_displacement_and_projection_are_adjoint(kind: str, allocation: str) -> None:
    coordinates = RandomSubspace(90, kind, 2, allocation).attach(oracles.logit_model(GPT2))
    projection, sizes = coordinates.projection, coordinates.parameters
    assert projection is not None
    z = torch.randn(90, dtype=torch.float64, requires_grad=True)
    g = [torch.randn(p.numel(), dtype=torch.float64) for p in sizes.values()]
    moved = displace(projection, z, list(sizes))
    product = sum((a * b).sum() for a, b in zip(moved, g, strict=True))
    (gradient,) = torch.autograd.grad(product, z)
    assert float(product.detach() - gradient @ z.detach()) == pytest.approx(0, abs=1e-10)
    expected = dense_matrix(projection.projections, projection.cell)
    torch.testing.assert_close(gradient, expected.T @ torch.cat(g), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(torch.cat(moved), expected @ z, rtol=1e-11, atol=1e-11)


def test_displacement_has_every_derivative() -> None:
    coordinates = RandomSubspace(7, "srht").attach(oracles.logit_model(GPT2))
    projection, names = coordinates.projection, [*coordinates.parameters][:3]
    assert projection is not None
    z = torch.randn(7, dtype=torch.float64)

    def f(z: Tensor) -> Tensor:
        return torch.stack([d.sin().sum() for d in displace(projection, z, names)])

    reverse, forward = torch.func.jacrev(f)(z), torch.func.jacfwd(f)(z)
    torch.testing.assert_close(reverse, forward, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.func.hessian(lambda z: f(z).sum())(z),
        torch.func.jacrev(torch.func.jacrev(lambda z: f(z).sum()))(z),
        rtol=1e-12,
        atol=1e-12,
    )
    many = torch.stack([z, 2 * z])
    expected = torch.stack([f(z), f(2 * z)])
    torch.testing.assert_close(torch.func.vmap(f)(many), expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(f, z.clone().requires_grad_(), check_forward_ad=True)


def test_a_dense_projection_is_not_kept_for_the_backward() -> None:
    """The graph of P z holds z at most, whatever the kind."""
    coordinates = RandomSubspace(64, "gaussian").attach(oracles.logit_model(GPT2))
    projection = coordinates.projection
    assert projection is not None
    held = 0

    def pack(t: Tensor) -> Tensor:
        nonlocal held
        held += t.numel()
        return t

    z = torch.zeros(64, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        displace(projection, z, [*coordinates.parameters])
    assert held <= 64


# --- the model in z ---


@subspaces
def test_at_its_start_it_is_the_model_and_moving_leaves_the_model_alone(text: str) -> None:
    model, tunable = make(text)
    batch = batch_of(model)
    before = {n: p.detach().clone() for n, p in named_parameters(model).items()}
    flags = {n: p.requires_grad for n, p in named_parameters(model).items()}
    with torch.no_grad():
        torch.testing.assert_close(tunable(batch), model(batch), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            tunable.function(tunable.start, batch), model(batch), rtol=1e-12, atol=1e-12
        )
    shift = random_like(tunable.start, 0.05)
    tunable.train().move(shift)
    tunable(batch).square().sum().backward()
    assert not model.training
    assert all(torch.equal(p, before[n]) for n, p in named_parameters(model).items())
    assert {n: p.requires_grad for n, p in named_parameters(model).items()} == flags
    assert all(p.grad is None for p in model.parameters())
    for name, value in tunable.shift().items():
        torch.testing.assert_close(value, shift[name], rtol=1e-12, atol=1e-12)
    assert [n for n, p in tunable.coordinates.items() if p.grad is None] == []
    trained = [p for p in tunable.parameters() if p.requires_grad]
    assert len(trained) == len(tunable.coordinates)


@subspaces
def test_gradients_and_tangents_are_the_kernels(text: str) -> None:
    """J of the function in reverse and in forward mode gives the reference engine's kernel."""
    model, tunable = make(text)
    examples = random_examples(2, read=BERT.read, seed=2)
    expected, _ = reference_kernel(tunable.subspace.attach(model), examples, examples)[:2]
    start = tunable.start
    rows = []
    for example in examples:
        batch = model.collate([example])
        jacobian = torch.func.jacrev(lambda z, b=batch: tunable.function(z, b)[0])(start)
        rows.append(torch.cat([j.reshape(3, -1) for j in jacobian.values()], 1))
        tangent = random_like(start, 1.0)
        _, forward = torch.func.jvp(
            lambda z, b=batch: tunable.function(z, b)[0], (start,), (tangent,)
        )
        flat = torch.cat([t.flatten() for t in tangent.values()])
        torch.testing.assert_close(forward, rows[-1] @ flat, rtol=1e-9, atol=1e-9)
    assert oracles.error(oracles.kernel(torch.stack(rows)), expected[0]) <= 1e-10
    tunable.zero_grad()
    tunable(model.collate(examples[:1]))[0, 1].backward()
    flat = torch.cat([p.grad.flatten() for p in tunable.coordinates.values()])  # type: ignore[union-attr]
    torch.testing.assert_close(flat, rows[0][1], rtol=1e-9, atol=1e-9)


@subspaces
def test_tensors_are_where_a_subspace_can_stand(text: str) -> None:
    model, tunable = make(text)
    batch = batch_of(model)
    tunable.move(random_like(tunable.start, 0.05))
    there = tunable.subspace.at(tunable.tensors()).attach(model)  # type: ignore[attr-defined]
    with torch.no_grad():
        torch.testing.assert_close(there.model(batch), tunable(batch), rtol=1e-12, atol=1e-12)
        assert (tunable(batch) - model(batch)).abs().max() > 1e-3


def test_half_precision_moves_in_float32() -> None:
    model = oracles.logit_model(BERT, dtype=torch.bfloat16)
    tunable = MovableModel(model, Full())
    batch = batch_of(model)
    shift = {n: torch.full_like(v, 1e-6) for n, v in tunable.start.items()}
    assert tunable.move(shift)(batch).dtype == torch.bfloat16
    for name, value in tunable.shift().items():
        torch.testing.assert_close(value, shift[name], rtol=0.2, atol=1e-7)
    tunable(batch).sum().backward()
    assert {p.grad.dtype for p in tunable.coordinates.values() if p.grad is not None} == {
        torch.float32
    }


def test_dropout_is_off_unless_asked_for() -> None:
    model = oracles.logit_model(BERT)
    batch = batch_of(model)
    for dropout in (False, True):
        tunable = MovableModel(model, Full(), dropout=dropout).train()
        torch.manual_seed(0)
        differs = bool((tunable(batch) - tunable(batch)).abs().max() > 1e-6)
        assert differs is dropout
        torch.testing.assert_close(tunable.eval()(batch), model(batch))


def test_coordinates_of_another_model_are_refused() -> None:
    model, tunable = make("bias")
    batch, start = batch_of(model), tunable.start
    name = next(iter(start))
    wrong = {n: v for n, v in start.items() if n != name}
    with pytest.raises(UserError, match=f"^the coordinates given lack '{name}'"):
        tunable.move(wrong)
    with pytest.raises(UserError, match=r"^this subspace lacks 'z': was it made for the same"):
        tunable.function({**start, "z": start[name]}, batch)
    with pytest.raises(UserError, match=rf"^'{name}' has shape \[1, .*and this subspace \["):
        tunable.move({**start, name: start[name][None]})

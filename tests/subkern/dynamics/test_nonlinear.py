"""Optimizers on frozen gradients over hundreds of steps, float64: exact, whatever they remember."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from subkern.dynamics import (
    Jacobian,
    NonlinearKernel,
    sgd,
    signgd,
    train_linearized,
    train_on_jacobian,
)
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.subspaces.base import Full
from subkern.subspaces.movable import MovableModel
from subkern.training.batch_order import batch_order
from subkern.training.losses import cross_entropy, residual
from subkern.training.optimizers import SignGD
from subkern.width import Perceptrons, initialize
from tests.support.vectors import vector_examples

N, TRAIN, STEPS = 7, 5, 300
FEATURES = torch.randn(N, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.05),
    "momentum and decay": partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=0.1),
    "signgd": partial(SignGD, lr=1e-3),
    "adam": partial(torch.optim.Adam, lr=1e-3),
    "adam, large epsilon": partial(torch.optim.Adam, lr=1e-2, eps=0.1),
    "adam, decay in the gradient": partial(torch.optim.Adam, lr=1e-3, weight_decay=0.1),
    "adamw": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.5),
}


def movable(classes: int = 2) -> MovableModel:
    wide = initialize(Perceptrons(FEATURES, classes, base=8), 8, "standard")
    return MovableModel(wide.model, Full())


def order(size: int = 2) -> list[np.ndarray]:
    return list(batch_order(TRAIN, size, STEPS, seed=1))


class Explicit(nn.Module):
    """f₀ + J·(z − z₀) with all of z in one vector, written out; torch differentiates it."""

    def __init__(self, jacobian: Jacobian) -> None:
        super().__init__()
        rows = [g.flatten(2) for g in jacobian.gradients.values()]
        self.j, self.f0 = torch.cat(rows, 2), jacobian.logits
        self.z0 = torch.cat([p.flatten() for p in jacobian.point.values()])
        self.z = nn.Parameter(self.z0.clone())

    def forward(self) -> torch.Tensor:
        return self.f0 + self.j @ (self.z - self.z0)


def explicitly(
    jacobian: Jacobian,
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    batches: list[np.ndarray],
) -> np.ndarray:
    """Return the logits ``[s + 1, n, c]`` of training `Explicit`."""
    model = Explicit(jacobian)
    optimizer, seen = make([model.z]), [model().detach().numpy()]
    for batch in batches:
        rows = torch.from_numpy(batch)
        optimizer.zero_grad()
        cross_entropy(model()[rows], jacobian.labels[rows]).backward()
        optimizer.step()
        seen.append(model().detach().numpy())
    return np.asarray(seen)


def by_kernel(kernel: NonlinearKernel, batches: list[np.ndarray], loss: str) -> np.ndarray:
    """Return the logits over training in function space: only derivatives go in."""
    f, labels = kernel.train.logits.clone(), kernel.train.labels
    seen = [f.numpy().copy()]
    for batch in batches:
        rows = torch.from_numpy(batch)
        chi = torch.zeros_like(f)
        chi[rows] = residual(loss, f[rows], labels[rows]) / len(rows)
        f = f + torch.from_numpy(kernel(chi))
        seen.append(f.numpy().copy())
    return np.asarray(seen)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_hundreds_of_steps_are_those_of_an_explicitly_linearized_model(name: str) -> None:
    jacobian = Jacobian.of(movable(), vector_examples(TRAIN))
    wanted = explicitly(jacobian, OPTIMIZERS[name], order())
    assert np.abs(wanted[-1] - wanted[0]).max() > 0.05
    found = train_on_jacobian(jacobian, optimizer=OPTIMIZERS[name], batches=order())
    np.testing.assert_allclose(found.values, wanted, rtol=0, atol=1e-8)
    kernel = NonlinearKernel(jacobian, optimizer=OPTIMIZERS[name])
    np.testing.assert_allclose(
        by_kernel(kernel, order(), "cross_entropy"), wanted, rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("name", ["signgd", "adamw"])
def test_so_are_those_of_the_model_itself(name: str) -> None:
    tunable, examples = movable(), vector_examples(N)
    wanted = explicitly(Jacobian.of(tunable, examples), OPTIMIZERS[name], order())
    looked = (0, 100, STEPS)
    found = train_linearized(
        tunable,
        examples[:TRAIN],
        examples,
        optimizer=OPTIMIZERS[name],
        batches=order(),
        record=looked,
    )
    np.testing.assert_allclose(found.values, wanted[list(looked)], rtol=0, atol=1e-8)


def test_a_centered_function_starts_at_zero() -> None:
    tunable, examples = movable(), vector_examples(N)
    jacobian = Jacobian.of(tunable, examples)
    object.__setattr__(jacobian, "logits", torch.zeros_like(jacobian.logits))
    wanted = explicitly(jacobian, OPTIMIZERS["adam"], order()[:20])
    found = train_linearized(
        tunable,
        examples[:TRAIN],
        examples,
        optimizer=OPTIMIZERS["adam"],
        batches=order()[:20],
        centered=True,
    )
    assert np.all(found.values[0] == 0)
    np.testing.assert_allclose(found.values, wanted, rtol=0, atol=1e-8)


def kernel_of(jacobian: Jacobian, rule: str) -> Kernel:
    rows = torch.cat([g.flatten(2) for g in jacobian.gradients.values()], 2).numpy()
    left = np.sign(rows) if rule != "sgd" else rows
    values = np.einsum("iap,jbp->iajb", left, rows)
    reverse = np.einsum("iap,jbp->iajb", rows, left) if rule != "sgd" else None
    labels, logits = jacobian.labels.numpy(), jacobian.logits.numpy()
    about = (jacobian.ids, jacobian.ids, labels, labels, {"rule": rule}, logits, logits, reverse)
    return Kernel(values, *about)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_closed_forms(loss: str) -> None:
    """SGD is −ηKχ; SignGD, with one logit and one example, −η sign(χ)⟨sign ∇f, ∇f⟩."""
    jacobian, single = Jacobian.of(movable(1), vector_examples(TRAIN)), order(1)
    forms = {"sgd": (sgd, "sgd", 0.05), "signgd": (signgd, "asymmetric_signgd", 1e-3)}
    for name, (closed, rule, rate) in forms.items():
        wanted = closed(kernel_of(jacobian, rule), learning_rate=rate, batches=single, loss=loss)
        found = by_kernel(NonlinearKernel(jacobian, optimizer=OPTIMIZERS[name]), single, loss)
        np.testing.assert_allclose(found, wanted.values, rtol=0, atol=1e-8)


def test_for_adam_it_is_no_sum_over_examples_and_depends_on_what_was() -> None:
    jacobian = Jacobian.of(movable(), vector_examples(TRAIN))
    one, other = np.zeros((2, TRAIN, 2))
    one[0], other[1] = (0.3, -0.3), (0.1, -0.1)

    def step(*chi: np.ndarray) -> np.ndarray:
        kernel = NonlinearKernel(jacobian, optimizer=OPTIMIZERS["adam"])
        return np.asarray([kernel(each) for each in chi])[-1]

    assert np.abs(step(one + other) - step(one) - step(other)).max() > 1e-3
    assert np.abs(step(one, other) - step(other)).max() > 1e-3


def test_mistakes_are_said() -> None:
    jacobian = Jacobian.of(movable(), vector_examples(TRAIN))
    kernel = NonlinearKernel(jacobian, optimizer=OPTIMIZERS["adam"])
    with pytest.raises(
        UserError, match=r"derivatives have shape \[5\], the training logits \[5, 2\]"
    ):
        kernel(np.zeros(TRAIN))
    other = Jacobian({}, {}, jacobian.logits, jacobian.labels, jacobian.ids)
    with pytest.raises(UserError, match="different coordinates"):
        NonlinearKernel(jacobian, other, optimizer=OPTIMIZERS["adam"])

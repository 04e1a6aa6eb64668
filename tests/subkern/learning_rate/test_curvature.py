"""The Gauss-Newton matrix from the kernel is the one from the Jacobian, wherever it is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from subkern.dynamics import critical_learning_rate
from subkern.errors import UserError
from subkern.kernels.compute import compute_kernel
from subkern.learning_rate.curvature import critical_after_walk, gauss_newton_largest
from subkern.subspaces.movable import MovableModel
from subkern.subspaces.text import as_subspace
from subkern.training.batch_order import batch_order
from subkern.training.losses import get_loss
from subkern.training.monitor import labels_of
from tests.support import oracles
from tests.support.families import FAMILIES, random_examples

(BERT,) = (f for f in FAMILIES if (f.name, f.kind) == ("bert", "masked"))
EXAMPLES = random_examples(5, read=BERT.read)


def flat(tunable: MovableModel, loss: str) -> tuple[Tensor, Callable[[Tensor, Any], Tensor], Any]:
    """Return z₀ as one vector, logits as a function of it, and the mean loss of rows as another."""
    names = list(tunable.start)
    sizes = [tunable.start[name].numel() for name in names]
    start = torch.cat([tunable.start[name].detach().flatten() for name in names])
    labels = torch.from_numpy(labels_of(EXAMPLES))

    def logits(z: Tensor, rows: Any) -> Tensor:
        parts = z.split(sizes)
        point = {n: p.view_as(tunable.start[n]) for n, p in zip(names, parts, strict=True)}
        return tunable.function(point, tunable.model.collate([EXAMPLES[i] for i in rows]))

    def mean_loss(z: Tensor, rows: Any) -> Tensor:
        return get_loss(loss)(logits(z, rows), labels[torch.as_tensor(rows)])

    return start, logits, mean_loss


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
@pytest.mark.parametrize(("subspace", "c"), [("bias", 3), ("lora:r=2,alpha=4", 3), ("bias", 1)])
def test_it_is_the_explicit_matrix_where_the_walk_ends(subspace: str, c: int, loss: str) -> None:
    model = oracles.logit_model(BERT, c)
    z, logits, mean_loss = flat(MovableModel(model, as_subspace(subspace)), loss)
    everyone = list(range(len(EXAMPLES)))
    for rows in batch_order(len(EXAMPLES), 2, 3, 7):
        leaf = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(mean_loss(leaf, [int(i) for i in rows]), leaf)
        z = z - 0.05 * gradient
    jacobian = torch.autograd.functional.jacobian(lambda v: logits(v, everyone).flatten(), z)
    outputs = logits(z, everyone).detach()
    labels = torch.from_numpy(labels_of(EXAMPLES))
    hessian = torch.autograd.functional.hessian(
        lambda f: get_loss(loss)(f.view_as(outputs), labels), outputs.flatten()
    )
    largest = float(torch.linalg.eigvalsh(jacobian.T @ hessian @ jacobian)[-1])
    found = critical_after_walk(
        model, EXAMPLES, learning_rate=0.05, subspace=subspace, steps=3, batch_size=2, loss=loss,
        seed=7,
    )  # fmt: skip
    assert found == pytest.approx(2 / largest, rel=1e-8)


def test_of_the_squared_loss_it_is_the_kernel_s() -> None:
    kernel = compute_kernel(oracles.logit_model(BERT, 1), EXAMPLES, subspace="bias")
    largest = gauss_newton_largest(
        kernel.matrix(), np.zeros((5, 1)), labels_of(EXAMPLES), "squared"
    )
    curvature = float(torch.func.hessian(
        lambda f: get_loss("squared")(f[None, None], torch.tensor([0]))
    )(torch.tensor(0.0, dtype=torch.float64)))  # fmt: skip
    assert 2 / largest == pytest.approx(critical_learning_rate(kernel) / curvature)


def test_a_walk_that_ends_nowhere_is_told() -> None:
    model = oracles.logit_model(BERT, 1)
    with pytest.raises(UserError, match=r"^4 steps at learning rate 1e\+300 end at no finite"):
        critical_after_walk(model, EXAMPLES, learning_rate=1e300, subspace="bias")

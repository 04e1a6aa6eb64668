"""SGD's critical learning rate where a short walk ends: 2/λ_max of the Gauss-Newton matrix there.

A kernel at the start does not see the half of LoRA that begins at zero; a few steps away it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from subkern.errors import UserError
from subkern.kernel_behavior import subspace_at
from subkern.kernels.compute import compute_kernel
from subkern.learning_rate.gradients import loss_gradient
from subkern.subspaces.movable import MovableModel
from subkern.subspaces.text import as_subspace
from subkern.training.batch_order import batch_order
from subkern.training.losses import get_loss
from subkern.training.monitor import labels_of, logits_of

if TYPE_CHECKING:
    from subkern.kernels.request import RunOptions
    from subkern.models.logit_model import LogitModel
    from subkern.prompts.prompt import EncodedExample
    from subkern.subspaces.base import Subspace

__all__ = ["critical_after_walk", "gauss_newton_largest"]

Floats = npt.NDArray[np.float64]


def critical_after_walk(
    model: LogitModel,
    examples: Sequence[EncodedExample],
    *,
    learning_rate: float,
    subspace: Subspace | str = "full",
    steps: int = 4,
    batch_size: int = 8,
    loss: str = "cross_entropy",
    seed: int = 0,
    limit: int | None = None,
    options: RunOptions | None = None,
) -> float:
    """2/λ_max of the Gauss-Newton matrix of the training loss after a few steps of SGD.

    Full-batch gradient descent on the loss's quadratic model there is stable below it.

    Args:
        model: f at θ₀; it is left as it is.
        examples: the training examples.
        learning_rate: of the walk.
        subspace: what is trained.
        steps: of the walk; 0 stays at the start.
        batch_size: examples of a step.
        loss: ``cross_entropy`` or ``squared``.
        seed: of the order of examples.
        limit: most examples that the matrix is of, drawn by `seed`; None for all.
        options: of the kernel at the end of the walk.

    Raises:
        UserError: the walk leaves the finite numbers, or the matrix is zero.
    """
    tunable = MovableModel(model, as_subspace(subspace))
    start = {name: value.detach() for name, value in tunable.start.items()}
    z = start
    for rows in batch_order(len(examples), batch_size, steps, seed):
        gradient = loss_gradient(tunable, z, [examples[i] for i in rows], loss)
        z = {name: value - learning_rate * gradient[name] for name, value in z.items()}
    seen = examples
    if limit is not None and limit < len(examples):
        order = np.random.default_rng(seed).permutation(len(examples))
        seen = [examples[i] for i in order[:limit]]
    shift = {name: value - start[name] for name, value in z.items()}
    logits = np.asarray(logits_of(tunable.move(shift), seen), dtype=np.float64)
    if not np.isfinite(logits).all():
        raise UserError(f"{steps} steps at learning rate {learning_rate:g} end at no finite logits")
    there = subspace_at(model, subspace, shift)
    kernel = compute_kernel(model, seen, subspace=there, options=options)
    largest = gauss_newton_largest(kernel.matrix(), logits, labels_of(seen), loss)
    if not largest > 0:
        raise UserError("the Gauss-Newton matrix is zero: no learning rate is too large")
    return 2 / largest


def gauss_newton_largest(
    kernel: Floats, logits: Floats, labels: npt.NDArray[np.int64], loss: str = "cross_entropy"
) -> float:
    """Largest eigenvalue of G = (1/n) Σᵢ JᵢᵀHᵢJᵢ, H the loss's Hessian in an example's logits.

    With H = RRᵀ its eigenvalues are those of RᵀKR/n, K = JJᵀ the kernel: no Jacobian is needed.

    Args:
        kernel: train × train ``[n·c, n·c]``, an example's logits next to each other.
        logits: where G is taken ``[n, c]``.
        labels: ``[n]``.
        loss: ``cross_entropy`` or ``squared``.
    """
    n, c = logits.shape
    outputs, targets = torch.from_numpy(logits), torch.from_numpy(labels)
    function = get_loss(loss)
    hessians = torch.stack(
        [
            torch.func.hessian(lambda f, y: function(f[None], y[None]))(outputs[i], targets[i])
            for i in range(n)
        ]
    )
    values, vectors = torch.linalg.eigh(hessians)
    roots = (vectors * values.clamp(min=0).sqrt()[:, None]).numpy()
    weighed = np.einsum(
        "iax,iajb,jby->ixjy", roots, kernel.reshape(n, c, n, c), roots, optimize=True
    )
    return float(np.linalg.eigvalsh(weighed.reshape(n * c, n * c))[-1]) / n

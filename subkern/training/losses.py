"""The losses that training and function-space dynamics minimize, on logits ``[b, c]``.

Both are means over the examples of a batch, so a learning rate means the same for any batch size.

* ``cross_entropy``: softmax cross-entropy; for the one binary logit f_1 − f_0 (c = 1) the logistic
  loss, which is the same number.
* ``squared``: ``½ Σ_c (f_c − t_c)²`` against the targets of the kernel solvers: one-hot, or +1 and
  −1 where c = 1 (`subkern.solvers.base.encode_targets`); a real label is its own target.
  Gradient flow on it solves kernel regression.
* ``likelihood``: of completions, whose logit is a log-likelihood and whose label says over how many
  tokens it sums: ``−Σ_i f_i / Σ_i n_i``, the mean over the *tokens* of the batch as TRL and
  transformers have it; where f is a mean over tokens (n = 1), the mean over examples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from subkern.errors import UserError

__all__ = [
    "LOSSES",
    "Loss",
    "counted",
    "cross_entropy",
    "get_loss",
    "likelihood",
    "residual",
    "squared",
    "targets",
]

Loss = Callable[[Tensor, Tensor], Tensor]


def targets(labels: Tensor, logits: int) -> Tensor:
    """Targets ``[b, c]`` of the squared loss for labels ``[b]``: one-hot, or ±1 where c = 1.

    Labels that are floating-point numbers are the targets.
    """
    if labels.is_floating_point():
        return labels[:, None]
    if logits == 1:
        return (2 * labels - 1).to(torch.get_default_dtype())[:, None]
    return functional.one_hot(labels, logits).to(torch.get_default_dtype())


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits ``[b, c]`` and labels ``[b]``; logistic loss where c = 1."""
    if labels.is_floating_point():
        raise UserError("loss 'cross_entropy' is of classes and the labels are real: use 'squared'")
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype))
    return functional.cross_entropy(logits, labels)


def squared(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over examples of ``½ Σ_c (f_c − t_c)²``, logits ``[b, c]`` and labels ``[b]``."""
    wanted = targets(labels, logits.shape[1]).to(logits)
    return 0.5 * (logits - wanted).square().sum(1).mean()


def likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """``−Σ f / Σ n`` of log-likelihoods ``[b, 1]`` over n tokens each, ``[b]``."""
    if logits.shape[1] != 1:
        raise UserError(f"loss 'likelihood' is of completions, not of {logits.shape[1]} logits")
    return -logits.sum() / labels.sum()


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "squared": squared,
    "likelihood": likelihood,
}
"""The losses by name."""


def get_loss(name: str) -> Loss:
    """Return the loss called ``name``.

    Raises:
        UserError: there is none of that name.
    """
    if name not in LOSSES:
        raise UserError(f"loss '{name}' is unknown: use {', '.join(LOSSES)}")
    return LOSSES[name]


def counted(name: str, labels: np.ndarray) -> int:
    """What the loss of examples with these labels is a mean over: examples, or their tokens."""
    return int(labels.sum()) if name == "likelihood" else len(labels)


def residual(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Derivative ``[b, c]`` of each example's own loss by its logits (no mean over the batch).

    ``softmax(f) − onehot`` and ``f − t``; ``sigmoid(f) − y`` for the logistic loss.
    """
    if name == "squared":
        return logits - targets(labels, logits.shape[1]).to(logits)
    get_loss(name)
    if name == "likelihood":
        return torch.full_like(logits, -len(labels) / float(labels.sum()))
    if logits.shape[1] == 1:
        return torch.sigmoid(logits) - labels.to(logits)[:, None]
    return torch.softmax(logits, 1) - functional.one_hot(labels, logits.shape[1]).to(logits)

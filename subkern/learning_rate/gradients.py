"""The gradient of a loss by the coordinates that are trained, a few examples at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from subkern.models.batches import token_batches
from subkern.prompts.prompt import label_array
from subkern.training.losses import counted, get_loss

if TYPE_CHECKING:
    from subkern.models.logit_model import Batch
    from subkern.prompts.prompt import EncodedExample
    from subkern.subspaces.movable import MovableModel

__all__ = ["few_at_a_time", "loss_gradient"]

TOKENS, MOST = 2048, 8  # of one forward; few, as examples of one length pad little

Examples = Sequence["EncodedExample"]
Point = Mapping[str, Tensor]


def loss_gradient(
    tunable: MovableModel, z: Point, examples: Examples, loss: str
) -> dict[str, Tensor]:
    """Gradient of the mean loss of `examples` by `z`, a few examples at a time.

    Args:
        tunable: f.
        z: where it is taken, with names and shapes of z₀.
        examples: with labels.
        loss: of `subkern.training.choices`.

    Returns:
        A tensor like `z`'s for each of its names; zeros where the loss does not depend on it.
    """
    leaves = {name: value.detach().clone().requires_grad_() for name, value in z.items()}
    whole = counted(loss, label_array(examples))
    for part, batch in few_at_a_time(tunable, examples):
        labels = torch.as_tensor(label_array(part), device=batch.read.device)
        with torch.enable_grad():
            share = counted(loss, label_array(part)) / whole
            found = get_loss(loss)(tunable.function(leaves, batch), labels) * share
        if found.requires_grad:
            found.backward()
    return {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
    }


def few_at_a_time(tunable: MovableModel, examples: Examples) -> Iterator[tuple[Examples, Batch]]:
    """Yield examples, shortest first, with the batch they are read as."""
    ordered = sorted(examples, key=lambda e: len(e.input_ids))
    for part in token_batches([len(e.input_ids) for e in ordered], TOKENS, MOST):
        yield ordered[part], tunable.model.collate(ordered[part])

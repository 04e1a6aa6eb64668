"""Training at one width, step by step, with how far features and function have moved."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from subkern.models.logit_model import Batch, LogitModel, named_parameters
from subkern.prompts.prompt import EncodedExample
from subkern.training.losses import get_loss
from subkern.training.settings import Diverged
from subkern.width.initialize import WideModel

__all__ = ["WidthRun", "train_wide"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WidthRun:
    """What a training at one width did, on the examples it was trained on.

    Attributes:
        steps: after how many steps it was looked at ``[s]``; the first is 0.
        logits: f − f₀ then ``[s, n, c]``.
        start: f₀ ``[n, c]``.
        size: root mean square of each layer's features before training ``[layers]``.
        change: root mean square of how far they had moved ``[s, layers]``.
    """

    steps: npt.NDArray[np.int64]
    logits: Floats
    start: Floats
    size: Floats
    change: Floats


def train_wide(
    wide: WideModel,
    examples: Sequence[EncodedExample],
    *,
    optimizer: str,
    learning_rate: float,
    batches: Iterable[npt.ArrayLike],
    loss: str = "cross_entropy",
    epsilon: float = 1e-8,
    centered: bool = True,
    looks: Collection[int] | None = None,
) -> WidthRun:
    """Train f − f₀ in place and look at all examples after some steps.

    f₀ is random and, under ``mup``, falls with width: taken off, every width starts from the same
    function, 0, and the same loss.

    Args:
        wide: f at its start; moved.
        examples: n examples.
        optimizer: ``sgd``, ``signgd`` or ``adam``.
        learning_rate: η, that of the base width.
        batches: positions of each step's examples.
        loss: ``cross_entropy`` or ``squared``, the mean over the batch.
        epsilon: ε of Adam at the base width.
        centered: whether f − f₀ is trained, or f itself.
        looks: after which steps to look, besides 0: each costs a forward of all n; None is all.

    Raises:
        Diverged: the loss of a batch, or a logit that is looked at, is not finite.
    """
    model, criterion = wide.model, get_loss(loss)
    everything = model.collate(examples)
    labels = torch.tensor([example.label for example in examples], device=model.device)
    steps = wide.optimizer(
        optimizer, list(named_parameters(model).values()), learning_rate, epsilon
    )
    start, begin = _seen(model, everything)
    off = start if centered else torch.zeros_like(start)
    looked, moved, changes = [0], [torch.zeros_like(start)], [[0.0] * len(begin)]

    def look(step: int) -> None:
        logits, now = _seen(model, everything)
        if not torch.isfinite(logits).all():
            raise Diverged(step, learning_rate)
        looked.append(step)
        moved.append(logits - start)
        changes.append([_rms(h - h0) for h, h0 in zip(now, begin, strict=True)])

    for step, batch in enumerate(batches, start=1):
        rows = torch.as_tensor(np.asarray(batch, dtype=np.int64))
        steps.zero_grad()
        seen = model(model.collate([examples[i] for i in rows])) - off[rows]
        lost = criterion(seen, labels[rows])
        if not torch.isfinite(lost):
            raise Diverged(step - 1, learning_rate)
        lost.backward()
        steps.step()
        if looks is None or step in looks:
            look(step)
    return WidthRun(
        np.asarray(looked, dtype=np.int64),
        torch.stack(moved).double().cpu().numpy(),
        start.double().cpu().numpy(),
        np.array([_rms(h) for h in begin]),
        np.asarray(changes),
    )


@torch.no_grad()
def _seen(model: LogitModel, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """Logits ``[n, c]`` and features of every layer ``[tokens, n]``, float64, of one forward."""
    kept: list[Any] = []

    def ask(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "output_hidden_states": True}

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        kept.append(output.hidden_states)

    hooks = (
        model.module.register_forward_pre_hook(ask, with_kwargs=True),
        model.module.register_forward_hook(keep),
    )
    try:
        logits = model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    tokens = batch.attention_mask.bool()
    states = [h[tokens] if h.shape[1] == tokens.shape[1] else h.flatten(0, 1) for h in kept[-1]]
    return logits, [h.double() for h in states]


def _rms(value: Tensor) -> float:
    return float(value.square().mean().sqrt())

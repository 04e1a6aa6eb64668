"""Training at one width, step by step, with how far features and function have moved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

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
        logits: f − f₀ before training and after every step ``[s + 1, n, c]``.
        start: f₀ ``[n, c]``.
        size: root mean square of each layer's features before training ``[layers]``.
        change: root mean square of how far they have moved ``[s + 1, layers]``.
    """

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
) -> WidthRun:
    """Train f − f₀ in place and look at all examples after every step.

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

    Raises:
        Diverged: a logit is not finite.
    """
    model, criterion = wide.model, get_loss(loss)
    everything = model.collate(examples)
    labels = torch.tensor([example.label for example in examples], device=model.device)
    steps = wide.optimizer(
        optimizer, list(named_parameters(model).values()), learning_rate, epsilon
    )
    begin = features(model, everything)
    with torch.no_grad():
        start = model(everything)
    logits, changes = [], []

    def look(step: int) -> None:
        with torch.no_grad():
            logits.append((model(everything) - start).double().cpu().numpy())
        if not np.isfinite(logits[-1]).all():
            raise Diverged(step, learning_rate)
        now = features(model, everything)
        changes.append([_rms(h - h0) for h, h0 in zip(now, begin, strict=True)])

    look(0)
    for step, batch in enumerate(batches, start=1):
        rows = torch.as_tensor(np.asarray(batch, dtype=np.int64))
        steps.zero_grad()
        seen = model(model.collate([examples[i] for i in rows])) - start[rows]
        criterion(seen, labels[rows]).backward()
        steps.step()
        look(step)
    size = np.array([_rms(h) for h in begin])
    return WidthRun(np.asarray(logits), start.double().cpu().numpy(), size, np.asarray(changes))


@torch.no_grad()
def features(model: LogitModel, batch: Batch) -> list[Tensor]:
    """Features of every layer at the tokens of a batch, each ``[tokens, n]``, float64."""
    states = model.module(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True
    ).hidden_states
    tokens = batch.attention_mask.bool()
    kept = [h[tokens] if h.shape[1] == tokens.shape[1] else h.flatten(0, 1) for h in states]
    return [h.double() for h in kept]


def _rms(value: Tensor) -> float:
    return float(value.square().mean().sqrt())

"""Is f a function of one example? Asked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from subkern.errors import UserError
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample

# Relative differences that rounding explains: of logits, and of gradients against autograd.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.03}


def check_function(model: LogitModel, examples: Sequence[EncodedExample]) -> None:
    """Refuse a model whose logits are random, or depend on what else is in the batch.

    Raises:
        UserError: two evaluations differ (dropout), a logit is not finite, or an example's logits
            change with its batch or padding.
    """
    model.check_tokens(examples)
    longest = max(examples, key=lambda e: len(e.input_ids))
    few = [e for e in spread(examples) if e is not longest] + [longest]
    with torch.no_grad():
        together = model(model.collate(few)).double()
        alone = torch.cat([model(model.collate([e])) for e in few]).double()
        again = model(model.collate(few[:1])).double()
    _check_finite(few, together)
    scale = _scale(few, together)
    if float(difference := (alone[:1] - again).abs().max()) > 1e-6 * scale:
        raise UserError(
            f"two evaluations of the model differ by {difference:.2g}: dropout is on, call"
            " model.eval()"
        )
    check_logits(few, together, alone, model.dtype)


def check_logits(
    examples: Sequence[EncodedExample], together: Tensor, alone: Tensor, dtype: torch.dtype
) -> None:
    """Refuse logits ``[n, c]`` of a batch that are not finite, or other than alone.

    Raises:
        UserError: the same, naming the example.
    """
    _check_finite(examples, together)
    scale = _scale(examples, together)
    worst = (together - alone).abs().amax(1)
    if float(worst.max()) > TOLERANCE.get(dtype, 1e-3) * scale:
        i = int(worst.argmax())
        raise UserError(
            f"logits of example '{examples[i].id}' change by {float(worst[i]):.2g} with its batch"
            " or padding: the model mixes examples (batch norm?) or ignores the attention mask"
        )


def _scale(examples: Sequence[EncodedExample], logits: Tensor) -> float:
    """How large logits are: rounding is a share of it.

    Log-likelihoods that nearly cancel are as large as what they are sums of.
    """
    parts = [abs(m.weight) * len(m.targets) for e in examples for m in e.marked]
    return (max(parts) if parts else float(logits.abs().max())) + 1e-12


def _check_finite(examples: Sequence[EncodedExample], logits: Tensor) -> None:
    if not torch.isfinite(logits).all():
        first = int((~torch.isfinite(logits)).any(1).nonzero()[0, 0])
        raise UserError(
            f"logits of example '{examples[first].id}' are not finite: check the weights, or use"
            " float32"
        )


def spread(examples: Sequence[EncodedExample], count: int = 3) -> list[EncodedExample]:
    """A few examples of different lengths, none longer than the median: enough to see, cheap."""
    ordered = sorted(examples, key=lambda e: len(e.input_ids))
    last = max(len(ordered) // 2, min(count, len(ordered)) - 1)
    picks = sorted({last * i // max(1, count - 1) for i in range(count)})
    return [ordered[i] for i in picks]

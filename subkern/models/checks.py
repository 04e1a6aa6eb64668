"""Is f a function of one example? Asked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from subkern.errors import UserError
from subkern.models.logit_model import LogitModel

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample


# Relative differences that rounding explains: of logits, and of gradients against autograd.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.03}


def check_function(model: LogitModel, examples: Sequence[EncodedExample]) -> None:
    """Refuse a model whose logits are random, or depend on what else is in the batch.

    Raises:
        UserError: two evaluations differ (dropout), a logit is not finite, or an example's logits
            change with its batch or padding.
    """
    longest = max(examples, key=lambda e: len(e.input_ids))
    check_length(model, longest)
    few = [e for e in _spread(examples) if e is not longest] + [longest]
    tolerance = TOLERANCE.get(model.dtype, 1e-3)
    with torch.no_grad():
        together = model(model.collate(few)).double()
        alone = torch.cat([model(model.collate([e])) for e in few]).double()
        again = model(model.collate(few[:1])).double()
    if not torch.isfinite(together).all():
        first = int((~torch.isfinite(together)).any(1).nonzero()[0, 0])
        raise UserError(
            f"logits of example '{few[first].id}' are not finite: check the weights, or use float32"
        )
    scale = float(together.abs().max()) + 1e-12
    if float(difference := (alone[:1] - again).abs().max()) > 1e-6 * scale:
        raise UserError(
            f"two evaluations of the model differ by {difference:.2g}: dropout is on, call"
            " model.eval()"
        )
    worst = (together - alone).abs().amax(1)
    if float(worst.max()) > tolerance * scale:
        i = int(worst.argmax())
        raise UserError(
            f"logits of example '{few[i].id}' change by {float(worst[i]):.2g} with its batch or"
            " padding: the model mixes examples (batch norm?) or ignores the attention mask"
        )


def check_length(model: LogitModel, longest: EncodedExample) -> None:
    """Refuse an example with more tokens than the model has positions.

    Raises:
        UserError: `longest` is too long, counting virtual tokens.
    """
    most = getattr(getattr(model.module, "config", None), "max_position_embeddings", None)
    virtual = getattr(model.module, "num_virtual_tokens", 0)
    if most is not None and most > 0 and len(longest.input_ids) + virtual > most:
        raise UserError(
            f"example '{longest.id}' has {len(longest.input_ids)} tokens"
            f"{f' after {virtual} virtual ones' if virtual else ''} and the model takes {most}:"
            " lower the task's max_length"
        )


def _spread(examples: Sequence[EncodedExample], count: int = 3) -> list[EncodedExample]:
    """A few examples of different lengths, none longer than the median: enough to see, cheap."""
    ordered = sorted(examples, key=lambda e: len(e.input_ids))
    last = max(len(ordered) // 2, min(count, len(ordered)) - 1)
    picks = sorted({last * i // max(1, count - 1) for i in range(count)})
    return [ordered[i] for i in picks]

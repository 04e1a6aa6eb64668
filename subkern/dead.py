"""Refuse a kernel that is zero, or undefined, whatever the examples: a method dead at its start.

A product of two factors that both start at 0 has no gradient; an adapter on modules that no logit
depends on has none either. Their kernels are matrices of zeros that look like results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from subkern.capture import frozen
from subkern.checks import check_length
from subkern.errors import UserError
from subkern.subspaces import Coordinates, Subspace

if TYPE_CHECKING:
    from subkern.prompts import EncodedExample


def refuse_dead(
    coordinates: Coordinates, subspace: Subspace, examples: Sequence[EncodedExample]
) -> None:
    """Look for one example with a gradient; usually the first has one and costs one backward.

    What an adapter only trains beside itself (a linear readout) does not count as its gradient.

    Raises:
        UserError: no example has a gradient other than exactly 0, or one is not finite.
    """
    model = coordinates.model
    check_length(model, max(examples, key=lambda e: len(e.input_ids)))
    trained = {n: p for n, p in coordinates.parameters.items() if n not in coordinates.beside}
    mix = torch.randn(model.num_logits, generator=torch.Generator().manual_seed(0))
    for example in sorted(examples, key=lambda e: len(e.input_ids)):  # the cheapest first
        with frozen(model), torch.enable_grad():
            for p in trained.values():
                p.requires_grad_(True)
            logits = model(model.collate([example]))[0]
            if not torch.isfinite(logits).all():
                return  # `check_function` says what is wrong with f itself
            if not logits.requires_grad:
                continue
            value = (logits * mix.to(logits)).sum()  # a random mix: logits' gradients cannot cancel
            grads = torch.autograd.grad(value, list(trained.values()), allow_unused=True)
        for name, grad in zip(trained, grads, strict=True):
            if grad is not None and not torch.isfinite(grad).all():
                raise UserError(
                    f"kernel of {_what(subspace)} is undefined: the gradient of '{name}' is not"
                    f" finite for example '{example.id}', try another initialisation or targets"
                )
        if any(grad is not None and bool((grad != 0).any()) for grad in grads):
            return
    few = ", ".join(list(trained)[:2]) + (" …" if len(trained) > 2 else "")
    raise UserError(
        f"kernel of {_what(subspace)} is identically zero: no logit moves with {few} to first"
        " order, try another initialisation or other targets"
    )


def _what(subspace: Subspace) -> str:
    described: dict[str, Any] = subspace.describe()
    described = described.get("inner", described)  # random directions of what is dead
    if described["kind"] == "at":
        return f"{_name(described['subspace'])} at its checkpoint"
    return f"{_name(described)} at its initialisation"


def _name(described: dict[str, Any]) -> str:
    method = described.get("config", {}).get("peft_type")
    value = described.get("pattern", described.get("group"))
    kind = method or described["kind"]
    return f"{kind} '{value}'" if value else str(kind)

"""log p(y | h) of chosen tokens at a decoder, without holding a number for every token at once.

A decoder of V tokens makes V logits of every position, and V derivatives of each. Here they are
made for a few positions at a time, forward and again backward: what is kept of a position is its
hidden state and one number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

__all__ = ["composable", "log_normalizers", "token_log_probs", "vocabulary_rows"]

_TILE_BYTES = 2**26  # of logits made at a time
_whole: ContextVar[bool] = ContextVar("whole logits", default=False)


@contextlib.contextmanager
def composable() -> Iterator[None]:
    """Inside, logits are whole, made by operations that `torch.func` and any derivative take."""
    token = _whole.set(True)
    try:
        yield
    finally:
        _whole.reset(token)


def token_log_probs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, live: Tensor
) -> Tensor:
    """Log-probabilities ``[r, k]`` of `targets`, 0 where not `live`.

    ``log softmax(W h + b)[y]``, in float32 where the model is in half precision.

    Args:
        hidden: what the decoder reads, ``[r, k, d]``.
        weight: W ``[V, d]``.
        bias: b ``[V]``, if it has one.
        targets: y ``[r, k]``.
        live: which of them count, ``[r, k]``; nothing is computed for others.
    """
    if has_torch_function_variadic(hidden, weight):  # who records must see one operation
        given = (hidden, weight, bias, targets, live)
        return handle_torch_function(token_log_probs, given, *given)
    at = live.flatten().nonzero()[:, 0]
    rows, wanted = hidden.flatten(0, 1)[at], targets.flatten()[at]
    if _whole.get():
        found = _log_probs(rows, weight, bias, wanted)
    else:
        found = _Tiled.apply(rows, weight, bias, wanted)
    out = found.new_zeros(live.numel()).index_add(0, at, found)
    return out.view(live.shape)


def _log_probs(h: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """``[n]`` of hidden states ``[n, d]``."""
    logits = widened(F.linear(h, weight, bias))
    return logits.gather(1, targets[:, None])[:, 0] - torch.logsumexp(logits, 1)


def widened(x: Tensor) -> Tensor:
    """`x` in float32 if it is in half precision: sums over a vocabulary need it."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _tiles(count: int, weight: Tensor) -> Iterator[slice]:
    step = max(1, _TILE_BYTES // (weight.shape[0] * max(4, weight.element_size())))
    return (slice(i, i + step) for i in range(0, count, step))


class _Tiled(torch.autograd.Function):
    """`_log_probs`, a few positions at a time both ways."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
    ) -> Tensor:
        """Log-probabilities ``[n]``."""
        ctx.save_for_backward(h, weight, bias, targets)
        parts = [_log_probs(h[at], weight, bias, targets[at]) for at in _tiles(len(h), weight)]
        return torch.cat(parts) if parts else widened(h.new_zeros(0))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """Pull ``g (e_y − p)`` through W, and form its products with h where they are wanted."""
        h, weight, bias, targets = ctx.saved_tensors
        (g,) = cotangents
        asked = ctx.needs_input_grad
        by_h = torch.zeros_like(h) if asked[0] else None
        by_weight = torch.zeros_like(widened(weight)) if asked[1] else None
        by_bias = torch.zeros_like(widened(bias)) if bias is not None and asked[2] else None
        for at in _tiles(len(h), weight):
            scores = widened(F.linear(h[at], weight, bias))
            change = torch.softmax(scores, 1, out=scores).mul_(-g[at, None])
            change.scatter_add_(1, targets[at, None], g[at, None].to(change))
            if by_h is not None:
                by_h[at] = (change.to(weight.dtype) @ weight).to(h.dtype)
            if by_weight is not None:
                by_weight.addmm_(change.T, h[at].to(change.dtype))
            if by_bias is not None:
                by_bias += change.sum(0)
        found = (by_weight, weight), (by_bias, bias)
        return (by_h, *(None if d is None else d.to(p.dtype) for d, p in found), None)


def log_normalizers(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``log Σ_v exp(W h + b)_v`` ``[n]`` of hidden states ``[n, d]``, a few at a time."""
    parts = [
        torch.logsumexp(widened(F.linear(h[at], weight, bias)), 1) for at in _tiles(len(h), weight)
    ]
    return torch.cat(parts) if parts else widened(h.new_zeros(0))


def vocabulary_rows(
    h: Tensor, weight: Tensor, bias: Tensor | None, logsumexp: Tensor, rows: slice
) -> Tensor:
    """Probabilities p ``[t, rows]`` of some tokens, in the type of `logsumexp`."""
    scores = F.linear(h, weight[rows], None if bias is None else bias[rows])
    return scores.to(logsumexp.dtype).sub_(logsumexp[:, None]).exp_()

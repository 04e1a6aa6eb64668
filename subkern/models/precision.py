"""Precision as a model keeps it: float64 stays float64, and what it keeps in float32 stays so.

Many transformers upcast to float32 inside (RMS norms, rotary tables, softmax): written for half
precision, the same line *down*casts a float64 model and rounds its gradients to 1e-7.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# The product of every expert's tokens with its weights, which knows no float64.
_GROUPED = {
    getattr(torch, "_grouped_mm", None), getattr(nn.functional, "grouped_mm", None)
} - {None}  # fmt: skip
_PRODUCTS = {torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__}


class KeepDouble(TorchFunctionMode):
    """Inside, a cast of a float64 tensor to float32 is a cast to float64.

    Covers ``x.float()``, ``x.to(torch.float32)``, ``x.type(...)`` and ``dtype=torch.float32`` of
    functions such as ``softmax``. Tensors of other types are left alone, unless they are multiplied
    with a float64 one: rotary tables of older transformers are frequencies, kept in float64 here,
    times positions that were cast to float32. Fused experts, whose product has no float64, are
    multiplied one by one.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, torch.Tensor) and first.dtype == torch.float64:
            if func is torch.Tensor.float:
                return first
            if func in _GROUPED:
                return _each_expert(*args, **kwargs)
            args = tuple(torch.float64 if _is_low(a) else a for a in args)
            if _is_low(kwargs.get("dtype")):
                kwargs = {**kwargs, "dtype": torch.float64}
        if func in _PRODUCTS and {a.dtype for a in args[:2]} == {torch.float32, torch.float64}:
            args = tuple(a.double() for a in args)
        return func(*args, **kwargs)


def _each_expert(tokens: Tensor, weights: Tensor, offs: Tensor, **_: Any) -> Tensor:
    """Tokens ``[n, d_in]``, expert by expert up to `offs`, times weights ``[e, d_in, d_out]``."""
    ends = offs.tolist()
    begins = [0, *ends[:-1]]
    parts = [tokens[b:e] @ w for b, e, w in zip(begins, ends, weights, strict=True)]
    return torch.cat([*parts, tokens.new_zeros(len(tokens) - ends[-1], weights.shape[-1])])


def _is_low(value: Any) -> bool:
    return isinstance(value, torch.dtype) and value == torch.float32


def in_precision_of(module: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Where `module` is run: `KeepDouble` if it is in float64."""
    double = next(module.parameters()).dtype == torch.float64
    return KeepDouble() if double else contextlib.nullcontext()


def cast(module: nn.Module, dtype: torch.dtype, kept: Collection[Tensor] = ()) -> None:
    """Cast parameters and buffers of `module` in place, all but `kept` ones.

    To float64 go all of them: nothing that a model keeps in float32 loses by it.
    """
    stay = set() if dtype == torch.float64 else {id(t) for t in kept}
    for part in module.modules():
        for p in part.parameters(recurse=False):
            if p.is_floating_point() and id(p) not in stay:
                p.data = p.data.to(dtype)
        for name, b in list(part.named_buffers(recurse=False)):
            if b.is_floating_point() and id(b) not in stay:
                part._buffers[name] = b.to(dtype)


def tensors(module: nn.Module) -> list[Tensor]:
    """All parameters and buffers."""
    return [*module.parameters(), *module.buffers()]

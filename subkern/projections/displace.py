"""z ↦ P z with its derivative Pᵀ, for autograd and `torch.func`, without ever holding P.

Both maps are linear and each is the other's derivative. Left to autograd, the tiles of a dense P
would all be kept for the backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from subkern.projections.project import Projection

__all__ = ["displace"]


def displace(projection: Projection, z: Tensor, names: Sequence[str]) -> tuple[Tensor, ...]:
    """P z at the parameters `names`, flat ``[size]`` each, of z ``[dim]``.

    ⟨P z, g⟩ = ⟨z, Pᵀ g⟩ to rounding, so a backward gives exactly Pᵀ ∇θ; forward mode and batches
    (`torch.func.jvp`, `jacrev`, `vmap`) work too.
    """
    out: tuple[Tensor, ...] = _Displace.apply(projection, tuple(names), z)
    return out


class _Displace(torch.autograd.Function):
    """z ``[d]`` → P z at each name."""

    @staticmethod
    def forward(projection: Projection, names: tuple[str, ...], z: Tensor) -> tuple[Tensor, ...]:
        moved = projection.displacement(z)
        return tuple(moved[name] for name in names)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.projection, ctx.names, _ = inputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, Tensor]:
        return None, None, _Project.apply(ctx.projection, ctx.names, *grads)

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, tangent: Tensor) -> tuple[Tensor, ...]:
        return displace(ctx.projection, tangent, ctx.names)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], projection: Projection, names: Any, z: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        rows = [displace(projection, row, names) for row in z.movedim(in_dims[2], 0)]
        return tuple(torch.stack(column) for column in zip(*rows, strict=True)), (0,) * len(names)


class _Project(torch.autograd.Function):
    """Gradients g at each name, ``[size]`` → Pᵀ g ``[d]``."""

    @staticmethod
    def forward(projection: Projection, names: tuple[str, ...], *gradients: Tensor) -> Tensor:
        rows = {n: g.reshape(1, -1) for n, g in zip(names, gradients, strict=True)}
        return projection.project(rows)[0].to(gradients[0].dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.projection, ctx.names = inputs[:2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return None, None, *displace(ctx.projection, grad, ctx.names)

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, *tangents: Tensor) -> Any:
        return _Project.apply(ctx.projection, ctx.names, *tangents)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], projection: Projection, names: Any, *gradients: Tensor
    ) -> tuple[Tensor, int]:
        batched = [
            g.expand(info.batch_size, *g.shape) if dim is None else g.movedim(dim, 0)
            for g, dim in zip(gradients, in_dims[2:], strict=True)
        ]
        rows = [_Project.apply(projection, names, *row) for row in zip(*batched, strict=True)]
        return torch.stack(rows), 0

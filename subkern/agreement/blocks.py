"""From whatever holds a kernel to plain float64 blocks ``[n, c, m, c]``, checked once and in one
place.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from subkern.errors import UserError
from subkern.kernels.belonging import Side

__all__ = [
    "Array",
    "KernelLike",
    "UndefinedError",
    "as_blocks",
    "as_matrix",
    "as_pair",
    "centre",
]

Array: TypeAlias = NDArray[np.float64]
KernelLike: TypeAlias = Any
"""A `Kernel`, a NumPy array or a torch tensor of shape ``[n, m]`` or ``[n, c, m,
c]``."""

# Share of a kernel's size below which numbers made of it count as its rounding: what centring
# leaves of a constant, an entry beside the largest, a gap between entries.
NOISE = 1e-10


class UndefinedError(UserError):
    """The input is sound but the metric has no value on it, for instance CKA of a constant
    kernel.
    """


def _plain(kernel: KernelLike, name: str) -> Array:
    """Return the values of ``kernel`` as float64, without copying where that is possible."""
    if hasattr(kernel, "detach"):  # torch first: its tensors have a method called `values`
        kernel = kernel.detach().cpu().double().numpy()
    values = getattr(kernel, "values", kernel)
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(
            f"{name} is a {type(kernel).__name__}, not numbers: "
            "give a Kernel, a NumPy array or a torch tensor"
        ) from None


def as_blocks(kernel: KernelLike, name: str = "kernel") -> Array:
    """Return ``kernel`` as float64 blocks ``[n, c, m, c]``; a matrix ``[n, m]`` gets ``c = 1``.

    Raises `UserError` if it is not such an array, is empty, or holds a value that is not finite.
    """
    values = _plain(kernel, name)
    if values.ndim == 2:
        values = values[:, None, :, None]
    if values.ndim != 4 or values.shape[1] != values.shape[3]:
        raise UserError(f"{name} has shape {list(values.shape)}: expected [n, m] or [n, c, m, c]")
    if values.size == 0:
        raise UserError(
            f"{name} has shape {list(values.shape)}: it needs at least one example on each side"
        )
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise UserError(f"{name} holds {bad} NaN or infinite of {values.size} values: recompute it")
    return values


def as_matrix(blocks: Array) -> Array:
    """Reshape blocks ``[n, c, m, c]`` to the matrix ``[n*c, m*c]``."""
    n, c, m, _ = blocks.shape
    return blocks.reshape(n * c, m * c)


def as_pair(reference: KernelLike, other: KernelLike) -> tuple[Array, Array]:
    """Return two kernels over the same examples and logits as blocks.

    Kernels of other models, rules and subspaces are what is compared; of other examples never.

    Raises `UserError` if the shapes differ, or if both are a `Kernel` and the examples' ids, order,
    labels or content differ.
    """
    left, right = as_blocks(reference, "reference kernel"), as_blocks(other, "other kernel")
    if left.shape != right.shape:
        raise UserError(
            f"kernels differ in shape: reference {list(left.shape)}, other {list(right.shape)}; "
            "compare kernels of the same examples and logits"
        )
    for side in ("left", "right"):
        mine = Side.of(reference, side, f"the {side} side of the reference kernel")
        if mine is not None:
            mine.require_same_examples(Side.of(other, side, f"the {side} side of the other kernel"))
    return left, right


def centre(blocks: Array) -> Array:
    """Centre over examples, separately for every pair of logits: ``H_n K[:, a, :, b] H_m``, ``H = I
    - 11'/n``.

    Rows and columns are both centred, so a rectangular kernel ``[n, c, m, c]`` is centred as well.
    This removes what a constant shift of the gradients adds; it never mixes logits. Positive
    semi-definite stays so.
    """
    blocks = blocks - blocks.mean(axis=0, keepdims=True)
    return blocks - blocks.mean(axis=2, keepdims=True)

"""Products of rows whose entries are −1, 0 or 1: in int8 where that is faster, exact either way.

A processor's int8 units (VNNI, AMX) multiply some ten times faster than its float32 ones; one that
has none may be slower so. Sums are int32, or float32 over too few entries to round, so that the
choice, which is timed once per process, never changes a number.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

__all__ = ["fastest", "sign_gram"]

_EXACT = 1 << 24  # integers up to here are float32 numbers
_TIMED = 128, 4096  # rows and columns of the block that is timed


def sign_gram(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right.T`` of entries −1, 0 and 1, exact.

    Args:
        left: ``[M, P]``, of any type and device; P below 2²⁴.
        right: ``[M', P]``, likewise.

    Returns:
        ``[M, M']`` float64.
    """
    assert left.shape[1] < _EXACT
    if left.device.type != "cpu":
        return _padded_int8(left, right).double()
    if _int8_is_faster():
        return _int8(left, right).double()
    return (left.float() @ right.float().T).double()


def fastest(task: Callable[[], object], repeats: int = 3) -> float:
    """Least seconds of a few calls."""
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        task()
        best = min(best, time.perf_counter() - started)
    return best


def _int8(left: Tensor, right: Tensor) -> Tensor:
    """Product in int8 with int32 sums, ``[M, M']`` int32."""
    return torch._int_mm(left.to(torch.int8), right.to(torch.int8).T)


def _padded_int8(left: Tensor, right: Tensor) -> Tensor:
    """As `_int8`, of the sizes that a GPU takes: over 16 rows, and multiples of 8 entries."""
    sides = [
        torch.nn.functional.pad(x.to(torch.int8), (0, -x.shape[1] % 16, 0, _missing(len(x))))
        for x in (left, right)
    ]
    return _int8(*sides)[: len(left), : len(right)]


def _missing(rows: int) -> int:
    return max(32, -(-rows // 8) * 8) - rows


@cache
def _int8_is_faster() -> bool:
    signs = torch.ones(_TIMED)
    try:
        int8 = fastest(lambda: _int8(signs, signs))
    except RuntimeError:  # a build of torch without it
        return False
    return int8 < fastest(lambda: signs @ signs.T)

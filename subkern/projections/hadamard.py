"""The Walsh-Hadamard transform, a few levels at a time as small matrix products."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def hadamard(rows: Tensor) -> Tensor:
    """Rows ``[R, B]`` times the B × B Hadamard matrix (entries ±1, Sylvester's order), B = 2^k."""
    out = rows
    length, rest = 1, rows.shape[1]
    while rest > 1:
        step = min(32, rest)  # five levels at a time as one small product
        factor = _hadamard_matrix(step).to(rows)
        parts = out.reshape(len(rows), rest // step, step, length)
        out = torch.einsum("rasl,st->ratl", parts, factor).reshape(rows.shape)
        length, rest = length * step, rest // step
    return out


@cache
def _hadamard_matrix(size: int) -> Tensor:
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix

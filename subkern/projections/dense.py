"""P as a whole matrix, entry by entry from the definition of each kind: slow and independent.

Only the random words are shared with the fast maps of `subkern.projections.maps`: what those do in
tiles, look-ups and fast transforms is a formula for one entry here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from subkern.projections.maps import COLUMNS, SPARSE_CUT, SPARSITY, gaussian_table
from subkern.projections.project import Projections, allocate, buckets
from subkern.projections.random_words import Stream
from subkern.projections.spec import ProjectionSpec

Entries = Callable[[str, int, int], np.ndarray]
"""(parameter, its size, dimension) → its rows of P before the 1/√d, ``[size, dim]``."""


def dense_matrix(projections: Projections, cell: ProjectionSpec) -> Tensor:
    """P ``[D, dim]``, float64, parameters in the order of ``projections.sizes``."""
    sizes = projections.sizes
    alone = projections.allocation == "per-parameter"
    shares = allocate(cell.dim, sizes) if alone else {}
    out = np.zeros((sum(sizes.values()), cell.dim))
    row = column = 0
    for name, size in sizes.items():
        dim = shares.get(name, cell.dim)
        width = buckets(dim, size if alone else None)
        rows = _parameter(cell, name, size, dim, width)
        out[row : row + size, column : column + dim] = rows
        row, column = row + size, column + shares.get(name, 0)
    return torch.from_numpy(out)


def _parameter(cell: ProjectionSpec, name: str, size: int, dim: int, width: int) -> np.ndarray:
    if cell.kind in ("count_sketch", "srht"):
        return _folded(cell, name, size, dim, width)
    if cell.kind == "very_sparse":
        return _strata(cell.seed, name, size, dim) / np.sqrt(dim)
    return _iid(cell, name, size, dim) / np.sqrt(dim)


def _iid(cell: ProjectionSpec, name: str, size: int, dim: int) -> np.ndarray:
    """Column j: word `row` (±1) or 16-bit number ``row·64 + j % 64`` of its block's stream."""
    out = np.empty((size, dim))
    for j in range(dim):
        stream, k = Stream(cell.seed, cell.kind, name, j // COLUMNS), j % COLUMNS
        if cell.kind == "rademacher":
            words = stream.words(0, size)
            out[:, j] = 2.0 * ((words >> np.uint64(k)) & np.uint64(1)) - 1
            continue
        words = stream.words(0, 16 * size).reshape(size, 16)[:, k // 4]
        short = (words >> np.uint64(16 * (k % 4))) & np.uint64(0xFFFF)
        if cell.kind == "gaussian":
            out[:, j] = gaussian_table()[short.astype(np.intp)]
        else:
            signed = short.astype(np.int64)
            signed[signed >= 1 << 15] -= 1 << 16
            root = float(np.float32(SPARSITY**0.5))
            out[:, j] = np.where(signed >= SPARSE_CUT, root, 0.0)
            out[signed < -SPARSE_CUT, j] = -root
    return out


def _strata(seed: int, name: str, size: int, dim: int) -> np.ndarray:
    s = int(np.floor(np.sqrt(size)))
    out = np.zeros((size, dim))
    for j in range(dim):
        stream = Stream(seed, "very_sparse", name, j // COLUMNS)
        for k in range(-(-size // s)):
            word = int(stream.words(k * COLUMNS + j % COLUMNS, 1)[0])
            place = k * s + ((word >> 32) * s >> 32)
            if place < size:
                out[place, j] = (2 * (word & 1) - 1) * float(np.float32(s**0.5))
    return out


def _folded(cell: ProjectionSpec, name: str, size: int, dim: int, width: int) -> np.ndarray:
    words = Stream(cell.seed, "fold order", width).words(0, 2 * width)
    order = np.argsort(words[:width], kind="stable")
    column = np.argsort(np.argsort(words[width:], kind="stable"))  # of a bucket, shuffled
    at = np.arange(size)
    words = Stream(cell.seed, "fold shift", width, name).words(0, -(-size // width))
    shifts = np.array([int(w) % width for w in words])
    bucket = (at % width + shifts[at // width]) % width
    words = Stream(cell.seed, "fold sign", width, name).words(0, -(-size // 64))
    sign = 2.0 * ((words[at // 64] >> (at % 64).astype(np.uint64)) & np.uint64(1)) - 1
    if cell.kind == "count_sketch":
        out = np.zeros((size, dim))
        out[at, order[bucket] % dim] = sign
        return out
    shared = np.bitwise_count(column[bucket][:, None] & order[None, :dim])
    return sign[:, None] * (1.0 - 2.0 * (shared % 2)) / np.sqrt(dim)

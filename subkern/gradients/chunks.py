"""Whole per-example gradients of one parameter, formed a chunk of coordinates at a time.

What must see gradient entries and not only inner products (signs, random projections) walks over
these chunks: each example's gradient is formed once, in tiles that stay in cache, and never whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from subkern.gradients.factors import Factor, HeadFactor, OuterFactor, RowFactor, work_dtype

WIDTH = 1 << 14  # coordinates of a chunk: with 32 examples, 2 MiB in float32
_PADDED = 1.25  # positions of the longest example of one product for one of the shortest


@dataclass(frozen=True)
class Chunk:
    """Gradient entries of k examples at some coordinates of one parameter.

    Attributes:
        rows: ``[k, c, w]``, float32 (float64 for float64 factors). The next chunk overwrites it.
        first: rows of the parameter's first axis that it covers, ``[r]``, ascending.
        row_size: coordinates of one such row; ``w = r · row_size``.
    """

    rows: Tensor
    first: Tensor
    row_size: int

    def coordinates(self) -> Tensor:
        """Flat (row-major) positions in the parameter of the w entries, ``[w]`` int64."""
        within = torch.arange(self.row_size, device=self.first.device)
        return (self.first[:, None] * self.row_size + within).flatten()


def chunks(
    factors: Sequence[Factor], shape: torch.Size, num_logits: int, width: int = WIDTH
) -> Iterator[Chunk]:
    """Gradients of one parameter, about `width` coordinates at a time, in ascending order.

    Together the chunks cover every coordinate at which some example's gradient can be non-zero;
    rows of a table (embedding) that no example touches are left out.

    Args:
        factors: of k examples, ``k >= 1``.
        shape: of the parameter.
        num_logits: c.
        width: wished coordinates of a chunk; at least one row of the first axis is taken.
    """
    row_size = int(torch.Size(shape[1:]).numel())
    step = max(1, width // max(1, row_size))
    if all(isinstance(f, RowFactor) for f in factors):
        yield from _table([f for f in factors if isinstance(f, RowFactor)], num_logits, step)
    elif all(isinstance(f, OuterFactor) for f in factors):
        yield from _outer(
            [f for f in factors if isinstance(f, OuterFactor)], shape, num_logits, step
        )
    elif all(isinstance(f, HeadFactor) for f in factors):
        yield from _head(
            [f for f in factors if isinstance(f, HeadFactor)], row_size, num_logits, step
        )
    else:
        yield from _dense(factors, shape, num_logits, step, row_size)


def _outer(side: Sequence[OuterFactor], shape: torch.Size, c: int, step: int) -> Iterator[Chunk]:
    size, row_size = shape
    device, dtype = side[0].inputs.device, work_dtype(side[0].inputs.dtype)
    step = min(step, size)
    stacks = [(run, *_stacked(side[run], dtype)) for run in _alike([len(f.inputs) for f in side])]
    tile = torch.empty(len(side) * c * step * row_size, dtype=dtype, device=device)
    for start in range(0, size, step):
        rows = min(step, size - start)
        formed = tile[: len(side) * c * rows * row_size].view(len(side), c, rows, row_size)
        for run, left, right in stacks:
            lefts, out = left[:, :, start : start + rows], formed[run]
            if right.shape[2] == 1:  # an outer product
                torch.mul(lefts, right, out=out)
            elif right.shape[1] == 1:  # all logits read the same inputs
                torch.bmm(lefts.flatten(1, 2), right[:, 0], out=out.flatten(1, 2))
            else:
                torch.matmul(lefts, right, out=out)
        first = torch.arange(start, start + rows, device=device)
        yield Chunk(formed.flatten(2), first, row_size)


def _head(side: Sequence[HeadFactor], row_size: int, c: int, step: int) -> Iterator[Chunk]:
    for rows in side[0].slices():
        parts, size = [f.part(rows) for f in side], rows.stop - rows.start
        for chunk in _outer(parts, torch.Size((size, row_size)), c, step):
            yield Chunk(chunk.rows, chunk.first + rows.start, row_size)


def _alike(lengths: Sequence[int]) -> Iterator[slice]:
    """Runs of neighbors about as long, which are padded to one product."""
    start = 0
    for stop in range(1, len(lengths) + 1):
        run = lengths[start : stop + 1]
        if stop == len(lengths) or max(run) > _PADDED * min(run):
            yield slice(start, stop)
            start = stop


def _stacked(side: Sequence[OuterFactor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Operands ``[k, c or 1, size, t]`` and ``[k, 1 or c, t, row_size]``, padded with zeros."""
    inputs = pad_sequence([f.inputs.to(dtype) for f in side], batch_first=True)[:, None]
    cotangents = pad_sequence([f.cotangents.to(dtype) for f in side], batch_first=True)
    cotangents = cotangents.transpose(1, 2)  # [k, c, t, d_out]
    if side[0].transposed:  # a weight [d_in, d_out]: its rows are the inputs'
        return inputs.mT.contiguous(), cotangents.contiguous()
    return cotangents.mT.contiguous(), inputs


def _table(side: Sequence[RowFactor], c: int, step: int) -> Iterator[Chunk]:
    dtype, width = work_dtype(side[0].rows.dtype), side[0].rows.shape[-1]
    touched = torch.unique(torch.cat([f.ids for f in side]))
    for ids in touched.split(step) if len(touched) else ():
        tile = torch.zeros(len(side), len(ids), c, width, dtype=dtype, device=ids.device)
        for factor, out in zip(side, tile, strict=True):
            lo, hi = torch.searchsorted(factor.ids, ids[[0, -1]] + torch.tensor([0, 1]).to(ids))
            mine = factor.ids[lo:hi]
            out[torch.searchsorted(ids, mine)] = factor.rows[lo:hi].to(dtype)
        yield Chunk(tile.transpose(1, 2).flatten(2), ids, width)


def _dense(
    side: Sequence[Factor], shape: torch.Size, c: int, step: int, row_size: int
) -> Iterator[Chunk]:
    grads = [f.dense(shape).reshape(c, -1) for f in side]
    stacked = torch.stack(grads).to(work_dtype(grads[0].dtype))
    size = stacked.shape[-1] // max(1, row_size)
    for start in range(0, size, step):
        first = torch.arange(start, min(start + step, size), device=stacked.device)
        yield Chunk(
            stacked[..., start * row_size : (start + len(first)) * row_size], first, row_size
        )

"""The factored contraction: Σ_t Σ_s (a_t·a'_s)(g_t·g'_s), for layers that read the same inputs.

Query, key and value weights (gate and up weights too) see the same a, and their cotangents may
stand side by side, (g_t·g'_s) = Σ_layers, so a group of layers costs one product of inputs and one
pass over the token pairs. Token pairs are taken a tile at a time: a tile stays in cache between
the two products, and memory does not grow with the number of examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from subkern.factors import Outer, work_dtype

LEFT_TOKENS, RIGHT_TOKENS = 1024, 1024  # a tile of token pairs: 4 MiB a product in float32

Side = Sequence[Sequence[Outer]]
"""Layers that share their inputs × examples."""


def factored(left: Side, right: Side) -> Tensor:
    """Block ``[n, c, m, c]`` of layers that share their inputs, float64.

    Args:
        left: layers × n examples; example i's inputs are the same for every layer.
        right: the same layers × m examples.
    """
    c = left[0][0].cotangents.shape[1]
    n, m = len(left[0]), len(right[0])
    device = left[0][0].inputs.device
    out = torch.zeros(n, c, m, c, dtype=torch.float64, device=device)
    columns = list(_tiles(right, RIGHT_TOKENS))
    for rows, a, g, whose in _tiles(left, LEFT_TOKENS):
        summing = whose.T.to(a.dtype)
        for others, b, h, theirs in columns:
            inputs = a @ b.T
            pairs = torch.empty_like(inputs)
            for k in range(c):
                for j in range(c):
                    torch.mm(g[k], h[j].T, out=pairs)
                    by_example = summing @ pairs.mul_(inputs)
                    out[rows, k, others, j] += by_example.double() @ theirs
    return out


def _tiles(side: Side, most: int) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Consecutive tokens of a side, at most `most` at a time.

    Yields:
        the examples ``[lo, hi)`` they belong to, inputs ``[t, d_in]``, cotangents
        ``[c, t, Σ d_out]`` and ownership ``[t, hi − lo]`` of zeros and ones, float64.
    """
    counts = [len(f.inputs) for f in side[0]]
    dtype = work_dtype(side[0][0].inputs.dtype)
    for pieces in _cut(counts, most):
        lo, hi = pieces[0][0], pieces[-1][0] + 1
        a = torch.cat([side[0][i].inputs[at] for i, at in pieces]).to(dtype)
        layers = [torch.cat([layer[i].cotangents[at] for i, at in pieces]) for layer in side]
        g = (layers[0] if len(layers) == 1 else torch.cat(layers, dim=-1)).to(dtype)
        owners = torch.tensor([i - lo for i, at in pieces for _ in range(at.start, at.stop)])
        whose = torch.nn.functional.one_hot(owners, hi - lo).to(a.device, torch.float64)
        yield slice(lo, hi), a, g.transpose(0, 1).contiguous(), whose


def _cut(counts: Sequence[int], most: int) -> Iterator[list[tuple[int, slice]]]:
    """Cut examples of so many tokens into runs of at most `most`: (example, its positions)."""
    run: list[tuple[int, slice]] = []
    room = most
    for i, count in enumerate(counts):
        start = 0
        while start < count:
            take = min(room, count - start)
            run.append((i, slice(start, start + take)))
            start, room = start + take, room - take
            if not room:
                yield run
                run, room = [], most
    if run:
        yield run

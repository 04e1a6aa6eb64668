"""Contract gradient factors into kernel blocks, in the cheapest exact way per parameter.

For a linear layer with factors a ``[t, d_in]`` and g ``[t, c, d_out]`` of an example, the block is

    Σ_t Σ_s (a_t·a'_s)(g_t·g'_s)     (factored)   =   ⟨Σ_t g_t a_tᵀ, Σ_s g'_s a'_sᵀ⟩     (explicit)

Both are counted in FLOPs and the cheaper one runs; layers that read the same inputs count and run
together (`subkern.gradients.contract`). Explicit gradients are formed a few rows of the
weight at a time, so that they stay in cache and no example's gradient ever exists whole. Products
are float32 over at most `BLOCK` terms and their sums float64 (float64 models: float64 throughout).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from subkern.cores import make_way
from subkern.gradients.capture import Captured
from subkern.gradients.factors import Factor, HeadFactor, OuterFactor, RowFactor, work_dtype

BLOCK = 1024  # terms of one float32 dot product
TILE_BYTES = 24 * 2**20  # explicit gradients formed at a time, both sides together
_LARGE = 1 << 16  # entries of a block from which on passes over it count
_POINTWISE = 64  # cost of a token pair's elementwise product and sum, in FLOPs of a full product
# FLOPs of the explicit form against full-speed ones: it multiplies few positions into many
# entries, which memory bounds, and then takes its products in short blocks.
_FORMING, _BLOCKED = 2.5, 1.7
_ROWS, _MOST_BYTES = 16, 64 * 2**20  # formed at a time even where they exceed a tile
_PADDED = 1.125  # positions of the longest example of one product for one of the shortest

Pair = tuple[Sequence[Factor], Sequence[Factor]]
Factors = Mapping[str, Sequence[Factor]]
F = TypeVar("F", OuterFactor, RowFactor, HeadFactor)


def contract(
    left: Captured, right: Captured, shapes: Mapping[str, torch.Size], num_logits: int
) -> Tensor:
    """Kernel block ⟨∇f_k(x_i), ∇f_l(x'_j)⟩ summed over all parameters.

    Args:
        left: factors of n examples.
        right: factors of m examples.
        shapes: parameter name → shape; what the kernel is over.
        num_logits: c.

    Returns:
        ``[n, c, m, c]``, float64.
    """
    device = left.logits.device
    out = torch.zeros(
        len(left), num_logits, len(right), num_logits, dtype=torch.float64, device=device
    )
    for names in shared_inputs(left.factors, right.factors, shapes):
        mine, theirs = left.factors[names[0]], right.factors[names[0]]
        if len(names) == 1:
            out += parameter_block(mine, theirs, shapes[names[0]])
        else:
            pairs = (_all(OuterFactor, left.factors[n], right.factors[n]) for n in names)
            out += group_block([pair for pair in pairs if pair])
    return out


def shared_inputs(
    left: Mapping[str, Sequence[Factor]],
    right: Mapping[str, Sequence[Factor]],
    names: Iterable[str],
) -> list[list[str]]:
    """Cut `names` into layers that read the same inputs, and all other parameters one by one.

    Names without a factor on either side, whose gradient is zero, are left out. Layers share their
    inputs where capture kept one copy: the tensors themselves tell.
    """
    groups: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for name in names:
        if name in left and name in right:
            outers = _all(OuterFactor, left[name], right[name])
            key = tuple(id(f.inputs) for side in outers for f in side) if outers else (name,)
            groups[key].append(name)
    return list(groups.values())


def group_block(layers: Sequence[tuple[list[OuterFactor], list[OuterFactor]]]) -> Tensor:
    """Contribution ``[n, c, m, c]`` of linear layers that share their inputs, float64."""
    together = in_token_pairs([Outers.of(*pair) for pair in layers])
    pairs = list(zip(layers, together, strict=True))
    blocks = [explicit(*pair) for pair, cheaper in pairs if not cheaper]
    if any(together):
        sides = zip(*(pair for pair, cheaper in pairs if cheaper), strict=True)
        blocks.append(factored(*sides))
    return torch.stack(blocks).sum(0)


def parameter_block(left: Sequence[Factor], right: Sequence[Factor], shape: torch.Size) -> Tensor:
    """One parameter's contribution to a kernel block, ``[n, c, m, c]``, float64."""
    if outers := _all(OuterFactor, left, right):
        return group_block([outers])
    if rows := _all(RowFactor, left, right):
        return matched_rows(*rows)
    if heads := _all(HeadFactor, left, right):
        return head_block(*heads)
    return dense(left, right, shape)


def _all(
    kind: type[F], left: Sequence[Factor], right: Sequence[Factor]
) -> tuple[list[F], list[F]] | None:
    mine: list[F] = [f for f in left if isinstance(f, kind)]
    theirs: list[F] = [f for f in right if isinstance(f, kind)]
    return (mine, theirs) if len(mine) == len(left) and len(theirs) == len(right) else None


def head_block(left: Sequence[HeadFactor], right: Sequence[HeadFactor]) -> Tensor:
    """Block of a decoder, ``[n, c, m, c]``: probabilities are made some rows at a time."""
    parts = [
        group_block([([f.part(rows) for f in left], [f.part(rows) for f in right])])
        for rows in left[0].slices()
    ]
    return torch.stack(parts).sum(0)


@dataclass(frozen=True)
class Outers:
    """What decides the work of a linear layer's block.

    Attributes:
        left: tokens of the n examples on the left.
        right: tokens of the m on the right.
        pairs: n·m.
        c: logits.
        d_in: numbers of a token that the layer reads.
        d_out: numbers that it gives.
    """

    left: int
    right: int
    pairs: int
    c: int
    d_in: int
    d_out: int

    @classmethod
    def of(cls, left: Sequence[OuterFactor], right: Sequence[OuterFactor]) -> Outers:
        """That of factors of both sides."""
        c, d_out = left[0].cotangents.shape[1:]
        sizes = _tokens(left), _tokens(right), len(left) * len(right)
        return cls(*sizes, c, left[0].inputs.shape[1], d_out)

    @property
    def shared(self) -> float:
        """FLOPs of the product of inputs, which layers with the same inputs share."""
        return 2.0 * self.left * self.right * self.d_in

    @property
    def explicit(self) -> float:
        """Cost of explicit gradients in FLOPs of a full-speed product."""
        entries = _FORMING * self.c * (self.left + self.right) + _BLOCKED * self.pairs * self.c**2
        return 2.0 * self.d_in * self.d_out * entries

    @property
    def factored(self) -> float:
        """Cost of the form in token pairs, without `shared`."""
        return self.left * self.right * self.c**2 * (2.0 * self.d_out + _POINTWISE)


def in_token_pairs(layers: Sequence[Outers]) -> list[bool]:
    """Which of some layers that share their inputs are cheaper together in token pairs."""
    cheaper = [each.factored < each.explicit for each in layers]
    saved = sum(e.explicit - e.factored for e, yes in zip(layers, cheaper, strict=True) if yes)
    return [yes and saved > layers[0].shared for yes in cheaper]


def _tokens(side: Sequence[OuterFactor]) -> int:
    return sum(len(f.inputs) for f in side)


def blocked_gram(left: Tensor, right: Tensor, block: int = BLOCK) -> Tensor:
    """Left @ right.T ``[M, M']`` of ``[M, P]`` and ``[M', P]``, summed in float64 by blocks."""
    size = left.shape[1]
    if left.dtype == torch.float64 or size <= block:
        return (left @ right.T).double()
    whole = size - size % block
    out = _block_products(left[:, :whole], right[:, :whole], block)
    return out + (left[:, whole:] @ right[:, whole:].T).double() if whole < size else out


def _block_products(left: Tensor, right: Tensor, block: int) -> Tensor:
    """As `blocked_gram` where `block` divides P."""
    lefts = left.unflatten(1, (-1, block)).transpose(0, 1)
    rights = right.unflatten(1, (-1, block)).transpose(0, 1)
    return torch.bmm(lefts, rights.mT).sum(0, dtype=torch.float64)


def add_gram(out: Tensor, left: Tensor, right: Tensor, block: int = BLOCK) -> None:
    """Add left @ right.T to `out` ``[M, M']`` float64, as `blocked_gram` sums it.

    Large results are added block by block: their passes through memory would cost as much as the
    products.
    """
    if left.dtype == torch.float64 or out.numel() < _LARGE:
        out += blocked_gram(left, right, block)
        return
    for mine, theirs in zip(left.split(block, 1), right.split(block, 1), strict=True):
        out += mine @ theirs.T


def explicit(left: Sequence[OuterFactor], right: Sequence[OuterFactor]) -> Tensor:
    """Block from gradients formed a few output rows at a time, ``[n, c, m, c]``."""
    c, d_out = left[0].cotangents.shape[1:]
    d_in = left[0].inputs.shape[1]
    dtype = work_dtype(left[0].inputs.dtype)
    n, m = len(left), len(right)
    width = 8 if dtype == torch.float64 else 4
    per_row = (n + m) * c * d_in * width
    block, group = _row_block(d_in)
    step = min(d_out, max(group, rows_at_a_time(per_row) // group * group))
    tiles = [
        torch.empty(k, c, step * d_in, dtype=dtype, device=left[0].inputs.device) for k in (n, m)
    ]
    orders, stacks = zip(*(_stacked(side, dtype) for side in (left, right)), strict=True)
    out = torch.zeros(n * c, m * c, dtype=torch.float64, device=left[0].inputs.device)
    for start in range(0, d_out, step):
        make_way()
        rows = min(step, d_out - start)
        grams = []
        for runs, tile in zip(stacks, tiles, strict=True):
            view = tile.view(-1)[: tile.shape[0] * c * rows * d_in]
            formed = view.view(tile.shape[0], c * rows, d_in)
            for run, g, a in runs:
                torch.bmm(g[:, :, start : start + rows].flatten(1, 2), a, out=formed[run])
            grams.append(formed.view(-1, rows * d_in))
        # Rows of a few terms (LoRA's B) are never taken one by one: that is a product for each.
        whole = rows % group == 0 or d_in < BLOCK // 8
        out += blocked_gram(grams[0], grams[1], block if whole else d_in)
    back = [torch.argsort(torch.tensor(order)).to(out.device) for order in orders]
    return out.view(n, c, m, c)[back[0]][:, :, back[1]]


def rows_at_a_time(per_row: int) -> int:
    """Rows of a weight that are formed at a time, of so many bytes for all examples together.

    Products of few rows are slow, so that many examples make the tile larger.
    """
    return max(TILE_BYTES // per_row, min(_ROWS, _MOST_BYTES // per_row))


def alike(lengths: Sequence[int]) -> Iterator[slice]:
    """Runs of neighbors in ascending `lengths` that are padded to one product."""
    start = 0
    for stop in range(1, len(lengths) + 1):
        if stop == len(lengths) or lengths[stop] > _PADDED * lengths[start]:
            yield slice(start, stop)
            start = stop


def _stacked(
    side: Sequence[OuterFactor], dtype: torch.dtype
) -> tuple[list[int], list[tuple[slice, Tensor, Tensor]]]:
    """Examples by length, and for each run of like lengths its operands, padded with zeros.

    Returns:
        The order; which of it, cotangents ``[k, c, d_out, t]`` and inputs ``[k, t, d_in]``.
    """
    order = sorted(range(len(side)), key=lambda i: len(side[i].inputs))
    runs = []
    for run in alike([len(side[i].inputs) for i in order]):
        some = [side[i] for i in order[run]]
        a = pad_sequence([f.inputs.to(dtype) for f in some], batch_first=True)
        g = pad_sequence([f.cotangents.to(dtype) for f in some], batch_first=True)
        runs.append((run, g.permute(0, 2, 3, 1).contiguous(), a))
    return order, runs


def _row_block(d_in: int) -> tuple[int, int]:
    """Terms of a block and the rows of a weight it spans, for rows of `d_in` terms."""
    if d_in <= BLOCK:
        group = BLOCK // d_in
        return group * d_in, group
    parts = next(k for k in range(2, d_in + 1) if d_in % k == 0 and d_in // k <= BLOCK)
    return (d_in // parts, 1) if d_in // parts >= BLOCK // 8 else (BLOCK, 1)


def matched_rows(left: Sequence[RowFactor], right: Sequence[RowFactor]) -> Tensor:
    """Block of an embedding: rows meet where their ids match, ``[n, c, m, c]``."""
    c = left[0].rows.shape[1]
    sides = [_stack_rows(left), _stack_rows(right)]
    out = torch.zeros(len(left), len(right), c, c, dtype=torch.float64, device=left[0].rows.device)
    (ids, _, _), (other, _, _) = sides
    shared = torch.unique(ids)[torch.isin(torch.unique(ids), other)]
    bounds = [
        (
            torch.searchsorted(s[0], shared).tolist(),
            torch.searchsorted(s[0], shared, right=True).tolist(),
        )
        for s in sides
    ]
    (_, owner_l, rows_l), (_, owner_r, rows_r) = sides
    for i in range(len(shared)):
        a = slice(bounds[0][0][i], bounds[0][1][i])
        b = slice(bounds[1][0][i], bounds[1][1][i])
        block = blocked_gram(rows_l[a].flatten(0, 1), rows_r[b].flatten(0, 1))
        block = block.view(a.stop - a.start, c, b.stop - b.start, c).permute(0, 2, 1, 3)
        out[owner_l[a][:, None], owner_r[b][None]] += block
    return out.permute(0, 2, 1, 3)


def _stack_rows(side: Sequence[RowFactor]) -> tuple[Tensor, Tensor, Tensor]:
    """All rows of a side sorted by id: ids, the example each belongs to, rows ``[k, c, d]``."""
    ids = torch.cat([f.ids for f in side])
    counts = torch.tensor([len(f.ids) for f in side])
    owner = torch.repeat_interleave(torch.arange(len(side)), counts).to(ids.device)
    rows = torch.cat([f.rows for f in side])
    order = torch.argsort(ids, stable=True)
    return ids[order], owner[order], rows[order].to(work_dtype(rows.dtype))


def dense(left: Sequence[Factor], right: Sequence[Factor], shape: torch.Size) -> Tensor:
    """Block from whole gradients (vectors, and what has no cheaper form), ``[n, c, m, c]``."""
    grads = [[_flat(f.dense(shape)) for f in side] for side in (left, right)]
    stacked = [torch.stack(g).to(work_dtype(g[0].dtype)) for g in grads]
    out = blocked_gram(stacked[0].flatten(0, 1), stacked[1].flatten(0, 1))
    return out.view(*stacked[0].shape[:2], *stacked[1].shape[:2])


def _flat(grad: Tensor) -> Tensor:
    return grad.reshape(grad.shape[0], -1)  # a parameter may be a single number


Side = Sequence[Sequence[OuterFactor]]
"""Layers that share their inputs × examples."""


LEFT_TOKENS, RIGHT_TOKENS = 1024, 1024  # a tile of token pairs: 4 MiB a product in float32


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
    columns = [(*tile, _few(tile[2])) for tile in _tiles(right, RIGHT_TOKENS)]
    for rows, a, g, whose in _tiles(left, LEFT_TOKENS):
        summing, mine = whose.T.to(a.dtype), _few(g)
        for others, b, h, theirs, few in columns:
            make_way()
            inputs = a @ b.T
            pairs = torch.empty_like(inputs)
            for k in range(c):
                for j in range(c):
                    if mine[k] is not None or few[j] is not None:
                        at, to = (slice(None) if x is None else x for x in (mine[k], few[j]))
                        some = (g[k][at] @ h[j][to].T).mul_(inputs[at][:, to])
                        by_example = summing[:, at] @ some
                        out[rows, k, others, j] += by_example.double() @ theirs[to]
                        continue
                    torch.mm(g[k], h[j].T, out=pairs)
                    by_example = summing @ pairs.mul_(inputs)
                    out[rows, k, others, j] += by_example.double() @ theirs
    return out


def _few(g: Tensor) -> list[Tensor | None]:
    """Of cotangents ``[c, t, d]``, the tokens that move each logit where most do not, else None.

    Where options are sequences of their own, each token moves one logit alone.
    """
    if len(g) == 1:
        return [None]
    live = (g != 0).any(-1)
    return [each.nonzero()[:, 0] if 2 * int(each.sum()) < len(each) else None for each in live]


def _tiles(side: Side, most: int) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Consecutive tokens of a side, at most `most` at a time.

    Yields:
        the examples ``[lo, hi)`` they belong to, inputs ``[t, d_in]``, cotangents
        ``[c, t, Σ d_out]`` and ownership ``[t, hi − lo]`` of zeros and ones, float64.
    """
    counts = [len(f.inputs) for f in side[0]]
    dtype = work_dtype(side[0][0].inputs.dtype)
    for pieces in cut_tokens(counts, most):
        lo, hi = pieces[0][0], pieces[-1][0] + 1
        a = torch.cat([side[0][i].inputs[at] for i, at in pieces]).to(dtype)
        layers = [torch.cat([layer[i].cotangents[at] for i, at in pieces]) for layer in side]
        g = (layers[0] if len(layers) == 1 else torch.cat(layers, dim=-1)).to(dtype)
        owners = torch.tensor([i - lo for i, at in pieces for _ in range(at.start, at.stop)])
        whose = torch.nn.functional.one_hot(owners, hi - lo).to(a.device, torch.float64)
        yield slice(lo, hi), a, g.transpose(0, 1).contiguous(), whose


def cut_tokens(counts: Sequence[int], most: int) -> Iterator[list[tuple[int, slice]]]:
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

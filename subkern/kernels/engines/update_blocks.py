"""Kernel blocks of rules that see gradient entries: u(g) applied in tiles that stay in cache.

Parameter by parameter and a chunk of coordinates at a time, the gradients of all examples of a tile
are formed, u is applied, and the products with u on both sides, or on either, are taken from the
same chunk. Products are float32 over `BLOCK` terms at most and their sums float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from subkern.gradients.capture import Captured
from subkern.gradients.chunks import WIDTH, chunks
from subkern.gradients.contract import add_gram
from subkern.gradients.factors import (
    Factor,
    HeadFactor,
    OuterFactor,
    RowFactor,
    bound_of,
    work_dtype,
)
from subkern.kernels.engines.signs.products import sign_gram
from subkern.kernels.engines.threads import side_by_side
from subkern.kernels.rules import UpdateRule

TILE_BYTES = 16 * 2**20  # gradient entries formed at a time, of all examples together, on a core
_SCANNED = 8  # flags that are looked at as one number


class Zeroed:
    """Counts entries that rounding alone made other than 0 (see `UpdateRule.zero_tolerance`).

    Attributes:
        counts: of every gradient that was looked at, ``[…, M]``; None before the first.
    """

    def __init__(self) -> None:
        self.counts: Tensor | None = None

    def add(self, counts: Tensor) -> None:
        """Add counts ``[…, M]`` of the same gradients as before."""
        self.counts = counts if self.counts is None else self.counts + counts

    def join(self, other: Zeroed) -> None:
        """Add what `other` has counted of the same gradients."""
        if other.counts is not None:
            self.add(other.counts)

    @property
    def entries(self) -> int:
        """Of all gradients together."""
        return 0 if self.counts is None else int(self.counts.sum())


class Scratch:
    """Memory used for chunk after chunk: new pages for each would cost more than the arithmetic."""

    def __init__(self) -> None:
        self.held: dict[torch.dtype, Tensor] = {}

    def like(self, rows: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor of the shape of `rows`; of each type the next one overwrites it."""
        dtype = dtype or rows.dtype
        held = self.held.get(dtype)
        if held is None or held.numel() < rows.numel():
            held = self.held[dtype] = torch.empty(rows.numel(), dtype=dtype, device=rows.device)
        return held[: rows.numel()].view(rows.shape)


def update_block(
    left: Captured,
    right: Captured,
    shapes: Mapping[str, torch.Size],
    num_logits: int,
    rule: UpdateRule,
    zeroed: Zeroed | None = None,
) -> Tensor:
    """Kernel blocks of `rule` summed over all parameters.

    Args:
        left: factors of n examples.
        right: factors of m examples; `left` itself for a block of the diagonal.
        shapes: parameter name → shape; what the kernel is over.
        num_logits: c.
        rule: u.
        zeroed: counts the noise in the gradients of `left` and, if they are others, of `right`.

    Returns:
        ``[d, n, c, m, c]``, float64: ⟨u(g), u(g')⟩, or ⟨u(g), g'⟩ and ⟨g, u(g')⟩ where `rule` is
        asymmetric (d = 2).
    """
    n, m, c = len(left), len(right), num_logits
    device = left.logits.device
    same = right is left
    names = [name for name in shapes if name in left.factors and name in right.factors]

    def one(name: str) -> tuple[Tensor, Zeroed]:
        factors = [*left.factors[name], *(() if same else right.factors[name])]
        counts = Zeroed()
        sides = slice(0, n), slice(0 if same else n, None)
        return parameter_updates(factors, *sides, shapes[name], c, [rule], counts)[0], counts

    out = torch.zeros(rule.directions, n, c, m, c, dtype=torch.float64, device=device)
    for part, counts in side_by_side(one, names, device.type == "cpu"):
        out += part
        if zeroed is not None:
            zeroed.join(counts)
    return out


def parameter_updates(
    factors: Sequence[Factor],
    left: slice,
    right: slice,
    shape: torch.Size,
    num_logits: int,
    rules: Sequence[UpdateRule],
    zeroed: Zeroed | None = None,
) -> list[Tensor]:
    """One parameter's contribution to the kernel of every rule, ``[d, n, c, m, c]`` each.

    Every gradient of `factors` is formed once; `left` says which of them are rows, from the first
    on, `right` which are columns, either all or those behind the rows. All `rules` but sgd have one
    zero tolerance.
    """
    c, counts = num_logits, [len(factors[side]) for side in (left, right)]
    mine, theirs = (
        slice(side.start * c, None if side.stop is None else side.stop * c)
        for side in (left, right)
    )
    shapes = [(rule.directions, *(k * c for k in counts)) for rule in rules]
    device = _tensor(factors[0]).device
    outs = [torch.zeros(each, dtype=torch.float64, device=device) for each in shapes]
    tolerance = max((rule.zero_tolerance for rule in rules if not rule.is_sgd), default=0.0)
    updates = _updates(rules)
    scratch = Scratch()
    for rows, bound in _with_bounds(factors, shape, c, tolerance > 0):
        for out, rule in zip(outs, rules, strict=True):
            if rule.is_sgd:  # takes every entry as it is
                _add_products(out, rows, rows, mine, theirs, rule)
        if bound is not None:
            drop_noise(rows, bound, tolerance, zeroed, scratch)
        for same in updates:
            updated = rules[same[0]].update(rows, out=scratch.like(rows))
            for i in same:
                _add_products(outs[i], updated, rows, mine, theirs, rules[i])
    for out in outs:
        if len(out) == 2 and theirs.start == mine.start:  # the rows with themselves
            out[1, :, mine] = out[0, :, mine].T
    return [out.view(-1, counts[0], c, counts[1], c) for out in outs]


def _updates(rules: Sequence[UpdateRule]) -> list[list[int]]:
    """Which of `rules` make the same update u of a gradient, but for sgd, which makes none."""
    found: dict[float | None, list[int]] = {}
    for i, rule in enumerate(rules):
        if not rule.is_sgd:
            found.setdefault(rule.epsilon if rule.is_adam else None, []).append(i)
    return list(found.values())


def _with_bounds(
    factors: Sequence[Factor], shape: torch.Size, c: int, bounded: bool
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Gradients and, if asked for, their bounds, ``[k·c, w]``, chunk by chunk.

    The next chunk overwrites both.
    """
    width = _width(len(factors) * c, factors[0])
    found = chunks(factors, shape, c, width)
    if not bounded:
        for chunk in found:
            yield chunk.rows.flatten(0, 1).contiguous(), None
        return
    bounds = chunks([bound_of(f) for f in factors], shape, c, width)
    for chunk, bound in zip(found, bounds, strict=True):
        yield chunk.rows.flatten(0, 1).contiguous(), bound.rows.flatten(0, 1)


def _width(rows: int, factor: Factor) -> int:
    size = 8 if work_dtype(_tensor(factor).dtype) == torch.float64 else 4
    return max(1, min(WIDTH, TILE_BYTES // (rows * size)))


def _tensor(factor: Factor) -> Tensor:
    """One that tells type and device."""
    if isinstance(factor, OuterFactor | HeadFactor):
        return factor.inputs
    return factor.rows if isinstance(factor, RowFactor) else factor.grad


def drop_noise(
    rows: Tensor,
    bound: Tensor,
    tolerance: float,
    zeroed: Zeroed | None = None,
    scratch: Scratch | None = None,
) -> Tensor:
    """`rows` ``[…, M, w]``, in place 0 where they are at most `tolerance` times `bound`, as large.

    On a CPU eight flags are looked at as one number, as noise is rare. `bound` is overwritten.
    """
    size = torch.abs(rows, out=None if scratch is None else scratch.like(rows))
    bound.mul_(tolerance)
    if rows.device.type != "cpu" or rows.shape[-1] % _SCANNED or not rows.is_contiguous():
        noise = size <= bound
        if zeroed is not None:
            zeroed.add((noise & (rows != 0)).sum(-1))
        return rows.masked_fill_(noise, 0.0)
    buffer = None if scratch is None else scratch.like(rows, torch.bool).numpy()
    noise = torch.from_numpy(np.less_equal(size.numpy(), bound.numpy(), out=buffer))
    at = torch.from_numpy(np.flatnonzero(noise.view(torch.int64).numpy()))
    flags, entries = (x.view(-1, _SCANNED)[at] for x in (noise, rows))
    if zeroed is not None:
        counts = torch.zeros(rows[..., 0].numel(), dtype=torch.int64)
        gradient = at // (rows.shape[-1] // _SCANNED)
        counts.index_add_(0, gradient, (flags & (entries != 0)).sum(-1))
        zeroed.add(counts.view(rows.shape[:-1]))
    rows.view(-1, _SCANNED)[at] = entries.masked_fill_(flags, 0.0)
    return rows


def _add_products(
    out: Tensor, updated: Tensor, rows: Tensor, mine: slice, theirs: slice, rule: UpdateRule
) -> None:
    """Add the products of one chunk to `out` ``[d, n·c, m·c]``, float64.

    Where the columns begin with the rows, the second direction of the rows with themselves is left
    out: it is the transpose of the first.
    """
    if rule.is_asymmetric:
        add_gram(out[0], updated[mine], rows[theirs])
        known = mine.stop if theirs.start == mine.start else 0
        rest = slice(theirs.start + known, theirs.stop)
        add_gram(out[1, :, known:], rows[mine], updated[rest])
    elif rule.is_sgd or rule.is_adam:
        add_gram(out[0], updated[mine], updated[theirs])
    else:
        out[0] += sign_gram(updated[mine], updated[theirs])

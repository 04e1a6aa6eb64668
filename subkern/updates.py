"""Kernel blocks of rules that see gradient entries: u(g) applied in tiles that stay in cache.

Parameter by parameter and a chunk of coordinates at a time, the gradients of all examples of a tile
are formed, u is applied, and the products with u on both sides, or on either, are taken from the
same chunk. Products are float32 over `BLOCK` terms at most and their sums float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from subkern.capture import Captured
from subkern.contraction import blocked_gram
from subkern.factors import Factor, Outer, Rows, bound_of, work_dtype
from subkern.gradients import WIDTH, chunks
from subkern.rules import UpdateRule

TILE_BYTES = 16 * 2**20  # gradient entries formed at a time, of all examples together


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

    @property
    def entries(self) -> int:
        """Of all gradients together."""
        return 0 if self.counts is None else int(self.counts.sum())


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
    out = torch.zeros(rule.directions, n, c, m, c, dtype=torch.float64, device=left.logits.device)
    for name, shape in shapes.items():
        if name in left.factors and name in right.factors:
            same = right is left
            factors = [*left.factors[name], *(() if same else right.factors[name])]
            columns = slice(0 if same else n, None)
            out += parameter_update(factors, slice(0, n), columns, shape, c, rule, zeroed)
    return out


def parameter_update(
    factors: Sequence[Factor],
    left: slice,
    right: slice,
    shape: torch.Size,
    num_logits: int,
    rule: UpdateRule,
    zeroed: Zeroed | None = None,
) -> Tensor:
    """One parameter's contribution, ``[d, n, c, m, c]`` as in `update_block`.

    Every gradient of `factors` is formed once; `left` and `right` say which of them are rows and
    which columns, from their start on.
    """
    c, counts = num_logits, [len(factors[side]) for side in (left, right)]
    mine, theirs = (
        slice(side.start * c, None if side.stop is None else side.stop * c)
        for side in (left, right)
    )
    width = _width(len(factors) * c, factors[0])
    dtype, device = torch.float64, _tensor(factors[0]).device
    out = torch.zeros(rule.directions, *(k * c for k in counts), dtype=dtype, device=device)
    bounds = [bound_of(f) for f in factors] if rule.zero_tolerance else factors
    pairs = zip(
        chunks(factors, shape, num_logits, width),
        chunks(bounds, shape, num_logits, width),
        strict=True,
    )
    for chunk, bound in pairs:
        rows = chunk.rows.flatten(0, 1)
        if rule.zero_tolerance:
            rows = drop_noise(rows, bound.rows.flatten(0, 1), rule.zero_tolerance, zeroed)
        out += _products(rule.update(rows), rows, mine, theirs, rule)
    return out.view(-1, counts[0], c, counts[1], c)


def _width(rows: int, factor: Factor) -> int:
    size = 8 if work_dtype(_tensor(factor).dtype) == torch.float64 else 4
    return max(1, min(WIDTH, TILE_BYTES // (rows * size)))


def _tensor(factor: Factor) -> Tensor:
    """One that tells type and device."""
    if isinstance(factor, Outer):
        return factor.inputs
    return factor.rows if isinstance(factor, Rows) else factor.grad


def drop_noise(
    rows: Tensor, bound: Tensor, tolerance: float, zeroed: Zeroed | None = None
) -> Tensor:
    """`rows` ``[…, M, w]`` with 0 where they are at most `tolerance` times `bound`, as large."""
    noise = rows.abs() <= tolerance * bound
    if zeroed is not None:
        zeroed.add((noise & (rows != 0)).sum(-1))
    return rows.masked_fill(noise, 0.0)


def _products(
    updated: Tensor, rows: Tensor, mine: slice, theirs: slice, rule: UpdateRule
) -> Tensor:
    """Products of one chunk, ``[d, n·c, m·c]``, float64; `theirs` may be `mine`."""
    if not rule.is_asymmetric:
        return blocked_gram(updated[mine], updated[theirs])[None]
    forward = blocked_gram(updated[mine], rows[theirs])
    same = mine == theirs
    return torch.stack([forward, forward.T if same else blocked_gram(rows[mine], updated[theirs])])

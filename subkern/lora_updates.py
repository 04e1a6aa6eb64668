"""A LoRA sweep under rules that see gradient entries: signs and Adam's smoothed signs.

The entries are those of G = s Σ_t g_t (A a_t)ᵀ, the gradient of B. Their signs do not depend on
s > 0, so for the sign rules the ranks nest as for `sgd`: row ρ of A adds the same to every rank
that has it. Adam's g/(|g| + ε) does depend on s = α/r, so there every rank is summed by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from subkern.capture import Captured
from subkern.factors import Factor, Outer, position_norm
from subkern.lora import SweepLayers, _gram_by_row, _project
from subkern.rules import UpdateRule
from subkern.updates import Zeroed, drop_noise


def sweep_updates(
    left: Captured,
    right: Captured,
    layers: SweepLayers,
    seeds: int,
    scales: np.ndarray,
    ranks: Sequence[int],
    rule: UpdateRule,
) -> tuple[Tensor, Tensor]:
    """Kernel blocks of `rule` in the gradients of B, for all seeds and ranks, and their noise.

    Args:
        left: factors of the base model of n examples.
        right: of m examples; `left` itself for a block of the diagonal.
        layers: what is adapted, with the A of every seed.
        seeds: number of seeds in `layers`.
        scales: s of every rank, ``[ranks]``.
        ranks: ranks, any order.
        rule: not sgd.

    Returns:
        ``[d, seeds, ranks, n, c, m, c]``, float64, d as in `updates.update_block`; and how many
        entries of `left` and of `right` were noise, ``[2, seeds, ranks]``.
    """
    n, m, c = len(left), len(right), left.logits.shape[1]
    shape = (rule.directions, seeds, len(ranks), n * c, m * c)
    out = torch.zeros(shape, dtype=torch.float64, device=left.logits.device)
    zeroed = torch.zeros(2, seeds, len(ranks), dtype=torch.int64, device=left.logits.device)
    for name, rows in layers.rows.items():
        counts = (Zeroed(), Zeroed())
        mine = theirs = None
        if name in left.factors:
            mine = _entries(left.factors[name], rows, c, rule, counts[0])
        if right is left:
            theirs, counts = mine, (counts[0], counts[0])
        elif name in right.factors:
            theirs = _entries(right.factors[name], rows, c, rule, counts[1])
        zeroed += torch.stack([_nested(count, seeds, ranks, zeroed) for count in counts])
        if mine is not None and theirs is not None:
            products = _adam if rule.is_adam else _signs
            out += products(mine, theirs, seeds, scales, ranks, rule)
    return out.view(*shape[:3], n, c, m, c), zeroed


def _nested(zeroed: Zeroed, seeds: int, ranks: Sequence[int], like: Tensor) -> Tensor:
    """Noise among rows 1 … r of A of every seed and rank, ``[seeds, ranks]``."""
    if zeroed.counts is None:
        return torch.zeros_like(like[0])
    per_row = zeroed.counts.sum(-1).view(seeds, -1)
    return per_row.cumsum(1)[:, [r - 1 for r in ranks]]


def _entries(
    side: Sequence[Factor], rows: Tensor, c: int, rule: UpdateRule, zeroed: Zeroed
) -> Tensor:
    """Σ_t g_t (A_ρ·a_t) of every example without its noise, ``[s·R, n·c, d_out]``."""
    entries = _project(side, rows, c)
    if not rule.zero_tolerance:
        return entries
    norms = []
    for factor in side:
        assert isinstance(factor, Outer)  # _project refuses others
        hidden = factor.inputs.to(rows.dtype) @ rows.T
        g = position_norm(factor.cotangents).to(rows.dtype)  # [1, c, d_out]
        norms.append(position_norm(hidden).T[..., None] * g)
    return drop_noise(entries, torch.stack(norms, 1).flatten(1, 2), rule.zero_tolerance, zeroed)


def _signs(
    left: Tensor,
    right: Tensor,
    seeds: int,
    scales: np.ndarray,
    ranks: Sequence[int],
    rule: UpdateRule,
) -> Tensor:
    """Products ``[d, seeds, ranks, n·c, m·c]``: signs of s·G are those of G."""
    pairs = _pairs(left, right, rule)
    per_row = torch.stack([_gram_by_row(a, b) for a, b in pairs])  # [d, s·R, n·c, m·c]
    nested = per_row.unflatten(1, (seeds, -1)).cumsum(2)
    out = nested[:, :, [r - 1 for r in ranks]]
    if not rule.is_asymmetric:
        return out
    return out * torch.from_numpy(scales).to(out)[:, None, None]


def _adam(
    left: Tensor,
    right: Tensor,
    seeds: int,
    scales: np.ndarray,
    ranks: Sequence[int],
    rule: UpdateRule,
) -> Tensor:
    """Products ``[d, seeds, ranks, n·c, m·c]``, rank by rank, because u(s·G) is not s·u(G)."""
    sides = [x.unflatten(0, (seeds, -1)) for x in (left, right)]
    each = []
    for rank, s in zip(ranks, scales.tolist(), strict=True):
        mine, theirs = (s * x[:, :rank].flatten(0, 1) for x in sides)
        grams = [_gram_by_row(a, b) for a, b in _pairs(mine, theirs, rule)]
        each.append(torch.stack(grams).unflatten(1, (seeds, rank)).sum(2))
    return torch.stack(each, 2)


def _pairs(left: Tensor, right: Tensor, rule: UpdateRule) -> list[tuple[Tensor, Tensor]]:
    ours, theirs = rule.update(left), rule.update(right)
    return [(ours, right), (left, theirs)] if rule.is_asymmetric else [(ours, theirs)]

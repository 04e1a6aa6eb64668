"""A LoRA sweep under rules that see gradient entries: signs and Adam's smoothed signs.

The entries are those of G = s Σ_t g_t (A a_t)ᵀ, the gradient of B. Their signs do not depend on
s > 0, so for the sign rules the ranks nest as for `sgd`: row ρ of A adds the same to every rank
that has it. Adam's g/(|g| + ε) does depend on s = α/r, so there every rank is summed by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from subkern.errors import UserError
from subkern.gradients.capture import Captured
from subkern.gradients.contract import BLOCK
from subkern.gradients.factors import Factor, OuterFactor, position_norm, work_dtype
from subkern.kernels.engines.update_blocks import Zeroed, drop_noise
from subkern.kernels.rules import UpdateRule
from subkern.models.anatomy import linear_modules
from subkern.models.logit_model import LogitModel, named_parameters
from subkern.subspaces.lora import Lora, _check_rank, draw_rows
from subkern.subspaces.lora_targets import Targets, resolve
from subkern.subspaces.peft_adapters import targeted_modules, wrap


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
        assert isinstance(factor, OuterFactor)  # _project refuses others
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


@dataclass(frozen=True)
class SweepLayers:
    """The base weights that a LoRA sweep adapts, with the stacked A of every seed.

    Attributes:
        rows: parameter name → A ``[s·R, d_in]``, seeds one after the other.
        shapes: parameter name → (d_in, d_out).
        always: parameters trained beside the adapters: the linear readout, or with targets
            ``"all"`` every parameter that is not adapted.
    """

    rows: dict[str, Tensor]
    shapes: dict[str, tuple[int, int]]
    always: tuple[str, ...]

    def trainable(self, rank: int) -> int:
        """Trained parameters of LoRA of `rank`: A and B of every layer."""
        return sum(rank * (i + o) for i, o in self.shapes.values())


def sweep_layers(
    model: LogitModel, targets: Targets, max_rank: int, seeds: Sequence[int]
) -> SweepLayers:
    """Resolve `targets` (named ones first) exactly as PEFT does and draw every seed's A.

    Raises:
        UserError: nothing matches, a target is no linear layer, or `max_rank` is too large.
    """
    meant = resolve(model, targets)
    wrapped = wrap(model, Lora(r=1, targets=meant.targets).config)
    names = targeted_modules(wrapped.module)
    linear = set(linear_modules(model.module))
    modules = dict(model.module.named_modules())
    for name in names:
        if name not in linear:
            what = (
                "is the decoder"
                if isinstance(modules[name], nn.Linear)
                else "is not a linear layer"
            )
            raise UserError(f"'{name}' {what}, which no sweep covers: use --subspace lora:r=8,…")
    by_id = {id(p): n for n, p in named_parameters(model).items()}
    rows, shapes = {}, {}
    for name in names:
        weight = modules[name].weight
        turned = not isinstance(modules[name], nn.Linear)  # Conv1D keeps [d_in, d_out]
        d_in, d_out = tuple(weight.shape) if turned else tuple(weight.shape)[::-1]
        _check_rank(max_rank, name, d_in, d_out)
        drawn = np.concatenate([draw_rows(s, name, max_rank, d_in) for s in seeds])
        key = by_id[id(weight)]
        if key in rows:
            raise UserError(f"'{name}' shares its weight with another target: name one of them")
        dtype = work_dtype(weight.dtype)
        # The rows as the model would hold them: rounded to its own type first.
        rows[key] = torch.from_numpy(drawn).to(weight.dtype).to(weight.device, dtype)
        shapes[key] = (d_in, d_out)
    always = tuple(
        name
        for name in named_parameters(model)
        if name.startswith("readout.") or (meant.trains_rest and name not in rows)
    )
    return SweepLayers(rows, shapes, always)


def sweep_block(
    left: Captured, right: Captured, layers: SweepLayers, seeds: int, ranks: Sequence[int]
) -> Tensor:
    """Kernel blocks of B's gradients before scaling by s², for all seeds and ranks.

    Returns:
        ``[seeds, ranks, n, c, m, c]``, float64: Σ over layers and over rows 1 … r of
        ⟨Σ_t g_t (A_ρ·a_t), Σ_s g'_s (A_ρ·a'_s)⟩.
    """
    n, m, c = len(left), len(right), left.logits.shape[1]
    edges = [0, *sorted(set(ranks))]
    order = [edges.index(r) - 1 for r in ranks]
    device = left.logits.device
    out = torch.zeros(seeds, len(edges) - 1, n * c, m * c, dtype=torch.float64, device=device)
    for name, rows in layers.rows.items():
        if name not in left.factors or name not in right.factors:
            continue
        sides = [_project(side.factors[name], rows, c) for side in (left, right)]
        per_row = _gram_by_row(*sides)  # [s·R, n·c, m·c]
        per_row = per_row.view(seeds, -1, n * c, m * c)
        for k in range(len(edges) - 1):
            out[:, k] += per_row[:, edges[k] : edges[k + 1]].sum(1)
    return out.cumsum(1)[:, order].view(seeds, len(ranks), n, c, m, c)


def _project(side: Sequence[Any], rows: Tensor, c: int) -> Tensor:
    """U = Σ_t g_t (A_ρ·a_t) of every example, ``[s·R, n·c, d_out]``."""
    if not all(isinstance(f, OuterFactor) for f in side):
        raise UserError("a target is used as more than a linear layer: use --subspace lora:r=…")
    d_out = side[0].cotangents.shape[-1]
    out = rows.new_empty(len(side), rows.shape[0], c * d_out)
    for factor, target in zip(side, out, strict=True):
        hidden = factor.inputs.to(rows.dtype) @ rows.T  # [t, s·R]
        torch.mm(hidden.T, factor.cotangents.flatten(1).to(rows.dtype), out=target)
    return out.transpose(0, 1).unflatten(-1, (c, d_out)).flatten(1, 2)


def _gram_by_row(left: Tensor, right: Tensor) -> Tensor:
    parts = zip(left.split(BLOCK, dim=-1), right.split(BLOCK, dim=-1), strict=True)
    return torch.stack([torch.bmm(a, b.mT).double() for a, b in parts]).sum(0)


def scales(ranks: Sequence[int], alpha: float, rslora: bool) -> np.ndarray:
    """s² for every rank: (α/r)², or α²/r for rsLoRA."""
    r = np.asarray(ranks, dtype=np.float64)
    return alpha**2 / r if rslora else (alpha / r) ** 2

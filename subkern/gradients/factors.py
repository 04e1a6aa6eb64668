"""Per-example gradient factors: what is kept of ∇_W f(x) instead of the gradient itself.

A factor is the gradient of one example with respect to one parameter, for all c logits, in the
cheapest exact form:

* `OuterFactor`: Σ_t g_t a_tᵀ, kept as a ``[t, d_in]`` and g ``[t, c, d_out]``;
* `RowFactor`: a few rows of a table, kept as ids ``[k]`` and rows ``[k, c, d]``;
* `DenseFactor`: the gradient, ``[c, …shape of the parameter]``.

Where it is asked for, the last two keep beside every entry Σ_t g_t a_t the most it could be by
Cauchy and Schwarz, ‖g‖·‖a‖ over the positions t, which tells rounding noise from small gradients;
of an `OuterFactor` it can be read off.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subkern.gradients.record import Kind, Use


@dataclass(frozen=True)
class OuterFactor:
    """Gradient Σ_t g_t a_tᵀ of a ``[d_out, d_in]`` weight (``[d_in, d_out]`` if transposed)."""

    inputs: Tensor  # a [t, d_in]
    cotangents: Tensor  # g [t, c, d_out]
    transposed: bool

    def dense(self, shape: torch.Size) -> Tensor:
        """The gradient, ``[c, *shape]``."""
        g = self.cotangents.flatten(1)  # [t, c·d_out]
        grad = (g.T @ self.inputs).unflatten(0, self.cotangents.shape[1:])
        return grad.mT if self.transposed else grad


@dataclass(frozen=True)
class RowFactor:
    """Gradient that is zero but for the rows `ids`, which are unique and sorted."""

    ids: Tensor  # [k]
    rows: Tensor  # [k, c, d]
    bound: Tensor | None = None  # ‖g‖·‖a‖ of every entry, [k, c, d]

    def dense(self, shape: torch.Size) -> Tensor:
        """The gradient, ``[c, *shape]``."""
        grad = self.rows.new_zeros(self.rows.shape[1], *shape)
        grad[:, self.ids] = self.rows.transpose(0, 1)
        return grad


@dataclass(frozen=True)
class DenseFactor:
    """The gradient itself."""

    grad: Tensor  # [c, *shape]
    bound: Tensor | None = None  # ‖g‖·‖a‖ of every entry, [c, *shape]

    def dense(self, shape: torch.Size) -> Tensor:
        """The gradient, ``[c, *shape]``."""
        return self.grad


Factor = OuterFactor | RowFactor | DenseFactor


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type of the products: float64 for float64 factors, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def zero_like(factor: Factor) -> Factor:
    """The factor of a zero gradient, of the kind of `factor`."""
    if isinstance(factor, OuterFactor):
        return OuterFactor(factor.inputs[:0], factor.cotangents[:0], factor.transposed)
    if isinstance(factor, RowFactor):
        return RowFactor(factor.ids[:0], factor.rows[:0])
    return DenseFactor(torch.zeros_like(factor.grad))


def nbytes(factors: Iterable[Factor]) -> int:
    """Bytes that the tensors of `factors` hold; what several share counts once."""
    tensors = [v for f in factors for v in vars(f).values() if isinstance(v, Tensor)]
    held = {(t.data_ptr(), t.numel()): t.numel() * t.element_size() for t in tensors}
    return sum(held.values())


class FactorBuilder:
    """Turns the recorded uses of one batch and their cotangents into factors, example by example.

    Args:
        batch: number of examples b.
        num_logits: c.
        bounded: keep the bounds ‖g‖·‖a‖ that sign rules read.
    """

    def __init__(self, batch: int, num_logits: int, bounded: bool = False) -> None:
        self.batch = batch
        self.num_logits = num_logits
        self.bounded = bounded
        # Query, key and value weights read the same input: keep one copy of what they keep of it.
        self._kept: dict[tuple[object, ...], Tensor] = {}

    def build(self, uses: Sequence[tuple[Use, Tensor]]) -> list[Factor]:
        """Factors ``[b]`` of one parameter from its uses and their cotangents ``[c, *output]``."""
        parts = [self._use(use, g) for use, g in uses]
        shape = uses[0][0].shape
        each = zip(*parts, strict=True)
        return [merge(factors, shape, self.bounded) for factors in each]

    def _use(self, use: Use, g: Tensor) -> Sequence[Factor]:
        if use.kind is Kind.OUTER:
            return self._outer(use, g)
        if use.kind is Kind.ROWS:
            return self._rows(use, g)
        return self._summed(use, g)

    def _outer(self, use: Use, g: Tensor) -> list[Factor]:
        assert use.input is not None
        a = use.input.detach()
        if a.shape[0] == 1:
            a = a.expand(self.batch, *a.shape[1:])
        a = a.reshape(self.batch, -1, a.shape[-1])
        shared = a.data_ptr() == use.input.data_ptr()  # alive as long as the recording is
        g = g.reshape(self.num_logits, self.batch, -1, g.shape[-1])
        live = g.abs().amax(-1).amax(0) != 0  # [b, t]; a zero cotangent adds nothing
        factors: list[Factor] = []
        for i, positions in enumerate(live.tolist()):
            keep = _positions(positions, live.device)
            inputs = self._keep(a, i, keep, positions) if shared else a[i, keep]
            factors.append(OuterFactor(inputs, g[:, i, keep].transpose(0, 1), use.transposed))
        return factors

    def _keep(self, a: Tensor, i: int, keep: slice | Tensor, positions: Sequence[bool]) -> Tensor:
        key = (a.data_ptr(), a.shape, a.stride(), i, tuple(positions))
        if key not in self._kept:
            self._kept[key] = a[i, keep]
        return self._kept[key]

    def _rows(self, use: Use, g: Tensor) -> list[Factor]:
        assert use.input is not None
        ids = use.input
        if ids.shape[0] == 1 and self.batch > 1:
            ids = ids.expand(self.batch, *ids.shape[1:])
        ids = ids.reshape(self.batch, -1)
        g = g.reshape(self.num_logits, self.batch, -1, g.shape[-1])
        factors: list[Factor] = []
        for i in range(self.batch):
            live = (g[:, i] != 0).any(-1).any(0) & (ids[i] >= 0)
            factors.append(sum_rows(ids[i, live], g[:, i, live].transpose(0, 1), self.bounded))
        return factors

    def _summed(self, use: Use, g: Tensor) -> list[Factor]:
        out = g.shape[1:]
        if use.kind is Kind.PRODUCT:
            assert use.input is not None
            g = g * use.input.detach()
        if self.batch == 1:
            g = g[:, None]
        elif use.call.layout == "flat":
            g = g.reshape(self.num_logits, self.batch, -1, *out[1:])
        lead = g.shape[:2]
        body = g.shape[2:]
        # Leading axes of length 1 may reach over the axis of examples.
        inner = tuple(use.shape)[max(0, len(use.shape) - len(body)) :]
        padded = (*lead, *(1,) * (len(body) - len(inner)), *inner)
        summed = g.sum_to_size(padded).reshape(*lead, *use.shape)
        if not self.bounded:
            return [DenseFactor(summed[:, i].contiguous()) for i in range(self.batch)]
        wide = g.to(work_dtype(g.dtype))
        bound = wide.square().sum_to_size(padded).sqrt().flatten(len(lead))
        # Cotangents that are noise themselves are so on the scale of the vector's other entries.
        typical = bound.square().mean(-1, keepdim=True).sqrt()
        bound = torch.maximum(bound, typical).reshape(summed.shape)
        return [
            DenseFactor(summed[:, i].contiguous(), bound[:, i].contiguous())
            for i in range(self.batch)
        ]


def _positions(live: Sequence[bool], device: torch.device) -> slice | Tensor:
    """The live positions: a slice, which copies nothing, where they come first (padding last)."""
    count = sum(live)
    if all(live[:count]):
        return slice(0, count)
    return torch.tensor([t for t, alive in enumerate(live) if alive], device=device)


def sum_rows(ids: Tensor, rows: Tensor, bounded: bool = False) -> RowFactor:
    """Rows of equal id added up: ids ``[k]``, rows ``[k, c, d]``, their bounds if `bounded`."""
    unique, inverse = torch.unique(ids, return_inverse=True)
    summed = _add_rows(rows, inverse, len(unique))
    if not bounded:
        return RowFactor(unique, summed)
    squares = rows.to(work_dtype(rows.dtype)).square()
    return RowFactor(unique, summed, _add_rows(squares, inverse, len(unique)).sqrt())


def _add_rows(rows: Tensor, places: Tensor, count: int) -> Tensor:
    return rows.new_zeros(count, *rows.shape[1:]).index_add_(0, places, rows)


def merge(parts: Sequence[Factor], shape: torch.Size, bounded: bool = False) -> Factor:
    """The factor of a parameter used several times: gradients add **before** any product.

    Positions of a shared linear layer concatenate; an embedding tied to a decoder adds rows,
    because a prompted decoder's cotangent is zero but for the label words.
    """
    table = any(isinstance(p, RowFactor) for p in parts)
    parts = [
        _as_rows(p, bounded) if isinstance(p, OuterFactor) and _is_few_rows(p, table) else p
        for p in parts
    ]
    if len(parts) == 1:
        return parts[0]
    tables = [p for p in parts if isinstance(p, RowFactor)]
    if len(tables) == len(parts):
        return _merge_rows(tables, bounded)
    outers = [p for p in parts if isinstance(p, OuterFactor)]
    if len(outers) == len(parts) and len({p.transposed for p in outers}) == 1:
        return OuterFactor(
            torch.cat([p.inputs for p in outers]),
            torch.cat([p.cotangents for p in outers]),
            outers[0].transposed,
        )
    grad = torch.stack([p.dense(shape) for p in parts]).sum(0)
    if not bounded:
        return DenseFactor(grad)
    return DenseFactor(grad, torch.stack([bound_of(p).dense(shape) for p in parts]).sum(0))


def _merge_rows(parts: Sequence[RowFactor], bounded: bool) -> RowFactor:
    unique, inverse = torch.unique(torch.cat([p.ids for p in parts]), return_inverse=True)
    rows = _add_rows(torch.cat([p.rows for p in parts]), inverse, len(unique))
    if not bounded:
        return RowFactor(unique, rows)
    bounds = torch.cat([b.rows for b in map(bound_of, parts) if isinstance(b, RowFactor)])
    return RowFactor(unique, rows, _add_rows(bounds, inverse, len(unique)))


def position_norm(x: Tensor) -> Tensor:
    """Euclidean norms ``[1, …]`` over the positions t of ``[t, …]``, in the work type.

    `torch.linalg.vector_norm` over the first axis takes some ten times longer on a CPU.
    """
    return x.to(work_dtype(x.dtype)).square().sum(0, keepdim=True).sqrt_()


def bound_of(factor: Factor) -> Factor:
    """The factor whose entries are the bounds ‖g‖·‖a‖ of `factor`'s, 0 where they are unknown.

    Several uses of one kind are one sum over positions; else their bounds add.
    """
    if isinstance(factor, OuterFactor):
        norms = [position_norm(x) for x in (factor.inputs, factor.cotangents)]
        return OuterFactor(norms[0], norms[1], factor.transposed)
    if isinstance(factor, RowFactor):
        rows = factor.rows
        return RowFactor(
            factor.ids, torch.zeros_like(rows) if factor.bound is None else factor.bound
        )
    return DenseFactor(torch.zeros_like(factor.grad) if factor.bound is None else factor.bound)


def _is_few_rows(part: OuterFactor, tied_to_table: bool) -> bool:
    """Whether few rows of the weight are touched: true of a prompted decoder."""
    d_out, d_in = part.cotangents.shape[-1], part.inputs.shape[-1]
    if part.transposed or not (tied_to_table or d_out > 8 * d_in):
        return False
    touched = int((part.cotangents != 0).any(0).any(0).sum())
    return tied_to_table or 8 * touched <= d_out


def _as_rows(part: OuterFactor, bounded: bool) -> RowFactor:
    ids = (part.cotangents != 0).any(0).any(0).nonzero()[:, 0]
    g = part.cotangents[..., ids]
    rows = torch.einsum("tck,td->kcd", g, part.inputs)
    if not bounded:
        return RowFactor(ids, rows)
    a, g = (position_norm(x)[0] for x in (part.inputs, g))
    return RowFactor(ids, rows, g.T[:, :, None] * a)

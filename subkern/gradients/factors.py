"""Per-example gradient factors: what is kept of ∇_W f(x) instead of the gradient itself.

A factor is the gradient of one example with respect to one parameter, for all c logits, in the
cheapest exact form:

* `OuterFactor`: Σ_t g_t a_tᵀ, kept as a ``[t, d_in]`` and g ``[t, c, d_out]``;
* `RowFactor`: a few rows of a table, kept as ids ``[k]`` and rows ``[k, c, d]``;
* `HeadFactor`: Σ_t g_t (e_y − p)_t a_tᵀ of log-probabilities by their decoder, kept as a, g ``[t,
  c]`` and what makes the probabilities p again, a few rows of the decoder at a time;
* `DenseFactor`: the gradient, ``[c, …shape of the parameter]``.

Where it is asked for, the last two keep beside every entry Σ_t g_t a_t the most it could be by
Cauchy and Schwarz, ‖g‖·‖a‖ over the positions t, which tells rounding noise from small gradients;
of an `OuterFactor` it can be read off.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from subkern.gradients.record import Kind, Use
from subkern.models.likelihood import log_normalizers, vocabulary_rows


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


HEAD_ROWS = 4096  # of a decoder made at a time; as many coordinates as any block of signs divide it


@dataclass(frozen=True)
class HeadFactor:
    """Gradient Σ_t g_t (e_y − p)_t a_tᵀ of a ``[V, d]`` decoder, p_t = softmax(W a_t + b).

    Where the decoder is tied to the embedding, a few rows of that are added.
    """

    inputs: Tensor  # a [t, d]
    cotangents: Tensor  # g [t, c], of the log-probabilities
    targets: Tensor  # y [t]
    logsumexp: Tensor  # of W a + b, [t]
    weight: Tensor  # W [V, d], the model's own
    bias: Tensor | None = None  # b [V]
    added: RowFactor | None = None
    bounds: bool = False  # its entries are the bounds of the gradient's

    def slices(self) -> list[slice]:
        """Rows of the decoder, some at a time."""
        size = self.weight.shape[0]
        return [slice(i, min(i + HEAD_ROWS, size)) for i in range(0, size, HEAD_ROWS)]

    def part(self, rows: slice) -> OuterFactor:
        """The gradient of some rows; those added stand as positions of their own."""
        dtype = work_dtype(self.inputs.dtype)
        told = vocabulary_rows(self.inputs, self.weight, self.bias, self.logsumexp, rows)
        told = told.neg_()
        mine = ((self.targets >= rows.start) & (self.targets < rows.stop)).nonzero()[:, 0]
        told[mine, self.targets[mine] - rows.start] += 1
        g = self.cotangents[..., None].to(dtype) * told[:, None].to(dtype)  # [t, c, rows]
        a = self.inputs.to(dtype)
        if self.bounds:
            a, g = position_norm(a), position_norm(g)
        if self.added is None:
            return OuterFactor(a, g, False)
        ids, given = self.added.ids, self.added.rows
        at = ((ids >= rows.start) & (ids < rows.stop)).nonzero()[:, 0]
        c = g.shape[1]
        more = g.new_zeros(len(at), c, c, g.shape[2])  # [k, of logit, to logit, rows]
        more[torch.arange(len(at)), :, :, ids[at] - rows.start] = torch.eye(c).to(g)
        positions = given[at].flatten(0, 1).to(a.dtype)
        return OuterFactor(torch.cat([a, positions]), torch.cat([g, more.flatten(0, 1)]), False)

    def dense(self, shape: torch.Size) -> Tensor:
        """The gradient, ``[c, *shape]``."""
        parts = [self.part(rows) for rows in self.slices()]
        return torch.cat([p.dense(torch.Size((p.cotangents.shape[2], shape[1]))) for p in parts], 1)


@dataclass(frozen=True)
class DenseFactor:
    """The gradient itself."""

    grad: Tensor  # [c, *shape]
    bound: Tensor | None = None  # ‖g‖·‖a‖ of every entry, [c, *shape]

    def dense(self, shape: torch.Size) -> Tensor:
        """The gradient, ``[c, *shape]``."""
        return self.grad


Factor = OuterFactor | RowFactor | HeadFactor | DenseFactor


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type of the products: float64 for float64 factors, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def zero_like(factor: Factor) -> Factor:
    """The factor of a zero gradient, of the kind of `factor`."""
    if isinstance(factor, OuterFactor):
        return OuterFactor(factor.inputs[:0], factor.cotangents[:0], factor.transposed)
    if isinstance(factor, RowFactor):
        return RowFactor(factor.ids[:0], factor.rows[:0])
    if isinstance(factor, HeadFactor):
        names = ("inputs", "cotangents", "targets", "logsumexp")
        none: dict[str, Any] = {name: getattr(factor, name)[:0] for name in names}
        return replace(factor, **none, added=None)
    return DenseFactor(torch.zeros_like(factor.grad))


def of_logit(factor: Factor, k: int, logits: int) -> Factor:
    """The factor of several logits of which `factor`, of one, is the k-th; others are 0."""

    def placed(x: Tensor, axis: int) -> Tensor:
        out = x.new_zeros(*x.shape[:axis], logits, *x.shape[axis + 1 :])
        out.narrow(axis, k, 1).copy_(x)
        return out

    if isinstance(factor, OuterFactor):
        return replace(factor, cotangents=placed(factor.cotangents, 1))
    if isinstance(factor, RowFactor):
        bound = None if factor.bound is None else placed(factor.bound, 1)
        return RowFactor(factor.ids, placed(factor.rows, 1), bound)
    if isinstance(factor, HeadFactor):
        added = None if factor.added is None else of_logit(factor.added, k, logits)
        assert not isinstance(added, OuterFactor | HeadFactor | DenseFactor)
        return replace(factor, cotangents=placed(factor.cotangents, 1), added=added)
    bound = None if factor.bound is None else placed(factor.bound, 0)
    return DenseFactor(placed(factor.grad, 0), bound)


def nbytes(factors: Iterable[Factor]) -> int:
    """Bytes that the tensors of `factors` hold, but for the model's own; what several share counts
    once. A `HeadFactor` counts the rows that are made of it at a time.
    """
    factors = list(factors)
    made = [
        f.cotangents.numel() * f.cotangents.element_size() * min(HEAD_ROWS, len(f.weight))
        for f in factors
        if isinstance(f, HeadFactor)
    ]
    listed = [part for f in factors for part in (f, getattr(f, "added", None))]
    tensors = [
        v
        for f in listed
        for name, v in (vars(f).items() if f is not None else ())
        if isinstance(v, Tensor) and not (isinstance(f, HeadFactor) and name in _MODEL)
    ]
    held = {(t.data_ptr(), t.numel()): t.numel() * t.element_size() for t in tensors}
    return sum(held.values()) + sum(made)


_MODEL = ("weight", "bias")  # of a `HeadFactor`


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
        if use.kind in (Kind.HEAD, Kind.HEAD_SUM):
            heads = self._heads(use, g)
            return heads if use.kind is Kind.HEAD else [self._head_sum(head) for head in heads]
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

    def _heads(self, use: Use, g: Tensor) -> list[HeadFactor]:
        assert use.input is not None
        assert use.decoder is not None
        weight, bias = use.decoder.weight.detach(), use.decoder.bias
        bias = None if bias is None else bias.detach()
        factors = []
        for i in range(self.batch):
            at = (use.decoder.live[i] & (g[:, i] != 0).any(0)).nonzero()[:, 0]
            a, y = use.input.detach()[i, at], use.decoder.targets[i, at]
            if a.dtype in (torch.float32, torch.float64):
                score = (a * weight[y]).sum(-1) + (0 if bias is None else bias[y])
                logsumexp = score - use.call.output.detach()[i, at]
            else:  # to which one score, rounded otherwise, would be too coarse
                logsumexp = log_normalizers(a, weight, bias)
            factors.append(HeadFactor(a, g[:, i, at].T, y, logsumexp, weight, bias))
        return factors

    def _head_sum(self, head: HeadFactor) -> DenseFactor:
        parts = [head.part(rows).cotangents for rows in head.slices()]
        grad = torch.cat([g.sum(0) for g in parts], 1)
        if not self.bounded:
            return DenseFactor(grad)
        bound = torch.cat([position_norm(g)[0] for g in parts], 1)
        typical = bound.square().mean(-1, keepdim=True).sqrt()  # as in `_summed`
        return DenseFactor(grad, torch.maximum(bound, typical))

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
    if any(isinstance(p, HeadFactor) for p in parts):
        return _merge_heads(parts, shape, bounded)
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
    return _merge_dense(parts, shape, bounded)


def _merge_dense(parts: Sequence[Factor], shape: torch.Size, bounded: bool) -> DenseFactor:
    grad = torch.stack([p.dense(shape) for p in parts]).sum(0)
    if not bounded:
        return DenseFactor(grad)
    return DenseFactor(grad, torch.stack([bound_of(p).dense(shape) for p in parts]).sum(0))


def _merge_heads(parts: Sequence[Factor], shape: torch.Size, bounded: bool) -> Factor:
    """The factor of a decoder, and of the embedding if it is tied to it."""
    heads = [p for p in parts if isinstance(p, HeadFactor)]
    tables = [p for p in parts if isinstance(p, RowFactor)]
    if len(heads) + len(tables) < len(parts):
        return _merge_dense(parts, shape, bounded)
    tables += [h.added for h in heads if h.added is not None]
    names = ("inputs", "cotangents", "targets", "logsumexp")
    joined: dict[str, Any] = {n: torch.cat([getattr(h, n) for h in heads]) for n in names}
    return replace(heads[0], **joined, added=_merge_rows(tables, bounded) if tables else None)


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
    if isinstance(factor, HeadFactor):
        added = None if factor.added is None else bound_of(factor.added)
        assert not isinstance(added, OuterFactor | HeadFactor | DenseFactor)
        return replace(factor, added=added, bounds=True)
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

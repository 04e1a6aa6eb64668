"""From gradient factors to packed signs: form, threshold and pack while entries are in cache.

Every example's gradient of a weight is formed on its own, a tile of rows at a time that stays in
cache, and only the bits of two comparisons leave it. An entry x, divided by its bound ‖g‖·‖a‖, is
positive where x > τ and noise where −τ ≤ x ≤ τ, so that the bits of x > τ and of x ≥ −τ tell all;
where they agree, as in nearly every word, nothing is left to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from subkern.gradients.chunks import Chunk, chunks
from subkern.gradients.factors import (
    DenseFactor,
    Factor,
    HeadFactor,
    OuterFactor,
    RowFactor,
    bound_of,
    position_norm,
    work_dtype,
)
from subkern.kernels.engines.signs.rows import WORD, Layout, Planes, Words, join

_FULL = np.uint64(2**64 - 1)
_TILE_BYTES = 8 * 2**20  # formed at a time of all examples together, in (the last) cache
_CORE_BYTES = 2**21  # formed at a time of one example: a core's share of the last cache


def pack(
    factors: Sequence[Factor], shape: torch.Size, num_logits: int, zero_tolerance: float
) -> tuple[Planes | None, int]:
    """Signs of one parameter's gradients of k examples, and the entries set to 0 as noise.

    None where every entry is 0.
    """
    layout = Layout.of(shape)
    outers = [f for f in factors if isinstance(f, OuterFactor)]
    whole_words = layout.rows == 1 and layout.row_size % WORD == 0
    if whole_words and len(outers) == len(factors) and outers[0].inputs.device.type == "cpu":
        planes, zeroed = _pack_outers(outers, shape[0], layout, num_logits, zero_tolerance)
        return planes if len(planes.present) else None, zeroed
    parts, zeroed = [], 0
    for chunk in _chunks(factors, shape, num_logits, zero_tolerance, layout):
        part, count = _pack_chunk(chunk, layout, zero_tolerance)
        zeroed += count
        if len(part.present):
            parts.append(part)
    return join(parts) if parts else None, zeroed


def _chunks(
    factors: Sequence[Factor], shape: torch.Size, c: int, tolerance: float, layout: Layout
) -> Iterator[Chunk]:
    """Gradients, with every entry divided by its bound ‖g‖·‖a‖ where noise is looked for."""
    width = _width(factors, layout, c)
    if not tolerance:
        yield from chunks(factors, shape, c, width)
    elif not any(isinstance(f, HeadFactor) for f in factors):
        yield from chunks([_relative(f) for f in factors], shape, c, width)
    else:  # of which the quotient is no factor
        bounds = chunks([bound_of(f) for f in factors], shape, c, width)
        for chunk, bound in zip(chunks(factors, shape, c, width), bounds, strict=True):
            yield Chunk(chunk.rows / _positive(bound.rows), chunk.first, chunk.row_size)


def _pack_outers(
    factors: Sequence[OuterFactor], rows: int, layout: Layout, c: int, tolerance: float
) -> tuple[Planes, int]:
    """Planes of a weight of so many `rows` of whole words, gradient by gradient."""
    signs = np.empty((len(factors) * c, rows, layout.words), dtype=np.uint64)
    dtype = work_dtype(factors[0].inputs.dtype)
    step = min(rows, max(1, _CORE_BYTES // (layout.row_size * dtype.itemsize)))
    tile = torch.empty(step, layout.row_size, dtype=dtype)
    flags = np.empty(tile.numel(), dtype=np.bool_)
    found: list[tuple[int, npt.NDArray[np.intp], Words]] = []
    nonzero = 0  # entries of the words that hold noise
    for gradient, (left, right) in enumerate(_operands(factors, tolerance)):
        for start in range(0, rows, step):
            here = slice(start, min(start + step, rows))
            formed = torch.mm(left[here], right, out=tile[: here.stop - start])
            words = formed.numpy().reshape(-1, WORD)
            positive, noise = _signs_and_noise(words, flags[: words.size], tolerance)
            signs[gradient, here] = positive.reshape(-1, layout.words)
            at = np.flatnonzero(noise != 0)
            nonzero += int(np.count_nonzero(words[at]))
            found.append((gradient, at + start * layout.words, noise[at]))
    mixed, zeros = _by_word(found)
    zeroed = nonzero - WORD * len(zeros) + int(np.bitwise_count(zeros).sum())
    flat = signs.reshape(len(signs), -1)
    planes = Planes(layout, np.arange(rows), flat, mixed, ~zeros)
    return planes.only(_touched(planes)), zeroed


def _by_word(
    found: Sequence[tuple[int, npt.NDArray[np.intp], Words]],
) -> tuple[npt.NDArray[np.int32], Words]:
    """Gradients, words and the zeros in them as (gradient, word) ``[Q, 2]`` and zeros ``[Q]``."""
    gradients = np.repeat([g for g, _, _ in found], [len(at) for _, at, _ in found])
    mixed = np.stack([gradients, np.concatenate([at for _, at, _ in found])], axis=1)
    order = np.argsort(mixed[:, 1], kind="stable")
    return mixed[order].astype(np.int32), np.concatenate([z for _, _, z in found])[order]


def _operands(
    factors: Sequence[OuterFactor], tolerance: float
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Of every gradient ``[rows, t]`` and ``[t, row_size]``, whose product it is."""
    for factor in factors:
        scaled = _relative_outer(factor) if tolerance else factor
        dtype = work_dtype(factor.inputs.dtype)
        a, g = scaled.inputs.to(dtype), scaled.cotangents.to(dtype)
        for cotangents in g.unbind(1):
            left, right = (a, cotangents) if factor.transposed else (cotangents, a)
            yield left.T.contiguous(), right  # the products of tiles are much faster then


def _signs_and_noise(
    entries: npt.NDArray[np.floating], flags: npt.NDArray[np.bool_], tolerance: float
) -> tuple[Words, Words]:
    """Bits of ``[w, 64]`` entries that are positive and that are noise, ``[w]`` each."""
    flat = entries.reshape(-1)
    bound = flat.dtype.type(tolerance)
    positive = np.packbits(np.greater(flat, bound, out=flags), bitorder="little").view(np.uint64)
    np.greater_equal(flat, -bound, out=flags)
    not_negative = np.packbits(flags, bitorder="little").view(np.uint64)
    return positive, np.bitwise_xor(positive, not_negative, out=not_negative)


def _touched(planes: Planes) -> npt.NDArray[np.int64]:
    """Blocks in which some gradient has an entry other than 0."""
    zero = planes.mixed[planes.masks == 0, 1] // planes.layout.words
    size = len(planes.signs) * planes.layout.words
    return planes.present[np.bincount(zero, minlength=len(planes.present)) < size]


def _width(factors: Sequence[Factor], layout: Layout, num_logits: int) -> int:
    """Coordinates of a chunk: whole blocks, as many as stay in cache."""
    if layout.rows > 1 and all(isinstance(f, RowFactor) for f in factors):
        return 2**62  # rows of one block must not fall into two chunks
    fit = _TILE_BYTES // (4 * len(factors) * num_logits)
    return max(1, fit // layout.size) * layout.size


def _relative(factor: Factor) -> Factor:
    """`factor` with every entry divided by its bound ‖g‖·‖a‖, which is 0 only where it is."""
    if isinstance(factor, OuterFactor):
        return _relative_outer(factor)
    bound = bound_of(factor)
    if isinstance(factor, RowFactor) and isinstance(bound, RowFactor):
        return RowFactor(factor.ids, factor.rows / _positive(bound.rows))
    assert isinstance(factor, DenseFactor)
    assert isinstance(bound, DenseFactor)
    return DenseFactor(factor.grad / _positive(bound.grad))


def _relative_outer(factor: OuterFactor) -> OuterFactor:
    a, g = (x / _positive(position_norm(x)) for x in (factor.inputs, factor.cotangents))
    return OuterFactor(a, g, factor.transposed)


def _positive(bound: torch.Tensor) -> torch.Tensor:
    """`bound` with a number where it is 0: so small that what it divides is no noise."""
    return bound.clamp_min(torch.finfo(bound.dtype).tiny)


def _pack_chunk(chunk: Chunk, layout: Layout, tolerance: float) -> tuple[Planes, int]:
    """Planes of the blocks of one chunk, places counted from 0, and the entries set to 0."""
    entries = chunk.rows.flatten(0, 1).cpu().numpy()  # [M, w]
    blocks, place = _blocks(chunk, layout)
    positive = _packed(entries > tolerance, place, len(blocks), layout)
    nonzero = _packed(entries < -tolerance, place, len(blocks), layout)
    np.bitwise_or(nonzero, positive, out=nonzero)
    zeroed = _count_zeroed(entries, nonzero) if tolerance else 0
    touched = nonzero.any(axis=(0, 2))
    if not touched.all():
        blocks, positive, nonzero = blocks[touched], positive[:, touched], nonzero[:, touched]
    positive, nonzero = (x.reshape(len(x), -1) for x in (positive, nonzero))
    at, gradients = np.nonzero((nonzero != _FULL).T)  # what pads a block is 0 too
    mixed = np.stack([gradients, at], axis=1).astype(np.int32)
    return Planes(layout, blocks, positive, mixed, nonzero[gradients, at]), zeroed


def _count_zeroed(entries: npt.NDArray[np.floating], nonzero: Words) -> int:
    """Entries that are not 0 and not in `nonzero` ``[M, B, words]``; those in full words are."""
    flags = nonzero.reshape(len(nonzero), -1)
    if entries.shape[1] == flags.shape[1] * WORD:
        at = np.nonzero(flags != _FULL)
        entries, flags = entries.reshape(*flags.shape, WORD)[at], flags[at]
    return int(np.count_nonzero(entries)) - int(np.bitwise_count(flags).sum())


def _blocks(
    chunk: Chunk, layout: Layout
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
    """Blocks ``[B]`` of a chunk and where its rows go among their rows; None: as they stand."""
    first = chunk.first.cpu().numpy()
    if layout.rows == 1:
        return first, None
    blocks, inverse = np.unique(first // layout.rows, return_inverse=True)
    place = inverse * layout.rows + first % layout.rows
    whole = len(first) == len(blocks) * layout.rows
    return blocks, None if whole else place


def _packed(
    flags: npt.NDArray[np.bool_], place: npt.NDArray[np.int64] | None, count: int, layout: Layout
) -> Words:
    """Flags ``[M, w]`` as words ``[M, count, words]``."""
    size, padded = layout.size, layout.words * WORD
    if place is not None:
        wide = np.zeros((len(flags), count * layout.rows, layout.row_size), dtype=np.bool_)
        wide[:, place] = flags.reshape(len(flags), -1, layout.row_size)
        flags = wide
    flags = flags.reshape(len(flags), count, size)
    if size < padded:
        flags = np.pad(flags, ((0, 0), (0, 0), (0, padded - size)))
    return np.packbits(flags, axis=-1, bitorder="little").view(np.uint64)

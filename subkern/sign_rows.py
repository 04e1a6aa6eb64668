"""Gradient signs of some examples, bit-packed, and their products.

A parameter's coordinates are cut into blocks: one row of its first axis each, or 512 coordinates or
so where rows are short. A block in which no example has a non-zero entry (an embedding row that no
token touches) is not there; of the others the sign plane is kept, one bit an entry, and of the
non-zero plane the words that hold a 0. So a row takes little more than 1/32 of its float32 form.

    ⟨s, s'⟩ = N − 2·popcount(s ⊕ s')      over N entries that are non-zero in both

Products are exact: integers below 2²⁴ in float32 or int8 products, popcounts else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from subkern.factors import Dense, Factor, Outer, Rows, bound_of, work_dtype
from subkern.files import replacing
from subkern.gradients import Chunk, chunks

Words = npt.NDArray[np.uint64]
WORD = 64
_FULL = np.uint64(2**64 - 1)
_SHORT = 64  # rows of fewer coordinates share a block
_BLOCK = 512  # coordinates of such a block
_TILE_BYTES = 8 * 2**20  # formed at a time: enough rows for fast products, and in (the last) cache


@dataclass(frozen=True)
class Layout:
    """How the coordinates of one parameter are cut into blocks.

    Attributes:
        rows: rows of the first axis that a block spans.
        row_size: coordinates of one such row.
        words: 64-bit words of a block.
    """

    rows: int
    row_size: int
    words: int

    @classmethod
    def of(cls, shape: torch.Size) -> Layout:
        """The layout of a parameter of `shape`."""
        row_size = max(1, int(torch.Size(shape[1:]).numel()))
        rows = 1 if row_size >= _SHORT else _BLOCK // row_size
        return cls(rows, row_size, -(-rows * row_size // WORD))

    @property
    def size(self) -> int:
        """Coordinates of a block."""
        return self.rows * self.row_size


@dataclass(frozen=True)
class Planes:
    """Packed signs of M gradients (examples × logits) of one parameter.

    Attributes:
        layout: what a block is.
        present: blocks with a non-zero entry, ascending, ``[P]`` int64.
        signs: bit 1 where an entry is positive, ``[M, P·words]``.
        mixed: (gradient, word) of words that hold a 0, by word, ``[Q, 2]`` int32.
        masks: bit 1 where an entry of those is not 0, ``[Q]``.
    """

    layout: Layout
    present: npt.NDArray[np.int64]
    signs: Words
    mixed: npt.NDArray[np.int32]
    masks: Words

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(a.nbytes for a in (self.present, self.signs, self.mixed, self.masks))

    def words(self, blocks: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
        """Where the words of `blocks` stand, all of which are present."""
        places = np.searchsorted(self.present, blocks)
        return (places[:, None] * self.layout.words + np.arange(self.layout.words)).ravel()

    def unpack(self, words: npt.NDArray[np.intp]) -> npt.NDArray[np.int8]:
        """Entries −1, 0 or 1 of some words (ascending), ``[M, 64·len]``."""
        entries = _bits(self.signs[:, words])
        entries *= 2
        entries -= 1
        first, last = np.searchsorted(self.mixed[:, 1], [words[0], words[-1] + 1])
        gradients, at = self.mixed[first:last].T
        places = np.searchsorted(words, at)
        here = words[places] == at
        entries[gradients[here], places[here]] *= _bits(self.masks[first:last][here])
        return entries.reshape(len(entries), -1)


def _bits(words: Words) -> npt.NDArray[np.int8]:
    """Words ``[…]`` as bits 0 and 1 ``[…, 64]``."""
    flat = np.ascontiguousarray(words).view(np.uint8)
    bits = np.unpackbits(flat, axis=-1, bitorder="little").view(np.int8)
    return bits.reshape(*words.shape, WORD)


def pack(
    factors: Sequence[Factor], shape: torch.Size, num_logits: int, zero_tolerance: float
) -> tuple[Planes | None, int]:
    """Signs of one parameter's gradients of k examples, and the entries set to 0 as noise.

    None where every entry is 0.
    """
    layout = Layout.of(shape)
    relative = [_relative(f) for f in factors] if zero_tolerance else list(factors)
    parts, zeroed, start = [], 0, 0
    for chunk in chunks(relative, shape, num_logits, _width(relative, layout, num_logits)):
        part, count = _pack_chunk(chunk, layout, zero_tolerance)
        zeroed += count
        if len(part.present):
            parts.append(part)
            part.mixed[:, 1] += start
            start += part.signs.shape[1]
    if not parts:
        return None, zeroed
    return Planes(
        layout,
        np.concatenate([p.present for p in parts]),
        np.concatenate([p.signs for p in parts], axis=1),
        np.concatenate([p.mixed for p in parts]),
        np.concatenate([p.masks for p in parts]),
    ), zeroed


def _width(factors: Sequence[Factor], layout: Layout, num_logits: int) -> int:
    """Coordinates of a chunk: whole blocks, as many as stay in cache."""
    if layout.rows > 1 and all(isinstance(f, Rows) for f in factors):
        return 2**62  # rows of one block must not fall into two chunks
    fit = _TILE_BYTES // (4 * len(factors) * num_logits)
    return max(1, fit // layout.size) * layout.size


def _relative(factor: Factor) -> Factor:
    """`factor` with every entry divided by its bound ‖g‖·‖a‖, which is 0 only where it is."""
    bound = bound_of(factor)
    if isinstance(factor, Outer) and isinstance(bound, Outer):
        a, g = (x.to(work_dtype(x.dtype)) for x in (factor.inputs, factor.cotangents))
        return Outer(
            a / _positive(bound.inputs), g / _positive(bound.cotangents), factor.transposed
        )
    if isinstance(factor, Rows) and isinstance(bound, Rows):
        return Rows(factor.ids, factor.rows / _positive(bound.rows))
    assert isinstance(factor, Dense)
    assert isinstance(bound, Dense)
    return Dense(factor.grad / _positive(bound.grad))


def _positive(bound: torch.Tensor) -> torch.Tensor:
    """`bound` with a number where it is 0: so small that what it divides is no noise."""
    tiny = torch.finfo(bound.dtype).tiny
    return bound.masked_fill(bound == 0, tiny)


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


@dataclass(frozen=True)
class SignRows:
    """Packed gradient signs of k examples.

    Attributes:
        planes: parameter name → planes ``[k·c, …]``; absent where all are 0. In memory or on disk.
        logits: f₀ ``[k, c]``.
        zeroed: entries set to 0 as rounding noise.
        nbytes: bytes of all planes.
    """

    planes: Mapping[str, Planes]
    logits: npt.NDArray[np.float64]
    zeroed: int
    nbytes: int

    def save(self, path: Path) -> SignRows:
        """Write to `path`, whole or not at all, and return what reads it from there."""
        arrays: dict[str, npt.NDArray[np.generic]] = {"logits": self.logits}
        for name, planes in self.planes.items():
            for part in _PARTS:
                arrays[f"{part}/{name}"] = np.ascontiguousarray(getattr(planes, part))
            arrays[f"layout/{name}"] = np.array([planes.layout.rows, planes.layout.row_size])
        metadata = {"zeroed": str(self.zeroed), "nbytes": str(self.nbytes)}
        with replacing(path) as partial:
            save_file(arrays, partial, metadata)
        return read_rows(path)


_PARTS = ("present", "signs", "mixed", "masks")


def read_rows(path: Path) -> SignRows:
    """Rows that `SignRows.save` wrote; planes are read one parameter at a time, when asked for."""
    stored = _Stored(path)
    metadata = stored.file.metadata()
    logits = stored.file.get_tensor("logits")
    return SignRows(stored, logits, int(metadata["zeroed"]), int(metadata["nbytes"]))


class _Stored(Mapping[str, Planes]):
    """Planes in a file, which is mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.file = safe_open(path, framework="numpy")
        keys = self.file.keys()
        self.names = [k.removeprefix("layout/") for k in keys if k.startswith("layout/")]
        self.known = set(self.names)

    def __getitem__(self, name: str) -> Planes:
        if name not in self.known:
            raise KeyError(name)
        rows, row_size = self.file.get_tensor(f"layout/{name}").tolist()
        layout = Layout(rows, row_size, -(-rows * row_size // WORD))
        return Planes(layout, *(self.file.get_tensor(f"{part}/{name}") for part in _PARTS))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

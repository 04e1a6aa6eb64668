"""Gradient signs of some examples, bit-packed, and their products.

A parameter's coordinates are cut into blocks: one row of its first axis each, or 512 coordinates or
so where rows are short. A block in which no example has a non-zero entry (an embedding row that no
token touches) is not there; of the others the sign plane is kept, one bit an entry, and of the
non-zero plane the words that hold a 0. So a row takes little more than 1/32 of its float32 form.

`signs.pack` makes them from factors, `signs.products` multiplies them.
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

from subkern.storage.files import replacing

Words = npt.NDArray[np.uint64]
WORD = 64
_SHORT = 64  # rows of fewer coordinates share a block
_BLOCK = 512  # coordinates of such a block


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
        signs: bit 1 where an entry is positive (0 where it is 0), ``[M, P·words]``.
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

    def only(self, blocks: npt.NDArray[np.int64]) -> Planes:
        """Planes of some blocks (ascending), all of which are present."""
        if len(blocks) == len(self.present):
            return self
        places = np.searchsorted(self.present, blocks)
        words = (places[:, None] * self.layout.words + np.arange(self.layout.words)).ravel()
        moved = np.full(self.signs.shape[1], -1, dtype=np.int32)
        moved[words] = np.arange(len(words), dtype=np.int32)
        mixed = np.stack([self.mixed[:, 0], moved[self.mixed[:, 1]]], axis=1)
        kept = mixed[:, 1] >= 0
        return Planes(self.layout, blocks, self.signs[:, words], mixed[kept], self.masks[kept])

    def within(self, start: int, stop: int) -> slice:
        """Which of `mixed` are of the words from `start` to `stop`."""
        return slice(*np.searchsorted(self.mixed[:, 1], [start, stop]).tolist())

    def unpack(self, start: int, stop: int) -> npt.NDArray[np.int8]:
        """Entries −1, 0 or 1 of the words from `start` to `stop`, ``[M, 64·(stop − start)]``."""
        entries = _bits(self.signs[:, start:stop])
        entries *= 2
        entries -= 1
        here = self.within(start, stop)
        gradients, at = self.mixed[here].T
        entries[gradients, at - start] *= _bits(self.masks[here])
        return entries.reshape(len(entries), -1)


def _bits(words: Words) -> npt.NDArray[np.int8]:
    """Words ``[…]`` as bits 0 and 1 ``[…, 64]``."""
    flat = np.ascontiguousarray(words).view(np.uint8)
    bits = np.unpackbits(flat, axis=-1, bitorder="little").view(np.int8)
    return bits.reshape(*words.shape, WORD)


def join(parts: Sequence[Planes]) -> Planes:
    """Planes of consecutive blocks of the same gradients, one after the other."""
    starts = np.cumsum([0, *(p.signs.shape[1] for p in parts)]).tolist()
    moved = [
        p.mixed + np.array([0, start], np.int32) for p, start in zip(parts, starts, strict=False)
    ]
    return Planes(
        parts[0].layout,
        np.concatenate([p.present for p in parts]),
        np.concatenate([p.signs for p in parts], axis=1),
        np.concatenate(moved),
        np.concatenate([p.masks for p in parts]),
    )


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

    def save(self, path: Path, *, kept: bool = True) -> SignRows:
        """Write to `path`, whole or not at all, and return what reads it from there.

        Unless they are ``kept``, they serve this process only.
        """
        arrays: dict[str, npt.NDArray[np.generic]] = {"logits": self.logits}
        for name, planes in self.planes.items():
            for part in _PARTS:
                arrays[f"{part}/{name}"] = np.ascontiguousarray(getattr(planes, part))
            arrays[f"layout/{name}"] = np.array([planes.layout.rows, planes.layout.row_size])
        metadata = {"zeroed": str(self.zeroed), "nbytes": str(self.nbytes)}
        with replacing(path, kept=kept) as partial:
            save_file(arrays, partial, metadata)
        return read_rows(path)


_PARTS = ("present", "signs", "mixed", "masks")


def read_rows(path: Path) -> SignRows:
    """Rows that `SignRows.save` wrote; planes are read one parameter at a time, when asked for."""
    stored = _MappedPlanes(path)
    metadata = stored.file.metadata()
    logits = stored.file.get_tensor("logits")
    return SignRows(stored, logits, int(metadata["zeroed"]), int(metadata["nbytes"]))


class _MappedPlanes(Mapping[str, Planes]):
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

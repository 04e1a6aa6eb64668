"""The three constructions behind the six kinds of projection, made in tiles and never stored.

Every map sends rows of gradients ``[R, w]``, which stand at consecutive coordinates of a parameter,
to sums ``[R, width]`` from which the projections to **all** dimensions d up to some D are read:

* `IidColumns` (gaussian, rademacher, sparse): independent entries; the first d columns serve d;
* `Strata` (very_sparse): as these, but one non-zero entry per column in each stretch of s = √size
  coordinates: O(P·d/s) a row;
* `Fold` (count_sketch, srht): a signed sum into B buckets, O(P) a row whatever d, from which a
  bucket sum or a Hadamard transform of length B makes d numbers.

What a map does at a coordinate depends on (seed, parameter name, coordinate) alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import isqrt
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri
from torch import Tensor

from subkern.projections.hadamard import hadamard
from subkern.projections.random_words import Stream

Array = npt.NDArray[np.float32]

COLUMNS = 64  # columns of a projection that one random stream gives
LEVELS = 1 << 16  # of a gaussian entry
SPARSE_CUT = 21845  # a 16-bit number beyond ±this is a non-zero entry
SPARSITY = LEVELS / (2 * ((1 << 15) - SPARSE_CUT))  # Achlioptas' s: 3 to 3e-5
_TILE = 1 << 20  # entries of a projection formed at a time: 4 MiB, in cache


class Map(Protocol):
    """One random linear map of the coordinates, for all dimensions up to some D."""

    width: int

    def add(self, sums: Tensor, rows: Tensor, name: str, size: int, start: int) -> None:
        """Add rows ``[R, w]`` at coordinates from `start` of parameter `name` to `sums`.

        Args:
            sums: ``[R, width]``, of the type of `rows`.
            rows: gradient entries.
            name: parameter.
            size: its coordinates in all.
            start: first coordinate of `rows`.
        """
        ...

    def read(self, sums: Tensor, kind: str, dim: int) -> Tensor:
        """Projection ``[R, dim]`` of `kind` from `sums`, scaled so that E[PPᵀ] = I."""
        ...

    def unread(self, z: Tensor, kind: str) -> Tensor:
        """The transpose of reading: z ``[dim]`` → one number for each sum it is read from."""
        ...

    def spread(self, sums: Tensor, name: str, size: int) -> Tensor:
        """The transpose of adding: ``sums`` of `unread` → P z ``[size]`` at one parameter."""
        ...


@cache
def gaussian_table() -> Array:
    """N(0, 1) at 2¹⁶ equally probable levels, scaled to variance 1; ``[LEVELS]``, sorted."""
    levels = ndtri((np.arange(LEVELS) + 0.5) / LEVELS)
    return np.asarray(levels / np.sqrt(np.mean(levels**2)), dtype=np.float32)


@cache
def kurtosis(kind: str) -> float:
    """E[p⁴] of an entry of variance 1: 3 for gaussian (at its levels), 1 for ±1, s for sparse."""
    if kind == "gaussian":
        return float(np.mean(gaussian_table().astype(np.float64) ** 4))
    return {"rademacher": 1.0, "sparse": SPARSITY}[kind]


@cache
def _signs_of_bytes() -> Array:
    """±1 for each bit of a byte, lowest first, ``[256, 8]``: eight entries a look-up."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    return (2 * bits - 1).astype(np.float32)


def _signs(octets: npt.NDArray[np.uint8]) -> Array:
    """±1 for the bits of each byte, ``[…, 8]``, float32."""
    out = np.empty((*octets.shape, 8), dtype=np.float32)
    # A look-up of 32 bytes an octet; "clip" lets NumPy write to `out` without a buffer.
    return np.take(_signs_of_bytes(), octets, axis=0, out=out, mode="clip")


class IidColumns:
    """Independent entries of variance 1.

    The stream of (seed, kind, name, block of 64 columns) gives a coordinate's 64 entries: one word
    of 64 bits for ±1, sixteen words for 16-bit entries.

    Args:
        kind: ``gaussian``, ``rademacher`` or ``sparse``.
        seed: seed.
        width: D, most columns asked for.
    """

    def __init__(self, kind: str, seed: int, width: int) -> None:
        self.kind, self.seed, self.width = kind, seed, width

    def add(self, sums: Tensor, rows: Tensor, name: str, size: int, start: int) -> None:
        """Add ``rows @ P[start : start + w]``."""
        for at, tile in self._tiles(name, start, rows.shape[1], self.width):
            entries = torch.from_numpy(tile).to(rows)
            sums.addmm_(rows[:, at : at + len(tile)], entries)

    def read(self, sums: Tensor, kind: str, dim: int) -> Tensor:
        """The first `dim` columns, over √dim."""
        return sums[:, :dim] / dim**0.5

    def unread(self, z: Tensor, kind: str) -> Tensor:
        """``z / √dim``."""
        return z / len(z) ** 0.5

    def spread(self, sums: Tensor, name: str, size: int) -> Tensor:
        """The columns times `sums`, a tile of coordinates at a time."""
        tiles = self._tiles(name, 0, size, len(sums))
        return torch.cat([torch.from_numpy(tile).to(sums) @ sums for _, tile in tiles])

    def _tiles(self, name: str, start: int, count: int, dim: int) -> Iterator[tuple[int, Array]]:
        step = max(1, _TILE // dim)
        for at in range(0, count, step):
            yield at, self.entries(name, start + at, min(step, count - at), dim)

    def entries(self, name: str, start: int, count: int, dim: int) -> Array:
        """Entries before the 1/√d of `count` coordinates, ``[count, dim]``, float32."""
        per = 1 if self.kind == "rademacher" else 16
        blocks = -(-dim // COLUMNS)
        words = np.empty((count, blocks, per), dtype="<u8")
        for j in range(blocks):
            stream = Stream(self.seed, self.kind, name, j)
            words[:, j] = stream.words(start * per, count * per).reshape(count, per)
        flat = words.reshape(count, -1)
        if self.kind == "rademacher":
            octets = flat.view(np.uint8)[:, : -(-dim // 8)]
            return _signs(octets).reshape(count, -1)[:, :dim]
        if self.kind == "gaussian":
            return gaussian_table()[flat.view("<u2")[:, :dim].astype(np.intp)]
        short = flat.view("<i2")[:, :dim]
        signs = (short >= SPARSE_CUT).view(np.int8) - (short < -SPARSE_CUT).view(np.int8)
        return signs.astype(np.float32) * np.float32(SPARSITY**0.5)


class Strata:
    """Very sparse: each column has one ±√s in every s consecutive coordinates, s = √size.

    Li, Hastie and Church (2006) keep an entry with probability 1/s, independently; one per stretch
    has the same mean, needs no scatter and varies a little less. A stream of (seed, name, block of
    64 columns) gives a word for each stretch and column: the position from its upper half, the sign
    from its lowest bit.

    Args:
        seed: seed.
        width: D, most columns asked for.
    """

    def __init__(self, seed: int, width: int) -> None:
        self.seed, self.width = seed, width

    @staticmethod
    def sparsity(size: int) -> int:
        """S of a parameter of `size` coordinates."""
        return max(1, isqrt(size))

    def add(self, sums: Tensor, rows: Tensor, name: str, size: int, start: int) -> None:
        """Gather the non-zero coordinates of each column and add them up."""
        places, values = self.entries(name, size, start, rows.shape[1], self.width)
        across = rows.T.contiguous()  # a coordinate's R entries side by side: fast to gather
        step = max(1, _TILE // (self.width * len(rows)))
        for at in range(0, len(places), step):
            here = torch.from_numpy(places[at : at + step]).to(rows.device)
            signed = torch.from_numpy(values[at : at + step]).to(rows)
            taken = across.index_select(0, here.flatten()).view(*here.shape, len(rows))
            sums += taken.mul_(signed[..., None]).sum(0).T

    def read(self, sums: Tensor, kind: str, dim: int) -> Tensor:
        """The first `dim` columns, over √dim."""
        return sums[:, :dim] / dim**0.5

    def unread(self, z: Tensor, kind: str) -> Tensor:
        """``z / √dim``."""
        return z / len(z) ** 0.5

    def spread(self, sums: Tensor, name: str, size: int) -> Tensor:
        """Scatter the entries of each column, some whole stretches at a time."""
        s = self.sparsity(size)
        step = s * max(1, _TILE // len(sums))
        out = sums.new_zeros(size)
        for start in range(0, size, step):
            count = min(step, size - start)
            places, values = self.entries(name, size, start, count, len(sums))
            terms = torch.from_numpy(values).to(sums) * sums
            at = torch.from_numpy(places).to(sums.device)
            out[start : start + count].index_add_(0, at.flatten(), terms.flatten())
        return out

    def entries(
        self, name: str, size: int, start: int, count: int, dim: int
    ) -> tuple[npt.NDArray[np.int64], Array]:
        """Positions in ``[0, count)`` and entries of each stretch and column, ``[k, dim]``.

        Where a stretch's entry lies outside the asked coordinates, it is 0 (at position 0).
        """
        s = self.sparsity(size)
        first, last = start // s, -(-(start + count) // s)
        blocks = -(-dim // COLUMNS)
        drawn = np.empty((last - first, blocks, COLUMNS), dtype="<u8")
        for j in range(blocks):
            stream = Stream(self.seed, "very_sparse", name, j)
            part = stream.words(first * COLUMNS, (last - first) * COLUMNS)
            drawn[:, j] = part.reshape(-1, COLUMNS)
        words = drawn.reshape(last - first, -1)[:, :dim]
        within = ((words >> np.uint64(32)) * np.uint64(s)) >> np.uint64(32)
        places = within.astype(np.int64) + (np.arange(first, last) * s - start)[:, None]
        inside = (places >= 0) & (places < count)
        signs = (2 * (words & np.uint64(1)).astype(np.int8) - 1) * inside
        return np.where(inside, places, 0), signs.astype(np.float32) * np.float32(s**0.5)


class Fold:
    """Signed sums of the coordinates in B = 2^k buckets.

    A parameter is cut into blocks of B coordinates. Each entry gets a random sign, each block a
    random cyclic shift; blocks are added up, those of all parameters to the same buckets. So two
    coordinates of one block never meet, two of different blocks meet with probability 1/B exactly,
    and everything runs over memory in order. From the sums z ``[B]`` and random permutations π, ρ:

    * count_sketch adds z_b into bucket π(b) mod d: sums for d come from those for a multiple of d;
    * srht shuffles z by ρ and takes rows π(0) … π(d-1) of its B × B Hadamard transform, over √d:
      every bucket reaches every output, and the first d rows serve d. Without ρ, few coordinates
      would stand side by side, where many Hadamard rows are alike.

    Args:
        seed: seed.
        width: B, a power of two.
    """

    def __init__(self, seed: int, width: int) -> None:
        self.seed, self.width = seed, width
        drawn = Stream(seed, "fold order", width).words(0, 2 * width).reshape(2, width)
        self.order, self.places = np.argsort(drawn, axis=1, kind="stable")  # π, ρ

    def shifts(self, name: str, first: int, count: int) -> npt.NDArray[np.int64]:
        """Shifts of blocks `first` to ``first + count`` of a parameter, 0 … B-1."""
        words = Stream(self.seed, "fold shift", self.width, name).words(first, count)
        return (words % np.uint64(self.width)).astype(np.int64)

    def signs(self, name: str, start: int, count: int) -> Array:
        """±1 of `count` coordinates from `start`, float32."""
        word, skip = divmod(start, 64)
        stream = Stream(self.seed, "fold sign", self.width, name)
        octets = stream.words(word, -(-(skip + count) // 64)).view(np.uint8)
        return _signs(octets).reshape(-1)[skip : skip + count]

    def pieces(self, name: str, start: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Stretches that go to consecutive buckets: (first in [0, count), length, bucket)."""
        width, end = self.width, start + count
        first = start // width
        shifts = self.shifts(name, first, -(-end // width) - first)
        for block, shift in enumerate(shifts.tolist(), first):
            at, stop = max(start, block * width), min(end, (block + 1) * width)
            while at < stop:
                bucket = (at - block * width + shift) % width
                length = min(stop - at, width - bucket)
                yield at - start, length, bucket
                at += length

    def add(self, sums: Tensor, rows: Tensor, name: str, size: int, start: int) -> None:
        """Add signed rows to their buckets."""
        signs = torch.from_numpy(self.signs(name, start, rows.shape[1])).to(rows)
        for at, length, bucket in self.pieces(name, start, rows.shape[1]):
            part = slice(at, at + length)
            sums[:, bucket : bucket + length].addcmul_(rows[:, part], signs[part])

    def read(self, sums: Tensor, kind: str, dim: int) -> Tensor:
        """Bucket sums, or sampled entries of the Hadamard transform over √dim."""
        order = torch.from_numpy(self.order).to(sums.device)
        if kind == "srht":
            places = torch.from_numpy(self.places).to(sums.device)
            return hadamard(sums[:, places])[:, order[:dim]] / dim**0.5
        return sums.new_zeros(len(sums), dim).index_add_(1, order % dim, sums)

    def unread(self, z: Tensor, kind: str) -> Tensor:
        """A number ``[B]`` for each bucket."""
        order = torch.from_numpy(self.order).to(z.device)
        if kind != "srht":
            return z[order % len(z)]
        sampled = z.new_zeros(1, self.width)
        sampled[0, order[: len(z)]] = z / len(z) ** 0.5
        sums = z.new_empty(self.width)
        sums[torch.from_numpy(self.places).to(z.device)] = hadamard(sampled)[0]
        return sums

    def spread(self, sums: Tensor, name: str, size: int) -> Tensor:
        """Each coordinate's bucket, signed."""
        out = torch.from_numpy(self.signs(name, 0, size)).to(sums)
        for at, length, bucket in self.pieces(name, 0, size):
            out[at : at + length] *= sums[bucket : bucket + length]
        return out

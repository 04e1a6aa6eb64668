"""Products of packed signs: by XOR and population count, or unpacked, whichever is faster here.

Unpacking costs n + m rows and its product little per pair; counting bits costs nothing but its
pairs. What each takes is timed once per process on a small block; both are exact, so the choice
never changes a number. Blocks that hold a 0 are always unpacked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from subkern.sign_rows import Layout, Planes, SignRows, Words

Matrix = npt.NDArray[np.float64]
_COORDINATES = 1 << 13  # unpacked at a time: far from the 2²⁴ that float32 counts exactly
_COUNTED = 1 << 15  # words of one XOR: they stay in cache


def product(left: SignRows, right: SignRows, device: torch.device | None = None) -> Matrix:
    """⟨sign g, sign g'⟩ summed over all parameters, ``[k·c, k'·c]`` float64, exact."""
    logits = left.logits.shape[1]
    out = np.zeros((len(left.logits) * logits, len(right.logits) * logits))
    for name in left.planes:
        if name in right.planes:
            mine = left.planes[name]
            out += planes_product(mine, mine if right is left else right.planes[name], device)
    return out


def planes_product(left: Planes, right: Planes, device: torch.device | None = None) -> Matrix:
    """Inner products of the signs of one parameter, ``[M, M']`` float64, exact."""
    common = np.intersect1d(left.present, right.present, assume_unique=True)
    places = [np.searchsorted(p.present, common) for p in (left, right)]
    if device is None or device.type == "cpu":
        counted = _faster_to_count(len(left.signs), len(right.signs))
    else:
        counted = False
    plain = np.zeros(len(common), dtype=np.bool_)
    out = np.zeros((len(left.signs), len(right.signs)))
    if counted:
        plain = ~(_is_mixed(left)[places[0]] | _is_mixed(right)[places[1]])
        out += _count(left, right, *(p[plain] for p in places))
    step = max(1, _COORDINATES // left.layout.size)
    mine, theirs = (p[~plain] for p in places)
    for start in range(0, len(mine), step):
        here = slice(start, start + step)
        out += _dot(left.unpack(mine[here]), right.unpack(theirs[here]), device)
    return out


def _is_mixed(planes: Planes) -> npt.NDArray[np.bool_]:
    mixed = np.zeros(len(planes.present), dtype=np.bool_)
    mixed[planes.mixed[:, 1]] = True
    return mixed


def _count(
    left: Planes, right: Planes, mine: npt.NDArray[np.intp], theirs: npt.NDArray[np.intp]
) -> Matrix:
    """Products over blocks without a 0, by XOR and population count."""
    words = left.layout.words
    step = max(1, _COUNTED // (words * len(right.signs)))
    differ = np.zeros((len(left.signs), len(right.signs)), dtype=np.int64)
    for start in range(0, len(mine), step):
        a = left.signs[:, mine[start : start + step]].reshape(len(left.signs), -1)
        b = right.signs[:, theirs[start : start + step]].reshape(len(right.signs), -1)
        _count_block(a, b, differ)
    return len(mine) * left.layout.size - 2.0 * differ


def _count_block(a: Words, b: Words, out: npt.NDArray[np.int64]) -> None:
    """Add to `out` ``[M, M']`` in how many bits the rows of `a` and `b` differ."""
    differ, counts = np.empty_like(b), np.empty(b.shape, dtype=np.uint8)
    for i, row in enumerate(a):
        np.bitwise_xor(row, b, out=differ)
        np.bitwise_count(differ, out=counts)
        out[i] += counts.sum(axis=1, dtype=np.uint32)


def _dot(
    left: npt.NDArray[np.int8], right: npt.NDArray[np.int8], device: torch.device | None
) -> Matrix:
    """Left @ right.T of entries −1, 0, 1: float32 on a CPU, int8 with int32 sums on a GPU."""
    if device is None or device.type == "cpu":
        return (left.astype(np.float32) @ right.astype(np.float32).T).astype(np.float64)
    a, b = (torch.from_numpy(_padded(x)).to(device) for x in (left, right))
    found = torch._int_mm(a, b.T).double().cpu().numpy()
    return np.asarray(found[: len(left), : len(right)])


def _padded(entries: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """`entries` with zeros up to the sizes that int8 products on a GPU take."""
    rows, columns = entries.shape
    return np.pad(entries, ((0, max(32, -(-rows // 8) * 8) - rows), (0, -columns % 16)))


def _faster_to_count(rows: int, columns: int) -> bool:
    unpack, multiply, count = _costs()
    return count * rows * columns < unpack * (rows + columns) + multiply * rows * columns


@cache
def _costs() -> tuple[float, float, float]:
    """Seconds per entry: of unpacking a row, of a product and of a count per pair of rows."""
    rows, words = 32, 128
    generator = np.random.default_rng(0)
    signs = generator.integers(0, 2**63, (rows, 1, words), dtype=np.uint64)
    none = np.zeros((0, 2), np.int64), np.zeros((0, words), np.uint64)
    planes = Planes(Layout(1, 64 * words, words), np.zeros(1, np.int64), signs, *none)
    entries = rows * 64 * words
    floats = planes.unpack(np.zeros(1, np.intp)).astype(np.float32)
    out = np.zeros((rows, rows), dtype=np.int64)
    unpack = _time(lambda: planes.unpack(np.zeros(1, np.intp)).astype(np.float32))
    multiply = _time(lambda: floats @ floats.T)
    count = _time(lambda: _count_block(signs[:, 0], signs[:, 0], out))
    return unpack / entries, multiply / entries / rows, count / entries / rows


def _time(task: Callable[[], object], repeats: int = 3) -> float:
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        task()
        best = min(best, time.perf_counter() - started)
    return best

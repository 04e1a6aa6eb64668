"""Products of packed signs: by XOR and population count, or unpacked, whichever is faster here.

Unpacking costs n + m rows and its product little per pair; counting bits costs nothing but its
pairs. What each takes is timed once per process on a small block; both are exact, so the choice
never changes a number. Words that hold a 0 are always unpacked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from subkern.sign_rows import WORD, Layout, Planes, SignRows, Words

Matrix = npt.NDArray[np.float64]
_UNPACKED = 128  # words unpacked at a time: 2¹³ entries, far from the 2²⁴ that float32 counts
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
    words = [planes.words(common) for planes in (left, right)]
    out = np.zeros((len(left.signs), len(right.signs)))
    on_cpu = device is None or device.type == "cpu"
    if on_cpu and _faster_to_count(*out.shape):
        plain = ~(_holds_zero(left)[words[0]] | _holds_zero(right)[words[1]])
        out += _count(left.signs, right.signs, *(w[plain] for w in words))
        words = [w[~plain] for w in words]
    for start in range(0, len(words[0]), _UNPACKED):
        mine, theirs = (w[start : start + _UNPACKED] for w in words)
        out += _dot(left.unpack(mine), right.unpack(theirs), None if on_cpu else device)
    return out


def _holds_zero(planes: Planes) -> npt.NDArray[np.bool_]:
    """Of every word whether some gradient has a 0 there."""
    found = np.zeros(planes.signs.shape[1], dtype=np.bool_)
    found[planes.mixed[:, 1]] = True
    return found


def _count(
    left: Words, right: Words, mine: npt.NDArray[np.intp], theirs: npt.NDArray[np.intp]
) -> Matrix:
    """Products over words without a 0, by XOR and population count."""
    step = max(1, _COUNTED // len(right))
    differ = np.zeros((len(left), len(right)), dtype=np.int64)
    for start in range(0, len(mine), step):
        here = slice(start, start + step)
        _count_block(left[:, mine[here]], right[:, theirs[here]], differ)
    return WORD * len(mine) - 2.0 * differ


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
    if device is None:
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
    signs = generator.integers(0, 2**63, (rows, words), dtype=np.uint64)
    none = np.zeros((0, 2), np.int32), np.zeros(0, np.uint64)
    every = np.arange(words)
    planes = Planes(Layout(1, 64 * words, words), np.zeros(1, np.int64), signs, *none)
    entries = rows * 64 * words
    floats = planes.unpack(every).astype(np.float32)
    out = np.zeros((rows, rows), dtype=np.int64)
    unpack = _time(lambda: planes.unpack(every).astype(np.float32))
    multiply = _time(lambda: floats @ floats.T)
    count = _time(lambda: _count_block(signs, signs, out))
    return unpack / entries, multiply / entries / rows, count / entries / rows


def _time(task: Callable[[], object], repeats: int = 3) -> float:
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        task()
        best = min(best, time.perf_counter() - started)
    return best

"""Products of packed signs: by XOR and population count, or unpacked, whichever is faster here.

With s the bits of positive entries (0 where an entry is 0), z those of entries that are 0, over P
entries and with |·| the number of bits that are 1,

    ⟨u, u'⟩ = P − 2|s ⊕ s'| + (2|s' ∧ z| − |z|) + (2|s ∧ z'| − |z'|) + |z ∧ z'|

An entry that is 0 in u alone counts 1 − 2s' in the first two terms and 2s' − 1 in the third; one
that is 0 in both counts 1, −1, −1 and 1. Zeros are few, so the last terms cost little; where they
are many (rows of a table) entries are unpacked.

Unpacking costs n + m rows and its product little per pair; counting bits costs nothing but its
pairs. What each takes is timed once per process on a small block; both are exact (integers below
2²⁴ in float32 products), so the choice never changes a number.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from subkern.kernels.engines.signs.rows import WORD, Layout, Planes, SignRows, Words
from subkern.kernels.engines.threads import side_by_side

Matrix = npt.NDArray[np.float64]
_UNPACKED = 128  # words unpacked at a time: 2¹³ entries, far from the 2²⁴ that float32 counts
_COUNTED, _WIDE = 1 << 15, 1 << 12  # words of one XOR, which stay in cache, and of one row of it
_SPARSE = 8  # words for every one that holds a 0, from which on zeros are few
_CORRECTED = 1 << 10  # words with a 0 that are looked at together


def product(left: SignRows, right: SignRows, device: torch.device | None = None) -> Matrix:
    """⟨sign g, sign g'⟩ summed over all parameters, ``[k·c, k'·c]`` float64, exact."""
    logits = left.logits.shape[1]
    on_cpu = device is None or device.type == "cpu"

    def one(name: str) -> Matrix:
        mine = left.planes[name]
        theirs = mine if right is left else right.planes[name]
        return planes_product(mine, theirs, device)

    out = np.zeros((len(left.logits) * logits, len(right.logits) * logits))
    names = [name for name in left.planes if name in right.planes]
    for part in side_by_side(one, names, on_cpu):
        out += part
    return out


def planes_product(left: Planes, right: Planes, device: torch.device | None = None) -> Matrix:
    """Inner products of the signs of one parameter, ``[M, M']`` float64, exact."""
    common = np.intersect1d(left.present, right.present, assume_unique=True)
    left, right = left.only(common), right.only(common)
    on_cpu = device is None or device.type == "cpu"
    shape = len(left.signs), len(right.signs)
    if on_cpu and _has_few_zeros(left) and _has_few_zeros(right) and _faster_to_count(*shape):
        return _counted(left, right)
    out = np.zeros(shape)
    words = left.signs.shape[1]
    for start in range(0, words, _UNPACKED):
        stop = min(start + _UNPACKED, words)
        mine, theirs = left.unpack(start, stop), right.unpack(start, stop)
        out += _dot(mine, theirs, None if on_cpu else device)
    return out


def _has_few_zeros(planes: Planes) -> bool:
    return _SPARSE * len(planes.mixed) <= planes.signs.size


def _counted(left: Planes, right: Planes) -> Matrix:
    """Inner products of the signs of the same blocks, by population counts."""
    words = left.signs.shape[1]
    out = WORD * words - 2 * _pairs(np.bitwise_xor, left.signs, right.signs)
    out += _of_zeros(left, right.signs).T + _of_zeros(right, left.signs)
    both = np.intersect1d(left.mixed[:, 1], right.mixed[:, 1])
    out += _pairs(np.bitwise_and, _zeros(left, both), _zeros(right, both))
    return out.astype(np.float64)


def _pairs(combine: np.ufunc, left: Words, right: Words) -> npt.NDArray[np.int64]:
    """Bits that are 1 in `combine` of every row of `left` and of `right`, ``[M, M']``."""
    out = np.zeros((len(left), len(right)), dtype=np.int64)
    width = min(_WIDE, max(1, left.shape[1]))
    height = max(1, _COUNTED // width)
    for start in range(0, left.shape[1], width):
        words = slice(start, start + width)
        for first in range(0, len(right), height):
            rows = slice(first, first + height)
            _count_block(combine, left[:, words], right[rows, words], out[:, rows])
    return out


def _count_block(combine: np.ufunc, a: Words, b: Words, out: npt.NDArray[np.int64]) -> None:
    """Add to `out` ``[M, M']`` the bits of `combine` of the rows of `a` and `b`."""
    combined, counts = np.empty(b.shape, dtype=np.uint64), np.empty(b.shape, dtype=np.uint8)
    for i, row in enumerate(a):
        combine(row, b, out=combined)
        np.bitwise_count(combined, out=counts)
        out[i] += counts.sum(axis=1, dtype=np.uint32)


def _of_zeros(planes: Planes, signs: Words) -> npt.NDArray[np.int64]:
    """2|s' ∧ z| − |z| of the zeros z of `planes` and the rows s' of `signs`, ``[M', M]``."""
    out = np.zeros((len(signs), len(planes.signs)), dtype=np.int64)
    for start in range(0, len(planes.mixed), _CORRECTED):
        gradients, words = planes.mixed[start : start + _CORRECTED].T
        zeros = ~planes.masks[start : start + _CORRECTED]
        counts = 2.0 * np.bitwise_count(signs[:, words] & zeros) - np.bitwise_count(zeros)
        whose = np.zeros((len(words), len(planes.signs)), dtype=np.float32)
        whose[np.arange(len(words)), gradients] = 1.0
        out += (counts.astype(np.float32) @ whose).astype(np.int64)
    return out


def _zeros(planes: Planes, words: npt.NDArray[np.int32]) -> Words:
    """Bits of the entries that are 0, of some words (ascending), ``[M, len]``."""
    out = np.zeros((len(planes.signs), len(words)), dtype=np.uint64)
    if len(words):
        at = np.minimum(np.searchsorted(words, planes.mixed[:, 1]), len(words) - 1)
        here = words[at] == planes.mixed[:, 1]
        out[planes.mixed[here, 0], at[here]] = ~planes.masks[here]
    return out


def _dot(
    left: npt.NDArray[np.int8], right: npt.NDArray[np.int8], device: torch.device | None
) -> Matrix:
    """Left @ right.T of entries −1, 0, 1, on a device or, if None, on the CPU."""
    a, b = (torch.from_numpy(x).to(device or "cpu") for x in (left, right))
    return np.asarray(sign_gram(a, b).cpu().numpy())


def _faster_to_count(rows: int, columns: int) -> bool:
    unpack, multiply, count = _costs()
    return count * rows * columns < unpack * (rows + columns) + multiply * rows * columns


@cache
def _costs() -> tuple[float, float, float]:
    """Seconds per entry: of unpacking a row, of a product and of a count per pair of rows."""
    rows, words = 32, 1024
    generator = np.random.default_rng(0)
    signs = generator.integers(0, 2**63, (rows, words), dtype=np.uint64)
    none = np.zeros((0, 2), np.int32), np.zeros(0, np.uint64)
    planes = Planes(Layout(1, 64 * words, words), np.zeros(1, np.int64), signs, *none)
    entries = rows * 64 * words
    found = planes.unpack(0, words)
    unpack = fastest(lambda: planes.unpack(0, words))
    multiply = fastest(lambda: _dot(found, found, None))
    count = fastest(lambda: _pairs(np.bitwise_xor, signs, signs))
    return unpack / entries, multiply / entries / rows, count / entries / rows


_EXACT = 1 << 24  # integers up to here are float32 numbers


_TIMED = 128, 4096  # rows and columns of the block that is timed


def sign_gram(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right.T`` of entries −1, 0 and 1, exact.

    Args:
        left: ``[M, P]``, of any type and device; P below 2²⁴.
        right: ``[M', P]``, likewise.

    Returns:
        ``[M, M']`` float64.
    """
    assert left.shape[1] < _EXACT
    if left.device.type != "cpu":
        return _padded_int8(left, right).double()
    if _int8_is_faster():
        return _int8(left, right).double()
    return (left.float() @ right.float().T).double()


def fastest(task: Callable[[], object], repeats: int = 3) -> float:
    """Least seconds of a few calls."""
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        task()
        best = min(best, time.perf_counter() - started)
    return best


def _int8(left: Tensor, right: Tensor) -> Tensor:
    """Product in int8 with int32 sums, ``[M, M']`` int32."""
    return torch._int_mm(left.to(torch.int8), right.to(torch.int8).T)


def _padded_int8(left: Tensor, right: Tensor) -> Tensor:
    """As `_int8`, of the sizes that a GPU takes: over 16 rows, and multiples of 8 entries."""
    sides = [
        torch.nn.functional.pad(x.to(torch.int8), (0, -x.shape[1] % 16, 0, _missing(len(x))))
        for x in (left, right)
    ]
    return _int8(*sides)[: len(left), : len(right)]


def _missing(rows: int) -> int:
    return max(32, -(-rows // 8) * 8) - rows


@cache
def _int8_is_faster() -> bool:
    signs = torch.ones(_TIMED)
    try:
        int8 = fastest(lambda: _int8(signs, signs))
    except RuntimeError:  # a build of torch without it
        return False
    return int8 < fastest(lambda: signs @ signs.T)

"""What contracting factors takes: counted by their shapes, timed kind by kind on random ones.

FLOPs follow `subkern.gradients.contract` form by form. Seconds are measured at the sizes of a tile,
each kind of layer once and only a part of it: a few rows of a weight, a few thousand token pairs.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch

from subkern.estimates.captures import CaptureProbe, Line, length
from subkern.gradients.contract import (
    LEFT_TOKENS,
    RIGHT_TOKENS,
    Outers,
    alike,
    cut_tokens,
    dense,
    explicit,
    factored,
    in_token_pairs,
    matched_rows,
    rows_at_a_time,
    shared_inputs,
)
from subkern.gradients.factors import DenseFactor, Factor, HeadFactor, OuterFactor, RowFactor

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample

Examples = Sequence["EncodedExample"]
_POOL = 64  # random factors that stand for those of all examples
_PAIRS = 1 << 16  # of examples, in a measurement of embedding rows or vectors
_ENOUGH = 0.05  # seconds of repeats of one measurement


@dataclass(frozen=True)
class Layers:
    """Linear layers that share their inputs.

    Attributes:
        shapes: (d_in, d_out) of each.
        tokens: positions that an example has, by its tokens.
    """

    shapes: tuple[tuple[int, int], ...]
    tokens: Line


@dataclass(frozen=True)
class Rows:
    """An embedding: an example touches its tokens, or its positions, and rows that all touch.

    Attributes:
        width: numbers of a row.
        common: rows that every example touches.
        positions: what its first position's row is, of a table of positions; None: of tokens.
        untouched: tokens without a gradient (padding); None: all of them, as of segments.
    """

    width: int
    common: frozenset[int]
    positions: int | None
    untouched: frozenset[int] | None

    def ids(self, example: EncodedExample) -> set[int]:
        """Rows that an example touches."""
        if self.positions is not None:
            return set(range(self.positions, self.positions + length(example))) | self.common
        if self.untouched is None:
            return set(self.common)
        return (set(example.input_ids) - self.untouched) | self.common

    @classmethod
    def of(cls, factors: Sequence[RowFactor], examples: Examples) -> Rows:
        """Read off a few examples."""
        touched = [set(f.ids.tolist()) for f in factors]
        tokens = [set(e.input_ids) for e in examples]
        width = factors[0].rows.shape[-1]
        common = frozenset(set.intersection(*touched))
        none: frozenset[int] = frozenset()
        missed = frozenset(set.union(*(t - x for t, x in zip(tokens, touched, strict=True))))
        if all(2 * len(t & missed) <= len(t) for t in tokens):
            return cls(width, common, None, missed)
        first = min(common, default=0)
        spans = [set(range(first, first + length(e))) for e in examples]
        if all(x == span for x, span in zip(touched, spans, strict=True)):
            return cls(width, none, first, none)
        return cls(width, common, None, None)


class Contraction:
    """What blocks of a kernel over some parameters take.

    Args:
        probe: a few examples' factors.
        shapes: parameter name → shape; what the kernel is over.
        c: logits.
    """

    def __init__(self, probe: CaptureProbe, shapes: Mapping[str, torch.Size], c: int) -> None:
        self.c, self.dtype = c, probe.job.model.dtype
        factors = [one.factors for one in probe.captured]
        shared = [n for n in shapes if all(n in each for each in factors)]
        self.layers: list[Layers] = []
        self.rows: list[Rows] = []
        self.vectors: list[int] = []
        for names in shared_inputs(factors[-1], factors[-1], shared):
            of_all = [[each[name][0] for each in factors] for name in names]
            found = of_all[0]
            if all(isinstance(f, OuterFactor) for each in of_all for f in each):
                self.layers.append(_layers(of_all, probe))
            elif all(isinstance(f, RowFactor) for f in found):
                rows = [f for f in found if isinstance(f, RowFactor)]
                self.rows.append(Rows.of(rows, probe.tried))
            elif not any(isinstance(f, HeadFactor) for f in found):
                self.vectors += [shapes[name].numel() for name in names]
        self._known: dict[tuple[object, ...], tuple[float, ...]] = {}

    def work(self, left: Examples, right: Examples) -> tuple[int, float]:
        """FLOPs and seconds of one block."""
        flops, seconds = 0, 0.0
        for kind, many in Counter(self.layers).items():
            count, took = self._layers(kind, left, right)
            flops, seconds = flops + many * count, seconds + many * took
        for rows, many in Counter(self.rows).items():
            count, took = self._rows(rows, left, right)
            flops, seconds = flops + many * count, seconds + many * took
        for size, many in Counter(self.vectors).items():
            count, took = self._vectors(size, len(left), len(right))
            flops, seconds = flops + many * count, seconds + many * took
        return flops, seconds

    def _layers(self, kind: Layers, left: Examples, right: Examples) -> tuple[int, float]:
        counts = [[kind.tokens(length(e)) for e in side] for side in (left, right)]
        t, s = map(sum, counts)
        if not t * s:  # LoRA's A, where B is 0
            return 0, 0.0
        n, m, c = len(left), len(right), self.c
        outers = [Outers(t, s, n * m, c, d_in, d_out) for d_in, d_out in kind.shapes]
        together = in_token_pairs(outers)
        flops, seconds = 0, 0.0
        joined = tuple(s for s, yes in zip(kind.shapes, together, strict=True) if yes)
        if joined:
            flops += _pair_flops(counts, joined, c)
            seconds += self._pair_seconds(joined, t, s) * t * s
        for (d_in, d_out), yes in zip(kind.shapes, together, strict=True):
            if not yes:
                formed = sum(map(_padded, counts))
                flops += 2 * d_in * d_out * (c * formed + n * m * c * c)
                forming, products = self._explicit_seconds((d_in, d_out), (n, m), (t, s))
                seconds += forming * (t + s) + products * n * m
        return flops, seconds

    def _pair_seconds(self, shapes: tuple[tuple[int, int], ...], t: int, s: int) -> float:
        """Seconds a token pair of layers together."""
        t, s = min(t, 2 * LEFT_TOKENS), min(s, 2 * RIGHT_TOKENS)
        key = ("pairs", shapes, t // 512, s // 512)
        if key not in self._known:
            sides = [[self._outers(shape, count) for shape in shapes] for count in (t, s)]
            took = seconds_of(lambda: factored(*sides))
            self._known[key] = (took / (t * s),)
        return self._known[key][0]

    def _explicit_seconds(
        self, shape: tuple[int, int], sizes: tuple[int, int], tokens: tuple[int, int]
    ) -> tuple[float, float]:
        """Seconds a token of forming, and seconds a pair of products, of one layer."""
        d_in, d_out = shape
        key = ("explicit", shape, *(size.bit_length() for size in sizes))
        if key not in self._known:
            rows = min(d_out, max(8, 2 * rows_at_a_time(4 * sum(sizes) * self.c * d_in)))
            each = [max(1, round(t / k)) for t, k in zip(tokens, sizes, strict=True)]
            full = self._sliced(d_in, rows, sizes, each)
            half = self._sliced(d_in, rows, [max(1, k // 2) for k in sizes], each)
            every, pairs = sum(e * k for e, k in zip(each, sizes, strict=True)), sizes[0] * sizes[1]
            # full = f·(T + S) + p·nm and half = f·(T + S)/2 + p·nm/4
            products = min(max(0.0, 2 * (full - 2 * half)), full)
            scale = d_out / rows
            self._known[key] = ((full - products) / every * scale, products / pairs * scale)
        forming, products = self._known[key]
        return forming, products

    def _sliced(self, d_in: int, rows: int, sizes: Sequence[int], tokens: Sequence[int]) -> float:
        """Seconds of explicit gradients of a few rows of a weight."""
        sides = [
            repeated(d_in, rows, t, size, self.c, self.dtype)
            for size, t in zip(sizes, tokens, strict=True)
        ]
        return seconds_of(lambda: explicit(*sides))

    def _outers(self, shape: tuple[int, int], tokens: int) -> list[OuterFactor]:
        """Examples of 32 tokens or so that have so many together."""
        sizes = [min(32, tokens - i) for i in range(0, tokens, 32)]
        return [_outer(*shape, t, self.c, self.dtype) for t in sizes]

    def _rows(self, kind: Rows, left: Examples, right: Examples) -> tuple[int, float]:
        sides = [[kind.ids(e) for e in side] for side in (left, right)]
        met, counts = _met(sides), [len(side) for side in sides]
        flops = 2 * met * self.c**2 * kind.width
        key = ("rows", kind.width, *(count.bit_length() for count in counts))
        if key not in self._known:
            most = [min(counts[0], 128), min(counts[1], _PAIRS // min(counts[0], 128))]
            some = [side[:many] for side, many in zip(sides, most, strict=True)]
            made = [[self._table(ids, kind.width) for ids in side] for side in some]
            took = seconds_of(lambda: matched_rows(*made))
            self._known[key] = (took / max(1, _met(some)),)
        return flops, self._known[key][0] * met

    def _table(self, ids: Iterable[int], width: int) -> RowFactor:
        listed = torch.tensor(sorted(ids))
        return RowFactor(listed, torch.randn(len(listed), self.c, width, dtype=self.dtype))

    def _vectors(self, size: int, n: int, m: int) -> tuple[int, float]:
        key = ("vector", size, n.bit_length(), m.bit_length())
        if key not in self._known:
            some = min(n, 256), min(m, 256)
            pool: list[Factor] = [
                DenseFactor(torch.randn(self.c, size, dtype=self.dtype)) for _ in range(_POOL)
            ]
            mine, theirs = ([pool[i % _POOL] for i in range(k)] for k in some)
            took = seconds_of(lambda: dense(mine, theirs, torch.Size([size])))
            self._known[key] = (took / (some[0] * some[1]),)
        return 2 * n * m * self.c**2 * size, self._known[key][0] * n * m


def repeated(
    d_in: int, d_out: int, tokens: int, count: int, c: int, dtype: torch.dtype
) -> list[OuterFactor]:
    """Random factors of so many examples, some of which are the same."""
    pool = [_outer(d_in, d_out, tokens, c, dtype) for _ in range(min(count, _POOL))]
    return [pool[i % len(pool)] for i in range(count)]


def _outer(d_in: int, d_out: int, tokens: int, c: int, dtype: torch.dtype) -> OuterFactor:
    a = torch.randn(tokens, d_in, dtype=dtype)
    return OuterFactor(a, torch.randn(tokens, c, d_out, dtype=dtype), False)


def _layers(of_all: Sequence[Sequence[Factor]], probe: CaptureProbe) -> Layers:
    layers = [[f for f in each if isinstance(f, OuterFactor)] for each in of_all]
    shapes = tuple((fs[0].inputs.shape[1], fs[0].cotangents.shape[2]) for fs in layers)
    return Layers(shapes, probe.line([len(f.inputs) for f in layers[0]]))


def _pair_flops(counts: Sequence[Sequence[int]], shapes: Sequence[tuple[int, int]], c: int) -> int:
    """FLOPs of `factored`: products of inputs and of cotangents, and sums over examples' tokens."""
    width, d_in = sum(d_out for _, d_out in shapes), shapes[0][0]
    tiles = []
    for side, most in zip(counts, (LEFT_TOKENS, RIGHT_TOKENS), strict=True):
        cuts = cut_tokens(side, most)
        tiles.append(
            [(sum(at.stop - at.start for _, at in run), run[-1][0] + 1 - run[0][0]) for run in cuts]
        )
    total = 0
    for (t, n), (s, m) in product(*tiles):
        total += 2 * t * s * d_in + c * c * (2 * t * s * width + 2 * n * t * s + 2 * n * s * m)
    return total


def _padded(counts: Sequence[int]) -> int:
    """Positions of a side that explicit gradients are formed of, with their padding."""
    ordered = sorted(counts)
    runs = [ordered[run] for run in alike(ordered)]
    return sum(len(run) * run[-1] for run in runs)


def _met(sides: Sequence[Sequence[set[int]]]) -> int:
    """Pairs of rows of equal id, one of each side."""
    mine, theirs = (Counter(i for ids in side for i in ids) for side in sides)
    return sum(count * theirs[i] for i, count in mine.items())


def seconds_of(work: Callable[[], object]) -> float:
    """Median seconds of `work`, after one turn that warms up."""
    work()
    took: list[float] = []
    while not took or (sum(took) < _ENOUGH and len(took) < 5):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return statistics.median(took)

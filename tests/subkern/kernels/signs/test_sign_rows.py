"""Packed signs: what goes in comes out, and products are exact both ways."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from subkern.gradients.chunks import chunks
from subkern.gradients.factors import DenseFactor, Factor, OuterFactor, RowFactor, bound_of
from subkern.kernels.engines.signs import products as sign_products
from subkern.kernels.engines.signs.pack import pack
from subkern.kernels.engines.signs.products import planes_product, product
from subkern.kernels.engines.signs.rows import Planes, SignRows, read_rows
from tests.support.folders import names

C = 2
Case = tuple[list[Factor], torch.Size]


def draw(*shape: int, seed: int, zeros: float = 0.0) -> Tensor:
    """Return normal numbers, a share of them 0."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator)
    return values * (torch.rand(shape, generator=generator) >= zeros)


def case(kind: str, first: int, rest: int, k: int, seed: int, zeros: float) -> Case:
    """Return factors of k examples of one parameter, and its shape."""
    shape = torch.Size((first, rest))
    made: list[Factor] = []
    for i in range(k):
        at = seed + 100 * i
        if kind == "outer":
            g = draw(3, C, first, seed=at, zeros=zeros)
            made.append(OuterFactor(draw(3, rest, seed=at + 1, zeros=zeros), g, False))
        elif kind == "table":
            ids = (draw(first, seed=at) > 0.5).nonzero()[:, 0]
            rows = draw(len(ids), C, rest, seed=at + 1, zeros=zeros)
            made.append(RowFactor(ids, rows, torch.ones_like(rows)))
        else:
            grad = draw(C, first, rest, seed=at, zeros=zeros)
            made.append(DenseFactor(grad, torch.ones_like(grad)))
    return made, shape


def signs(factors: Sequence[Factor], shape: torch.Size, tolerance: float = 0.0) -> np.ndarray:
    """Return signs ``[k·c, P]`` from whole gradients."""
    dense = torch.stack([f.dense(shape) for f in factors])
    bound = torch.stack([bound_of(f).dense(shape) for f in factors])
    kept = dense.masked_fill(dense.abs() <= tolerance * bound, 0.0)
    return torch.sign(kept).reshape(len(factors) * C, -1).numpy()


def unpacked(planes: Planes | None, count: int, size: int) -> np.ndarray:
    """Return entries ``[M, P]`` of all blocks put back at their coordinates."""
    if planes is None:
        return np.zeros((count, size))
    block = planes.layout.size
    out = np.zeros((count, -(-size // block), block))
    entries = planes.unpack(0, planes.signs.shape[1]).reshape(count, len(planes.present), -1)
    assert not entries[..., block:].any()
    out[:, planes.present] = entries[..., :block]
    whole = out.reshape(count, -1)
    assert not whole[:, size:].any()
    return whole[:, :size]


KINDS = st.sampled_from(["outer", "table", "dense"])
CASES = st.tuples(
    KINDS,
    st.integers(1, 70),
    st.sampled_from([1, 3, 63, 64, 65, 130]),
    st.integers(1, 3),
    st.integers(0, 50),
    st.sampled_from([0.0, 0.3, 1.0]),
)


@given(CASES)
def test_packing_is_undone_by_unpacking(what: tuple[str, int, int, int, int, float]) -> None:
    factors, shape = case(*what)
    planes, zeroed = pack(factors, shape, C, 0.0)
    assert zeroed == 0
    np.testing.assert_array_equal(
        unpacked(planes, len(factors) * C, shape.numel()), signs(factors, shape)
    )


@given(CASES, CASES, st.booleans())
def test_products_are_exact_counted_or_unpacked(
    what: tuple[str, int, int, int, int, float],
    other: tuple[str, int, int, int, int, float],
    counted: bool,
) -> None:
    factors, shape = case(*what)
    second, _ = case(other[0], *what[1:3], *other[3:])
    left, right = pack(factors, shape, C, 0.0)[0], pack(second, shape, C, 0.0)[0]
    if left is None or right is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sign_products, "_faster_to_count", lambda rows, columns: counted)
        patch.setattr(sign_products, "_has_few_zeros", lambda planes: True)
        patch.setattr(sign_products, "_CORRECTED", 7)
        found = planes_product(left, right)
    np.testing.assert_array_equal(found, signs(factors, shape) @ signs(second, shape).T)


@pytest.mark.parametrize("kind", ["outer", "table", "dense"])
def test_noise_is_dropped_and_counted(kind: str) -> None:
    factors, shape = case(kind, 40, 70, 3, 0, 0.0)
    planes, zeroed = pack(factors, shape, C, 0.05)
    wanted = signs(factors, shape, 0.05)
    np.testing.assert_array_equal(unpacked(planes, 3 * C, shape.numel()), wanted)
    assert zeroed == np.count_nonzero(signs(factors, shape)) - np.count_nonzero(wanted) > 0


def test_vectors_and_numbers() -> None:
    for shape in ((), (7,), (1500,), (4, 3, 5)):
        factors: list[Factor] = [DenseFactor(draw(C, *shape, seed=i, zeros=0.1)) for i in range(2)]
        planes, _ = pack(factors, torch.Size(shape), C, 0.0)
        size = torch.Size(shape).numel()
        np.testing.assert_array_equal(
            unpacked(planes, 2 * C, size), signs(factors, torch.Size(shape))
        )


def rows_of(k: int, seed: int) -> SignRows:
    planes = {}
    for name, kind in (("w", "outer"), ("t", "table"), ("v", "dense")):
        packed, _ = pack(*case(kind, 30, 64, k, seed, 0.0), C, 0.0)
        assert packed is not None
        planes[name] = packed
    return SignRows(planes, np.zeros((k, C)), 3, sum(p.nbytes for p in planes.values()))


def test_rows_on_disk_give_the_same_products(tmp_path: Path) -> None:
    left, right = rows_of(3, 0), rows_of(2, 7)
    stored = left.save(tmp_path / "rows.safetensors")
    assert names(tmp_path) == {"rows.safetensors"}
    assert (stored.zeroed, stored.nbytes, len(stored.planes)) == (3, left.nbytes, 3)
    again = read_rows(tmp_path / "rows.safetensors")
    wanted = product(left, right)
    assert np.abs(wanted).max() > 0
    for rows in (stored, again):
        np.testing.assert_array_equal(product(rows, right), wanted)
    with pytest.raises(KeyError):
        again.planes["another"]


def test_a_row_takes_a_thirtieth_of_its_float32_form() -> None:
    shape = torch.Size((576, 1536))
    factors: list[Factor] = [
        OuterFactor(draw(20, 1536, seed=i), draw(20, 1, 576, seed=9 + i), False) for i in range(2)
    ]
    planes, zeroed = pack(factors, shape, 1, 2e-5)
    assert planes is not None
    assert zeroed > 0
    assert planes.nbytes * 30 <= 2 * 4 * shape.numel()


def test_zeros_of_a_few_words_are_put_right_after_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that are 0 left, right and on both sides, in blocks of several tiles and words."""
    monkeypatch.setattr(sign_products, "_faster_to_count", lambda rows, columns: True)
    monkeypatch.setattr(sign_products, "_WIDE", 300)
    first, shape = case("outer", 1100, 128, 3, 0, 0.0)
    second = [first[1], *case("outer", 1100, 128, 4, 5, 0.0)[0]]
    sides = [pack(side, shape, C, 1e-3)[0] for side in (first, second)]
    assert all(p is not None and 0 < 10 * len(p.mixed) < p.signs.size for p in sides)
    counted: list[int] = []
    count = sign_products._counted
    monkeypatch.setattr(sign_products, "_counted", lambda a, b: counted.append(1) or count(a, b))
    wanted = [signs(side, shape, 1e-3) for side in (first, second)]
    assert sides[0] is not None
    assert sides[1] is not None
    np.testing.assert_array_equal(planes_product(sides[0], sides[1]), wanted[0] @ wanted[1].T)
    assert counted


@pytest.mark.parametrize("transposed", [False, True])
def test_weights_are_formed_example_by_example(transposed: bool) -> None:
    """A dead row, a dead column and more than one tile; an example without positions."""
    shape = torch.Size((3000, 192))
    d_in, d_out = shape if transposed else shape[::-1]
    factors: list[Factor] = []
    for i, positions in enumerate((4, 0, 7)):
        a = draw(positions, d_in, seed=i).double()  # no near-ties at the threshold
        g = draw(positions, C, d_out, seed=9 + i).double()
        a[:, 5], g[:, :, 3] = 0.0, 0.0
        factors.append(OuterFactor(a, g, transposed))
    for tolerance in (0.0, 0.01):
        planes, zeroed = pack(factors, shape, C, tolerance)
        wanted = signs(factors, shape, tolerance)
        np.testing.assert_array_equal(unpacked(planes, 3 * C, shape.numel()), wanted)
        assert planes is not None
        assert len(planes.present) == 2999  # a dead row is not there
        assert zeroed == np.count_nonzero(signs(factors, shape)) - np.count_nonzero(wanted)
        assert (zeroed > 0) == (tolerance > 0)


def test_gradients_are_formed_in_chunks_that_stay_in_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []

    def watched(*arguments: object) -> object:
        for chunk in chunks(*arguments):  # type: ignore[arg-type]
            widths.append(chunk.rows.numel() * 4)
            yield chunk

    monkeypatch.setattr("subkern.kernels.engines.signs.pack.chunks", watched)
    pack(*case("outer", 3000, 400, 2, 0, 0.0), C, 0.0)
    assert len(widths) > 2
    assert max(widths) <= 8 * 2**20


def test_whole_words_are_formed_in_a_core_s_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    product = torch.mm

    def watched(left: Tensor, right: Tensor, *, out: Tensor) -> Tensor:
        sizes.append(out.numel() * 4)
        return product(left, right, out=out)

    monkeypatch.setattr(torch, "mm", watched)
    pack(*case("outer", 3000, 448, 2, 0, 0.0), C, 0.0)
    assert sum(sizes) == 2 * C * 3000 * 448 * 4  # each gradient once
    assert max(sizes) <= 2**21

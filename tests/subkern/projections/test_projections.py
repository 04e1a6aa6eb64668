"""Johnson-Lindenstrauss maps: what P is, that nothing changes it, and how far estimates scatter."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from math import exp
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from subkern.errors import UserError
from subkern.projections.dense import dense_matrix
from subkern.projections.exact_variance import exact_variance
from subkern.projections.hadamard import hadamard
from subkern.projections.maps import SPARSITY, kurtosis
from subkern.projections.project import ALLOCATIONS, Projections, allocate, buckets
from subkern.projections.random_words import Stream
from subkern.projections.spec import KINDS, ProjectionSpec
from subkern.projections.theory import interval, jl_bound, jl_epsilon, variance

ROOT = Path(__file__).resolve().parents[3]
SIZES = {"table": 700, "weight": 450, "bias": 37, "gain": 1}
TOTAL = sum(SIZES.values())
kinds = pytest.mark.parametrize("kind", KINDS)
allocations = pytest.mark.parametrize("allocation", ALLOCATIONS)


def vectors(rows: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Correlated rows with a few large entries, as gradients have them."""
    generator = torch.Generator().manual_seed(seed)
    shared = {n: torch.randn(s, generator=generator).double() ** 3 for n, s in SIZES.items()}
    noise = {n: torch.randn(rows, s, generator=generator).double() for n, s in SIZES.items()}
    return {n: (shared[n] + 2 * noise[n]).to(dtype) for n in SIZES}


def flat(rows: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([rows[n] for n in SIZES], dim=-1)


def one(cell: ProjectionSpec, allocation: str = "global") -> Projections:
    return Projections([cell], SIZES, allocation)


# --- what P is ---


@kinds
@allocations
@pytest.mark.parametrize("dim", [4, 64, 130])
def test_projecting_is_multiplying_by_the_matrix(kind: str, allocation: str, dim: int) -> None:
    cell, rows = ProjectionSpec(kind, 3, dim), vectors()
    projections = one(cell, allocation)
    matrix = dense_matrix(projections, cell)
    assert matrix.shape == (TOTAL, dim)
    expected = flat(rows) @ matrix
    torch.testing.assert_close(projections.project(rows)[cell], expected, rtol=1e-12, atol=1e-12)
    # A sparse column may miss the one coordinate of the smallest parameter.
    assert np.linalg.matrix_rank(matrix.numpy()) >= dim - (kind == "sparse")


@kinds
@allocations
def test_the_displacement_is_the_transpose_of_the_projection(kind: str, allocation: str) -> None:
    cell = ProjectionSpec(kind, 1, 90)
    projections, z = one(cell, allocation), torch.randn(90, dtype=torch.float64)
    moved = projections.displacement(cell, z)
    assert {n: len(v) for n, v in moved.items()} == SIZES
    expected = dense_matrix(projections, cell) @ z
    torch.testing.assert_close(flat(moved), expected, rtol=1e-12, atol=1e-12)


@allocations
def test_a_coordinate_block_per_parameter_or_none(allocation: str) -> None:
    cell = ProjectionSpec("rademacher", 0, 60)
    matrix = dense_matrix(one(cell, allocation), cell)
    shares = allocate(60, SIZES)
    spans = [matrix[sum([*SIZES.values()][:i]) :][:s] for i, s in enumerate(SIZES.values())]
    for i, (rows, share) in enumerate(zip(spans, shares.values(), strict=True)):
        used = rows.abs().sum(0) > 0
        begin = sum([*shares.values()][:i]) if allocation == "per-parameter" else 0
        length = share if allocation == "per-parameter" else 60
        assert used.nonzero()[:, 0].tolist() == list(range(begin, begin + length))


def test_dimensions_are_shared_by_size() -> None:
    assert allocate(TOTAL, SIZES) == SIZES
    assert allocate(4, SIZES) == dict.fromkeys(SIZES, 1)
    shares = allocate(500, SIZES)
    assert sum(shares.values()) == 500
    assert all(abs(shares[n] - 500 * s / TOTAL) < 1 for n, s in SIZES.items())
    with pytest.raises(UserError, match=r"^dimension 3 is less than the 4 parameters: .*global"):
        allocate(3, SIZES)
    with pytest.raises(UserError, match=r"^dimension 1189 exceeds the 1188 coordinates"):
        allocate(1189, SIZES)


def test_hadamard_is_that_of_scipy() -> None:
    from scipy.linalg import hadamard as matrix

    for size in (1, 2, 32, 64, 2048):
        rows = torch.randn(2, size, dtype=torch.float64)
        expected = rows @ torch.from_numpy(matrix(size)).double()
        torch.testing.assert_close(hadamard(rows), expected, rtol=1e-12, atol=1e-11)


def test_entries_have_the_stated_moments() -> None:
    for kind, fourth in (("gaussian", 3.0), ("rademacher", 1.0), ("sparse", 3.0)):
        assert kurtosis(kind) == pytest.approx(fourth, rel=2e-3)
        entries = dense_matrix(one(cell := ProjectionSpec(kind, 0, 512)), cell) * 512**0.5
        count = entries.numel()
        spread = ((kurtosis(kind) - 1) / count) ** 0.5
        assert abs(float(entries.square().mean()) - 1) <= 5 * spread + 1e-6
        assert abs(float(entries.mean())) <= 5 / count**0.5
    zero = float((entries == 0).double().mean())
    assert abs(zero - (1 - 1 / SPARSITY)) <= 5 * (2 / 9 / count) ** 0.5


# --- that nothing changes it ---


@kinds
def test_smaller_dimensions_are_prefixes_or_sums_of_larger_ones(kind: str) -> None:
    rows = vectors()
    swept = Projections([ProjectionSpec(kind, 0, d) for d in (8, 40, 160)], SIZES).project(rows)
    for dim in (8, 40):
        large, small = swept[ProjectionSpec(kind, 0, 160)], swept[ProjectionSpec(kind, 0, dim)]
        if kind == "count_sketch":
            expected = large.unflatten(1, (-1, dim)).sum(1)
        else:
            expected = large[:, :dim] * (160 / dim) ** 0.5
        torch.testing.assert_close(small, expected, rtol=1e-12, atol=1e-12)


@kinds
@allocations
def test_a_sweep_gives_what_each_gives_alone(kind: str, allocation: str) -> None:
    cells = [ProjectionSpec(k, s, d) for k in KINDS for s in (0, 5) for d in (16, 5000 % 96, 250)]
    rows = vectors()
    swept = Projections(cells, SIZES, allocation).project(rows)
    for cell in (c for c in cells if c.kind == kind):
        alone = one(cell, allocation).project(rows)[cell]
        torch.testing.assert_close(swept[cell], alone, rtol=1e-12, atol=1e-12)
    seeds = [swept[ProjectionSpec(kind, s, 250)] for s in (0, 5)]
    assert not torch.allclose(*seeds)


@kinds
def test_unchanged_by_the_width_of_chunks_and_the_batch(kind: str) -> None:
    cell, rows = ProjectionSpec(kind, 0, 70), vectors(5)
    whole = one(cell).project(rows)[cell]
    for width in (1, 13, 64, 100):
        tiled = one(cell).project(rows, width)[cell]
        torch.testing.assert_close(tiled, whole, rtol=1e-11, atol=1e-11)
    alone = one(cell).project({n: v[2:3] for n, v in rows.items()})[cell]
    torch.testing.assert_close(alone, whole[2:3], rtol=1e-12, atol=1e-12)


@kinds
def test_a_parameter_is_projected_alike_whatever_stands_beside_it(kind: str) -> None:
    cell, rows = ProjectionSpec(kind, 0, 30), vectors()
    parts = [
        Projections([cell], {n: s}).project({n: rows[n]})[cell] for n, s in SIZES.items() if s >= 30
    ]
    some = {n: v for n, v in rows.items() if SIZES[n] >= 30}
    torch.testing.assert_close(sum(parts), one(cell).project(some)[cell], rtol=1e-11, atol=1e-11)


def digest() -> str:
    """Hash of every kind's P, as a matrix and as it is applied."""
    found = hashlib.sha256()
    for kind in KINDS:
        cell = ProjectionSpec(kind, 7, 100)
        projections = Projections([cell], {"a": 70, "b": 50})
        found.update(dense_matrix(projections, cell).numpy().tobytes())
        for name, size in projections.sizes.items():
            rows = torch.eye(size, dtype=torch.float64)
            found.update(projections.project({name: rows})[cell].numpy().tobytes())
    return found.hexdigest()


def test_the_same_bits_in_another_process_and_on_more_threads() -> None:
    code = f"import torch; torch.set_num_threads(2); import {__name__} as t; print(t.digest())"
    command = [sys.executable, "-c", code]
    paths = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | paths, cwd=ROOT)
    assert done.stdout.split() == [digest()], done.stderr


def test_streams_are_read_anywhere_and_known_answers_hold() -> None:
    stream = Stream(0, "a")
    words = stream.words(0, 50)
    for start in (0, 1, 3, 4, 5, 37):
        np.testing.assert_array_equal(stream.words(start, 11), words[start : start + 11])
    assert not np.array_equal(words, Stream(1, "a").words(0, 50))
    assert not np.array_equal(Stream("1", "a").words(0, 9), Stream(1, "a").words(0, 9))
    assert [hex(int(w)) for w in words[:2]] == KNOWN


KNOWN = ["0xd53ecefa681927a", "0x61d408b5ddcd652c"]


# --- how far estimates scatter ---

SEEDS = 300


@kinds
@allocations
def test_unbiased_with_the_stated_variance(kind: str, allocation: str) -> None:
    """Over `SEEDS` seeds, mean and variance lie within 5 standard errors of the formulas."""
    sizes = {n: s for n, s in SIZES.items() if s > 1}
    rows = {n: v for n, v in vectors(2).items() if n in sizes}
    u, v = ({n: r[i] for n, r in rows.items()} for i in (0, 1))
    product = sum(float(u[n] @ v[n]) for n in sizes)
    cells = [ProjectionSpec(kind, seed, dim) for seed in range(SEEDS) for dim in (24, 96)]
    estimates: dict[int, list[float]] = {24: [], 96: []}
    for start in range(0, len(cells), 100):
        swept = Projections(cells[start : start + 100], sizes, allocation).project(rows)
        for cell, z in swept.items():
            estimates[cell.dim].append(float(z[0] @ z[1]))
    for cell in cells[:2]:
        found = np.array(estimates[cell.dim])
        expected = exact_variance(Projections([cell], sizes, allocation), cell, u, v)
        assert abs(found.mean() - product) <= 5 * (expected / SEEDS) ** 0.5
        fourth = float(np.mean((found - found.mean()) ** 4))
        error = ((fourth - found.var() ** 2) / SEEDS) ** 0.5
        assert abs(found.var() - expected) <= 5 * error


@kinds
def test_the_variance_of_a_few_numbers_is_exact_or_a_bound(kind: str) -> None:
    cell, rows = ProjectionSpec(kind, 0, 32), vectors(2)
    u, v = ({n: r[i] for n, r in rows.items()} for i in (0, 1))
    a, b = flat(u), flat(v)
    numbers = float(a @ a), float(b @ b), float(a @ b)
    fourth = float((a * b).square().sum())
    exact = exact_variance(one(cell), cell, u, v)
    if kind in ("gaussian", "rademacher", "sparse"):
        assert exact == pytest.approx(variance(kind, *numbers, 32, fourth=fourth), rel=1e-9)
    if kind == "very_sparse":
        most = variance(kind, *numbers, 32, fourth=fourth, sparsity=700**0.5)
        assert variance(kind, *numbers, 32) < exact <= most
    elif kind != "gaussian" and kind != "sparse":
        assert exact < variance(kind, *numbers, 32)


def test_srht_of_one_small_parameter_loses_nothing_at_its_full_size() -> None:
    rows = {"a": torch.randn(3, 256, dtype=torch.float64)}
    cell = ProjectionSpec("srht", 0, 256)
    z = Projections([cell], {"a": 256}, "per-parameter").project(rows)[cell]
    torch.testing.assert_close(z @ z.T, rows["a"] @ rows["a"].T, rtol=1e-11, atol=1e-11)


def test_bounds() -> None:
    assert jl_bound(0.2, 5000) == pytest.approx(4 * exp(-(0.04 - 0.008) * 5000 / 4))
    assert jl_bound(0.1, 10) == 1.0
    epsilon = jl_epsilon(5000, 0.01, pairs=100)
    assert 100 * jl_bound(epsilon, 5000) == pytest.approx(0.01, rel=1e-6)
    assert jl_epsilon(10, 0.01) == float("inf")
    low, high = interval("gaussian", 2.0, 3.0, 1.0, 700)
    assert (low + high) / 2 == pytest.approx(1.0)
    assert high - low == pytest.approx(2 * 1.96 * (7 / 700) ** 0.5)
    with pytest.raises(UserError, match="epsilon 1 is not between"):
        jl_bound(1, 10)


def test_buckets_are_enough_and_shared_by_most_dimensions() -> None:
    assert buckets(1) == buckets(4096) == 16384
    assert buckets(4097) == 32768
    assert (buckets(10, 100), buckets(3, 1), buckets(200, 200)) == (128, 4, 256)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ProjectionSpec("fourier", 0, 3),
            "^unknown projection 'fourier': use gaussian, rademacher",
        ),
        (lambda: ProjectionSpec("srht", 0, 0), "^dimension 0 is not positive"),
        (
            lambda: one(ProjectionSpec("srht", 0, TOTAL + 1)),
            "^dimension 1189 exceeds the 1188 coordinates",
        ),
        (
            lambda: one(ProjectionSpec("srht", 0, 3), "layers"),
            "^unknown allocation 'layers': use global or",
        ),
        (lambda: variance("x", 1, 1, 1, 1), "^unknown projection 'x'"),
    ],
)
def test_mistakes_are_named(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]

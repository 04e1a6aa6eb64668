"""Products of signs in int8 and in float32, and how large grams are added up."""

from __future__ import annotations

import pytest
import torch

from subkern.gradients import contract as contraction
from subkern.gradients.contract import add_gram
from subkern.kernels.engines.signs import products as sign_gram

SHAPES = [(1, 1, 1), (3, 5, 7), (32, 100, 4096), (17, 130, 1000)]


def signs(rows: int, columns: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, (rows, columns), generator=generator).float()


@pytest.mark.parametrize("int8", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_of_signs_are_exact(
    shape: tuple[int, int, int], int8: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_gram, "_int8_is_faster", lambda: int8)
    left, right = signs(shape[0], shape[2], 0), signs(shape[1], shape[2], 1)
    expected = left.double() @ right.double().T
    assert torch.equal(sign_gram.sign_gram(left, right), expected)
    assert torch.equal(sign_gram.sign_gram(left.to(torch.int8), right.to(torch.int8)), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_sizes_that_a_gpu_takes(shape: tuple[int, int, int]) -> None:
    left, right = signs(shape[0], shape[2], 0), signs(shape[1], shape[2], 1)
    found = sign_gram._padded_int8(left, right)
    assert torch.equal(found.double(), left.double() @ right.double().T)


@pytest.mark.parametrize("large", [1, 1 << 30])
@pytest.mark.parametrize("columns", [0, 5, 1024, 3000])
def test_grams_add_up_block_by_block(
    columns: int, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contraction, "_LARGE", large)
    generator = torch.Generator().manual_seed(2)
    left, right = (torch.randn(n, columns, generator=generator) for n in (4, 6))
    out = torch.ones(4, 6, dtype=torch.float64)
    add_gram(out, left, right)
    left, right = left.double(), right.double()
    # Rounding of sums of n float32 products, whatever their order: at most n u sum |a| |b|.
    terms = min(columns, contraction.BLOCK)  # the blocks are summed in float64
    unit = torch.finfo(torch.float32).eps / 2
    bound = 1.01 * terms * unit * (left.abs() @ right.abs().T) + 1e-12
    assert bool(((out - 1 - left @ right.T).abs() <= bound).all())

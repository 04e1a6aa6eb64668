"""Chunks of whole gradients against the factors' dense form."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from subkern.gradients.chunks import chunks
from subkern.gradients.factors import DenseFactor, Factor, OuterFactor, RowFactor

C = 2


def outer(transposed: bool) -> list[Factor]:
    torch.manual_seed(0)
    sizes = (3, 0, 5)
    return [
        OuterFactor(
            torch.randn(t, 6).double(),
            torch.randn(t, C, 4).double(),
            transposed,
        )
        for t in sizes
    ]


def table() -> list[Factor]:
    torch.manual_seed(0)
    ids = ([0, 3, 8], [3], [], [2, 8, 9])
    return [
        RowFactor(torch.tensor(i, dtype=torch.long), torch.randn(len(i), C, 5).double())
        for i in ids
    ]


def dense(*shape: int) -> list[Factor]:
    torch.manual_seed(0)
    return [DenseFactor(torch.randn(C, *shape).double()) for _ in range(3)]


CASES = {
    "outer": (outer(False), (4, 6)),
    "transposed": (outer(True), (6, 4)),
    "table": (table(), (10, 5)),
    "vector": (dense(7), (7,)),
    "number": (dense(), ()),
    "mixed": ([*outer(False), *dense(4, 6)], (4, 6)),
}


def gathered(factors: Sequence[Factor], shape: torch.Size, width: int) -> tuple[Tensor, Tensor]:
    """All chunks put back at their coordinates, and how often each coordinate came."""
    out = torch.zeros(len(factors), C, shape.numel(), dtype=torch.float64)
    seen = torch.zeros(shape.numel(), dtype=torch.long)
    for chunk in chunks(factors, shape, C, width):
        at = chunk.coordinates()
        out[..., at] = chunk.rows
        seen[at] += 1
    return out, seen


@pytest.mark.parametrize("width", [1, 5, 12, 1000])
@pytest.mark.parametrize("case", CASES)
def test_chunks_are_the_gradient_and_cover_a_coordinate_once(case: str, width: int) -> None:
    factors, size = CASES[case]
    shape = torch.Size(size)
    expected = torch.stack([f.dense(shape).reshape(C, -1) for f in factors])
    out, seen = gathered(factors, shape, width)
    assert expected.abs().max() > 0
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-14)
    assert seen.max() == 1


def test_rows_of_a_table_that_nobody_touches_are_left_out() -> None:
    factors, size = CASES["table"]
    _, seen = gathered(factors, torch.Size(size), 1000)
    touched = [0, 2, 3, 8, 9]
    assert seen.view(10, 5)[touched].all()
    assert int(seen.sum()) == 5 * len(touched)


def test_chunks_are_as_wide_as_wished() -> None:
    factors, size = CASES["outer"]
    widths = [chunk.rows.shape[-1] for chunk in chunks(factors, torch.Size(size), C, 12)]
    assert widths == [12, 12]

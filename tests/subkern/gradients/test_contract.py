"""The two forms of a linear layer's block are the same numbers, whatever examples' lengths."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measure import counted
from subkern.gradients import contract
from subkern.gradients.contract import Outers, alike, explicit, factored, in_token_pairs
from subkern.gradients.factors import OuterFactor


def factors(
    lengths: list[int], c: int, seed: int, d_in: int = 6, d_out: int = 10
) -> list[OuterFactor]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return [OuterFactor(drawn(t, d_in), drawn(t, c, d_out), False) for t in lengths]


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("rows", [1, 4, 100])
def test_forms_agree_with_whole_gradients(
    c: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = factors([7, 1, 0, 30, 8], c, 1), factors([2, 31, 5, 5, 1, 29, 12], c, 2)
    monkeypatch.setattr(contract, "rows_at_a_time", lambda per_row: rows)
    grads = [torch.stack([f.dense(torch.Size([10, 6])) for f in s]) for s in (left, right)]
    exact = torch.einsum("nkoi,mloi->nkml", *grads)
    torch.testing.assert_close(explicit(left, right), exact)
    torch.testing.assert_close(factored([left], [right]), exact)


def test_explicit_gradients_pad_neighbors_in_length_alone() -> None:
    lengths = [3, 40, 41, 3, 44]
    left, right = factors(lengths, 1, 1), factors([5], 1, 2)
    flops, _ = counted(lambda: explicit(left, right))
    assert flops == 2 * 6 * 10 * (3 * 2 + 44 * 3 + 5 + 5)  # formed, and the products of five pairs
    ordered = sorted(lengths)
    assert [ordered[run] for run in alike(ordered)] == [[3, 3], [40, 41, 44]]
    assert list(alike([])) == []


def test_many_examples_are_formed_some_rows_at_a_time() -> None:
    assert contract.rows_at_a_time(1 << 10) == contract.TILE_BYTES >> 10
    assert contract.rows_at_a_time(3 << 20) == 16
    assert contract.rows_at_a_time(1 << 30) == 0  # the caller takes a group of rows


def test_many_pairs_of_long_examples_meet_as_gradients() -> None:
    few, many = Outers(60, 60, 4, 1, 64, 64), Outers(60_000, 60_000, 1 << 20, 1, 64, 64)
    assert in_token_pairs([few]) == [True]
    assert in_token_pairs([many]) == [False]

"""The two sides of a kernel: which examples are shared, and tiles put together."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subkern.errors import NoMemoryError
from subkern.kernels.request import naming_memory
from subkern.kernels.sides import Outcome, Sides
from subkern.kernels.tiles import Tiling
from subkern.prompts.prompt import EncodedExample

orders = st.lists(st.integers(0, 9), min_size=1, unique=True)
cuts = st.lists(st.integers(1, 9))


def example(number: int) -> EncodedExample:
    return EncodedExample(f"e{number}", 0, (3,) * (1 + number % 4), 0)


def sides(left: list[int], right: list[int]) -> Sides:
    return Sides.of([example(i) for i in left], [example(i) for i in right])


def chunks(count: int, edges: list[int]) -> tuple[slice, ...]:
    """Cut `count` examples at those of `edges` that lie inside."""
    bounds = sorted({0, count, *(edge for edge in edges if edge < count)})
    return tuple(slice(a, b) for a, b in pairwise(bounds))


@given(left=orders, right=orders)
def test_every_example_stands_once_and_is_found_again(left: list[int], right: list[int]) -> None:
    both = sides(left, right)
    assert sorted(e.id for e in both.every) == [f"e{i}" for i in sorted({*left, *right})]
    assert both.every[: len(left)] == both.left
    for side in (both.left, both.right):
        assert tuple(both.every[i] for i in both.places(side)) == side
    assert both.overlap == bool({*left} & {*right})
    assert both.mirrored == ({*left} <= {*right})
    shared = {*left} if both.mirrored else set()
    assert [e.id for e in both.extra] == [f"e{i}" for i in right if i not in shared]
    assert both.entries == len(left) * len(right)
    assert both.swapped == sides(right, left)
    ordered = both.by_length
    assert sorted(e.id for e in ordered.every) == sorted(e.id for e in both.every)
    for side in (ordered.left, ordered.right):
        lengths = [len(e.input_ids) for e in side]
        assert lengths == sorted(lengths)


@pytest.mark.parametrize("directions", [1, 2])
@given(left=orders, right=orders, edges=st.tuples(cuts, cuts))
def test_tiles_are_put_together_in_the_order_of_the_examples(
    directions: int, left: list[int], right: list[int], edges: tuple[list[int], list[int]]
) -> None:
    both = sides(left, right)
    rng = np.random.default_rng(0)
    g, u = rng.normal(size=(2, 10, 2, 5))

    def whole(mine: list[int], theirs: list[int]) -> np.ndarray:
        pairs = [(g, g)] if directions == 1 else [(u, g), (g, u)]
        return np.stack([np.einsum("iap,jbp->iajb", a[mine], b[theirs]) for a, b in pairs])

    def numbers(examples: tuple[EncodedExample, ...]) -> list[int]:
        return [int(e.id[1:]) for e in examples]

    rows, columns = numbers(both.left), {"left": numbers(both.left), "right": numbers(both.extra)}
    tiling = Tiling(chunks(len(rows), edges[0]), chunks(len(columns["right"]), edges[1]))
    tiles = {}
    for side, i, k in tiling.tasks(both.mirrored):
        mine, theirs = rows[tiling.left[i]], columns[side][getattr(tiling, side)[k]]
        tiles[side, i, k] = {
            "values": whole(mine, theirs),
            "left": g[mine, :, 0],
            "right": g[theirs, :, 0],
        }
    values, *logits = both.assemble(tiles, tiling)
    np.testing.assert_allclose(values, whole(left, right), rtol=1e-12)
    np.testing.assert_array_equal(logits[0], g[left, :, 0])
    np.testing.assert_array_equal(logits[1], g[right, :, 0])
    swapped = Outcome(values, *logits).swapped
    np.testing.assert_allclose(swapped.values, whole(right, left), rtol=1e-12)
    if left == right:
        np.testing.assert_array_equal(swapped.values, values)  # to the last bit


OUT_OF_MEMORY = [
    MemoryError(),
    MemoryError("Unable to allocate 3.00 TiB for an array"),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 8 GiB in all)"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117]  DefaultCPUAllocator: can't allocate memory:"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]
OTHER = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("unsupported operation: elements of the input refer to a single memory"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_memory_that_runs_out_says_what_to_lower(error: Exception) -> None:
    message = r"^out of memory \(.+\): lower --memory or --batch-size$"
    with pytest.raises(NoMemoryError, match=message), naming_memory():
        raise error


@pytest.mark.parametrize("error", OTHER, ids=str)
def test_other_errors_that_speak_of_memory_are_not_hidden(error: Exception) -> None:
    with pytest.raises(RuntimeError) as caught, naming_memory():
        raise error
    assert caught.value is error

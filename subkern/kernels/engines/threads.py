"""Independent pieces of work on all cores: NumPy alone uses one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    work: Callable[[Item], Result], items: Sequence[Item], parallel: bool = True
) -> Iterator[Result]:
    """Yield `work` of every item, in order, from as many threads as torch has been given.

    Until all are taken, torch's own operations take one thread each, or its threads would get in
    each other's way. NumPy and torch let go of Python's lock while they compute.

    Args:
        work: of one item; independent of the others.
        items: what to work on.
        parallel: False where the work is another device's.
    """
    threads = min(torch.get_num_threads(), len(items))
    if not parallel or threads < 2:
        yield from map(work, items)
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(work, items)
    finally:
        torch.set_num_threads(before)

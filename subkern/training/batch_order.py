"""In which order training sees its examples: the same for real training and for its prediction."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from subkern.errors import UserError

__all__ = ["batch_order"]


def batch_order(count: int, batch_size: int, steps: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield the indices ``[b]`` of each of ``steps`` batches.

    Every epoch is a permutation of all ``count`` examples, drawn from ``(seed, epoch)``, cut into
    batches; the last batch of an epoch may be smaller. So step s is the same whatever came before,
    and training that goes on from a checkpoint sees what it would have seen.

    Raises:
        UserError: a number is below 1.
    """
    for name, value in (("examples", count), ("batch size", batch_size)):
        if value < 1:
            raise UserError(f"{name} is {value}, it must be at least 1")
    per_epoch = -(-count // batch_size)
    for step in range(steps):
        epoch, number = divmod(step, per_epoch)
        if number == 0:
            order = np.random.default_rng((seed, epoch)).permutation(count)
        yield order[number * batch_size : (number + 1) * batch_size]

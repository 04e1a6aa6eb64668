"""Resampling of two kernels by example, rows with columns where they are the same examples.

What is drawn is the example, with all its logits, and the same ones in both kernels. A rectangular
kernel (train against test) has rows and columns drawn independently; a symmetric one has them drawn
jointly, which needs care. Where an example is drawn twice, the entry between its two copies is its
self-similarity, although it sits off the diagonal: a plain resample carries about twice the
diagonal of any real sample, and metrics that feel the diagonal move. Each such pair of copies
``(p, q)`` of example ``i`` gets instead the entry ``K[i, j]`` of a random other example ``j``, the
same one in both kernels, mirrored, so a resample has as many self-similarities as the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from subkern.agreement.blocks import Array, KernelLike, as_pair
from subkern.errors import UserError
from subkern.symmetry import is_symmetric

__all__ = ["Index", "KernelPair", "kernel_pair"]

Index = NDArray[np.intp]


@dataclass(frozen=True)
class KernelPair:
    """Two kernels over the same examples with optional labels, ready to be resampled."""

    reference: Array
    other: Array
    labels: np.ndarray | None
    right_labels: np.ndarray | None
    symmetric: bool

    def resample(self, rows: Index, columns: Index, rng: np.random.Generator) -> KernelPair:
        """Return the pair on the drawn examples (``columns`` is ignored where rows are columns)."""
        columns = rows if self.symmetric else columns
        logits = np.arange(self.reference.shape[1])
        grid = np.ix_(rows, logits, columns, logits)
        reference, other = self.reference[grid], self.other[grid]
        if self.symmetric:
            first, second, stand_in = _copies(rows, rng)
            for drawn, source in ((reference, self.reference), (other, self.other)):
                drawn[first, :, second, :] = source[rows[first], :, stand_in, :]
                drawn[second, :, first, :] = source[stand_in, :, rows[first], :]
        return KernelPair(
            reference,
            other,
            _take(self.labels, rows),
            _take(self.right_labels, columns),
            self.symmetric,
        )


def _copies(rows: Index, rng: np.random.Generator) -> tuple[Index, Index, Index]:
    """Return the positions of pairs of copies of one example, and a random other example for each
    pair.
    """
    first, second = np.nonzero(np.triu(rows[:, None] == rows[None, :], k=1))
    stand_in = rng.integers(0, len(rows) - 1, size=len(first))
    return first, second, stand_in + (stand_in >= rows[first])


def _take(labels: np.ndarray | None, index: Index) -> np.ndarray | None:
    """Return the labels of the drawn examples."""
    return None if labels is None else labels[index]


def kernel_pair(
    reference: KernelLike,
    other: KernelLike,
    labels: ArrayLike | None,
    right_labels: ArrayLike | None,
    symmetric: bool | None,
) -> KernelPair:
    """Check two kernels and their labels; labels default to those that the reference brings."""
    left, right = as_pair(reference, other)
    if symmetric is None:
        symmetric = is_symmetric(left) and is_symmetric(right)
    elif symmetric and left.shape[0] != left.shape[2]:
        raise UserError(
            "symmetric=True needs square kernels, these are "
            f"{left.shape[0]} x {left.shape[2]} examples: leave it out"
        )
    if labels is None:
        labels, right_labels = (
            getattr(reference, "left_labels", None),
            getattr(reference, "right_labels", None),
        )
    if right_labels is None and left.shape[0] == left.shape[2]:
        right_labels = labels
    sides = []
    for name, given, count in (
        ("labels", labels, left.shape[0]),
        ("right_labels", right_labels, left.shape[2]),
    ):
        array = None if given is None else np.asarray(given)
        if array is not None and array.shape != (count,):
            raise UserError(
                f"{name} has shape {list(array.shape)}: expected [{count}], one per example"
            )
        sides.append(array)
    return KernelPair(left, right, sides[0], sides[1], symmetric)

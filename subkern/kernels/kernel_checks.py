"""What must hold of the parts of a `subkern.kernels.kernel.Kernel`; every failure is one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from subkern.errors import UserError
from subkern.symmetry import is_symmetric

__all__ = [
    "content",
    "finite",
    "floats",
    "ids",
    "labels",
    "logits",
    "one_content",
    "reverse",
    "symmetric",
]


def floats(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return a float64 copy that owns its memory."""
    return np.asarray(values, dtype=np.float64).copy(order="C")


def ids(side: str, names: Sequence[str], count: int) -> npt.NDArray[np.object_]:
    """Return ``count`` unique strings as an object array, which holds strings of any length."""
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise UserError(f"{side} ids must be strings, not {wrong!r}: give str(id)")
    if len(names) != count:
        raise UserError(f"{len(names)} {side} ids for {count} {side} examples: give one each")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"{side} id {name!r} stands twice: ids must be unique")
        seen.add(name)
    return np.array(list(names), dtype=object)


def content(side: str, given: Sequence[str], count: int) -> npt.NDArray[np.object_]:
    """Return one digest an example as an object array."""
    if len(given) != count:
        raise UserError(f"{len(given)} {side} contents for {count} {side} examples: give one each")
    return np.array([str(each) for each in given], dtype=object)


def one_content(left: Mapping[str, str], right: Mapping[str, str]) -> None:
    """Raise if an id that stands on both sides has another digest left than right."""
    for name in left.keys() & right.keys():
        if left[name] != right[name]:
            raise UserError(
                f"example id '{name}' names different examples left and right: rename one"
            )


def labels(side: str, given: npt.ArrayLike, count: int, num_logits: int) -> npt.NDArray[Any]:
    """Return label indices ``[count]`` as int64, each one below the number of labels.

    Of one logit they may be real numbers, which stay float64.
    """
    array = np.asarray(given)
    if array.shape != (count,):
        raise UserError(f"{side} labels must have shape [{count}], not {list(array.shape)}")
    if num_logits == 1 and array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise UserError(f"{side} labels hold NaN or infinite values: give real numbers")
        return array.astype(np.float64)
    indices = array.astype(np.int64)
    top = max(num_logits, 2)  # one logit separates two labels
    bad = (indices != array) | (indices < 0) | (indices >= top)
    if bad.any():
        raise UserError(f"{side} label {array[bad][0]} is not an index from 0 to {top - 1}")
    return indices


def logits(side: str, given: npt.ArrayLike, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return finite initial logits ``[count, c]`` as float64."""
    array = floats(given)
    if array.shape != shape:
        raise UserError(f"{side} logits must have shape {list(shape)}, not {list(array.shape)}")
    bad = array[~np.isfinite(array)]
    if bad.size:
        raise UserError(f"{side} logits hold {bad[0]}: compute them in float32 or float64")
    return array


def finite(values: npt.NDArray[np.float64], left: Sequence[str], right: Sequence[str]) -> None:
    """Raise if a value of the kernel ``[n, c, m, c]`` is infinite or not a number."""
    bad = ~np.isfinite(values)
    if bad.any():
        at = np.argwhere(bad)[0]
        raise UserError(
            f"{np.count_nonzero(bad)} kernel values are not finite, the first {values[tuple(at)]}"
            f" at {_place(at, left, right)}: compute in float32 or float64"
        )


def reverse(given: npt.ArrayLike, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return the other direction of an asymmetric kernel as float64, of the kernel's shape."""
    array = floats(given)
    if array.shape != shape:
        raise UserError(
            f"the reverse direction has shape {list(array.shape)} and the kernel {list(shape)}:"
            " give both as [n, c, m, c]"
        )
    return array


def symmetric(
    values: npt.NDArray[np.float64], other: npt.NDArray[np.float64], names: Sequence[str]
) -> None:
    """Raise if a kernel of a set with itself is not the transpose of `other`.

    `other` is the kernel itself, or the other direction of an asymmetric one.
    """
    if not is_symmetric(values, other):
        flipped = other.transpose(2, 3, 0, 1)
        gap = np.abs(values - flipped)
        at = np.unravel_index(gap.argmax(), gap.shape)
        raise UserError(
            f"rows are columns but the kernel is not symmetric: {values[at]:.9g} and"
            f" {flipped[at]:.9g} at {_place(at, names, names)}; say so with asymmetric=True, or"
            " give the columns other ids"
        )


def _place(at: Any, left: Sequence[str], right: Sequence[str]) -> str:
    """Return an index ``(i, a, j, b)`` of a kernel in words."""
    i, a, j, b = (int(index) for index in at)
    return f"({left[i]}, logit {a}, {right[j]}, logit {b})"

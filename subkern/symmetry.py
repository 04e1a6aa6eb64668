"""When a kernel counts as symmetric: one measure and one tolerance for whoever asks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from subkern.errors import UserError

Array = npt.NDArray[np.float64]

SYMMETRY_RTOL = 1e-5
"""Share of its largest entry by which a symmetric kernel may differ from its transpose: rounding
of one captured in float32 stays below it, kernels of one-sided rules are off by 0.1 and more."""


def asymmetry(values: Array, other: Array | None = None) -> float:
    """``max|K - K'| / max|K|`` of a kernel ``[n, c, m, c]``; infinity if it is not square.

    Args:
        values: K.
        other: what K' is the transpose of, such as the other direction of a one-sided rule; None
            for K itself.
    """
    n, _, m, _ = values.shape
    if n != m:
        return float("inf")
    other = values if other is None else other
    gap = float(np.abs(values - other.transpose(2, 3, 0, 1)).max())
    if not gap:
        return 0.0
    largest = float(np.abs(values).max())
    return gap / largest if largest else float("inf")


def is_symmetric(values: Array, other: Array | None = None, rtol: float = SYMMETRY_RTOL) -> bool:
    """Whether rows and columns are the same examples, as far as the numbers tell."""
    return asymmetry(values, other) <= rtol


def require_symmetric(values: Array, what: str, rtol: float = SYMMETRY_RTOL) -> None:
    """Raise `UserError` unless the kernel is square and equals its transpose to `rtol`."""
    n, _, m, _ = values.shape
    if n != m:
        raise UserError(
            f"{what} needs a square kernel and this one is {n} x {m} examples: "
            "give train against train"
        )
    found = asymmetry(values)
    if found > rtol:
        raise UserError(
            f"{what} needs a symmetric kernel and this one differs from its transpose by "
            f"{found:.1e} of its largest entry: give a kernel of one rule on both sides"
        )

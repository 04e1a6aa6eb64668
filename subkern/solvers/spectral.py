"""The eigenbasis of a training kernel, and regularization measured in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from subkern.agreement.blocks import Array, as_matrix
from subkern.errors import UserError

__all__ = ["DEFAULT_GRID", "Eigenbasis", "check_regularization", "most_regularised"]

DEFAULT_GRID: tuple[float, ...] = tuple(10.0**power for power in range(-6, 3))
"""Regularization as a share of the mean eigenvalue of the training kernel."""

# Eigenvalues below this share of the largest, negative, are more than rounding of a float32 kernel.
INDEFINITE = 1e-3


@dataclass(frozen=True)
class Eigenbasis:
    """``K = U diag(values) U'`` of a training kernel, negative rounding set to 0."""

    values: Array
    """``[n*c]``, ascending, not negative."""
    vectors: Array
    """``[n*c, n*c]``, columns."""
    mean: float
    """The mean eigenvalue, ``trace(K) / (n*c)``: the unit of regularization."""

    @classmethod
    def of(cls, kernel: Array) -> Eigenbasis:
        """Decompose a kernel ``[n, c, n, c]``; raises `UserError` if it is zero or indefinite."""
        matrix = as_matrix(kernel)
        values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
        if values[-1] <= 0.0:
            raise UserError(
                "training kernel has no positive eigenvalue: it is zero, or not a kernel"
            )
        if values[0] < -INDEFINITE * values[-1]:
            raise UserError(
                "training kernel is not positive semi-definite (eigenvalues "
                f"{values[0]:.3g} to {values[-1]:.3g}): no inner product is like that; recompute it"
            )
        values = np.maximum(values, 0.0)
        return cls(values, vectors, float(values.mean()))


def check_regularization(regularization: float | None, grid: tuple[float, ...]) -> list[float]:
    """Return the candidates, most regularized first; raises `UserError` on one that is not above
    0.
    """
    candidates = list(grid) if regularization is None else [regularization]
    if not candidates:
        raise UserError("the regularization grid is empty: give at least one value above 0")
    for value in candidates:
        if not (np.isfinite(value) and value > 0):
            raise UserError(
                f"regularization={value!r} is not above 0: give a share of the mean eigenvalue"
            )
    return sorted((float(value) for value in candidates), reverse=True)


def most_regularised(losses: Array, tied: float = 1e-5) -> int:
    """Return the first position with the smallest loss, to ``tied`` of it (or of 1, if it is less);
    candidates are most regularized first.

    Where regularization vanishes losses differ by less than what rounding of the kernel, divided by
    the regularization, makes of them.
    """
    best = float(np.min(losses))
    return int(np.flatnonzero(losses <= best + tied * max(1.0, abs(best)))[0])

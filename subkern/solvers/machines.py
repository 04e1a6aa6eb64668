"""How a solver of one-dimensional targets treats several logits: jointly, or each by itself."""

from __future__ import annotations

from typing import Literal

import numpy as np

from subkern.agreement.blocks import Array
from subkern.agreement.predictions import Labels
from subkern.errors import UserError

__all__ = ["Logits", "one_against_rest", "split_kernel", "split_logits"]

Logits = Literal["joint", "separate"]
"""``joint``: one machine on all ``n*c`` pairs of example and logit, as the LM-Kernel-FT code
flattens them; a step on one logit moves the others, as in training. ``separate``: c machines, the
one of logit a on ``K[:, a, :, a]`` alone (one against the rest)."""


def split_kernel(kernel: Array, logits: Logits) -> list[Array]:
    """Return the machines' kernels: ``[kernel]``, or c kernels ``[n, 1, m, 1]``."""
    _check(logits)
    if logits == "joint":
        return [kernel]
    return [kernel[:, a : a + 1, :, a : a + 1] for a in range(kernel.shape[1])]


def split_logits(values: Array, logits: Logits) -> list[Array]:
    """Return the machines' columns of ``[n, c]``: ``[values]``, or c arrays ``[n, 1]``.

    ``np.hstack`` puts them together again.
    """
    _check(logits)
    return [values] if logits == "joint" else np.split(values, values.shape[1], axis=1)


def one_against_rest(labels: Labels, logits: int) -> Array:
    """Return targets ``[n, c]``: +1 at the label and -1 elsewhere; c = 1: +1 for class 1."""
    if logits == 1:
        return np.where(labels[:, None] == 1, 1.0, -1.0)
    return np.where(labels[:, None] == np.arange(logits), 1.0, -1.0)


def _check(logits: str) -> None:
    """Raise `UserError` unless ``logits`` is one of the two ways."""
    if logits not in ("joint", "separate"):
        raise UserError(f"logits={logits!r} is not known: use 'joint' or 'separate'")

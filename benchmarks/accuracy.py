"""Errors of float32 kernels against a float64 one, raw and centred."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.problem import Problem
from subkern.compute import compute_kernel


@dataclass(frozen=True)
class Oracle:
    """Float64 kernels of a part of a problem.

    Attributes:
        problem: the part, with the float32 model.
        values: its kernels in float64, ``[…, n, c, m, c]``.
        reference_error: largest relative difference of two entries from an independent engine.
    """

    problem: Problem
    values: np.ndarray
    reference_error: float


def in_float64(problem: Problem) -> Problem:
    """The same with a float64 copy of the model."""
    return replace(problem, model=copy.deepcopy(problem.model).double())


def kernel_oracle(part: Problem) -> Oracle:
    """The kernel by subkern in float64; two entries of it also by `torch.func`."""
    exact = in_float64(part)
    values = compute_kernel(exact.model, exact.left, exact.right).values
    ends = [exact.right[0], exact.right[-1]]
    reference = compute_kernel(exact.model, exact.left[:1], ends, engine="reference").values
    mine = values[:1][:, :, [0, -1]]
    return Oracle(part, values, float((np.abs(mine - reference) / np.abs(reference)).max()))


def errors(values: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """Relative Frobenius error ‖K − K*‖ / ‖K*‖ of kernels ``[…, n, c, m, c]``, raw and centred.

    The largest where there are several. Centring takes the means of rows and of columns away:
    prompted kernels are nearly constant, so a raw error flatters.
    """
    pairs = {"raw": (values, exact), "centred": (_centred(values), _centred(exact))}
    return {name: float(_relative(*pair).max()) for name, pair in pairs.items()}


def _relative(values: np.ndarray, exact: np.ndarray) -> np.ndarray:
    axes = (-4, -3, -2, -1)
    difference = np.sqrt(((values - exact) ** 2).sum(axis=axes))
    return np.asarray(difference / np.sqrt((exact**2).sum(axis=axes)))


def _centred(values: np.ndarray) -> np.ndarray:
    rows = values.mean(axis=-4, keepdims=True)
    columns = values.mean(axis=-2, keepdims=True)
    return np.asarray(values - rows - columns + rows.mean(axis=-2, keepdims=True))

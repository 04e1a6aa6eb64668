"""Errors of float32 kernels against a float64 one, raw and centred."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.problem import Problem
from subkern.compute import compute_kernel


@dataclass(frozen=True)
class Oracle:
    """The float64 kernel of a part of a problem.

    Attributes:
        problem: the part, with the float32 model.
        values: its kernel by subkern in float64, ``[n, c, m, c]``.
        reference_error: largest relative difference of two of its entries from the independent
            engine on `torch.func`, float64.
    """

    problem: Problem
    values: np.ndarray
    reference_error: float


def make_oracle(problem: Problem, left: int, right: int) -> Oracle:
    """The float64 kernel of `left` × `right` examples of evenly spread lengths."""
    part = problem.subset(left, right)
    model = copy.deepcopy(part.model).double()
    exact = replace(part, model=model)
    values = compute_kernel(model, exact.left, exact.right).values
    ends = [exact.right[0], exact.right[-1]]
    reference = compute_kernel(model, exact.left[:1], ends, engine="reference").values
    mine = values[:1][:, :, [0, -1]]
    error = float((np.abs(mine - reference) / np.abs(reference)).max())
    return Oracle(part, values, error)


def errors(values: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """Relative Frobenius error ‖K − K*‖ / ‖K*‖ of a kernel ``[n, c, m, c]``, raw and centred.

    Centring takes the means of rows and of columns away: prompted kernels are nearly constant, so
    a raw error flatters.
    """
    pairs = {"raw": (values, exact), "centred": (_centred(values), _centred(exact))}
    return {
        name: float(np.linalg.norm(mine - truth) / np.linalg.norm(truth))
        for name, (mine, truth) in pairs.items()
    }


def _centred(values: np.ndarray) -> np.ndarray:
    rows = values.mean(axis=0, keepdims=True)
    columns = values.mean(axis=2, keepdims=True)
    return np.asarray(values - rows - columns + rows.mean(axis=2, keepdims=True))

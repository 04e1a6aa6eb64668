"""Errors of float32 kernels against float64 ones, raw and centred."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from benchmarks.contenders import Contender
from benchmarks.ours import SWEEP, both_directions
from benchmarks.problem import Problem
from subkern.kernels.compute import compute_kernel
from subkern.kernels.sweeps.lora import LoraGrid


@dataclass(frozen=True)
class Oracle:
    """Float64 kernels of a part of a problem.

    Attributes:
        values: ``[…, n, c, m, c]``.
        reference_error: largest difference of a few entries from an independent engine's, over
            the largest of these.
    """

    values: np.ndarray
    reference_error: float


@dataclass
class Check:
    """A part of a problem on which contenders are held against float64.

    Attributes:
        part: that part, with the float32 model.
        make: its oracle from it, computed when first asked for.
    """

    part: Problem
    make: Callable[[Problem], Oracle]

    @cached_property
    def oracle(self) -> Oracle:
        """Float64 kernels of `part`."""
        return self.make(self.part)

    def errors(self, contender: Contender, left: int, right: int) -> dict[str, float]:
        """Errors of `contender` on so many examples of the part, raw and centred."""
        few = replace(self.part, left=self.part.left[:left], right=self.part.right[:right])
        exact = self.oracle.values[..., :left, :, :right, :]
        return errors(contender.values(few), exact)


def kernel_oracle(part: Problem, rule: str = "sgd") -> Oracle:
    """The kernel of `rule` by subkern in float64; two entries of it also by `torch.func`."""
    exact = _in_float64(part)
    kernel = compute_kernel(exact.model, exact.left, exact.right, rule=rule)
    ends = [exact.right[0], exact.right[-1]]
    # It drops no rounding noise from structural zeros: signs of few entries differ by intent.
    reference = compute_kernel(exact.model, exact.left[:1], ends, rule=rule, engine="reference")
    values, known = both_directions(kernel), both_directions(reference)
    mine = values[..., :1, :, :, :][..., [0, -1], :]
    return Oracle(values, _largest_difference(mine, known))


def sweep_oracle(part: Problem, grid: LoraGrid = SWEEP) -> Oracle:
    """LoRA's kernel of the first seed at the largest rank, float64, from a PEFT-wrapped model."""
    exact = _in_float64(part)
    subspace = grid.lora(grid.seeds[0], max(grid.ranks))
    values = compute_kernel(exact.model, exact.left, exact.right, subspace=subspace).values
    few = exact.left[:1], exact.right[:1]
    known = compute_kernel(exact.model, *few, subspace=subspace, engine="reference").values
    return Oracle(values, _largest_difference(values[:1, :, :1], known))


def _largest_difference(values: np.ndarray, known: np.ndarray) -> float:
    """Relative to the largest entry: one of a sign kernel may be 0."""
    return float(np.abs(values - known).max() / np.abs(known).max())


def _in_float64(problem: Problem) -> Problem:
    return replace(problem, model=copy.deepcopy(problem.model).double())


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

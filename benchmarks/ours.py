"""subkern itself: the whole kernel, for real."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.contenders import Say
from benchmarks.flops import kernel_flops
from benchmarks.measure import Sample, timed
from benchmarks.problem import Problem
from subkern.compute import Running, compute_kernel
from subkern.kernel import Kernel


class Subkern:
    """`compute_kernel`, as users call it.

    Args:
        problem: the whole kernel.
        memory: its budget beyond the model.
        counted: examples of each side on which FLOPs are counted.
    """

    name = "subkern"

    def __init__(
        self, problem: Problem, memory: str = "3GiB", counted: tuple[int, int] = (4, 8)
    ) -> None:
        self.problem = problem
        self.memory = memory
        self.counted = counted
        self.kernel: Kernel | None = None

    def tune(self, say: Say, seconds: float) -> None:
        """Nothing: it plans by itself."""

    def values(self, problem: Problem) -> np.ndarray:
        """The kernel ``[n, c, m, c]`` of `problem`."""
        return self._compute(problem).values

    def sample(self, turn: int) -> Sample:
        """The whole kernel."""
        seconds, self.kernel = timed(lambda: self._compute(self.problem))
        entries = self.problem.entries
        recorded = self.kernel.provenance["recorded"]
        parts = {"contraction_seconds": float(recorded["contraction_seconds"])}
        parts["rest_seconds"] = seconds - parts["contraction_seconds"]
        return Sample(seconds / entries, seconds, entries, parts=parts)

    def flops_per_entry(self) -> float:
        """FLOPs an entry of the whole kernel, counted on a part of it."""
        return kernel_flops(self.problem, *self.counted) / self.problem.entries

    def settings(self) -> dict[str, Any]:
        """Memory budget, and what FLOPs are counted on."""
        return {
            "memory": self.memory,
            "engine": "factors",
            "flops_counted_on": list(self.counted),
        }

    def _compute(self, problem: Problem) -> Kernel:
        running = Running(memory=self.memory)
        return compute_kernel(problem.model, problem.left, problem.right, running=running)

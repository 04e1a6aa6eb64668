"""subkern itself: whole kernels, for real."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.contenders import Say
from benchmarks.flops import check_flops, kernel_flops, sign_flops
from benchmarks.measure import Sample, timed
from benchmarks.problem import Problem
from benchmarks.roofline import measure
from subkern.kernels.compute import compute_kernel
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import RunOptions
from subkern.kernels.sweeps.lora import LoraGrid, sweep_lora

SWEEP = LoraGrid(ranks=(1, 2, 4, 8, 16, 32), seeds=(0, 1, 2))
"""The rank sweep that is timed: 6 ranks × 3 seeds, all linear layers."""


class Subkern:
    """`compute_kernel`, as users call it.

    Args:
        problem: the whole kernel.
        memory: its budget beyond the model.
        counted: examples of each side on which FLOPs are counted.
        rule: update rule.
    """

    name = "subkern"

    def __init__(
        self,
        problem: Problem,
        memory: str = "3GiB",
        counted: tuple[int, int] = (4, 8),
        rule: str = "sgd",
    ) -> None:
        self.problem = problem
        self.memory = memory
        self.counted = counted
        self.rule = rule
        self.recorded: dict[str, Any] = {}
        self.flops: dict[str, float] = {}
        self.rooflines: list[dict[str, Any]] = []

    def tune(self, say: Say, seconds: float) -> None:
        """Nothing: it plans by itself."""

    def values(self, problem: Problem) -> np.ndarray:
        """The kernel ``[n, c, m, c]`` of `problem`; both, stacked, if it is asymmetric."""
        return both_directions(self._compute(problem))

    def sample(self, turn: int) -> Sample:
        """The whole kernel."""
        seconds, kernel, found = measure(lambda: self._compute(self.problem))
        self.rooflines.append(found)
        self.recorded = kernel.provenance["recorded"]
        entries = self.problem.entries
        numbers = {k: v for k, v in self.recorded.items() if isinstance(v, int | float)}
        return Sample(seconds / entries, seconds, entries, parts=numbers)

    def flops_per_entry(self) -> float | None:
        """FLOPs an entry of the whole kernel, counted on a part of it; of products only."""
        if self.rule not in ("sgd", "signgd"):
            return None
        count = kernel_flops if self.rule == "sgd" else sign_flops
        self.flops = count(self.problem, *self.counted)
        whole = sum(self.flops.values()) / self.problem.entries
        self.flops["checks"] = check_flops(self.problem, self.rule)
        return whole if self.rule == "sgd" else None

    def roofline(self) -> dict[str, Any] | None:
        """Phases of the turn in which others computed least, with their FLOPs where counted."""
        if not self.rooflines:
            return None
        return min(self.rooflines, key=lambda r: float(r["cores_of_others"])) | {
            "flops": self.flops
        }

    def settings(self) -> dict[str, Any]:
        """Rule, memory budget, what FLOPs are counted on, and what the last run recorded."""
        return {
            "rule": self.rule,
            "memory": self.memory,
            "engine": "factors",
            "flops_counted_on": list(self.counted),
            "recorded": self.recorded,
        }

    def _compute(self, problem: Problem) -> Kernel:
        options = RunOptions(memory=self.memory)
        return compute_kernel(
            problem.model, problem.left, problem.right, rule=self.rule, options=options
        )


def both_directions(kernel: Kernel) -> np.ndarray:
    """Values ``[n, c, m, c]``, or with the reverse of an asymmetric kernel ``[2, n, c, m, c]``."""
    reverse = getattr(kernel, "reverse", None)
    return kernel.values if reverse is None else np.stack([kernel.values, reverse])


class RankSweep:
    """`sweep_lora`: full fine-tuning's kernel and LoRA's at every rank and seed, in one pass.

    Args:
        problem: the whole kernel.
        memory: its budget beyond the model.
        grid: ranks and seeds.
    """

    name = "rank sweep"

    def __init__(self, problem: Problem, memory: str = "3GiB", grid: LoraGrid = SWEEP) -> None:
        self.problem = problem
        self.memory = memory
        self.grid = grid

    def tune(self, say: Say, seconds: float) -> None:
        """Nothing: it plans by itself."""

    def values(self, problem: Problem) -> np.ndarray:
        """Its kernel of the first seed at the largest rank, ``[n, c, m, c]``."""
        options = RunOptions(memory=self.memory)
        swept = sweep_lora(
            problem.model, problem.left, problem.right, grid=self.grid, options=options
        )
        return swept.kernels[self.grid.seeds[0], max(self.grid.ranks)].values

    def sample(self, turn: int) -> Sample:
        """The whole sweep, its seconds shared by the entries of one kernel."""
        whole, options = self.problem, RunOptions(memory=self.memory)
        seconds, swept = timed(
            lambda: sweep_lora(
                whole.model, whole.left, whole.right, grid=self.grid, options=options
            )
        )
        parts = {"contraction_seconds": float(swept.cost["contraction_seconds"])}
        parts["rest_seconds"] = seconds - parts["contraction_seconds"]
        entries = whole.entries
        return Sample(seconds / entries, seconds, entries * (1 + len(swept.kernels)), parts=parts)

    def flops_per_entry(self) -> None:
        """Not counted."""

    def settings(self) -> dict[str, Any]:
        """Grid and memory budget."""
        return {
            "ranks": list(self.grid.ranks),
            "seeds": list(self.grid.seeds),
            "targets": str(self.grid.targets),
            "memory": self.memory,
        }

"""What the contenders have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from benchmarks.measure import Sample
from benchmarks.problem import Problem

Say = Callable[[str], None]


class Contender(Protocol):
    """A way to compute a kernel."""

    name: str
    problem: Problem

    def tune(self, say: Say, seconds: float) -> None:
        """Find the settings that are fastest here, in about so many seconds."""

    def values(self, problem: Problem) -> np.ndarray:
        """Kernels ``[…, n, c, m, c]`` of `problem`, float64, computed this way."""
        ...

    def sample(self, turn: int) -> Sample:
        """Time one turn on a part of the problem that stands for the whole."""
        ...

    def flops_per_entry(self) -> float | None:
        """FLOPs of matrix products per entry of the whole kernel, counted on a part.

        None where matrix products are not what it does.
        """
        ...

    def settings(self) -> dict[str, Any]:
        """Everything that describes how it runs (JSON-able)."""
        ...

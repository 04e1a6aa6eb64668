"""What is compared with what, and what is aimed at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.accuracy import Oracle, kernel_oracle
from benchmarks.batching import AS_SHIPPED
from benchmarks.contenders import Contender
from benchmarks.explicit_rows import ExplicitRows
from benchmarks.measure import Sample
from benchmarks.ours import Subkern
from benchmarks.paper import PaperAlgorithm
from benchmarks.problem import Problem

OURS = "subkern"
BEST, SHIPPED, ROWS = "paper, best batches", "paper, as shipped", "Jacobian rows"
Measured = Mapping[str, Mapping[str, Any]]
"""Label → record of a contender."""


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        rounds: most turns of every contender.
        oracle: examples of each side in the part that is checked against float64.
        few: the same for what takes a second an entry.
        blocks: right batches of the paper's algorithm a turn.
        left_sizes: left batch sizes it tries.
        right_sizes: right batch sizes it tries.
        search: seconds of its search.
        memory: subkern's budget beyond the model.
    """

    rounds: int = 3
    oracle: tuple[int, int] = (4, 8)
    few: tuple[int, int] = (2, 4)
    blocks: int = 3
    left_sizes: tuple[int, ...] = (2, 4, 8)
    right_sizes: tuple[int, ...] = (8, 16, 32)
    search: float = 75.0
    memory: str = "3GiB"


@dataclass
class Entrant:
    """A contender and what was measured of it.

    Attributes:
        label: what it is called in tables.
        contender: the way to compute.
        part: examples of each side, of the oracle's, on which it is checked.
    """

    label: str
    contender: Contender
    part: tuple[int, int]
    errors: dict[str, float] = field(default_factory=dict)
    flops_per_entry: float | None = None
    samples: list[Sample] = field(default_factory=list)

    @property
    def seconds_per_entry(self) -> float:
        """Median of the turns."""
        return median(s.seconds_per_entry for s in self.samples)

    @property
    def peak_bytes(self) -> float:
        """Most of any turn."""
        return max(s.peak_bytes for s in self.samples)


@dataclass(frozen=True)
class Aim:
    """A number that is aimed at.

    Attributes:
        what: the quantity.
        bound: the aim.
        measure: the quantity from the records of a case's contenders.
        at_least: whether more is better.
    """

    what: str
    bound: float
    measure: Callable[[Measured], float]
    at_least: bool = False

    def record(self, measured: Measured) -> dict[str, Any]:
        """The aim beside what was measured (JSON-able)."""
        value = self.measure(measured)
        met = value >= self.bound if self.at_least else value <= self.bound
        sense = "at least" if self.at_least else "at most"
        return {
            "what": self.what, "sense": sense, "aim": self.bound, "measured": value, "met": met,
        }  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A comparison on one problem.

    Attributes:
        name: as on the command line.
        base: label of the entrant whose time is 1.
        entrants: those that are compared, in the order of their turns; two cases may share one.
        oracle: float64 kernels of a part of the problem.
        aims: what is aimed at.
    """

    name: str
    base: str
    entrants: list[Entrant]
    oracle: Callable[[Problem], Oracle]
    aims: tuple[Aim, ...] = ()


def kernel_case(problem: Problem, plan: Plan) -> Case:
    """The kernel of full fine-tuning, three ways."""
    best = PaperAlgorithm(
        problem, blocks=plan.blocks, left_sizes=plan.left_sizes, right_sizes=plan.right_sizes
    )
    shipped = PaperAlgorithm(problem, AS_SHIPPED, collect=True, blocks=2 * plan.blocks)
    field_ = [
        Entrant(BEST, best, plan.oracle),
        Entrant(SHIPPED, shipped, plan.few),
        Entrant(ROWS, ExplicitRows(problem), plan.oracle),
        Entrant(OURS, Subkern(problem, plan.memory, plan.oracle), plan.oracle),
    ]
    return Case("kernel", OURS, field_, kernel_oracle, _kernel_aims(problem))


def _kernel_aims(problem: Problem) -> tuple[Aim, ...]:
    goal = {"minilm": 50.0, "smollm2": 30.0}.get(problem.name.partition("-")[0], 1.0)
    return (
        Aim("times faster than the paper, best batches", goal, lambda m: m[BEST]["ratio"], True),
        Aim("error, raw", 1e-5, lambda m: m[OURS]["error_raw"]),
        Aim("error, centred", 1e-4, lambda m: m[OURS]["error_centred"]),
        Aim("GiB over the model", 3.0, lambda m: m[OURS]["peak_bytes"] / 2**30),
    )


CASES: dict[str, Callable[[Problem, Plan], Case]] = {"kernel": kernel_case}

"""What is compared with what, and what is aimed at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from statistics import median
from typing import Any

from benchmarks.accuracy import Check, kernel_oracle, sweep_oracle
from benchmarks.batching import AS_SHIPPED
from benchmarks.contenders import Contender
from benchmarks.explicit_rows import ExplicitRows
from benchmarks.measure import Sample
from benchmarks.ours import SWEEP, RankSweep, Subkern
from benchmarks.paper import PaperAlgorithm
from benchmarks.paper_signs import PaperSigns
from benchmarks.problem import Problem
from subkern.kernels.sweeps.lora import LoraGrid
from subkern.storage.memory import parse_memory

OURS = "subkern"
BEST, SHIPPED, ROWS = "paper, best batches", "paper, as shipped", "Jacobian rows"
FULL, SWEPT = "full kernel alone", "rank sweep"
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
        grid: the rank sweep.
        gradients: how many are projected.
        dim: to how many dimensions.
    """

    rounds: int = 3
    oracle: tuple[int, int] = (4, 8)
    few: tuple[int, int] = (2, 4)
    blocks: int = 3
    left_sizes: tuple[int, ...] = (2, 4, 8)
    right_sizes: tuple[int, ...] = (8, 16, 32)
    search: float = 60.0
    memory: str = "3GiB"
    grid: LoraGrid = SWEEP
    gradients: int = 64
    dim: int = 256


QUICK = Plan(
    rounds=1, oracle=(3, 4), few=(2, 3), blocks=1, left_sizes=(1, 2), right_sizes=(1, 4),
    grid=LoraGrid(ranks=(1, 2, 4), seeds=(0, 1)),
    gradients=6, dim=32,
)  # fmt: skip
"""For tiny models: does it run?"""


@dataclass
class Entrant:
    """A contender and what was measured of it.

    Attributes:
        label: what it is called in tables.
        contender: the way to compute.
        check: float64 kernels that it is held against.
        checked_on: examples of each side of that check's part.
    """

    label: str
    contender: Contender
    check: Check
    checked_on: tuple[int, int]
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
        field: entrants by label, in the order of their turns; cases may share one.
        check: what stands in the record.
        aims: what is aimed at.
    """

    name: str
    base: str
    field: dict[str, Entrant]
    check: Check
    aims: tuple[Aim, ...] = ()


class Cases:
    """The comparisons on one problem, which share subkern's kernel.

    Args:
        problem: what is computed.
        plan: how much is measured.
    """

    def __init__(self, problem: Problem, plan: Plan) -> None:
        self.problem = problem
        self.plan = plan

    def named(self, name: str) -> Case:
        """A comparison: `kernel`, `sweep` or one of `SIGN_RULES`."""
        if name == "kernel":
            return self._kernel()
        return self._sweep() if name == "sweep" else self._signs(SIGN_RULES[name])

    @cached_property
    def _check(self) -> Check:
        return Check(self.problem.subset(*self.plan.oracle), kernel_oracle)

    @cached_property
    def _ours(self) -> Entrant:
        contender = Subkern(self.problem, self.plan.memory, self.plan.oracle)
        return Entrant(OURS, contender, self._check, self.plan.oracle)

    def _kernel(self) -> Case:
        """The kernel of full fine-tuning, four ways."""
        plan, problem, check = self.plan, self.problem, self._check
        best = PaperAlgorithm(
            problem, blocks=plan.blocks, left_sizes=plan.left_sizes, right_sizes=plan.right_sizes
        )
        shipped = PaperAlgorithm(problem, AS_SHIPPED, collect=True, blocks=2 * plan.blocks)
        field_ = {
            BEST: Entrant(BEST, best, check, plan.oracle),
            SHIPPED: Entrant(SHIPPED, shipped, check, plan.few),
            ROWS: Entrant(ROWS, ExplicitRows(problem), check, plan.oracle),
            OURS: self._ours,
        }
        goal = {"minilm": 50.0, "smollm2": 30.0}.get(problem.name.partition("-")[0], 1.0)
        aims = (
            Aim(f"{BEST}, times ours", goal, lambda m: m[BEST]["ratio"], True),
            Aim("error, raw", 1e-5, lambda m: m[OURS]["error_raw"]),
            Aim("error, centred", 1e-4, lambda m: m[OURS]["error_centred"]),
            Aim("GiB over the model", 3.0, lambda m: m[OURS]["peak_bytes"] / 2**30),
        )
        return Case("kernel", OURS, field_, check, aims)

    def _sweep(self) -> Case:
        """Every rank and seed beside the full kernel alone."""
        plan, problem = self.plan, self.problem
        check = Check(problem.subset(*plan.few), partial(sweep_oracle, grid=plan.grid))
        sweep = RankSweep(problem, plan.memory, plan.grid)
        field_ = {FULL: self._ours, SWEPT: Entrant(SWEPT, sweep, check, plan.few)}
        what = f"{len(plan.grid.ranks)} ranks x {len(plan.grid.seeds)} seeds, times the full kernel"
        aims = (Aim(what, 1.3, lambda m: m[SWEPT]["ratio"]),)
        return Case("sweep", FULL, field_, check, aims)

    def _signs(self, rule: str) -> Case:
        """A sign kernel, three ways."""
        plan, problem = self.plan, self.problem
        check = Check(problem.subset(*plan.few), partial(kernel_oracle, rule=rule))
        room = parse_memory(plan.memory)
        best = PaperSigns(problem, rule, row_bytes=room, blocks=plan.blocks)
        shipped = PaperSigns(problem, rule, AS_SHIPPED, collect=True, blocks=plan.blocks)
        ours = Subkern(problem, plan.memory, rule=rule)
        field_ = {
            label: Entrant(f"{label}, {rule}", contender, check, plan.few)
            for label, contender in ((BEST, best), (SHIPPED, shipped), (OURS, ours))
        }
        aims: tuple[Aim, ...] = (
            Aim(f"{BEST}, times ours", 100.0, lambda m: m[BEST]["ratio"], True),
            Aim(f"{SHIPPED}, times ours", 100.0, lambda m: m[SHIPPED]["ratio"], True),
        )
        if rule == "signgd":  # the asymmetric one needs gradients beside signs, and keeps no rows
            aims += (Aim("bytes of packed rows over float32 rows", 1 / 30, _packing),)
        return Case(f"sign ({rule})", OURS, field_, check, aims)


SIGN_RULES = {"sign": "signgd", "asymmetric-sign": "asymmetric_signgd"}


def _packing(measured: Measured) -> float:
    """Bytes of a kept sign row over those of a float32 one."""
    recorded = measured[OURS]["settings"]["recorded"]
    return float(recorded["sign_row_bytes"]) / (4.0 * recorded["coordinates"])

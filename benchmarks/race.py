"""One case: tune, check, count and time every contender, taking turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

from benchmarks.accuracy import Oracle, errors, make_oracle
from benchmarks.contenders import Contender, Say
from benchmarks.explicit_rows import ExplicitRows
from benchmarks.measure import PeakMemory, Sample, release_memory, resident_bytes
from benchmarks.ours import Subkern
from benchmarks.paper import AS_SHIPPED, PaperAlgorithm
from benchmarks.problem import Problem, tokens

OURS = "subkern"


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        rounds: turns of every contender.
        oracle: examples of each side in the part that is checked against float64.
        blocks: right batches of the paper's algorithm a turn.
        right_sizes: right batch sizes it tries.
        memory: subkern's budget beyond the model.
    """

    rounds: int = 3
    oracle: tuple[int, int] = (4, 8)
    blocks: int = 3
    right_sizes: tuple[int, ...] = (1, 8, 16, 32)
    memory: str = "3GiB"


@dataclass
class Entrant:
    """A contender and what was measured of it."""

    label: str
    contender: Contender
    errors: dict[str, float] = field(default_factory=dict)
    flops_per_entry: float = 0.0
    samples: list[Sample] = field(default_factory=list)

    @property
    def seconds_per_entry(self) -> float:
        """Median of the turns."""
        return median(s.seconds_per_entry for s in self.samples)

    @property
    def peak_bytes(self) -> float:
        """Most of any turn."""
        return max(s.peak_bytes for s in self.samples)


def entrants(problem: Problem, plan: Plan) -> list[Entrant]:
    """All contenders, in the order of their turns."""
    best = PaperAlgorithm(problem, blocks=plan.blocks, right_sizes=plan.right_sizes)
    shipped = PaperAlgorithm(problem, AS_SHIPPED, collect=True, blocks=2 * plan.blocks)
    return [
        Entrant("paper, best batches", best),
        Entrant("paper, as shipped", shipped),
        Entrant("Jacobian rows", ExplicitRows(problem)),
        Entrant(OURS, Subkern(problem, plan.memory)),
    ]


def race(problem: Problem, plan: Plan, say: Say, deadline: float) -> dict[str, Any]:
    """Measure one case; the record is JSON-able.

    Args:
        problem: the kernel.
        plan: how much to measure.
        say: takes progress lines.
        deadline: `time.monotonic` after which no further round begins.
    """
    say(f"{problem.title}: {len(problem.left)} x {len(problem.right)} examples")
    problem.model(
        problem.model.collate(problem.left[:1])
    )  # touch the weights: they count as loaded
    release_memory()
    base = resident_bytes()
    oracle = make_oracle(problem, *plan.oracle)
    say(f"float64 kernel: two entries are within {oracle.reference_error:.0e} of the reference")
    field_ = entrants(problem, plan)
    for entrant in field_:
        entrant.contender.tune(say)
        _prepare(entrant, oracle, say)
    _rounds(field_, plan.rounds, base, say, deadline)
    return _record(problem, field_, oracle, base)


def _prepare(entrant: Entrant, oracle: Oracle, say: Say) -> None:
    """Check against float64 and count FLOPs; also warms up what a first call compiles or caches."""
    entrant.errors = errors(entrant.contender.values(oracle.problem), oracle.values)
    release_memory()
    entrant.flops_per_entry = entrant.contender.flops_per_entry()
    release_memory()
    say(
        f"{entrant.label}: error {entrant.errors['raw']:.1e} raw,"
        f" {entrant.errors['centred']:.1e} centred,"
        f" {entrant.flops_per_entry / 1e9:.3g} GFLOP per entry"
    )


def _rounds(field_: Sequence[Entrant], rounds: int, base: float, say: Say, deadline: float) -> None:
    longest = 0.0
    for turn in range(rounds):
        started = time.monotonic()
        if turn and started + longest > deadline:
            say(f"time is up after {turn} of {rounds} rounds")
            return
        for entrant in field_:
            release_memory()
            with PeakMemory(base) as memory:
                sample = entrant.contender.sample(turn)
            entrant.samples.append(replace(sample, peak_bytes=memory.peak_bytes))
            say(
                f"round {turn + 1}/{rounds}, {entrant.label}:"
                f" {1e3 * sample.seconds_per_entry:.4g} ms per entry"
                f" ({sample.entries} entries in {sample.wall_seconds:.1f} s)"
            )
        longest = max(longest, time.monotonic() - started)


def _record(
    problem: Problem, field_: Sequence[Entrant], oracle: Oracle, base: float
) -> dict[str, Any]:
    ours = next(e for e in field_ if e.label == OURS)
    return {
        "case": problem.name,
        "title": problem.title,
        "model": problem.model.description,
        "parameters": sum(p.numel() for p in problem.model.parameters()),
        "dtype": str(problem.model.dtype).removeprefix("torch."),
        "left": _side(problem.left),
        "right": _side(problem.right),
        "num_logits": problem.model.num_logits,
        "entries": problem.entries,
        "loaded_bytes": base,
        "oracle": {
            "left": len(oracle.problem.left),
            "right": len(oracle.problem.right),
            "reference_error": oracle.reference_error,
        },
        "contenders": [_contender(e, ours) for e in field_],
    }


def _side(examples: Sequence[Any]) -> dict[str, Any]:
    lengths = [len(e.input_ids) for e in examples]
    return {"examples": len(examples), "tokens": tokens(examples), "longest": max(lengths)}


def _contender(entrant: Entrant, ours: Entrant) -> dict[str, Any]:
    turns = zip(entrant.samples, ours.samples, strict=True)
    ratios = [mine.seconds_per_entry / base.seconds_per_entry for mine, base in turns]
    return {
        "label": entrant.label,
        "seconds_per_entry": entrant.seconds_per_entry,
        "ratio": median(ratios),
        "ratio_by_round": ratios,
        "peak_bytes": entrant.peak_bytes,
        "flops_per_entry": entrant.flops_per_entry,
        "error_raw": entrant.errors["raw"],
        "error_centred": entrant.errors["centred"],
        "settings": entrant.contender.settings(),
        "samples": [asdict(s) for s in entrant.samples],
    }

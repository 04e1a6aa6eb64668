"""Everything on one model: tune, check, count and time every entrant, taking turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any, Protocol

from benchmarks.cases import OURS, Case, Entrant, Plan
from benchmarks.contenders import Say
from benchmarks.measure import PeakMemory, Sample, release_memory, resident_bytes
from benchmarks.problem import Problem, tokens

_SLACK = 1.15  # a turn may take so many times as long as the last one did
_PREPARATION = 0.2  # of the time there is, at most, for searches of batch sizes


def race(
    problem: Problem, cases: Sequence[Case], plan: Plan, say: Say, deadline: float
) -> list[dict[str, Any]]:
    """Measure the entrants of all `cases`; one JSON-able record a case.

    Args:
        problem: the kernel.
        cases: comparisons; what two of them share is timed once.
        plan: how much to measure.
        say: takes progress lines.
        deadline: `time.monotonic` when it should be over (see `take_turns`).
    """
    say(f"{problem.title}: {len(problem.left)} x {len(problem.right)} examples")
    first = problem.model.collate(problem.left[:1])
    problem.model(first)  # touch the weights: they count as loaded
    release_memory()
    base = resident_bytes()
    search = min(plan.search, _PREPARATION * (deadline - time.monotonic()))
    entrants = list({e.label: e for case in cases for e in case.field.values()}.values())
    for entrant in entrants:
        prepare(entrant, say, search)
    take_turns(entrants, plan.rounds, base, say, deadline)
    return [_record(problem, case, base) for case in cases]


def prepare(entrant: Entrant, say: Say, search: float) -> None:
    """Tune, check against float64 and count FLOPs.

    Also warms up what a first call compiles or caches.
    """
    started = time.monotonic()
    entrant.contender.tune(say, search)
    entrant.errors = entrant.check.errors(entrant.contender, *entrant.checked_on)
    release_memory()
    entrant.flops_per_entry = entrant.contender.flops_per_entry()
    release_memory()
    say(
        f"{entrant.label}: error {entrant.errors['raw']:.1e} raw,"
        f" {entrant.errors['centred']:.1e} centred"
        f" (prepared in {time.monotonic() - started:.0f} s)"
    )


class Turns(Protocol):
    """What can be timed turn by turn."""

    label: str
    samples: list[Sample]

    @property
    def contender(self) -> Sampled:
        """Whose turns they are."""
        ...


class Sampled(Protocol):
    """What can be timed once."""

    def sample(self, turn: int) -> Sample:
        """Time one turn."""
        ...


def take_turns(
    entrants: Sequence[Turns], rounds: int, base: float, say: Say, deadline: float
) -> None:
    """Time every entrant once a round.

    The first round is whole whatever it takes; afterwards no turn begins that would end after
    `deadline`, going by the entrant's last one.
    """
    for turn in range(rounds):
        for entrant in entrants:
            if len(entrant.samples) < turn:
                continue  # has had its last turn
            last = entrant.samples[-1].wall_seconds if turn else 0.0
            if turn and time.monotonic() + _SLACK * last > deadline:
                say(f"no time for turn {turn + 1} of {entrant.label}: about {last:.0f} s")
                continue
            release_memory()
            with PeakMemory(base) as memory:
                sample = entrant.contender.sample(turn)
            entrant.samples.append(replace(sample, peak_bytes=memory.peak_bytes))
            say(
                f"round {turn + 1}/{rounds}, {entrant.label}:"
                f" {1e3 * sample.seconds_per_entry:.4g} ms per entry"
                f" ({sample.entries} entries in {sample.wall_seconds:.1f} s)"
            )


def _record(problem: Problem, case: Case, base: float) -> dict[str, Any]:
    contenders = results(case)
    part = case.check.part
    ours = case.field.get(OURS)
    told = getattr(ours.contender, "roofline", None) if ours else None
    return {
        "case": case.name,
        "problem": problem.name,
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
            "left": len(part.left),
            "right": len(part.right),
            "reference_error": case.check.oracle.reference_error,
        },
        "base": case.base,
        "contenders": list(contenders.values()),
        "aims": [aim.record(contenders) for aim in case.aims],
        "roofline": told() if told else None,
    }


def results(case: Case) -> dict[str, dict[str, Any]]:
    """Label → what was measured, JSON-able."""
    ours = case.field[case.base]
    return {label: _contender(label, e, ours) for label, e in case.field.items()}


def _side(examples: Sequence[Any]) -> dict[str, Any]:
    lengths = [len(e.input_ids) for e in examples]
    return {"examples": len(examples), "tokens": tokens(examples), "longest": max(lengths)}


def _contender(label: str, entrant: Entrant, ours: Entrant) -> dict[str, Any]:
    turns = zip(entrant.samples, ours.samples, strict=False)  # one may have had a turn more
    ratios = [mine.seconds_per_entry / base.seconds_per_entry for mine, base in turns]
    return {
        "label": label,
        "seconds_per_entry": entrant.seconds_per_entry,
        "ratio": median(ratios),
        "ratio_by_round": ratios,
        "peak_bytes": entrant.peak_bytes,
        "flops_per_entry": entrant.flops_per_entry,
        "error_raw": entrant.errors["raw"],
        "error_centred": entrant.errors["centred"],
        "checked_on": list(entrant.checked_on),
        "settings": entrant.contender.settings(),
        "samples": [asdict(s) for s in entrant.samples],
    }

"""Which comparisons run on which model, in what order, and how long each may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MINUTES = {
    "minilm": {"kernel": 1.0, "sweep": 0.7, "projection": 1.5},
    "smollm2": {"kernel": 6.5, "sign": 5.3},  # a sweep takes four minutes more: if asked for
}
"""Model → its comparisons, and the share of the time each gets."""

CASES = ("kernel", "sweep", "sign", "asymmetric-sign", "projection")
_OTHER = 2.5  # minutes of a comparison that runs only if asked for


@dataclass(frozen=True)
class Step:
    """Comparisons that run together.

    Attributes:
        model: name of the model.
        cases: on it, taking turns.
        minutes: share of the time.
    """

    model: str
    cases: tuple[str, ...]
    minutes: float


def schedule(models: Sequence[str] = (), cases: Sequence[str] = ()) -> list[Step]:
    """What to run, the longest at the end, where it gets what the others leave.

    Args:
        models: those asked for; none means all.
        cases: those asked for; none means each model's own. Both together mean exactly these.
    """
    steps = []
    for model in models or MINUTES:
        own = MINUTES[model]
        chosen = [c for c in cases or own if c in own or (models and cases)]
        races = tuple(c for c in chosen if c != "projection")
        for group in (races, tuple(c for c in chosen if c == "projection")):
            if group:
                steps.append(Step(model, group, sum(own.get(c, _OTHER) for c in group)))
    if not steps:  # one that is no model's own
        steps = [Step("smollm2", tuple(cases), _OTHER * len(cases))]
    return steps


def seconds_for(steps: Sequence[Step], left: float) -> float:
    """Of `left` seconds for all `steps`, those of the first."""
    return left * steps[0].minutes / sum(step.minutes for step in steps)

"""The answer of a study of several target sets: which rank and targets to take for a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..engine.pooling import Pooled
from ..engine.run_folder import Results
from .budget import parse_budget
from .numbers import kernel_agreement, trained
from .targets import names, only
from .verdict import Verdict, recommend

__all__ = [
    "MEASURES",
    "Configuration",
    "Found",
    "by_targets",
    "configurations",
    "front",
    "recommend_configuration",
]

MEASURES = ("score", "equal predictions", "CKA")  # what a front is drawn in


@dataclass(frozen=True)
class Configuration:
    """LoRA of one rank on one target set.

    Attributes:
        targets: name of the target set.
        verdict: whether it is as good as full fine-tuning.
        cka: of its train kernel with full fine-tuning's.
        trained: how many parameters it trains.
        affordable: whether these are within the budget.
    """

    targets: str
    verdict: Verdict
    cka: Pooled
    trained: float
    affordable: bool

    @property
    def rank(self) -> int:
        """The rank."""
        return self.verdict.rank

    def value(self, measure: str) -> Pooled:
        """Return one of `MEASURES`."""
        if measure == "CKA":
            return self.cka
        return self.verdict.score if measure == "score" else self.verdict.agreement


@dataclass(frozen=True)
class Found:
    """Which rank and targets to take.

    Attributes:
        solver: the classifier that judges.
        best: the cheapest configuration within tolerance that can be afforded, or the closest one.
        beyond: the cheapest within tolerance that the budget rules out, where none can be afforded.
        every: all configurations, target set by target set, ranks ascending.
        limit: the most parameters that may be trained, or None.
        max_drop, min_agreement: the tolerances.
    """

    solver: str
    best: Configuration
    beyond: Configuration | None
    every: tuple[Configuration, ...]
    limit: float | None
    max_drop: float
    min_agreement: float

    @property
    def qualifies(self) -> bool:
        """Whether `best` is within tolerance and budget."""
        return self.best.verdict.ok and self.best.affordable

    @property
    def candidates(self) -> list[Configuration]:
        """The configurations that can be afforded; the cheapest of all where none can."""
        return [each for each in self.every if each.affordable] or [self.best]

    def view(self, results: Results) -> Results:
        """Return the study of the best targets alone, at the ranks that can be afforded.

        `analyses.lora.verdict.recommend` gives the rank of `best` there.
        """
        ranks = [each.rank for each in self.candidates if each.targets == self.best.targets]
        return only(results, self.best.targets, ranks)


def configurations(results: Results, solver: str | None = None) -> tuple[Configuration, ...]:
    """Judge every rank of every target set by the classifier ``solver`` (the config's first)."""
    text, whole = results.config["budget"], trained(results)
    limit = None if text is None else parse_budget(text).of(whole)
    found: list[Configuration] = []
    for name in names(results):
        view = only(results, name)
        cka = kernel_agreement(view, "cka")
        for verdict in recommend(view, solver).verdicts:
            size = trained(view, verdict.rank)
            affordable = limit is None or size <= limit
            found.append(Configuration(name, verdict, cka[verdict.rank], size, affordable))
    return tuple(found)


def recommend_configuration(results: Results, solver: str | None = None) -> Found:
    """Return the cheapest configuration within tolerance and budget, or the closest affordable one.

    Cheap is what trains few parameters. The tolerances are those of
    `analyses.lora.verdict.recommend`; closest is what misses them by least, then the cheapest.
    Where the budget allows nothing at all, it is the cheapest of all.
    """
    every = configurations(results, solver)
    max_drop, min_agreement = results.config["max_drop"], results.config["min_agreement"]
    affordable = [each for each in every if each.affordable]
    good = [each for each in affordable if each.verdict.ok]

    def cost(each: Configuration) -> tuple[float, int]:
        return each.trained, each.rank

    def distance(each: Configuration) -> tuple[float, float, int]:
        return (each.verdict.shortfall(max_drop, min_agreement), *cost(each))

    beyond = min((e for e in every if e.verdict.ok and not e.affordable), key=cost, default=None)
    if good:
        best, beyond = min(good, key=cost), None
    else:
        best = min(affordable, key=distance) if affordable else min(every, key=cost)
    text = results.config["budget"]
    limit = None if text is None else parse_budget(text).of(trained(results))
    solver = solver or results.config["solvers"][0]
    return Found(solver, best, beyond, every, limit, max_drop, min_agreement)


def front(every: Sequence[Configuration], measure: str) -> list[Configuration]:
    """Return the Pareto front, cheapest first: what nothing as cheap or cheaper equals or beats."""
    kept: list[Configuration] = []
    for each in sorted(every, key=lambda e: (e.trained, -e.value(measure).mean)):
        if not kept or each.value(measure).mean > kept[-1].value(measure).mean:
            kept.append(each)
    return kept


def by_targets(every: Sequence[Configuration]) -> Mapping[str, list[Configuration]]:
    """Return the configurations of each target set, ranks ascending."""
    found: dict[str, list[Configuration]] = {}
    for each in every:
        found.setdefault(each.targets, []).append(each)
    return found

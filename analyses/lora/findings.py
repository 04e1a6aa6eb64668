"""What a LoRA study found: every configuration judged, the one to take, and what limits the answer.

One target set is a grid with one row: there is one answer, the cheapest configuration within
tolerance (and budget). What follows it, from tables to figures, is of the best one's target set.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from subkern.agreement import METRICS, Metric

from ..engine.classifiers import solvers_of
from ..engine.long_table import cells
from ..engine.one_step import DECREASE, ONE_STEP
from ..engine.pooling import Pooled, pool_values
from ..engine.run_folder import Results
from ..show.study_numbers import (
    AtChance,
    Costs,
    at_chance,
    costs,
    model_name,
    score_error,
    score_metric,
    score_name,
)
from ..verify.rates import Rates
from ..verify.yardstick import Yardstick
from .config import Budget, Config
from .train_kernels import Shapes

OVERLAP = "eigenspace_overlap_centred"
_FIRST = (
    *("cka", "relative_frobenius_centred_scaled", OVERLAP, "pearson", "spearman"),
    *("kernel_target_alignment", "effective_rank_centred"),
)
_SLACK = 1e-12  # 19 of 20 is 0.95, whatever binary fractions make of it
_NEAR = 1.25  # times as many parameters are nearly the same cost
_TOLD = 4  # of a front's configurations are put into words; of more, the first and last two


@dataclass(frozen=True)
class Judged:
    """One way of training, as the classifier solved on its kernels judges it.

    Full fine-tuning of a target set's weights alone, which LoRA tends to as the rank grows, or a
    `Configuration` of LoRA.

    Attributes:
        targets: name of the target set.
        score: the task's metric on the test split.
        drop: the full kernel's score minus this one's.
        agreement: share of the test examples that get the full kernel's prediction.
        cka: of its train kernel with full fine-tuning's.
    """

    targets: str
    score: Pooled
    drop: Pooled
    agreement: Pooled
    cka: Pooled


@dataclass(frozen=True)
class Configuration(Judged):
    """LoRA of one rank on one target set.

    Attributes:
        rank: the rank.
        name: what it is called where its predictions are kept and training is set beside them.
        trained, share: how many parameters it trains, and their share of full fine-tuning's.
        drop_ok, agreement_ok: whether the means are within the tolerances.
        shortfall: how far the worse of the two is beyond its tolerance; 0 if none is.
        affordable: whether its parameters are within the budget.
    """

    rank: int
    name: str
    trained: float
    share: float
    drop_ok: bool
    agreement_ok: bool
    shortfall: float
    affordable: bool

    @property
    def ok(self) -> bool:
        """Whether both are within tolerance."""
        return self.drop_ok and self.agreement_ok

    @property
    def called(self) -> str:
        """Its rank and targets: ``rank 4 on attention``."""
        return f"rank {self.rank} on {self.targets}"


@dataclass(frozen=True)
class Answer:
    """Which rank and targets to take.

    Attributes:
        solver: the classifier that judges.
        every: all configurations, target set by target set, ranks ascending.
        best: the cheapest configuration within tolerance that can be afforded, or the closest one.
        beyond: the cheapest within tolerance that the budget rules out, where none can be afforded.
    """

    solver: str
    every: tuple[Configuration, ...]
    best: Configuration
    beyond: Configuration | None

    @property
    def qualifies(self) -> bool:
        """Whether `best` is within tolerance and budget."""
        return self.best.ok and self.best.affordable

    @property
    def candidates(self) -> list[Configuration]:
        """The configurations that can be afforded; the cheapest of all where none can."""
        return [each for each in self.every if each.affordable] or [self.best]

    @property
    def by_targets(self) -> dict[str, list[Configuration]]:
        """The configurations of each target set, ranks ascending."""
        found: dict[str, list[Configuration]] = {}
        for each in self.every:
            found.setdefault(each.targets, []).append(each)
        return found


@dataclass(frozen=True)
class Solver:
    """What one classifier makes of the best target set.

    Attributes:
        name: the classifier.
        scores, same: its test score, and the share of the full kernel's predictions, by rank.
        full, adapted: its score on the full kernel, and on that of the adapted weights.
    """

    name: str
    scores: Mapping[int, Pooled]
    same: Mapping[int, Pooled]
    full: Pooled
    adapted: Pooled


@dataclass(frozen=True)
class Measured:
    """One metric of agreement with a full kernel.

    Attributes:
        metric: which.
        own: its value of full agreement: of that kernel with itself.
        by_rank: LoRA's.
    """

    metric: Metric
    own: float
    by_rank: Mapping[int, Pooled]


@dataclass(frozen=True)
class OwnSet:
    """The best configuration's target set by itself, at the ranks that can be afforded.

    Attributes:
        targets: its name.
        ranks: ascending.
        several: whether there is more than one.
        line: its configurations.
        solvers: every classifier, the judge first.
        with_full, with_adapted: agreement of the train kernels with full fine-tuning's, and with
            that of the adapted weights; metric by name, the most telling ones first.
        limit: agreement of these two with each other, which LoRA's tends to; by metric.
        adapted: full fine-tuning of the adapted weights.
        reached: the least rank with enough equal predictions, or None.
    """

    targets: str
    ranks: tuple[int, ...]
    several: bool
    line: tuple[Configuration, ...]
    solvers: tuple[Solver, ...]
    with_full: Mapping[str, Measured]
    with_adapted: Mapping[str, Measured]
    limit: Mapping[str, float]
    adapted: Judged
    reached: int | None

    @property
    def judge(self) -> Solver:
        """The classifier that judges."""
        return self.solvers[0]

    @property
    def overlap(self) -> Measured:
        """Overlap of the leading directions with full fine-tuning's."""
        return self.with_full[OVERLAP]


@dataclass(frozen=True)
class Front:
    """A Pareto front: what nothing as cheap or cheaper equals or beats in one measure.

    Attributes:
        line: its configurations, cheapest first.
        first, last: those put into words; ``last`` only where the middle is left out.
    """

    line: tuple[Configuration, ...]
    first: tuple[Configuration, ...]
    last: tuple[Configuration, ...]


@dataclass(frozen=True)
class Caveats:
    """What limits the answer; where a thing does not, its field is empty.

    Attributes:
        at_chance: the initial logits' score, if it is no better than chance.
        nothing_learned: whether the full kernel's classifier does not improve on zero-shot.
        close_drop, close_agreement: the best configuration's, if their interval reaches beyond the
            tolerance that their mean keeps.
        relapses: ranks of its target set above it that are not within tolerance.
        rivals: of other target sets, what is within tolerance at nearly the same cost.
        others: the answers of the other classifiers, if one differs.
        notes: how named target sets were understood, where that is not plain.
        few_tests: one standard error of the full kernel's score, if it exceeds the tolerance.
        adapted: full fine-tuning of the adapted weights, if it is itself not within tolerance.
        unusual_judge: whether the rule's kernels are not symmetric.
        probe: whether the head starts at the linear probe.
        one_seed: whether there is nothing to see randomness by.
    """

    at_chance: AtChance | None
    nothing_learned: bool
    close_drop: Pooled | None
    close_agreement: Pooled | None
    relapses: tuple[int, ...]
    rivals: tuple[Configuration, ...]
    others: tuple[Answer, ...]
    notes: Mapping[str, str]
    few_tests: float | None
    adapted: Judged | None
    unusual_judge: bool
    probe: bool
    one_seed: bool

    @property
    def close_call(self) -> bool:
        """Whether an interval of the best configuration reaches beyond its tolerance."""
        return bool(self.close_drop or self.close_agreement)


@dataclass(frozen=True)
class Findings:
    """All that is said and drawn of a study.

    Attributes:
        config: its settings.
        model, task, score: as readers call them.
        label_words: of the task.
        examples: how many examples of each split.
        tested: how many test examples (of the smallest test split).
        compares: whether the question is of rank *and* targets, or of a budget.
        answer: which configuration to take.
        yardstick: how alike full fine-tuning is to itself, if ``--verify`` has measured it.
        by_yardstick: which configuration the kernels would name, had they been asked for so many
            equal predictions; None where it was not measured.
        full, zero_shot: the judge's test score on the full kernel, and that of the initial logits.
        trained: how many parameters full fine-tuning trains.
        budget: the most to train, as it was given, or None.
        limit: the same as a number of parameters.
        adapted: full fine-tuning of each target set's weights alone.
        fronts: by measure, the attribute of a configuration: score, agreement, cka.
        own: the best target set by itself.
        caveats: what limits the answer.
        tuned_on_full: whether dev chooses regularization for the full kernel, and all use it.
        sgd: whether kernels are plain inner products of gradients.
        over_data_seeds, over_adapter_seeds: how many seeds intervals are taken over; both are None
            where they are over examples.
        averages: whether means are over more than one run.
        steps: whether one step's change of held-out loss judges, and no classifier: completions
            and preferences have no labels to tell apart.
        real: whether labels are real numbers: the judge regresses, and the correlation of
            predictions takes the place of the share of equal ones.
        own_data: whether the task is a data file's own.
        results: what all of this was found in; its kernels are read only where they are shown.
    """

    config: Config
    model: str
    task: str
    score: str
    label_words: tuple[str, ...]
    examples: Mapping[str, int]
    tested: int
    compares: bool
    answer: Answer
    yardstick: Yardstick | None
    by_yardstick: Answer | None
    full: Pooled
    zero_shot: Pooled
    trained: float
    budget: Budget | None
    limit: float | None
    adapted: tuple[Judged, ...]
    fronts: Mapping[str, Front]
    own: OwnSet
    caveats: Caveats
    tuned_on_full: bool
    sgd: bool
    over_data_seeds: int | None
    over_adapter_seeds: int | None
    averages: bool
    steps: bool
    real: bool
    own_data: bool
    results: Results = field(repr=False)

    @property
    def differs_by_yardstick(self) -> bool:
        """Whether the kernels would name another configuration, or none, or one after all."""
        return self.by_yardstick is not None and _taken(self.by_yardstick) != _taken(self.answer)

    @property
    def rates(self) -> Rates | None:
        """The learning rates that were suggested, if any were."""
        return Rates.of(self.results)

    @property
    def best(self) -> Configuration:
        """The configuration that the answer names."""
        return self.answer.best

    @property
    def qualifies(self) -> bool:
        """Whether it is recommended, or only closest."""
        return self.answer.qualifies

    @property
    def bound_by_budget(self) -> bool:
        """Whether the budget chose among what is closest."""
        return self.budget is not None and self.best.affordable

    @property
    def briefly(self) -> list[Configuration]:
        """What a terminal lists: every rank, or of each target set what it would be taken for."""
        lines = list(self.answer.by_targets.values())
        if len(lines) == 1:
            return lines[0]
        return [
            min(line, key=lambda e: (not e.affordable, e.shortfall, e.trained)) for line in lines
        ]

    @cached_property
    def shapes(self) -> Shapes:
        """How the kernels look."""
        return Shapes.of(self.results.kernels, self.config, self.own.targets, self.own.ranks)

    @cached_property
    def costs(self) -> Costs:
        """What computing the kernels took."""
        return costs(self.results)


def find(results: Results) -> Findings:
    """Return what a study found, its answer by the config's first classifier."""
    config = Config.from_dict(results.config)
    numbers = _Numbers(results.table, config.confidence)
    judge = _Judge(config, numbers, score_metric(results))
    steps = score_metric(results) == DECREASE
    real = results.inputs["task"].get("kind") == "regression"
    judges = (ONE_STEP,) if steps else solvers_of(real, config.rule, config.solvers)
    answers = {solver: judge.answer(solver) for solver in judges}
    answer = answers[judges[0]]
    own = judge.own_set(answer, judges)
    yardstick = None if steps else Yardstick.of(results)
    adapted = tuple(judge.adapted(answer.solver, targets) for targets in config.sets)
    full, zero = judge.score(answer.solver), judge.score(None, kernel="zero-shot")
    about_task, sizes = results.inputs["task"], results.inputs["examples"].values()
    counts = len(config.data_seeds), len(config.adapter_seeds)
    return Findings(
        config=config,
        model=model_name(results),
        task=about_task["name"],
        score=score_name(results),
        label_words=tuple(about_task.get("label_words", ())),
        examples=next(iter(sizes)),
        tested=min(each["test"] for each in sizes),
        compares=bool(config.target_sets) or config.budget is not None,
        answer=answer,
        yardstick=yardstick,
        by_yardstick=None if yardstick is None else judge.less(yardstick).answer(answer.solver),
        full=full,
        zero_shot=zero,
        trained=judge.whole,
        budget=judge.budget,
        limit=judge.limit,
        adapted=adapted,
        fronts={each: front(answer.every, each) for each in ("score", "agreement", "cka")},
        own=own,
        caveats=_caveats(results, config, answers, own, nothing_learned=full.mean <= zero.mean),
        tuned_on_full=config.tuning == "full",
        sgd=config.rule == "sgd",
        over_data_seeds=counts[0] if counts[0] > 1 else None,
        over_adapter_seeds=counts[1] if counts[1] > 1 else None,
        averages=max(counts) > 1,
        steps=steps,
        real=real,
        own_data=not config.task,
        results=results,
    )


def front(every: Sequence[Configuration], measure: str) -> Front:
    """Return the Pareto front of a measure over the number of trained parameters."""

    def mean(each: Configuration) -> float:
        return float(getattr(each, measure).mean)

    kept: list[Configuration] = []
    for each in sorted(every, key=lambda e: (e.trained, -mean(e))):
        if not kept or mean(each) > mean(kept[-1]):
            kept.append(each)
    cut = len(kept) > _TOLD
    first, last = (kept[:2], kept[-2:]) if cut else (kept, [])
    return Front(tuple(kept), tuple(first), tuple(last))


class _Numbers:
    """The long table by what its numbers are about, pooled over seeds when asked for."""

    _ABOUT = ("kernel", "targets", "rank", "reference", "solver", "split", "metric")

    def __init__(self, table: pd.DataFrame, confidence: float) -> None:
        self.confidence, self.measured = confidence, set(table["metric"])
        self.numbers = table[["value", "low", "high"]].to_numpy(float)
        self.seeds = table["data_seed"].to_numpy(float, na_value=np.nan)
        self.places: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        about = table[list(self._ABOUT)].astype(object)
        for place, key in enumerate(about.where(about.notna(), None).itertuples(index=False)):
            self.places[tuple(key)].append(place)
        self.places.default_factory = None

    def __call__(self, metric: str, **cell: Any) -> Pooled:
        """Return a number; what ``cell`` leaves out is missing in its row.

        Raises:
            KeyError: there is none.
        """
        rows = self.places[tuple({**cell, "metric": metric}.get(name) for name in self._ABOUT)]
        value, low, high = self.numbers[rows].T
        return pool_values(value, self.seeds[rows], (low[0], high[0]), self.confidence)

    @property
    def metrics(self) -> list[Metric]:
        """The metrics of agreement that were measured, the most telling ones first.

        Some are not defined for the kernels of an asymmetric rule.
        """
        known = [metric for metric in METRICS.values() if metric.name in self.measured]
        order = {name: place for place, name in enumerate(_FIRST)}
        return sorted(known, key=lambda metric: order.get(metric.name, len(order)))


class _Judge:
    """Judges configurations by the tolerances and the budget of a study's settings.

    A configuration is as good as full fine-tuning if, on the mean over all seeds, its score is at
    most ``max_drop`` below the full kernel's and at least ``min_agreement`` of the test examples
    get the prediction of the full kernel's classifier. A higher score never counts against it.
    """

    def __init__(self, config: Config, numbers: _Numbers, metric: str) -> None:
        self.config, self.numbers, self.metric = config, numbers, metric
        self.whole = numbers("trainable_parameters", kernel="full").mean
        self.budget = None if config.budget is None else Budget.parse(config.budget)
        self.limit = None if self.budget is None else self.budget.of(self.whole)

    def less(self, yardstick: Yardstick) -> _Judge:
        """Return the judge that asks for no more equal predictions than full fine-tuning gives."""
        least = max(yardstick.agreement - self.config.max_drop, 0.0)
        return _Judge(self.config.changed(min_agreement=least), self.numbers, self.metric)

    def score(self, solver: str | None, kernel: str = "full", **cell: Any) -> Pooled:
        """Return the test score of a classifier solved on a kernel."""
        return self.numbers(self.metric, kernel=kernel, solver=solver, split="test", **cell)

    def same(self, solver: str, **cell: Any) -> Pooled:
        """Return the share of test examples that get the full kernel's prediction."""
        about = {"solver": solver, "split": "test", "reference": "full", **cell}
        return self.numbers("prediction_agreement", **about)

    def judged(self, solver: str, targets: str, **cell: Any) -> dict[str, Any]:
        """Return what a classifier makes of one way of training: the fields of `Judged`."""
        cell["targets"] = targets
        about = {"solver": solver, "split": "test", "reference": "full", **cell}
        return {
            "targets": targets,
            "score": self.score(solver, **cell),
            "drop": self.numbers("drop", **about),
            "agreement": self.same(solver, **cell),
            "cka": self.numbers("cka", reference="full", split="train", **cell),
        }

    def adapted(self, solver: str, targets: str) -> Judged:
        """Return what a classifier makes of full fine-tuning of a target set's weights."""
        return Judged(**self.judged(solver, targets, kernel="targets"))

    def configuration(self, solver: str, targets: str, rank: int) -> Configuration:
        """Return one configuration as a classifier judges it."""
        about: dict[str, Any] = {"kernel": "lora", "rank": rank}
        found = self.judged(solver, targets, **about)
        trained = self.numbers("trainable_parameters", targets=targets, **about).mean
        drop, agreement = found["drop"].mean, found["agreement"].mean
        most, least = self.config.max_drop, self.config.min_agreement
        return Configuration(
            **found,
            rank=rank,
            name=self.config.configuration(targets, rank),
            trained=trained,
            share=trained / self.whole,
            drop_ok=drop <= most + _SLACK,
            agreement_ok=agreement >= least - _SLACK,
            shortfall=max(0.0, drop - most, least - agreement),
            affordable=self.limit is None or trained <= self.limit,
        )

    def answer(self, solver: str) -> Answer:
        """Return the cheapest configuration within tolerance and budget, or the closest affordable.

        Cheap is what trains few parameters; closest is what misses the tolerances by least, then
        the cheapest. Where the budget allows nothing at all, it is the cheapest of all.
        """
        every = tuple(
            self.configuration(solver, targets, rank)
            for targets in self.config.sets
            for rank in self.config.ranks
        )

        def cost(each: Configuration) -> tuple[float, int]:
            return each.trained, each.rank

        affordable = [each for each in every if each.affordable]
        good = [each for each in affordable if each.ok]
        if good:
            return Answer(solver, every, min(good, key=cost), None)
        best = min(affordable or every, key=cost)
        if affordable:
            best = min(affordable, key=lambda each: (each.shortfall, *cost(each)))
        beyond = min((e for e in every if e.ok and not e.affordable), key=cost, default=None)
        return Answer(solver, every, best, beyond)

    def own_set(self, answer: Answer, judges: Sequence[str]) -> OwnSet:
        """Return the best target set by itself."""
        targets = answer.best.targets
        line = tuple(each for each in answer.candidates if each.targets == targets)
        ranks = tuple(each.rank for each in line)
        about: dict[str, Any] = {"kernel": "targets", "targets": targets, "split": "train"}
        return OwnSet(
            targets=targets,
            ranks=ranks,
            several=len(ranks) > 1,
            line=line,
            solvers=tuple(self._solver(name, targets, ranks) for name in judges),
            with_full=self._measured(targets, ranks, "full", None),
            with_adapted=self._measured(targets, ranks, "targets", targets),
            limit={
                metric.name: self.numbers(metric.name, reference="full", **about).mean
                for metric in self.numbers.metrics
            },
            adapted=self.adapted(answer.solver, targets),
            reached=next((each.rank for each in line if each.agreement_ok), None),
        )

    def _solver(self, name: str, targets: str, ranks: Sequence[int]) -> Solver:
        about: dict[str, Any] = {"kernel": "lora", "targets": targets}
        return Solver(
            name,
            {rank: self.score(name, rank=rank, **about) for rank in ranks},
            {rank: self.same(name, rank=rank, **about) for rank in ranks},
            self.score(name),
            self.score(name, kernel="targets", targets=targets),
        )

    def _measured(
        self, targets: str, ranks: Sequence[int], kernel: str, of: str | None
    ) -> dict[str, Measured]:
        """Return how LoRA's kernels agree with a full kernel, and that with itself, by metric."""
        about: dict[str, Any] = {"reference": kernel, "split": "train"}
        lora: dict[str, Any] = {"kernel": "lora", "targets": targets, **about}
        return {
            metric.name: Measured(
                metric,
                self.numbers(metric.name, kernel=kernel, targets=of, **about).mean,
                {rank: self.numbers(metric.name, rank=rank, **lora) for rank in ranks},
            )
            for metric in self.numbers.metrics
        }


def _caveats(
    results: Results,
    config: Config,
    answers: Mapping[str, Answer],
    own: OwnSet,
    *,
    nothing_learned: bool,
) -> Caveats:
    """Return what limits the answer; only what the numbers show."""
    answer, *others = answers.values()
    best = answer.best
    wide_drop = best.ok and best.drop.high > config.max_drop
    wide_agreement = best.ok and best.agreement.low < config.min_agreement
    differ = any(_taken(each) != _taken(answer) for each in others)
    about = {"kernel": "full", "solver": answer.solver, "split": "test"}
    error = score_error(results, cells(results.table, metric=score_metric(results), **about))
    lower, same = own.adapted.drop.mean, own.adapted.agreement.mean
    sets = results.inputs.get("target_sets", {})
    return Caveats(
        at_chance=at_chance(results),
        nothing_learned=nothing_learned,
        close_drop=best.drop if wide_drop else None,
        close_agreement=_share(best.agreement) if wide_agreement else None,
        relapses=tuple(e.rank for e in own.line if best.ok and e.rank > best.rank and not e.ok),
        rivals=_rivals(answer),
        others=tuple(others) if differ else (),
        notes={name: each["note"] for name, each in sets.items() if each["note"]},
        few_tests=error if error > config.max_drop else None,
        adapted=None if lower <= config.max_drop and same >= config.min_agreement else own.adapted,
        unusual_judge=config.rule.startswith("asymmetric"),
        probe=config.head_init == "probe",
        one_seed=max(len(config.adapter_seeds), len(config.data_seeds)) == 1,
    )


def _share(value: Pooled) -> Pooled:
    """Return a share with its interval cut to what a share can be."""
    return replace(value, low=max(value.low, 0.0), high=min(value.high, 1.0))


def _taken(answer: Answer) -> tuple[str, int] | None:
    """Return the recommended configuration, or None where none qualifies."""
    return (answer.best.targets, answer.best.rank) if answer.qualifies else None


def _rivals(answer: Answer) -> tuple[Configuration, ...]:
    """Return the first good configuration of other target sets, at nearly the best one's cost."""
    if not answer.qualifies:
        return ()
    firsts = [
        next((each for each in line if each.ok and each.affordable), None)
        for targets, line in answer.by_targets.items()
        if targets != answer.best.targets
    ]
    return tuple(e for e in firsts if e is not None and e.trained <= _NEAR * answer.best.trained)

"""What training made of a study's advice: all decisions, typed, from the two tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from ..engine.long_table import cells
from ..engine.optimizer_rules import foreign_rule
from ..engine.pooling import Pooled, pool
from ..engine.ranking import FEWEST
from ..engine.run_folder import VERIFICATION, Results
from ..show.study_numbers import cost, score_error, score_name, tested
from .predictors import Guess, Kernels, Predictor, Ranking, predictor
from .trial import AUTO, FULL, RATES, Advice, title
from .yardstick import Yardstick

ASKED = "asked"  # attribute of the table
_ALWAYS = 1 - 1e-9


@dataclass(frozen=True)
class Configuration:
    """A configuration that was trained in every run; numbers are means over its runs.

    Attributes:
        name, family, label: as `analyses.verify.trial.Candidate`.
        parameters: how many are trained.
        predicted, trained, start: test score of its kernel's classifier, of the fine-tuned model,
            and before training.
        after_step: that of the classifier on its kernel after the first step of training; NaN where
            there is none.
        prediction_agreement: share of test examples to which the first two give one label.
        full_agreement: share to which training gives full fine-tuning's; NaN where not kept.
        logit_correlation, change_correlation: see :mod:`analyses.verify.train`.
        learning_rates, best_steps: chosen on dev, the different ones, ascending.
        on_edge: whether the learning rate is at an end of the grid in some run.
        fell_back: whether in some run no learning rate could be suggested, though asked for.
    """

    name: str
    family: str
    label: str
    parameters: int
    predicted: Pooled
    trained: Pooled
    start: Pooled
    after_step: Pooled
    prediction_agreement: float
    full_agreement: float
    logit_correlation: float
    change_correlation: float
    learning_rates: Sequence[float]
    best_steps: Sequence[float]
    on_edge: bool
    fell_back: bool = False

    @property
    def title(self) -> str:
        """What readers call it."""
        return title(self.name)

    @property
    def gain(self) -> float:
        """How far training is above the prediction."""
        return self.trained.mean - self.predicted.mean


@dataclass(frozen=True)
class Usual:
    """What comes of always taking the same configuration, without any analysis.

    Attributes:
        name: the configuration.
        trained: its score (means over runs, as all of these).
        lost: how far that is below what trained best; full fine-tuning is not among them.
        behind: how far it is below what was advised; below 0 where it is above.
    """

    name: str
    trained: float
    lost: float
    behind: float

    @property
    def title(self) -> str:
        """What readers call it."""
        return title(self.name)


@dataclass(frozen=True)
class Proof:
    """What became of the advice.

    Attributes:
        advised, best: the configuration advised, and the one that trained best (means over runs)
            of those that could have been; full fine-tuning is not among them.
        of_best: in how many runs the advised one was within tolerance of that run's best.
        of_full: likewise of full fine-tuning.
        right: in how many runs it was right about full fine-tuning: where it says that the advised
            one is within tolerance of it, in score and, where that was asked, in predictions,
            whether it was; where that nothing is, whether nothing was. None where predictions were
            asked for and not kept.
        runs: how many runs: data seeds × draws.
        blind: share of all (run, configuration) pairs within tolerance of the run's best: what
            choosing blindly comes to.
    """

    advised: str
    best: str
    of_best: int
    of_full: int
    right: int | None
    runs: int
    blind: float

    @property
    def about_full(self) -> Literal["unknown", "right", "wrong", "partly"]:
        """Whether what the kernels said of full fine-tuning was so."""
        if self.right is None:
            return "unknown"
        return "right" if self.right == self.runs else "partly" if self.right else "wrong"

    @property
    def missed_by(self) -> Literal["predictions", "score", "either"]:
        """What kept an advised configuration, if anything did, from full fine-tuning."""
        if self.of_full == self.runs:
            return "predictions"
        return "either" if self.of_full else "score"

    @property
    def choice(self) -> Literal["indifferent", "held", "better", "blind"]:
        """What choosing this configuration among the others was worth."""
        if self.blind > _ALWAYS:
            return "indifferent"
        if self.of_best == self.runs:
            return "held"
        return "better" if self.of_best / self.runs > self.blind else "blind"

    @property
    def single(self) -> bool:
        """Whether there was one run only."""
        return self.runs == 1


@dataclass(frozen=True)
class Cost:
    """Seconds over all data seeds.

    Attributes:
        predicting: computing all kernels and solving all classifiers on them.
        trying: fine-tuning every configuration at every setting of the grid, but those of `lost`.
        runs: how many searches that was, each over a whole grid.
        lost: how many fine-tunings diverged: what they took was not kept.
        stepping: computing the kernels after one step, and solving a classifier on each.
    """

    predicting: float
    trying: float
    runs: int
    lost: int = 0
    stepping: float = 0.0

    @property
    def factor(self) -> float:
        """How many times as long trying took; NaN if predicting took no time."""
        return self.trying / self.predicting if self.predicting > 0 else math.nan

    @property
    def known(self) -> bool:
        """Whether there is such a factor."""
        return not math.isnan(self.factor)


@dataclass(frozen=True)
class FewTests:
    """Too few test examples to see what matters.

    Attributes:
        count: how many.
        error: one standard error of the advised configuration's score.
        margin: what it may lose.
    """

    count: int
    error: float
    margin: float


@dataclass(frozen=True, eq=False)
class Findings:
    """What training made of the advice.

    Attributes:
        advice: what was advised.
        score: what readers call the task's metric.
        rule: of the kernels.
        trial: how everything was trained, as `analyses.verify.trial.Trial.describe`.
        configurations: those that were trained in every run, in the study's order.
        diverged: those that diverged at every setting in some run, in order.
        proof: None where the advice or full fine-tuning could not be trained.
        predictors: how well kernels foretold training: those at the start, and those after the
            first step, if there are any.
        yardstick: how alike full fine-tuning is to itself; None where it was not repeated.
        usual: what always taking one configuration comes to; None where it was not trained, or the
            advice was not.
        confidence: of intervals.
        cost: what both took.
        cheapest: what trains fewest parameters of all that trained within tolerance of full.
        few_tests: whether the test set is too small for the tolerance.
    """

    advice: Advice
    score: str
    rule: str
    trial: Mapping[str, Any]
    configurations: Sequence[Configuration]
    diverged: Sequence[str]
    proof: Proof | None
    predictors: Sequence[Predictor]
    yardstick: Yardstick | None
    usual: Usual | None
    confidence: float
    cost: Cost
    cheapest: str | None
    few_tests: FewTests | None

    def named(self, name: str) -> Configuration | None:
        """Return the configuration of this name, if it was trained."""
        return next((each for each in self.configurations if each.name == name), None)

    @property
    def ranking(self) -> Ranking:
        """Whether the kernels that the study judged order as training does."""
        return self.predictors[0].ranking

    @property
    def evidence(self) -> Literal["few", "alike", "unclear", "same", "reversed"]:
        """What this run shows of the kernels' order: of too ``few``, or what trains ``alike``."""
        found = self.ranking
        if found.count < FEWEST:
            return "few"
        if found.doubt == "noise":
            return "alike"
        if found.order in ("none", "unclear") or found.doubt:
            return "unclear"
        return "same" if found.order == "same" else "reversed"

    @property
    def least_agreement(self) -> float:
        """Share of test examples that must get full fine-tuning's label."""
        own = None if self.yardstick is None else self.yardstick.agreement
        return self.advice.least_agreement(own)

    @property
    def is_loose(self) -> bool:
        """Whether full fine-tuning differs from itself by more than scores may."""
        if self.yardstick is None or self.full is None:
            return False
        score = self.full.trained.mean
        return not self.advice.within(score - self.yardstick.difference, score)

    @property
    def unstepped(self) -> Sequence[str]:
        """Titles of what has no kernel after the first step, where others have."""
        without = [each.title for each in self.configurations if math.isnan(each.after_step.mean)]
        return [] if len(without) == len(self.configurations) else without

    @property
    def full(self) -> Configuration | None:
        """Full fine-tuning, if it was trained."""
        return self.named(FULL)

    @property
    def advised(self) -> Configuration | None:
        """What was advised, if it was trained."""
        return self.named(self.advice.name)

    @property
    def best(self) -> Configuration | None:
        """What trained best of all that could have been advised, if there is a proof."""
        return self.named(self.proof.best) if self.proof else None

    @property
    def is_compared(self) -> bool:
        """Whether any configuration was trained in every run."""
        return bool(self.configurations)

    @property
    def missing(self) -> Sequence[str]:
        """Titles of what could not be trained of the two that a proof takes."""
        asked = dict.fromkeys((self.advice.name, FULL))
        return [title(name) for name in asked if self.named(name) is None]

    @property
    def lost(self) -> Sequence[str]:
        """Titles of what diverged."""
        return [title(name) for name in self.diverged]

    @property
    def on_edge(self) -> Sequence[str]:
        """Titles of the configurations that a wider grid of learning rates might train better."""
        return [each.title for each in self.configurations if each.on_edge]

    @property
    def all_on_edge(self) -> bool:
        """Whether these are all configurations."""
        return len(self.on_edge) == len(self.configurations)

    @property
    def is_auto(self) -> bool:
        """Whether each configuration had the learning rates suggested for it."""
        return bool(self.trial["learning_rates"] == AUTO)

    @property
    def unsuggested(self) -> Sequence[str]:
        """Titles of the configurations for which no learning rate could be suggested."""
        return [each.title for each in self.configurations if each.fell_back]

    @property
    def fixed_rates(self) -> Sequence[float]:
        """What was tried for these."""
        return RATES[self.trial["optimizer"]]

    @property
    def foreign_rule(self) -> str:
        """What is to be said where kernels are of another rule than the optimizer's."""
        return foreign_rule(self.rule, self.trial["optimizer"])

    @property
    def single_run(self) -> bool:
        """Whether the proof is one run only."""
        return self.proof is not None and self.proof.single

    @property
    def labels_kept(self) -> bool:
        """Whether it is known how many examples get full fine-tuning's label, and was asked."""
        asked, advised = self.advice.agreement is not None, self.advised
        return asked and advised is not None and not math.isnan(advised.full_agreement)

    @property
    def learned_nothing(self) -> bool:
        """Whether full fine-tuning does not improve on no training."""
        return self.full is not None and not self.full.trained.mean > self.full.start.mean

    @property
    def hindsight(self) -> Literal["", "none", "other"]:
        """What would have been advised, had the outcome of training been known."""
        if self.full is None or self.cheapest == self.advice.name:
            return ""
        return "none" if self.cheapest is None else "other"

    @property
    def cheapest_title(self) -> str:
        """What readers call the cheapest."""
        return title(self.cheapest or "")

    @property
    def above(self) -> int:
        """How many configurations trained better than predicted."""
        return sum(each.gain > 0 for each in self.configurations)

    @property
    def gain(self) -> float:
        """How far training is above the prediction, mean over configurations."""
        return sum(each.gain for each in self.configurations) / len(self.configurations)

    @property
    def gains(self) -> bool:
        """Whether it is above or equal."""
        return self.gain >= 0


def is_verified(results: Results) -> bool:
    """Say if anything was fine-tuned to set beside the predictions."""
    return VERIFICATION in results.beside


def is_compared(results: Results) -> bool:
    """Say if any configuration was trained in every run, so that there is something to show."""
    return is_verified(results) and bool(_trained(results.beside[VERIFICATION])[0])


def asked_of(results: Results) -> Mapping[str, Any]:
    """Return what the verification was told: how to train, and which configurations."""
    found: Mapping[str, Any] = results.beside[VERIFICATION].attrs[ASKED]
    return found


def judge(results: Results, advice: Advice) -> Findings:
    """Return what training made of a verified study's advice."""
    table, confidence = results.beside[VERIFICATION], float(results.config["confidence"])
    trained, diverged = _trained(table)
    found = {name: _configuration(table, name, confidence) for name in trained}
    yardstick = Yardstick.of(results)
    return Findings(
        advice=advice,
        score=score_name(results),
        rule=str(results.config["rule"]),
        trial=asked_of(results)["trial"],
        configurations=tuple(found.values()),
        diverged=diverged,
        proof=_proof(table, found, advice, yardstick),
        predictors=_predictors(results, found, yardstick),
        yardstick=yardstick,
        usual=_usual(found, advice),
        confidence=confidence,
        cost=_cost(results),
        cheapest=_cheapest(found, advice, yardstick),
        few_tests=_few_tests(results, found, advice),
    )


def _trained(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return what was trained in every run, and what diverged in some, in order."""
    diverged = [str(name) for name in cells(table, metric="diverged")["configuration"].unique()]
    every = [str(name) for name in table["configuration"].unique()]
    return [name for name in every if name not in diverged], diverged


def _configuration(table: pd.DataFrame, name: str, confidence: float) -> Configuration:
    rows = cells(table, configuration=name)

    def value(metric: str) -> Pooled:
        found = cells(rows, metric=metric)
        if found.empty:
            return Pooled(math.nan, math.nan, math.nan, 0, "examples")
        return pool(found, confidence)

    def distinct(metric: str) -> tuple[float, ...]:
        return tuple(sorted({float(each) for each in cells(rows, metric=metric)["value"]}))

    first = rows.iloc[0]
    return Configuration(
        name=name,
        family=str(first["family"]),
        label=str(first["label"]),
        parameters=int(first["parameters"]),
        predicted=value("predicted"),
        trained=value("trained"),
        start=value("start"),
        after_step=value("after_step"),
        prediction_agreement=value("prediction_agreement").mean,
        full_agreement=value("full_agreement").mean,
        logit_correlation=value("logit_correlation").mean,
        change_correlation=value("change_correlation").mean,
        learning_rates=distinct("learning_rate"),
        best_steps=distinct("best_step"),
        on_edge=any(distinct("edge")),
        fell_back=0.0 in distinct("suggested"),
    )


def _predictors(
    results: Results, found: Mapping[str, Configuration], yardstick: Yardstick | None
) -> list[Predictor]:
    """Set the predictions of kernels at the start, and after one step, beside training."""

    def made(kernels: Kernels, predicted: Callable[[Configuration], Pooled]) -> Predictor:
        guesses = [
            Guess(name, each.parameters, predicted(each), each.trained.mean)
            for name, each in found.items()
            if name != FULL and not math.isnan(predicted(each).mean)
        ]
        return predictor(
            kernels,
            guesses,
            confidence=float(results.config["confidence"]),
            error=_error(results, [each.name for each in guesses]),
            repeated=0.0 if yardstick is None else yardstick.difference,
        )

    both = [made("start", lambda each: each.predicted), made("step", lambda each: each.after_step)]
    return both if both[1].ranking.count else both[:1]


def _usual(found: Mapping[str, Configuration], advice: Advice) -> Usual | None:
    """Return what always taking one configuration comes to."""
    usual, advised = found.get(advice.usual or ""), found.get(advice.name)
    if usual is None or advised is None:
        return None
    best = max(each.trained.mean for name, each in found.items() if name != FULL)
    score = usual.trained.mean
    return Usual(usual.name, score, best - score, advised.trained.mean - score)


def _error(results: Results, compared: Sequence[str]) -> float:
    """Return one standard error of the trained scores of configurations, over test examples."""
    rows = cells(results.beside[VERIFICATION], metric="trained")
    return score_error(results, rows[rows["configuration"].isin(compared)])


def _proof(
    table: pd.DataFrame,
    found: Mapping[str, Configuration],
    advice: Advice,
    yardstick: Yardstick | None,
) -> Proof | None:
    """Count how often the advice held; None where it or full fine-tuning could not be trained."""
    if advice.name not in found or FULL not in found:
        return None
    rivals = _rivals(found, advice)
    runs, same = (_runs(table, list(found), each) for each in ("trained", "full_agreement"))
    of_best = of_full = right = blind = 0
    for (seed, scores), (_, labels) in zip(runs, same, strict=True):
        own = None if yardstick is None else yardstick.of_seed(seed)
        best = max(scores[name] for name in (*rivals, advice.name))
        of_best += advice.within(scores[advice.name], best)
        of_full += advice.within(scores[advice.name], scores[FULL])
        like_full = [
            name
            for name in rivals
            if advice.like_full(scores[name], scores[FULL], labels[name], own)
        ]
        right += advice.name in like_full if advice.qualifies else not like_full
        blind += sum(advice.within(scores[name], best) for name in rivals)
    told = advice.agreement is None or not math.isnan(found[advice.name].full_agreement)
    return Proof(
        advised=advice.name,
        best=max(rivals, key=lambda name: found[name].trained.mean),
        of_best=of_best,
        of_full=of_full,
        right=right if told else None,
        runs=len(runs),
        blind=blind / (len(runs) * len(rivals)),
    )


def _rivals(found: Mapping[str, Configuration], advice: Advice) -> list[str]:
    """Return what could have been advised, the advice itself included."""
    allowed = found if advice.rivals is None else [*advice.rivals, advice.name]
    return [name for name in found if name in allowed and name != FULL]


def _runs(
    table: pd.DataFrame, trained: Sequence[str], metric: str
) -> list[tuple[int, dict[str, float]]]:
    """Return a number of every run, and its data seed: the n-th draw of each configuration on it.

    What has fewer draws, or none of its own, stands with its last one in the runs beyond; what was
    not measured is NaN.
    """
    rows, drawn = cells(table, metric=metric), cells(table, metric="trained")
    drawn = drawn[drawn["configuration"].isin(trained)]
    found = []
    for seed in drawn["data_seed"].unique():
        here = cells(rows, data_seed=int(seed))
        numbers = {
            name: cells(here, configuration=name)["value"].tolist() or [math.nan]
            for name in trained
        }
        for n in range(cells(drawn, data_seed=int(seed)).groupby("configuration").size().max()):
            drawn_n = {name: each[min(n, len(each) - 1)] for name, each in numbers.items()}
            found.append((int(seed), drawn_n))
    return found


def _cheapest(
    found: Mapping[str, Configuration], advice: Advice, yardstick: Yardstick | None
) -> str | None:
    """Return what trains fewest parameters of all that trained within tolerance of full."""
    if FULL not in found:
        return None
    full, own = found[FULL].trained.mean, None if yardstick is None else yardstick.agreement
    good = [
        name
        for name in _rivals(found, advice)
        if advice.like_full(found[name].trained.mean, full, found[name].full_agreement, own)
    ]
    return min(good, key=lambda name: found[name].parameters, default=None)


def _cost(results: Results) -> Cost:
    """Return what predicting and what trying took, both measured in this run."""
    seconds, diverged, points, stepping = (
        cells(results.beside[VERIFICATION], metric=metric)["value"]
        for metric in ("seconds", "diverged", "diverged_points", "step_seconds")
    )
    by_seed = [cost(results, int(seed)) for seed in results.config["data_seeds"]]
    predicting = sum(
        each.get("seconds", each.get("total_seconds", 0.0)) + each.get("judging_seconds", 0.0)
        for each in by_seed
    )
    searches = len(seconds) + len(diverged)
    trying = float(seconds.sum())
    return Cost(predicting, trying, searches, int(points.sum()), float(stepping.sum()))


def _few_tests(
    results: Results, found: Mapping[str, Configuration], advice: Advice
) -> FewTests | None:
    """Return how small the test set is if chance moves a score by more than is tolerated."""
    if advice.name not in found:
        return None
    score = found[advice.name].trained.mean
    error = _error(results, [advice.name])
    margin = advice.drop if advice.drop is not None else (1 - advice.least) * score
    return FewTests(tested(results), error, margin) if error > margin else None

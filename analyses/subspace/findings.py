"""What ``analyze subspace`` found: all decisions, typed, from its long table.

The dimension that a task needs is where the score of a random subspace's kernel reaches a target.
Aghajanyan et al. (2021, "Intrinsic dimensionality explains the effectiveness of language model
fine-tuning") call d90 the least dimension in which training reaches 90 % of full fine-tuning's
score. Here nothing is trained: the score is that of the classifier solved on the kernel. Two
targets: that share of the full kernel's score; and, as guessing alone may reach it, that share of
what the full kernel gains over the better way without training (zero-shot, or one constant answer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, isnan, log2, nan, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap

from ..engine.long_table import cells
from ..engine.pooling import Pooled, pool_values
from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.study_numbers import (
    AtChance,
    at_chance,
    model_name,
    pooled,
    score_error,
    score_metric,
    score_name,
    tested,
    zero_shot,
)
from ..verify.rates import Rates
from .compute import AGREEMENT, random_name
from .config import Config

Floats = npt.NDArray[np.float64]
Curve = Mapping[int, Pooled]
"""Trained parameters -> value with its interval, ascending."""

GOALS = ("score", "gain")
FORMS = {"raw": "distortion", "centered": "centred_distortion"}
"""Forms of distortion, as they are called and as the table does."""
SHAPE = ("q05", "q25", "q50", "q75", "q95", "sigma", "epsilon")
"""What is drawn of a distortion, see :mod:`analyses.subspace.distortion`."""

_SLACK = 1e-12  # 0.9 of 0.8 is 0.72, whatever binary fractions make of it
_NEVER = 1.0  # added to log2 of the last size where the target is not reached


@dataclass(frozen=True)
class Needed:
    """How many parameters reach a target.

    Attributes:
        target: the score to reach.
        size: where the mean score over seeds first reaches it, interpolated on log2 of the size
            between the sizes tried; `first` if the smallest one does, infinity if none does.
        low, high: bootstrap interval over seeds (percentiles; NaN with one seed); as ``size``,
            ``high`` is infinite and ``low`` is `first` where it leaves the sizes tried.
        first, last: smallest and largest size tried.
        gain: what there is to gain over no training; not above 0: the goal makes no sense.
        relapses: sizes beyond ``size`` whose mean score is below the target again.
    """

    target: float
    size: float
    low: float
    high: float
    first: int
    last: int
    gain: float
    relapses: tuple[int, ...] = ()

    @property
    def makes_sense(self) -> bool:
        """Whether there is anything to gain."""
        return not isnan(self.size)

    @property
    def found(self) -> bool:
        """Whether a size tried reaches the target."""
        return self.makes_sense and self.size < inf

    @property
    def at_once(self) -> bool:
        """Whether the smallest size tried does."""
        return self.size <= self.first

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval within the sizes tried to speak of."""
        return isfinite(self.low)

    def is_plausible(self, size: float) -> bool:
        """Say if a size lies in the interval, or is the very same where there is none."""
        low, high = (self.size if isnan(end) else end for end in (self.low, self.high))
        return low <= size <= high

    @property
    def amount(self) -> str:
        """The size as text; a dash where the goal makes no sense."""
        return fmt.reached(self.size, self.last)

    @property
    def interval(self) -> str:
        """The interval as text: ``120 to 260``, ``2 or fewer to 64``."""
        low = fmt.reached(self.low, self.last)
        low += " or fewer" if self.low <= self.first else ""
        high = fmt.reached(self.high, self.last)
        return low if low == high else f"{low} to {high}"

    @property
    def text(self) -> str:
        """Size and interval as text: ``180 (120 to 260)``."""
        if not self.makes_sense:
            return self.amount
        text = self.amount + (" or fewer" if self.at_once else "")
        return text if isnan(self.low) else f"{text} ({self.interval})"


@dataclass(frozen=True)
class Preserves:
    """How many parameters a family needs until something is preserved.

    Attributes:
        size: how many, interpolated on a log axis between the sizes tried; infinity if none does.
        first, last: smallest and largest size tried.
    """

    size: float
    first: int
    last: int

    @property
    def found(self) -> bool:
        """Whether a size tried preserves it."""
        return self.size < inf

    @property
    def several(self) -> bool:
        """Whether more than one size was tried."""
        return self.first < self.last

    @property
    def at_most(self) -> bool:
        """Whether fewer might do: the smallest of several does."""
        return self.several and self.size <= self.first

    @property
    def amount(self) -> str:
        """The size as text."""
        return fmt.reached(self.size, self.last)


@dataclass(frozen=True)
class Calibration:
    """How measured distortions compare with theory, for one kind of projection, all dimensions.

    Attributes:
        ratio: measured root mean square over the variance formula's: 1 if the formula holds.
        low, high: the range in which so few draws put it if the formula holds for all kinds
            (simulated; 95 % for all of them together).
        inside: share of the distortions within ±1.96 σ (normally distributed: 0.95).
        inside_bound: share within the JL bound at 95 %, where it gives one (at least 0.95).
        slack: how many times wider the JL bound is than the measured 5 to 95 % range, at least.
        shared: share of the mean square that all pairs of a draw have in common.
    """

    ratio: float
    low: float
    high: float
    inside: float
    inside_bound: float
    slack: float
    shared: float

    @property
    def holds(self) -> bool:
        """Whether the ratio is where theory lets chance put it."""
        return self.low <= self.ratio <= self.high

    @property
    def text(self) -> str:
        """Measured over predicted, and where chance may put it: ``1.03 (0.82 to 1.19)``."""
        low, value, high = (fmt.fixed(each, 2) for each in (self.low, self.ratio, self.high))
        return f"{value} ({low} to {high})"


@dataclass(frozen=True, eq=False)
class Distortion:
    """How far inner products move under one kind of projection.

    Attributes:
        form: ``raw`` gradients, or ``centered`` over the examples.
        calibration: measured against theory.
        shape: name of `SHAPE` -> number over the dimension.
    """

    form: str
    calibration: Calibration
    shape: Mapping[str, Curve]

    def at(self, name: str) -> float:
        """Return a number of `SHAPE` at the largest dimension tried."""
        return list(self.shape[name].values())[-1].mean

    @property
    def is_bounded(self) -> bool:
        """Whether the Johnson-Lindenstrauss lemma bounds anything at the largest dimension."""
        return not isnan(self.at("epsilon"))


@dataclass(frozen=True, eq=False)
class Family:
    """Kernels that differ in how many parameters are trained.

    Attributes:
        kernel: ``random``, ``lora`` or ``method``, as in the table.
        name: what readers call it.
        agreement: metric -> agreement of the train kernels with the full one.
        same: share of test examples that the judge predicts as on the full kernel.
        scores: the judge's test score.
        kernel_at: where the kernel is preserved (``min_cka``).
        predictions_at: where predictions are (``min_agreement``).
        needed: (goal, classifier) -> parameters for that share of the full kernel's; empty for
            other methods.
        distortions: raw and centered, if they were measured.
    """

    kernel: str
    name: str
    agreement: Mapping[str, Curve]
    same: Curve
    scores: Curve
    kernel_at: Preserves
    predictions_at: Preserves
    needed: Mapping[tuple[str, str], Needed]
    distortions: Sequence[Distortion]

    @property
    def cka(self) -> Curve:
        """CKA with the full kernel."""
        return self.agreement["cka"]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes tried, ascending."""
        return tuple(self.cka)

    @property
    def ends(self) -> Sequence[int]:
        """The smallest and the largest size, or the only one."""
        return list(dict.fromkeys((self.sizes[0], self.sizes[-1])))

    @property
    def failing(self) -> Sequence[Distortion]:
        """The forms of distortion for which the variance formula is off."""
        return [each for each in self.distortions if not each.calibration.holds]

    @property
    def is_random(self) -> bool:
        """Whether it is a kind of random subspace."""
        return self.kernel == "random"


@dataclass(frozen=True)
class FewTests:
    """Too few test examples for the margin that the target leaves.

    Attributes:
        count: how many.
        error: one standard error of the full kernel's score.
        margin: how far below it the target lies.
    """

    count: int
    error: float
    margin: float


@dataclass(frozen=True, eq=False)
class Findings:
    """What a subspace study found.

    Attributes:
        results: what it is read from.
        config: its settings.
        model, task, score: what readers call them; ``score`` is the task's metric.
        train, dev, test: how many examples.
        kinds: the kinds of random subspace, that which gives the answer first.
        lora: LoRA, if there is any.
        methods: the other methods.
        left_out: default methods that the model cannot take -> why.
        full_score: the judge's test score on the full kernel.
        zero_shot, constant: of the initial logits, and of the best answer for all examples.
        trained_in_full: number of parameters of full fine-tuning.
        few_tests: whether the test set is too small for the target.
    """

    results: Results
    config: Config
    model: str
    task: str
    score: str
    train: int
    dev: int
    test: int
    kinds: Sequence[Family]
    lora: Sequence[Family]
    methods: Sequence[Family]
    left_out: Mapping[str, str]
    full_score: Pooled
    zero_shot: Pooled
    constant: Pooled
    trained_in_full: int
    few_tests: FewTests | None

    @property
    def at_chance(self) -> AtChance | None:
        """The initial logits' score, if it is no better than chance."""
        return at_chance(self.results)

    @property
    def rates(self) -> Rates | None:
        """The learning rates that were suggested, if any were."""
        return Rates.of(self.results)

    def configuration(self, family: Family, size: int) -> str:
        """Return what a method of a size is called where it is trained."""
        if family.is_random:
            return random_name(family.name, size)
        if family.kernel == "lora":
            return f"LoRA rank {self.config.ranks[family.sizes.index(size)]}"
        return family.name

    # --- what is asked about ---

    @property
    def families(self) -> list[Family]:
        """All of them."""
        return [*self.kinds, *self.lora, *self.methods]

    @property
    def shown(self) -> list[Family]:
        """One random subspace and all else."""
        return [self.first, *self.lora, *self.methods]

    @property
    def first(self) -> Family:
        """The kind that gives the answer."""
        return self.kinds[0]

    @property
    def judge(self) -> str:
        """The classifier that judges."""
        return self.config.classifiers[0]

    @property
    def foreign_rule(self) -> str:
        """The rule, where it is not of gradients themselves; else nothing."""
        return "" if self.is_of_gradients else self.config.rule

    @property
    def is_of_gradients(self) -> bool:
        """Whether kernels are of gradients, so that theory speaks of them."""
        return self.config.rule == "sgd"

    @property
    def starts_at_probe(self) -> bool:
        """Whether the linear head starts at a probe of the training examples."""
        return self.config.head_init == "probe"

    @property
    def tunes_each(self) -> bool:
        """Whether dev chooses for each kernel by itself."""
        return self.config.tuning == "each"

    # --- how many dimensions ---

    @property
    def needed(self) -> Needed:
        """The answer: dimensions for the share of the full kernel's score."""
        return self.first.needed["score", self.judge]

    @property
    def gain(self) -> Needed:
        """Dimensions for that share of its gain over no training."""
        return self.first.needed["gain", self.judge]

    @property
    def baseline(self) -> Pooled:
        """The better one of the two scores without training."""
        return max(self.zero_shot, self.constant, key=lambda found: found.mean)

    @property
    def learned_nothing(self) -> bool:
        """Whether the full kernel's classifier is no better than no training."""
        return not self.full_score.mean > self.baseline.mean

    @property
    def is_free(self) -> bool:
        """Whether no training at all reaches the target, which the full kernel exceeds."""
        return not self.learned_nothing and self.baseline.mean >= self.needed.target

    @property
    def outside(self) -> list[Family]:
        """The other kinds whose dimension lies outside the interval of the answer."""
        needed = {kind: kind.needed["score", self.judge] for kind in self.kinds[1:]}
        return [kind for kind, each in needed.items() if not self.needed.is_plausible(each.size)]

    @property
    def by_others(self) -> Mapping[str, Needed]:
        """What the other classifiers find, each against its own score on the full kernel."""
        return {each: self.first.needed["score", each] for each in self.config.classifiers[1:]}

    @property
    def most(self) -> int:
        """The most dimensions tried of any kind."""
        return max(kind.sizes[-1] for kind in self.kinds)

    @property
    def fewer(self) -> list[Family]:
        """The kinds that were not tried in so many."""
        return [kind for kind in self.kinds if kind.sizes[-1] < self.most]

    # --- what preserves the kernel ---

    @property
    def thriftiest(self) -> list[Family]:
        """All families, those first that preserve the kernel with the fewest parameters.

        What does not stands last, the closest first in the order of the sizes tried.
        """
        return sorted(self.families, key=lambda each: (each.kernel_at.size, each.kernel_at.last))

    @property
    def thriftiest_of_each(self) -> list[Family]:
        """The thriftiest kind of random subspace, LoRA and each other method, likewise."""
        best: dict[str, Family] = {}
        for each in self.thriftiest:
            best.setdefault(each.name if each.kernel == "method" else each.kernel, each)
        return list(best.values())

    @property
    def preserving(self) -> list[Family]:
        """Those of them that preserve it."""
        return [each for each in self.thriftiest_of_each if each.kernel_at.found]

    @property
    def not_preserving(self) -> list[Family]:
        """Those of them that do not."""
        return [each for each in self.thriftiest_of_each if not each.kernel_at.found]

    @property
    def front(self) -> list[tuple[Family, int]]:
        """The Pareto front: families and sizes no smaller one of which has as much CKA."""
        points = sorted(
            (size, -value.mean, i)
            for i, family in enumerate(self.families)
            for size, value in family.cka.items()
        )
        best, kept = -inf, []
        for size, negative, i in points:
            if -negative > best:
                best = -negative
                kept.append((self.families[i], size))
        return kept

    @property
    def front_names(self) -> list[str]:
        """Names of the families on it."""
        return list(dict.fromkeys(family.name for family, _ in self.front))

    def as_dimension(self, cka: float) -> float:
        """Return the dimension at which a random subspace has this CKA; infinity if none has."""
        return reaches(self.first.cka, cka)

    # --- whether theory holds ---

    @property
    def measured(self) -> bool:
        """Whether distortions were."""
        return bool(self.first.distortions)

    @property
    def holding(self) -> list[Family]:
        """The kinds for which the variance formula holds, raw and centered."""
        return [kind for kind in self.kinds if not kind.failing]

    @property
    def off(self) -> list[Family]:
        """The kinds for which it is off."""
        return [kind for kind in self.kinds if kind.failing]

    @property
    def shared(self) -> float:
        """Share of the squared raw distortion common to all pairs of a draw, if it is most."""
        share = self.first.distortions[0].calibration.shared if self.measured else 0.0
        return share if share >= 0.5 else 0.0

    @property
    def mean_cosine(self) -> float:
        """Root mean square cosine of the gradients, read from σ² d = 1 + cos²."""
        dim, sigma = next(iter(self.first.distortions[0].shape["sigma"].items()))
        return sqrt(max(sigma.mean**2 * dim - 1.0, 0.0))

    @property
    def slack(self) -> float:
        """How loose the Johnson-Lindenstrauss bound is on centered gradients, if it bounds any."""
        slack = self.first.distortions[1].calibration.slack if self.measured else nan
        return 0.0 if isnan(slack) else slack

    # --- over what intervals are ---

    @property
    def data_seeds(self) -> int:
        """How many data seeds."""
        return len(self.config.data_seeds)

    @property
    def draws(self) -> int:
        """How many draws of a subspace."""
        return len(self.config.projection_seeds)

    @property
    def has_splits(self) -> bool:
        """Whether there are several data seeds, over which intervals then are."""
        return self.data_seeds > 1

    @property
    def is_single(self) -> bool:
        """Whether there is one draw on one split only."""
        return max(self.data_seeds, self.draws) == 1


def read(results: Results) -> Findings:
    """Return what a study found."""
    reader = _Reader(results)
    config, train_dev = reader.config, next(iter(results.inputs["examples"].values()))
    kinds = [reader.family("random", kind.replace("_", " "), kind) for kind in config.kinds]
    return Findings(
        results=results,
        config=config,
        model=model_name(results),
        task=results.inputs["task"]["name"],
        score=score_name(results),
        train=train_dev["train"],
        dev=train_dev["dev"],
        test=tested(results),
        kinds=kinds,
        lora=[reader.family("lora", "LoRA")] if config.ranks else [],
        methods=[reader.family("method", each, each) for each in results.inputs["methods"]],
        left_out=results.inputs["left_out"],
        full_score=reader.score(kernel="full", solver=reader.judge),
        zero_shot=zero_shot(results),
        constant=reader.score(kernel="constant"),
        trained_in_full=reader.trained_in_full(),
        few_tests=reader.few_tests(),
    )


@dataclass(frozen=True, eq=False)
class Runs:
    """Scores of single runs, for intervals over seeds.

    Attributes:
        sizes: trained parameters ``[k]``, ascending.
        scores: ``[u, k]``: unit × size. Units are the data seeds (means over the draws' seeds) if
            there are several, else the draws.
        full, without: scores ``[u]`` of the full kernel, and of the better way without training.
    """

    sizes: npt.NDArray[np.int64]
    scores: Floats
    full: Floats
    without: Floats


class _Reader:
    """Reads the long table of a study by what its numbers mean."""

    def __init__(self, results: Results) -> None:
        self.results, self.config = results, Config.from_dict(results.config)
        self.metric, self.judge = score_metric(results), self.config.classifiers[0]
        table = results.table
        names = ("value", "low", "high", "seed", "data_seed")
        self.value, self.low, self.high, self.seed, self.data_seed = (
            table[name].to_numpy(float, na_value=np.nan) for name in names
        )
        # Where in the table each curve stands: there are hundreds of them.
        self.rows: dict[tuple[str, str | None, str | None, str], dict[int, list[int]]] = {}
        names = ("kernel", "method", "solver", "metric", "parameters")
        columns = [table[name].astype(object).where(table[name].notna(), None) for name in names]
        for at, (kernel, method, solver, metric, size) in enumerate(zip(*columns, strict=True)):
            if size is not None:
                for each in (method, None):
                    found = self.rows.setdefault((kernel, each, solver, metric), {})
                    found.setdefault(int(size), []).append(at)

    def score(self, **cell: Any) -> Pooled:
        """Return a test score."""
        return pooled(self.results, split="test", metric=self.metric, **cell)

    def trained_in_full(self) -> int:
        """Return the number of parameters of full fine-tuning."""
        return round(pooled(self.results, kernel="full", metric="trainable_parameters").mean)

    def few_tests(self) -> FewTests | None:
        """Return how small the test set is if chance moves a score by half the margin or more."""
        about = {"kernel": "full", "solver": self.judge, "split": "test", "metric": self.metric}
        error = score_error(self.results, cells(self.results.table, **about))
        margin = (1 - self.config.share) * self.score(kernel="full", solver=self.judge).mean
        return FewTests(tested(self.results), error, margin) if error > margin / 2 else None

    def family(self, kernel: str, name: str, method: str | None = None) -> Family:
        """Return all of one family; ``method`` as in the table, None for all of a kernel's."""

        def curve(metric: str, solver: str | None = None) -> Curve:
            found = self.rows.get((kernel, method, solver, metric), {})
            return {size: self._pool(np.array(found[size])) for size in sorted(found)}

        metrics = {metric: curve(metric) for metric in AGREEMENT}
        same = curve("prediction_agreement", self.judge)
        needed: dict[tuple[str, str], Needed] = {}
        if kernel != "method":
            for solver in self.config.classifiers:
                runs = self._runs(kernel, method, solver)
                needed |= {(goal, solver): self.needed(runs, goal) for goal in GOALS}
        distortions = []
        if (kernel, method, None, f"{FORMS['raw']}.ratio") in self.rows:
            distortions = [self._distortion(method or "", form, curve) for form in FORMS]
        return Family(
            kernel=kernel,
            name=name,
            agreement={metric: found for metric, found in metrics.items() if found},
            same=same,
            scores=curve(self.metric, self.judge),
            kernel_at=_preserves(metrics["cka"], self.config.min_cka),
            predictions_at=_preserves(same, self.config.min_agreement),
            needed=needed,
            distortions=distortions,
        )

    def _pool(self, at: npt.NDArray[np.intp]) -> Pooled:
        own = (self.low[at[0]], self.high[at[0]])
        return pool_values(self.value[at], self.data_seed[at], own, self.config.confidence)

    def _runs(self, kernel: str, method: str | None, solver: str) -> Runs:
        """Return the scores of a family of which there is more than one size, run by run."""
        found = self.rows.get((kernel, method, solver, self.metric), {})
        sizes = sorted(found)
        several = len(self.config.data_seeds) > 1
        units = self.data_seed if several else self.seed
        known = np.unique(np.concatenate([units[found[size]] for size in sizes]))
        means = [
            [
                self.value[at][units[at] == unit].mean()
                for at in (np.array(found[size]) for size in sizes)
            ]
            for unit in known
        ]

        def of(**cell: Any) -> Floats:
            rows = cells(self.results.table, metric=self.metric, **cell)
            values = rows.set_index("data_seed")["value"]
            return np.array([values.loc[int(u)] if several else values.iloc[0] for u in known])

        without = np.maximum(*(of(kernel=name) for name in ("zero-shot", "constant")))
        full = of(kernel="full", solver=solver)
        return Runs(np.array(sizes), np.array(means), full, without)

    def needed(self, found: Runs, goal: str) -> Needed:
        """Return the size at which a family reaches ``share`` of the full kernel's score or gain.

        The interval is a bootstrap over draws of the subspace, or over data seeds if there are
        several (then the full kernel's score varies with them).
        """
        everything = np.arange(len(found.scores))

        def target_of(units: npt.NDArray[np.intp]) -> float:
            full, without = found.full[units].mean(), found.without[units].mean()
            base = 0.0 if goal == "score" else float(without)
            return base + self.config.share * (float(full) - base)

        def at(units: npt.NDArray[np.intp]) -> float:
            return crossing(found.sizes, found.scores[units].mean(0), target_of(units))

        target, gain = target_of(everything), float((found.full - found.without).mean())
        first, last = int(found.sizes[0]), int(found.sizes[-1])
        if goal == "gain" and gain <= 0:
            return Needed(target, nan, nan, nan, first, last, gain)
        low, high = nan, nan
        if len(everything) > 1:
            ends = bootstrap(
                (everything,),
                at,
                vectorized=False,
                n_resamples=self.config.resamples,
                confidence_level=self.config.confidence,
                method="percentile",
                rng=np.random.default_rng(0),
            ).confidence_interval
            low, high = float(ends.low), float(ends.high)
        low, size, high = (_size(value, last) for value in (low, at(everything), high))
        mean = dict(zip(found.sizes.tolist(), found.scores.mean(0).tolist(), strict=True))
        relapses = tuple(d for d, score in mean.items() if d > size and score < target - _SLACK)
        return Needed(target, size, low, high, first, last, gain, relapses)

    def _distortion(self, kind: str, form: str, curve: Any) -> Distortion:
        """Return how far a kind of projection moves inner products.

        The ratio's mean square is over pairs, dimensions, draws and data seeds. Data seeds share
        their draws, so they narrow the range that chance allows by nothing.
        """
        called = FORMS[form]
        about = {"kernel": "random", "method": kind}
        rows = cells(self.results.table, **about, metric=f"{called}.ratio")
        expected = cells(self.results.table, **about, metric=f"{called}.expected_ratio")
        shape = {name: curve(f"{called}.{name}") for name in SHAPE}

        def mean(what: str) -> float:
            values = [value.mean for value in curve(f"{called}.{what}").values()]
            known = [value for value in values if not isnan(value)]
            return float(np.mean(known)) if known else nan

        calibration = Calibration(
            ratio=float(np.sqrt((rows["value"] ** 2).mean())),
            low=float(expected["low"].mean()),
            high=float(expected["high"].mean()),
            inside=mean("inside"),
            inside_bound=mean("inside_bound"),
            slack=_slack(shape),
            shared=mean("shared"),
        )
        return Distortion(form, calibration, shape)


def _slack(shape: Mapping[str, Curve]) -> float:
    """Return the least ratio of the JL bound to the measured 5 and 95 % quantiles; NaN for none."""
    widths = {dim: max(-low.mean, shape["q95"][dim].mean) for dim, low in shape["q05"].items()}
    found = [
        value.mean / widths[dim]
        for dim, value in shape["epsilon"].items()
        if not isnan(value.mean) and widths[dim] > 0
    ]
    return min(found) if found else nan


def _preserves(values: Curve, level: float) -> Preserves:
    return Preserves(reaches(values, level), min(values), max(values))


def reaches(values: Curve, level: float) -> float:
    """Return the size at which the means first reach a level, infinity if they never do."""
    sizes = np.array(list(values))
    means = np.array([value.mean for value in values.values()])
    if isnan(level) or not (means >= level - _SLACK).any():
        return inf
    return float(2.0 ** crossing(sizes, means, level))


def crossing(sizes: npt.NDArray[np.int64], scores: Floats, target: float) -> float:
    """Return log2 of the size at which the scores ``[k]`` first reach the target.

    Linear between neighbors on the log axis; log2 of the first size if that reaches it, and 1 more
    than log2 of the last one if none does.
    """
    reached = np.flatnonzero(scores >= target - _SLACK)
    x = np.log2(sizes)
    if not len(reached):
        return float(x[-1]) + _NEVER
    i = int(reached[0])
    if i == 0:
        return float(x[0])
    share = (target - scores[i - 1]) / (scores[i] - scores[i - 1])
    return float(x[i - 1] + min(share, 1.0) * (x[i] - x[i - 1]))


def _size(exponent: float, last: int) -> float:
    """Return 2^exponent, or infinity beyond the last size."""
    if isnan(exponent):
        return nan
    return inf if exponent > log2(last) + _SLACK else 2.0**exponent

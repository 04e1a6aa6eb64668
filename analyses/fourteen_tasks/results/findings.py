"""What a study found: all that its page says and its figures show, decided once and typed.

Frames that figures are drawn from have a row a data seed, so that the drawing shows their spread:
columns ``task``, ``value`` and what tells the marks of a panel apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, get_args

import numpy as np
import pandas as pd

from subkern.kernel_behavior import Thresholds

from ...show.study_numbers import model_name
from .combine import differences
from .methods import (
    METHODS,
    PAIRS,
    Method,
    finetuning,
    head_name,
    method,
    optimizers,
    size,
    variant,
)
from .read import SavedStudy
from .summary import Comparison, commonest_shots, compare, means, paired, pooled
from .verdict import FEATURE_METRICS, Answer, Verdict, by_seed, limits, verdicts

T = TypeVar("T")

FAMILIES = {"kernel-lora": "rank", "kernel-random": "dimension"}
"""Kernels of subspaces that have a size → what it is."""

_PROMPTED = (("kernel-sgd", "kernel-asymmetric_signgd", "kernel-signgd", "kernel-adam"),
             ("finetune-sgd", "finetune-adam", "finetune-signgd"))  # fmt: skip
_SEED = ["task", "k", "head", "data_seed"]


@dataclass(frozen=True, eq=False)
class Prompted:
    """A method under a prompt and under a linear head.

    Attributes:
        rows: columns task, head, value.
        tasks: how many have both.
        better: how many of them are better with the prompt.
        difference: mean of prompt − linear head, a share.
    """

    method: Method
    rows: pd.DataFrame
    tasks: int
    better: int
    difference: float


@dataclass(frozen=True, eq=False)
class Linearized:
    """How far the linearized model gets of what an optimizer's training gained.

    Attributes:
        rows: columns task, stage (``zero``, ``linear``, ``tuned``), value.
        shares: task → share of the gain recovered; NaN where training improved nothing.
        median: of the shares; None where training improved nothing on any task.
        half: number of tasks on which at least half is recovered.
    """

    method: Method
    rows: pd.DataFrame
    shares: Mapping[str, float]
    median: float | None
    half: int

    @property
    def tasks(self) -> int:
        """How many there are."""
        return len(self.shares)

    @property
    def improved(self) -> bool:
        """Whether training improved anything."""
        return self.median is not None


@dataclass(frozen=True, eq=False)
class Range:
    """A number over tasks."""

    method: Method
    median: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Moved:
    """How far kernels moved in training, in one metric.

    Attributes:
        heading: of the metric.
        rows: columns task, optimizer, value.
        alike: whether 1 is unchanged (else 0 is).
        limit: what still counts as fixed features; None for a metric that decides nothing.
        ranges: the means of the tasks, an entry an optimizer.
    """

    heading: str
    rows: pd.DataFrame
    alike: bool
    limit: float | None
    ranges: Sequence[Range]


@dataclass(frozen=True, eq=False)
class Kept:
    """What the largest subspace of a kind keeps of the full kernel.

    Attributes:
        label: with its size.
        lost: its test score less the full kernel's, mean over tasks; None without scores.
        cka: least and greatest over tasks; None where it was not measured.
    """

    label: str
    lost: float | None
    cka: tuple[float, float] | None

    @property
    def scored(self) -> bool:
        """Whether it has scores beside the full kernel's."""
        return self.lost is not None


@dataclass(frozen=True, eq=False)
class Curve:
    """What subspaces of one kind keep, by size.

    Attributes:
        method: their kernels.
        of: what the size is.
        k: shots.
        rows: columns task, size, metric (``cka``, or ``score`` less the full kernel's), value.
        ends: (size, median CKA) of the smallest and the largest; None with fewer than two.
    """

    method: Method
    of: str
    k: int
    rows: pd.DataFrame
    ends: tuple[tuple[int, float], tuple[int, float]] | None


@dataclass(frozen=True, eq=False)
class Shown(Generic[T]):
    """What a figure shows, a panel or a line of its caption each; of ``k`` shots."""

    k: int
    parts: Sequence[T]


@dataclass(frozen=True, eq=False)
class Preserved(Shown[Kept]):
    """The same with its ``rows``: task, method, label, metric (``score`` or ``cka``), value."""

    rows: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Behavior:
    """The verdicts the answer is about: those of the first head, optimizer and fewest shots.

    Attributes:
        counts: tasks by verdict, of those that occur.
    """

    method: Method
    head: str
    k: int
    tasks: int
    counts: Mapping[Answer, int]

    @property
    def yes(self) -> int:
        """On how many tasks kernel behavior is seen."""
        return self.counts.get("yes", 0)


@dataclass(frozen=True, eq=False)
class FewTests:
    """Test sets too small for the differences that verdicts rest on.

    Attributes:
        limit: most test examples of a task.
        error: one standard error of an accuracy.
        gain: what counts as a gain.
    """

    limit: int
    error: float
    gain: float


@dataclass(frozen=True, eq=False)
class Findings:
    """What a study found.

    Attributes:
        study: its numbers.
        thresholds: of the verdicts.
        head: the one that scatter plots are of, as readers call it.
        methods: labels of those that were run.
        f1: tasks that are scored by F1.
        panels: kernels beside the fine-tuning they describe, a list an optimizer.
        signgd: SignGD fine-tuning beside Adam's.
        prompting, linearization, features, preservation: of the figures of those names.
        curves: of sizes of subspaces.
        verdicts: on every task, shots, head and optimizer.
        behavior: those of them the answer is about.
        few_tests, mixed_rules, versions, at_edge: what limits the answer; ``at_edge`` are the
            methods whose best learning rate was at the edge of its grid, ``edges`` how many rows.
    """

    study: SavedStudy
    thresholds: Thresholds
    head: str
    methods: Sequence[str]
    f1: Sequence[str]
    panels: Sequence[Sequence[Comparison]]
    signgd: Comparison | None
    prompting: Shown[Prompted] | None
    linearization: Shown[Linearized] | None
    features: Shown[Moved] | None
    preservation: Preserved | None
    curves: Sequence[Curve]
    verdicts: Sequence[Verdict]
    behavior: Behavior | None
    few_tests: FewTests | None
    mixed_rules: bool
    versions: Sequence[str]
    at_edge: Sequence[str]
    edges: int

    @property
    def model(self) -> str:
        """The model as the user named it, a path by its last part."""
        return model_name(self.study.results)

    @property
    def heads(self) -> list[str]:
        """The heads as readers call them."""
        return [head_name(head) for head in self.study.heads]

    @property
    def failed(self) -> list[str]:
        """The cells that failed."""
        return [str(cell) for cell in self.study.failed["cell"]]

    @property
    def first(self) -> Comparison | None:
        """The comparison that the answer is about."""
        return next(iter(self.comparisons), None)

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to answer with."""
        return self.first is None and self.behavior is None

    @property
    def comparisons(self) -> list[Comparison]:
        """Kernels beside the fine-tuning they describe."""
        return [each for panel in self.panels for each in panel]


def find(study: SavedStudy, thresholds: Thresholds | None = None) -> Findings:
    """Return what a study found; ``thresholds`` say what counts as kernel behavior."""
    asked = thresholds or Thresholds()
    judged, trained = verdicts(study, asked), by_seed(study)
    kinds = {method(name).kind for name in study.table["method"]}
    of_head = study.scores[study.scores["head"] == study.heads[0]]
    return Findings(
        study=study,
        thresholds=asked,
        head=head_name(study.heads[0]),
        methods=[m.label for key, m in METHODS.items() if key in set(study.table["method"])],
        f1=[task for task in study.tasks if study.metrics[task] == "f1"],
        panels=_panels(of_head),
        signgd=compare(of_head, "finetune-adam", "finetune-signgd"),
        prompting=find_prompting(study.scores),
        linearization=find_linearization(trained, study.heads),
        features=find_features(study, limits(asked)),
        preservation=find_preservation(study),
        curves=find_curves(study),
        verdicts=judged,
        behavior=_behavior(judged),
        few_tests=_few_tests(study, asked.min_gain),
        mixed_rules={"subspace kernel", "subspace finetuning"} <= kinds,
        versions=differences(study.results.environment),
        at_edge=sorted({method(name).label for name, *_ in study.at_edge}),
        edges=len(study.at_edge),
    )


def _panels(scores: pd.DataFrame) -> list[list[Comparison]]:
    """Return kernels beside fine-tuning, as far as there are both, a panel an optimizer."""
    found = [compare(scores, first, second) for first, second in PAIRS]
    panels: dict[str, list[Comparison]] = {}
    for each in found:
        if each is not None:
            panels.setdefault(each.first.key, []).append(each)
    return list(panels.values())


def find_prompting(scores: pd.DataFrame) -> Shown[Prompted] | None:
    """Return the best covered kernel and fine-tuning under both heads, with one number of shots."""
    shown: dict[str, pd.DataFrame] = {}
    for family in _PROMPTED:
        both = {
            key: paired(scores[scores["method"] == key], "head", "linear", "prompt")
            for key in family
        }
        most = max(family, key=lambda key: len(both[key][["task", "k"]].drop_duplicates()))
        if len(both[most]):
            shown[most] = both[most]
    if not shown:
        return None
    every = pd.concat([rows.assign(method=key) for key, rows in shown.items()])
    k = commonest_shots(every, ("task", "method"))
    shown = {key: rows[rows["k"] == k] for key, rows in shown.items()}
    parts = [_prompted(method(key), rows) for key, rows in shown.items() if len(rows)]
    return Shown(k, parts)


def _prompted(of: Method, both: pd.DataFrame) -> Prompted:
    more = pooled(both).eval("y - x")
    rows = both.rename(columns={"x": "linear", "y": "prompt"})
    rows = rows.melt(["task"], ["prompt", "linear"], "head", "value")
    return Prompted(of, rows, len(more), int((more > 0).sum()), float(more.mean()))


def find_linearization(trained: pd.DataFrame, heads: Sequence[str]) -> Shown[Linearized] | None:
    """Return the share of training's gain that linearization recovers, of one head and shots.

    Over the data seeds that have all of start, linearization and training; a share is of the means:
    (linear − zero) / (tuned − zero).

    Args:
        trained: as :func:`.verdict.by_seed` returns it.
        heads: in the order of preference.
    """
    stages = ["zero", "linear", "tuned"]
    found = _one_head(trained.dropna(subset=stages), heads)
    if found.empty:
        return None
    k = commonest_shots(found, ("task", "optimizer"))
    found = found[found["k"] == k]
    parts = []
    for name in optimizers(found["optimizer"]):
        rows = found[found["optimizer"] == name]
        mean = rows.groupby("task")[stages].mean()
        gained = mean["tuned"] - mean["zero"]
        share = ((mean["linear"] - mean["zero"]) / gained).where(gained > 0)
        known = share.dropna()
        parts.append(
            Linearized(
                finetuning(name),
                rows.melt(["task"], stages, "stage", "value"),
                {str(task): float(x) for task, x in share.items()},
                None if known.empty else float(known.median()),
                int((known >= 0.5).sum()),
            )
        )
    return Shown(k, parts)


def find_features(study: SavedStudy, thresholds: Mapping[str, float]) -> Shown[Moved] | None:
    """Return how far kernels moved: a distance and an alignment, of one head and shots."""
    found = study.measured(list(FEATURE_METRICS), ["features"])
    present = [name for name in FEATURE_METRICS if (found["metric"] == name).any()]
    metrics = [next((m for m in present if ("cka" in m) == alike), None) for alike in (False, True)]
    found = _one_head(found[found["metric"].isin(metrics)], study.heads)
    if found.empty:
        return None
    k = commonest_shots(found)
    found = found[found["k"] == k]
    parts = []
    for metric in metrics:
        rows = found[found["metric"] == metric]
        if metric is None or rows.empty:
            continue
        rows = rows.groupby(["task", "optimizer", "data_seed"], as_index=False)["value"].mean()
        mean = rows.groupby(["optimizer", "task"])["value"].mean()
        ranges = [
            Range(finetuning(name), *mean[name].agg(["median", "min", "max"]).astype(float))
            for name in optimizers(rows["optimizer"])
        ]
        heading, limit = FEATURE_METRICS[metric], thresholds.get(metric)
        parts.append(Moved(heading, rows, "cka" in metric, limit, ranges))
    return Shown(k, parts)


def find_preservation(study: SavedStudy) -> Preserved | None:
    """Return what the largest LoRA and random subspace keep of the full kernel.

    Of one head and number of shots. The full kernel's scores are over the data seeds that have a
    subspace's, so that splits cancel.
    """
    scores = study.scores.assign(metric="score")
    small = pd.concat(
        [scores[scores["method"].isin(FAMILIES)], study.measured(["cka"], list(FAMILIES))],
        ignore_index=True,
    )
    full = scores[scores["method"] == "kernel-sgd"].merge(small[_SEED].drop_duplicates(), on=_SEED)
    small = _one_head(small, study.heads)
    if small.empty:
        return None
    k = commonest_shots(small, ("task", "method"))
    found = pd.concat([full[full["head"] == small["head"].iloc[0]], small], ignore_index=True)
    found = found[found["k"] == k]
    found = found.assign(size=[size(text) or 0 for text in found["subspace"]])
    found = found[found["size"] == found.groupby("method")["size"].transform("max")]
    found = found.assign(label=[*map(variant, found["method"], found["subspace"])])
    keys = ["task", "method", "label", "metric", "data_seed"]
    rows = found.groupby(keys, as_index=False)["value"].mean()
    mean = rows.groupby(["metric", "label", "task"])["value"].mean()
    full_label = method("kernel-sgd").label
    parts = []
    for label in dict.fromkeys(rows.loc[rows["method"].isin(FAMILIES), "label"]):
        cka = mean.get(("cka", label))
        less = None
        if ("score", label) in mean and ("score", full_label) in mean:
            both = (mean["score", label] - mean["score", full_label]).dropna()
            less = float(both.mean()) if len(both) else None
        parts.append(Kept(label, less, None if cka is None else (cka.min(), cka.max())))
    return Preserved(k, parts, rows)


def find_curves(study: SavedStudy) -> list[Curve]:
    """Return what subspaces keep by rank and dimension: the kinds that have several sizes."""
    scores = study.scores
    full = scores[scores["method"] == "kernel-sgd"]
    base = full.groupby(_SEED, as_index=False)["value"].mean().rename(columns={"value": "full"})
    small = scores[scores["method"].isin(FAMILIES)].merge(base, on=_SEED)
    small = small.assign(metric="score", value=small["value"] - small["full"])
    found = pd.concat([small, study.measured(["cka"], list(FAMILIES))], ignore_index=True)
    found = _one_head(found, study.heads)
    found = found.assign(size=found["subspace"].map(size)).dropna(subset=["size"])
    curves = []
    for key, of in FAMILIES.items():
        rows = found[found["method"] == key]
        if rows["size"].nunique() < 2:
            continue
        k = commonest_shots(rows, ("task", "size"))
        rows = means(rows[rows["k"] == k], ["task", "size", "metric"])
        rows = rows.rename(columns={"mean": "value"}).astype({"size": int})
        alike = rows[rows["metric"] == "cka"].groupby("size")["value"].median()
        ends = None
        if len(alike) > 1:
            least, most = ((int(s), float(alike[s])) for s in (min(alike.index), max(alike.index)))
            ends = least, most
        curves.append(Curve(method(key), of, k, rows, ends))
    return curves


def _one_head(found: pd.DataFrame, heads: Iterable[str]) -> pd.DataFrame:
    """Return the rows of the first head that has any: the prompt's, if there are some."""
    present = [head for head in heads if (found["head"] == head).any()]
    return found[found["head"] == present[0]] if present else found


def _behavior(found: Sequence[Verdict]) -> Behavior | None:
    """Return the verdicts that the answer is about."""
    if not found:
        return None
    head, optimizer = found[0].head, found[0].optimizer
    k = min(v.k for v in found if v.head == head)
    main = [v.answer for v in found if (v.head, v.optimizer, v.k) == (head, optimizer, k)]
    if not main:
        return None
    counts = {answer: main.count(answer) for answer in get_args(Answer) if answer in main}
    return Behavior(finetuning(optimizer), head_name(head), k, len(main), counts)


def _few_tests(study: SavedStudy, gain: float) -> FewTests | None:
    """Say if the test sets are too small for the differences that verdicts rest on."""
    limit = study.config.test_limit
    accurate = study.scores["task"].map(study.metrics) == "accuracy"  # F1 has no binomial error
    if limit is None or not accurate.any():
        return None
    scores = study.scores.loc[accurate, "value"]
    error = float(np.sqrt(scores * (1 - scores) / limit).median())
    return FewTests(limit, error, gain) if error > gain else None

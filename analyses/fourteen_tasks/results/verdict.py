"""Is kernel behavior seen on a task? `subkern.kernel_behavior` says, from means over data seeds.

Rows of method ``linearized`` hold the score of f(θ₀) + ∇f·(θ_T − θ₀), those of ``features`` how far
the kernel is from where it started; both are of the fine-tuning that ``optimizer`` names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from subkern.kernel_behavior import Evidence, Thresholds, judge, share_of_gain
from subkern.kernel_behavior import Verdict as Judged

from ...show import numbers as fmt
from .methods import PAIRS
from .read import SavedStudy

KEYS = ["task", "k", "head", "optimizer", "data_seed"]
"""What names a fine-tuned model."""

FEATURE_METRICS = {
    "relative change": "Relative change of the kernel",
    "relative_frobenius": "Relative change of the kernel",
    "relative_frobenius_scaled": "Relative change, best scale",
    "relative_frobenius_centred_scaled": "Relative change, centred, best scale",
    "cka with start": "CKA with the start",
    "cka": "CKA with the start",
}
"""Metrics of fixed features → heading; distances (0: unchanged), then alignments (1: unchanged)."""

Answer = Literal["yes", "partly", "no", "undecided", "open"]

CKA = ("cka with start", "cka")
CHANGES = ("relative change", "relative_frobenius")
"""Metrics of fixed features that decide, by any of their names in the table."""

SIGNS = {"solves": "kernel", "linear": "linearization", "fixed": "features"}


def limits(thresholds: Thresholds) -> dict[str, float]:
    """Return the threshold of every metric of fixed features that decides, by its name."""
    return {
        **dict.fromkeys(CKA, thresholds.cka),
        **dict.fromkeys(CHANGES, thresholds.relative_change),
    }


@dataclass(frozen=True)
class Verdict:
    """What was found for a task, shots, head and optimizer.

    Attributes:
        kernel: the kernel that was compared: of those that describe the optimizer, the best on dev.
        evidence: means over data seeds; NaN where not measured.
        features: every metric of fixed features -> mean.
        judged: what `subkern.kernel_behavior.judge` says of the evidence.
        seeds: how many data seeds the means are over.
    """

    task: str
    k: int
    head: str
    optimizer: str
    kernel: str
    evidence: Evidence
    features: Mapping[str, float]
    judged: Judged
    seeds: int

    @property
    def holds(self) -> dict[str, bool | None]:
        """Whether each sign is there: None where it was not measured, or cannot be judged."""
        seen = {
            "solves": self.evidence.kernel,
            "linear": self.evidence.linearized,
            "fixed": self.evidence.cka,
        }
        found = {name: getattr(self.judged, name) for name in seen}
        return {name: None if math.isnan(seen[name]) else found[name] for name in seen}

    @property
    def share(self) -> float:
        """Share of fine-tuning's gain over the start that linearization recovers."""
        seen = self.evidence
        return share_of_gain(seen.zero_shot, seen.linearized, seen.trained)

    @property
    def answer(self) -> Answer:
        """The verdict, but ``open`` where a sign was not measured."""
        found = self.evidence
        measured = (found.zero_shot, found.kernel, found.linearized, found.cka)
        return "open" if any(map(math.isnan, measured)) else self.judged.behavior

    @property
    def reason(self) -> str:
        """Which signs are missing, in a few words."""
        if self.answer == "undecided":
            return "training gained too little"
        against = [SIGNS[name] for name, each in self.holds.items() if each is False]
        unknown = [SIGNS[name] for name, each in self.holds.items() if each is None]
        if math.isnan(self.evidence.zero_shot):
            unknown = ["start", *(name for name in unknown if name == "features")]
        said = [f"not: {fmt.joined(against)}"] if against else []
        said += [f"not measured: {fmt.joined(unknown)}"] if unknown else []
        return "; ".join(said) or "all three signs"


def by_seed(study: SavedStudy) -> pd.DataFrame:
    """Return what every full fine-tuning has: a row a task, shots, head, optimizer and data seed.

    Columns: those keys, ``tuned``, ``zero`` (where training starts), ``linear`` (the linearized
    model) and every metric of fixed features that the study has, NaN where one was not measured.
    """
    scores = study.scores
    tuned = scores[scores["method"].str.startswith("finetune-")]
    tuned = tuned.assign(optimizer=tuned["method"].str.removeprefix("finetune-"))
    found = tuned.groupby(KEYS)["value"].mean().rename("tuned").to_frame()
    rows = study.table[study.table["method"] == "linearized"]
    metric = rows["task"].map(study.metrics)
    named = (rows["metric"] == metric) | (rows["metric"] == "linearized " + metric.astype(str))
    named |= rows["metric"] == "linearized accuracy"
    named &= rows["split"].isin(("test", ""))
    found = found.join(rows[named].groupby(KEYS)["value"].mean().rename("linear"))
    for name, each in study.measured(list(FEATURE_METRICS), ["features"]).groupby("metric"):
        found = found.join(each.groupby(KEYS)["value"].mean().rename(name))
    on = [key for key in KEYS if key != "optimizer"]
    zero = _starts(study).groupby(on)["value"].mean().rename("zero")
    return found.reset_index().join(zero, on=on)


def _starts(study: SavedStudy) -> pd.DataFrame:
    """Return the scores from which training starts: a prompt zero-shot, a linear head at its probe.

    A linear head that starts at random has none.
    """
    scores = study.scores
    zero = scores["method"] == "zero-shot"
    if study.config.head_init == "random":
        return scores[zero]
    probe = (scores["method"] == "linear-probe") & (scores["head"] == "linear")
    with_zero = set(scores.loc[zero, "head"])
    return scores[zero | (probe & ~scores["head"].isin(with_zero))]


def verdicts(study: SavedStudy, thresholds: Thresholds | None = None) -> list[Verdict]:
    """Return the verdict on every task, shots, head and optimizer that was fine-tuned in full.

    From means over the data seeds that have everything that was measured, so that splits cancel.
    """
    asked, trained, found = thresholds or Thresholds(), by_seed(study), []
    for head in study.heads:
        for tuned in dict.fromkeys(first for first, _ in PAIRS):
            for k, task in ((k, task) for k in study.shots for task in study.tasks):
                place = {"task": task, "k": k, "head": head}
                about = {**place, "optimizer": tuned.removeprefix("finetune-")}
                seeds = _at(trained, about).set_index("data_seed").drop(columns=list(about))
                if seeds.empty:
                    continue
                kernel, scores = _chosen(_at(study.scores, place), tuned, seeds.index)
                common = _common(seeds.assign(kernel=scores))
                found.append(_verdict(about, kernel, common, asked))
    return found


def _chosen(scores: pd.DataFrame, tuned: str, seeds: pd.Index) -> tuple[str, pd.Series]:
    """Return the kernel that stands for an optimizer, and its test score of each data seed.

    Of several dev chooses, over the seeds that were fine-tuned; the first of `PAIRS` where they
    tie. An empty name where there is none.
    """
    best, value, most = "", pd.Series(dtype=float), -math.inf
    for kernel in (second for first, second in PAIRS if first == tuned):
        rows = scores[(scores["method"] == kernel) & scores["data_seed"].isin(seeds)]
        dev = float(rows["dev"].mean()) if len(rows) else math.nan
        if dev > most or (len(rows) and not best):
            best, value, most = kernel, rows.groupby("data_seed")["value"].mean(), dev
    return best, value


def _common(seeds: pd.DataFrame) -> pd.DataFrame:
    """Return the data seeds that have everything that some seed has.

    Where no seed has it all, what fewest have does not count as measured.
    """
    measured = seeds.dropna(axis=1, how="all")
    while measured.dropna().empty:
        counts = measured.drop(columns="tuned").count()
        measured = measured.drop(columns=[counts.idxmin()])
    return measured.dropna()


def _at(frame: pd.DataFrame, place: Mapping[str, object]) -> pd.DataFrame:
    """Return the rows of one task, shots, head and, if it is given, optimizer."""
    here = np.ones(len(frame), bool)
    for name, value in place.items():
        here &= (frame[name] == value).to_numpy()
    return frame[here]


def _verdict(
    place: Mapping[str, Any], kernel: str, seeds: pd.DataFrame, thresholds: Thresholds
) -> Verdict:
    """Return the verdict of one place; one of two measures of features is enough."""
    means = seeds.mean()
    metrics = {name: float(means[name]) for name in FEATURE_METRICS if name in means}
    cka, change = (
        next((metrics[name] for name in names if name in metrics), math.nan)
        for names in (CKA, CHANGES)
    )
    if math.isnan(cka) and not math.isnan(change):
        cka = math.inf  # decides nothing
    if math.isnan(change):
        change = 0.0 if not math.isnan(cka) else math.nan
    zero, solved, linear = (float(means.get(n, math.nan)) for n in ("zero", "kernel", "linear"))
    evidence = Evidence(zero, solved, linear, float(means["tuned"]), cka, change)
    judged = judge(evidence, thresholds)
    return Verdict(**place, kernel=kernel, evidence=evidence, features=metrics, judged=judged,
                   seeds=len(seeds))  # fmt: skip

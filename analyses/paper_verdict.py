"""Is kernel behaviour seen on a task? The verdict of `subkern.behavior` on a study's numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from analyses import formatting as fmt
from analyses.paper_behavior import features, linearization, starts
from analyses.paper_grid import DASH, Cell, Grid, Row
from analyses.paper_methods import PAIRS, method
from analyses.paper_numbers import mean_scores, pairs
from analyses.paper_study import Study
from analyses.paper_tables import HEADS, task_heading
from subkern.behavior import Evidence, Thresholds, judge
from subkern.behavior import Verdict as Judged

__all__ = ["CHANGES", "Thresholds", "Verdict", "behaviour_table", "limits", "verdicts"]

Answer = Literal["yes", "partly", "no", "undecided", "open"]

CKA = ("cka with start", "cka")
CHANGES = ("relative change", "relative_frobenius")
"""Metrics of fixed features that decide, by any of their names in the table."""

_SIGNS = {"solves": "kernel", "linear": "linearization", "fixed": "features"}


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
        judged: what `subkern.behavior.judge` says of the evidence.
    """

    task: str
    k: int
    head: str
    optimizer: str
    kernel: str
    evidence: Evidence
    features: Mapping[str, float]
    judged: Judged

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
        gain = self.evidence.trained - self.evidence.zero_shot
        return (self.evidence.linearized - self.evidence.zero_shot) / gain if gain > 0 else math.nan

    @property
    def answer(self) -> Answer:
        """The verdict, but ``open`` where a sign was not measured."""
        found = self.evidence
        measured = (found.zero_shot, found.kernel, found.linearized, found.cka)
        return "open" if any(map(math.isnan, measured)) else self.judged.behaviour

    @property
    def reason(self) -> str:
        """Which signs are missing, in a few words."""
        if self.answer == "undecided":
            return "training gained too little"
        against = [_SIGNS[name] for name, each in self.holds.items() if each is False]
        unknown = [_SIGNS[name] for name, each in self.holds.items() if each is None]
        if math.isnan(self.evidence.zero_shot):
            unknown = ["start", *(name for name in unknown if name == "features")]
        said = [f"not: {fmt.joined(against)}"] if against else []
        said += [f"not measured: {fmt.joined(unknown)}"] if unknown else []
        return "; ".join(said) or "all three signs"


def verdicts(study: Study, thresholds: Thresholds | None = None) -> list[Verdict]:
    """Return the verdict on every task, shots, head and optimizer that was fine-tuned in full."""
    asked = thresholds or Thresholds()
    lines, moved, scores = linearization(study), features(study), mean_scores(study)
    begun = starts(scores.assign(value=scores["mean"]))
    found = []
    for head in study.heads:
        for tuned in dict.fromkeys(first for first, _ in PAIRS):
            solved = _solved(study, tuned, head)
            optimizer = tuned.removeprefix("finetune-")
            for k, task in ((k, task) for k in study.shots for task in study.tasks):
                place = {"task": task, "k": k, "head": head}
                trained = _at(scores, {**place, "method": tuned})["mean"]
                if trained.empty:
                    continue
                place["optimizer"] = optimizer
                zero = _at(begun, {"task": task, "k": k, "head": head})
                kernel, *pair = solved.get((task, k), ("", math.nan, float(trained.mean())))
                evidence = _evidence(zero["mean"], (pair[0], pair[1]), _at(lines, place))
                found.append(_verdict(place, kernel, evidence, _at(moved, place), asked))
    return found


def _solved(study: Study, tuned: str, head: str) -> dict[tuple[str, int], tuple[str, float, float]]:
    """Return (task, shots) → kernel, its test score and fine-tuning's, over common seeds.

    Of several kernels dev chooses; the first of `PAIRS` where they tie.
    """
    scores = study.scores[study.scores["head"] == head]
    dev = scores.groupby(["task", "k", "method"])["dev"].mean()
    best: dict[tuple[str, int], tuple[str, float, float]] = {}
    for first, kernel in PAIRS:
        if first != tuned:
            continue
        found = pairs(study, first, kernel, head=head)
        names = (found[name] for name in ("task", "k", "x", "y"))
        for task, k, tuned_score, score in zip(*names, strict=True):
            place = (str(task), int(k))
            if place not in best or dev[(*place, kernel)] > dev[(*place, best[place][0])]:
                best[place] = (kernel, float(score), float(tuned_score))
    return best


def _at(frame: pd.DataFrame, place: Mapping[str, object]) -> pd.DataFrame:
    """Return the rows of one task, shots, head and optimizer."""
    here = np.ones(len(frame), bool)
    for name, value in place.items():
        here &= (frame[name] == value).to_numpy()
    return frame[here]


def _evidence(zero: pd.Series, pair: tuple[float, float], line: pd.DataFrame) -> Evidence:
    """Return the scores; those of a linearized model come with the seeds that have all three."""
    start = float(zero.mean()) if len(zero) else math.nan
    if line.empty:
        return Evidence(start, pair[0], math.nan, pair[1], math.nan, math.nan)
    row = line.iloc[0]
    start, linear, tuned = (float(row[name]) for name in ("zero", "linear", "tuned"))
    return Evidence(start, pair[0], linear, tuned, math.nan, math.nan)


def _verdict(
    place: Mapping[str, Any],
    kernel: str,
    evidence: Evidence,
    moved: pd.DataFrame,
    thresholds: Thresholds,
) -> Verdict:
    """Return the verdict of one place; one of two measures of features is enough."""
    metrics = dict(zip(moved["metric"].map(str), moved["mean"].map(float), strict=True))
    cka, change = (
        next((metrics[name] for name in names if name in metrics), math.nan)
        for names in (CKA, CHANGES)
    )
    if math.isnan(cka) and not math.isnan(change):
        cka = math.inf  # decides nothing
    if math.isnan(change):
        change = 0.0 if not math.isnan(cka) else math.nan
    evidence = replace(evidence, cka=cka, relative_change=change)
    judged = judge(evidence, thresholds)
    return Verdict(**place, kernel=kernel, evidence=evidence, features=metrics, judged=judged)


def behaviour_table(study: Study, thresholds: Thresholds | None = None) -> Grid | None:
    """Return the verdicts as a table: a row a task, a block for head, optimizer and shots."""
    asked, found = thresholds or Thresholds(), verdicts(study, thresholds)
    if not found:
        return None
    seen = {name for v in found for name in v.features}
    metrics = [name for name in (*CHANGES, *CKA) if name in seen]
    metrics += sorted(seen - set(metrics))
    header = ("Verdict", "Why", "Kernel", "Start", "Kernel score", "Linearized", "Fine-tuned",
              "Share recovered", *map(_heading, metrics))  # fmt: skip
    rows = [_row(study, each, metrics) for each in sorted(found, key=_block)]
    grid = Grid(
        "behaviour", "Verdict per task", "", "Task", header, tuple(rows),
        (("", tuple(range(len(header)))),), _tidy(found), block="Run", apart=True,
    )  # fmt: skip
    return replace(grid, note=_note(asked, seen, grid.missing))


def _row(study: Study, each: Verdict, metrics: Sequence[str]) -> Row:
    """Return one verdict as a row; a yes is set off."""
    evidence = each.evidence
    scores = (evidence.zero_shot, evidence.kernel, evidence.linearized, evidence.trained)
    moved = [fmt.decimal(each.features.get(name, math.nan), 2) for name in metrics]
    kernel = method(each.kernel).label if each.kernel else DASH
    texts = [each.reason, kernel, *map(_percent, scores), _percent(each.share, 0), *moved]
    cells = (Cell(each.answer, each.answer == "yes"), *(Cell(text) for text in texts))
    block = f"{HEADS.get(each.head, each.head)}, {method(f'finetune-{each.optimizer}').label}"
    name = task_heading(each.task, study.metrics[each.task])
    return Row(name, cells, f"{block}, {each.k} shots")


def _words(metric: str) -> str:
    return metric.replace("cka", "CKA").replace("_", " ")


def _heading(metric: str) -> str:
    return _words(metric)[0].upper() + _words(metric)[1:]


def _block(each: Verdict) -> tuple[bool, str, int]:
    return each.head != "prompt", "" if each.optimizer == "sgd" else each.optimizer, each.k


def _percent(share: float, digits: int = 1) -> str:
    return DASH if math.isnan(share) else fmt.fixed(100 * share, digits)


def _note(asked: Thresholds, seen: set[str], missing: int) -> str:
    """Return what the verdict means."""
    fixed = [f"CKA at least {fmt.decimal(asked.cka, 2)}"] if seen & set(CKA) else []
    if seen & set(CHANGES):
        fixed.append(f"relative change at most {fmt.decimal(asked.relative_change, 2)}")
    gaps = "" if not missing else f" A dash: not measured, or no gain to share ({missing} in all)."
    return (
        "Signs of kernel behaviour: of what fine-tuning gains over its start the kernel reaches"
        f" {fmt.percent(asked.kernel_share, 0)} and linearization recovers"
        f" {fmt.percent(asked.recovered, 0)}, and features stay fixed"
        f" ({fmt.joined(fixed) or 'not measured'}). “Yes”: all three; “partly”: some; “no”: none;"
        f" “undecided”: training gained less than {fmt.points(asked.min_gain, 0)} points; “open”:"
        " a sign was not measured. The start is zero-shot, or the linear probe for a linear head."
        " The kernel is, of those that describe the optimizer, the best on dev."
        f" Scores and shares in %.{gaps}"
    )


def _tidy(found: list[Verdict]) -> pd.DataFrame:
    """Return the verdicts, one a row."""
    rows = [
        {
            "task": v.task, "k": v.k, "head": v.head, "optimizer": v.optimizer,
            "verdict": v.answer, "kernel": v.kernel, "start": v.evidence.zero_shot,
            "kernel score": v.evidence.kernel, "linearized": v.evidence.linearized,
            "fine-tuned": v.evidence.trained, "share recovered": v.share, **v.features, **v.holds,
            "reason": v.reason,
        }
        for v in found
    ]  # fmt: skip
    return pd.DataFrame(rows).astype(dict.fromkeys(_SIGNS, "boolean"))

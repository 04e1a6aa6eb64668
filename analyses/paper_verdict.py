"""Is kernel behaviour seen on a task? From a study's numbers and stated thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from analyses import formatting as fmt
from analyses.paper_behavior import features, linearization
from analyses.paper_grid import DASH, Cell, Grid, Row
from analyses.paper_methods import PAIRS, method
from analyses.paper_numbers import pairs
from analyses.paper_study import Study
from analyses.paper_tables import HEADS, task_heading

__all__ = ["Thresholds", "Verdict", "behaviour_table", "verdicts"]

Answer = Literal["yes", "partly", "no", "open"]


@dataclass(frozen=True)
class Thresholds:
    """What counts as kernel behaviour; all three must hold.

    Attributes:
        solves: the kernel's score is at least this share of fine-tuning's.
        recovers: linearization recovers at least this share of what training improved.
        cka: features are fixed: the kernel's CKA with its start is at least this;
        change: where CKA is not measured: its relative change is at most this.
    """

    solves: float = 0.9
    recovers: float = 0.5
    cka: float = 0.9
    change: float = 0.5

    def limits(self, metrics: list[str]) -> dict[str, float]:
        """Return the threshold of the metric of fixed features that decides, by its name."""
        alike = [name for name in metrics if "cka" in name]
        if alike:
            return {alike[0]: self.cka}
        return dict.fromkeys(metrics[:1], self.change)


@dataclass(frozen=True)
class Verdict:
    """What was found for a task, shots, head and optimizer.

    Attributes:
        kernel: the kernel that was compared: the best of those that describe the optimizer.
        scores: ``kernel``, ``tuned`` and ``linear`` test scores, NaN where not measured.
        share: of the improvement that linearization recovers, NaN where not measured.
        features: metric → mean.
        holds: ``solves``, ``recovers``, ``fixed``; None where not measured.
    """

    task: str
    k: int
    head: str
    optimizer: str
    kernel: str
    scores: Mapping[str, float]
    share: float
    features: Mapping[str, float]
    holds: Mapping[str, bool | None] = field(default_factory=dict)

    @property
    def answer(self) -> Answer:
        """``yes``: all three hold; ``no``: none of those measured; ``partly``: some.

        ``open``: all that is measured holds, but not all is measured.
        """
        known = [each for each in self.holds.values() if each is not None]
        if known and all(known):
            return "yes" if len(known) == len(self.holds) else "open"
        if any(known):
            return "partly"
        return "no" if known else "open"

    @property
    def reason(self) -> str:
        """What does not hold, or is not measured."""
        words = {"solves": "kernel", "recovers": "linearization", "fixed": "features"}
        against = [words[name] for name, each in self.holds.items() if each is False]
        unknown = [words[name] for name, each in self.holds.items() if each is None]
        said = [f"not: {fmt.joined(against)}"] if against else []
        said += [f"not measured: {fmt.joined(unknown)}"] if unknown else []
        return "; ".join(said) or "all three hold"


def verdicts(study: Study, thresholds: Thresholds | None = None) -> list[Verdict]:
    """Return the verdict on every task, shots, head and optimizer that was fine-tuned."""
    limits = thresholds or Thresholds()
    lines, moved = linearization(study), features(study)
    found = []
    for head in study.heads:
        for tuned in dict.fromkeys(first for first, _ in PAIRS):
            solved = _solved(study, tuned, head)
            optimizer = tuned.removeprefix("finetune-")
            for k in study.shots:
                for task in study.tasks:
                    place: dict[str, Any] = {
                        "task": task,
                        "k": k,
                        "head": head,
                        "optimizer": optimizer,
                    }
                    line, features_here = _at(lines, place), _at(moved, place)
                    score = solved.get((task, k))
                    if score is None and line.empty and features_here.empty:
                        continue
                    found.append(_judge(place, score, line, features_here, limits))
    return found


def _solved(study: Study, tuned: str, head: str) -> dict[tuple[str, int], tuple[str, float, float]]:
    """Return (task, shots) → best kernel, its score and fine-tuning's, over common seeds."""
    best: dict[tuple[str, int], tuple[str, float, float]] = {}
    for first, kernel in PAIRS:
        if first != tuned:
            continue
        found = pairs(study, first, kernel, head=head)
        names = (found[name] for name in ("task", "k", "x", "y"))
        for task, k, tuned_score, score in zip(*names, strict=True):
            place = (str(task), int(k))
            if place not in best or score > best[place][1]:
                best[place] = (kernel, float(score), float(tuned_score))
    return best


def _at(frame: pd.DataFrame, place: Mapping[str, object]) -> pd.DataFrame:
    """Return the rows of one task, shots, head and optimizer."""
    here = np.ones(len(frame), bool)
    for name, value in place.items():
        here &= (frame[name] == value).to_numpy()
    return frame[here]


def _judge(
    place: Mapping[str, Any],
    score: tuple[str, float, float] | None,
    line: pd.DataFrame,
    moved: pd.DataFrame,
    limits: Thresholds,
) -> Verdict:
    """Return the verdict of one place."""
    kernel, reached, tuned = score or ("", math.nan, math.nan)
    linear, share = math.nan, math.nan
    if not line.empty:
        row = line.iloc[0]
        linear, share = float(row["linear"]), float(row["share"])
        tuned = float(row["tuned"]) if math.isnan(tuned) else tuned
    metrics = dict(zip(moved["metric"].map(str), moved["mean"].map(float), strict=True))
    fixed = None
    for name, limit in limits.limits(sorted(metrics)).items():
        fixed = metrics[name] >= limit if "cka" in name else metrics[name] <= limit
    holds = {
        "solves": None if score is None else reached >= limits.solves * tuned,
        "recovers": None if math.isnan(share) else share >= limits.recovers,
        "fixed": fixed,
    }
    scores = {"kernel": reached, "tuned": tuned, "linear": linear}
    return Verdict(
        **place, kernel=kernel, scores=scores, share=share, features=metrics, holds=holds
    )


def behaviour_table(study: Study, thresholds: Thresholds | None = None) -> Grid | None:
    """Return the verdicts as a table: a row a task, a block for head, optimizer and shots."""
    limits, found = thresholds or Thresholds(), verdicts(study, thresholds)
    if not found:
        return None
    metrics = sorted(
        {name for v in found for name in v.features}, key=lambda name: ("cka" in name, name)
    )
    header = ("Verdict", "Kernel", "Kernel score", "Fine-tuned", "Linearized", "Share recovered",
              *(_heading(name) for name in metrics), "Why")  # fmt: skip
    rows = []
    for each in sorted(found, key=_block):
        scores = [_percent(each.scores[name]) for name in ("kernel", "tuned", "linear")]
        moved = [fmt.decimal(each.features.get(name, math.nan), 2) for name in metrics]
        kernel = method(each.kernel).label if each.kernel else DASH
        texts = [each.answer, kernel, *scores, _percent(each.share, 0), *moved, each.reason]
        marks = [each.answer == "yes" and i == 0 for i in range(len(texts))]
        cells = tuple(Cell(t or DASH, b) for t, b in zip(texts, marks, strict=True))
        name = task_heading(each.task, study.metrics[each.task])
        block = f"{HEADS.get(each.head, each.head)}, {method(f'finetune-{each.optimizer}').label}"
        rows.append(Row(name, cells, f"{block}, {each.k} shots"))
    grid = Grid(
        "behaviour", "Verdict per task", "", "Task", header, tuple(rows),
        (("", tuple(range(len(header)))),), _tidy(found), block="Run", apart=True,
    )  # fmt: skip
    return Grid(**{**grid.__dict__, "note": _note(limits, metrics, grid.missing)})


def _words(metric: str) -> str:
    return metric.replace("cka", "CKA").replace("_", " ")


def _heading(metric: str) -> str:
    return _words(metric)[0].upper() + _words(metric)[1:]


def _block(each: Verdict) -> tuple[bool, str, int]:
    return each.head != "prompt", "" if each.optimizer == "sgd" else each.optimizer, each.k


def _percent(share: float, digits: int = 1) -> str:
    return DASH if math.isnan(share) else fmt.fixed(100 * share, digits)


def _note(limits: Thresholds, metrics: list[str], missing: int) -> str:
    """Return what the verdict means."""
    where = limits.limits(metrics)
    fixed = [f"{_words(name)} at {'least' if 'cka' in name else 'most'} {fmt.decimal(limit, 2)}"
             for name, limit in where.items()]  # fmt: skip
    gaps = "" if not missing else f" A dash: not measured ({missing} cells)."
    return (
        f"Kernel behaviour is “yes” where the kernel reaches {fmt.percent(limits.solves, 0)} of"
        f" fine-tuning's score, linearization recovers {fmt.percent(limits.recovers, 0)} of what"
        f" training improved, and features stay fixed ({fmt.joined(fixed) or 'not measured'});"
        " “partly” where some of these hold, “no” where none does, “open” where all that is"
        " measured holds but not all is. Scores in %. The kernel is the best of those that describe"
        f" the optimizer.{gaps}"
    )


def _tidy(found: list[Verdict]) -> pd.DataFrame:
    """Return the verdicts, one a row."""
    return pd.DataFrame(
        [
            {
                "task": v.task, "k": v.k, "head": v.head, "optimizer": v.optimizer,
                "kernel": v.kernel, **{f"{n} score": x for n, x in v.scores.items()},
                "share recovered": v.share, **v.features, **v.holds, "verdict": v.answer,
                "reason": v.reason,
            }
            for v in found
        ]
    ).astype(dict.fromkeys(("solves", "recovers", "fixed"), "boolean"))  # fmt: skip

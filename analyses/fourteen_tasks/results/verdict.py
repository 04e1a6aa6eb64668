"""Is kernel behaviour seen on a task? `subkern.kernel_behavior` says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from subkern.kernel_behavior import Evidence, Thresholds, judge, share_of_gain
from subkern.kernel_behavior import Verdict as Judged

from ...show import numbers as fmt
from ...show.table import DASH, EDGE, Cell, Grid, Row
from .behavior import FEATURE_METRICS, by_seed
from .methods import PAIRS, method
from .read import Study
from .tables import HEADS, task_heading

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
        against = [_SIGNS[name] for name, each in self.holds.items() if each is False]
        unknown = [_SIGNS[name] for name, each in self.holds.items() if each is None]
        if math.isnan(self.evidence.zero_shot):
            unknown = ["start", *(name for name in unknown if name == "features")]
        said = [f"not: {fmt.joined(against)}"] if against else []
        said += [f"not measured: {fmt.joined(unknown)}"] if unknown else []
        return "; ".join(said) or "all three signs"


def verdicts(study: Study, thresholds: Thresholds | None = None) -> list[Verdict]:
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


def behaviour_table(study: Study, thresholds: Thresholds | None = None) -> Grid | None:
    """Return the verdicts as a table: a row a task, a block for head, optimizer and shots."""
    asked, found = thresholds or Thresholds(), verdicts(study, thresholds)
    if not found:
        return None
    seen = {name for v in found for name in v.features}
    metrics = [name for name in (*CHANGES, *CKA) if name in seen]
    metrics += sorted(seen - set(metrics))
    header = (
        "Verdict",
        "Why",
        "Kernel",
        "Start",
        "Kernel score",
        "Linearized",
        "Fine-tuned",
        "Share recovered",
        *(FEATURE_METRICS[name] for name in metrics),
        "Data seeds",
    )
    rows = [_row(study, each, metrics) for each in sorted(found, key=_block)]
    grid = Grid(
        "behaviour", "Verdict per task", "", "Task", header, tuple(rows),
        (("", tuple(range(len(header)))),), _tidy(found), block="Run", apart=True,
    )  # fmt: skip
    return replace(grid, note=_note(asked, seen, grid))


def _row(study: Study, each: Verdict, metrics: Sequence[str]) -> Row:
    """Return one verdict as a row; a yes is set off."""
    evidence = each.evidence
    scores = [
        _percent(share)
        for share in (evidence.zero_shot, evidence.kernel, evidence.linearized, evidence.trained)
    ]
    tuned = (f"finetune-{each.optimizer}", each.head, each.k, each.task)
    scores[-1] += EDGE if tuned in study.edge_places else ""
    moved = [fmt.decimal(each.features.get(name, math.nan), 2) for name in metrics]
    kernel = method(each.kernel).label if each.kernel else DASH
    texts = [each.reason, kernel, *scores, _percent(each.share, 0), *moved, str(each.seeds)]
    cells = (Cell(each.answer, each.answer == "yes"), *(Cell(text) for text in texts))
    block = f"{HEADS.get(each.head, each.head)}, {method(f'finetune-{each.optimizer}').label}"
    name = task_heading(each.task, study.metrics[each.task])
    return Row(name, cells, f"{block}, {each.k} shots")


def _block(each: Verdict) -> tuple[bool, str, int]:
    return each.head != "prompt", "" if each.optimizer == "sgd" else each.optimizer, each.k


def _percent(share: float, digits: int = 1) -> str:
    return DASH if math.isnan(share) else fmt.fixed(100 * share, digits)


def _note(asked: Thresholds, seen: set[str], grid: Grid) -> str:
    """Return what the verdict means."""
    missing = grid.missing
    fixed = [f"CKA at least {fmt.decimal(asked.cka, 2)}"] if seen & set(CKA) else []
    if seen & set(CHANGES):
        fixed.append(f"relative change at most {fmt.decimal(asked.relative_change, 2)}")
    marked = any(EDGE in cell.text for row in grid.rows for cell in row.cells)
    edges = f" {EDGE}: in some seed the best learning rate was at the edge of its grid."
    edges = edges if marked else ""
    gaps = "" if not missing else f" A dash: not measured, or no gain to share ({missing} in all)."
    return (
        "Signs of kernel behaviour: of what fine-tuning gains over its start the kernel reaches"
        f" {fmt.percent(asked.kernel_share, 0)} and linearization recovers"
        f" {fmt.percent(asked.recovered, 0)}, and features stay fixed"
        f" ({fmt.joined(fixed) or 'not measured'}). “Yes”: all three; “partly”: some; “no”: none;"
        f" “undecided”: training gained less than {fmt.points(asked.min_gain, 0)} points; “open”:"
        " a sign was not measured. The start is zero-shot, or the linear probe where a linear"
        " head begins there."
        " The kernel is, of those that describe the optimizer, the best on dev."
        " Features are seen through the SGD kernel, whatever the optimizer. Means are over the data"
        f" seeds that have all of it. Scores and shares in %.{edges}{gaps}"
    )


def _tidy(found: list[Verdict]) -> pd.DataFrame:
    """Return the verdicts, one a row."""
    rows = [
        {
            "task": v.task, "k": v.k, "head": v.head, "optimizer": v.optimizer,
            "verdict": v.answer, "kernel": v.kernel, "start": v.evidence.zero_shot,
            "kernel score": v.evidence.kernel, "linearized": v.evidence.linearized,
            "fine-tuned": v.evidence.trained, "share recovered": v.share, **v.features, **v.holds,
            "reason": v.reason, "data_seeds": v.seeds,
        }
        for v in found
    ]  # fmt: skip
    return pd.DataFrame(rows).astype(dict.fromkeys(_SIGNS, "boolean"))

"""The tables of a study of several target sets."""

from __future__ import annotations

from typing import Literal

from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.page import Table
from .grid import MEASURES, Found, by_targets, front
from .numbers import adapted_only, full_score, limit, score_name, trained, zero_shot
from .targets import only

__all__ = ["configuration_table", "matrix", "target_table"]

_NONE = "–"


def configuration_table(results: Results, found: Found) -> Table:
    """Return every rank of every target set, cheapest first: what the answer is read from."""
    every = sorted(found.every, key=lambda e: (e.trained, e.targets))
    whole = trained(results)
    on_front = {measure: front(found.every, measure) for measure in MEASURES}
    rows = [
        [
            f"{each.targets}, rank {each.rank}",
            f"{fmt.count(each.trained)} ({fmt.percent(each.trained / whole, 2)})",
            fmt.share_between(each.verdict.score),
            fmt.points_between(each.verdict.drop),
            fmt.share_between(each.verdict.agreement),
            fmt.decimal(each.cka.mean),
            "yes" if each.verdict.ok else "no",
            ", ".join(_SHORT[m] for m in MEASURES if each in on_front[m]) or _NONE,
        ]
        for each in every
    ]
    full = fmt.share_between(full_score(results, found.solver))
    rows.append(["full kernel", fmt.count(whole), full, *[_NONE] * 5])
    rows.append(["zero-shot", "0", fmt.share_between(zero_shot(results)), *[_NONE] * 5])
    budget = "" if found.limit is None else f" The budget is {fmt.count(found.limit)}."
    score = score_name(results)
    return Table(
        f"Rank and targets, by the {found.solver} classifier, cheapest first",
        f"Trained parameters, and their share of full fine-tuning's; test {score}; how many points"
        " below the full kernel's it is (negative: above); share of test predictions equal to the"
        " full kernel's; CKA of the train kernels. Front: in which of score, predictions and CKA"
        f" nothing as cheap is as good. Intervals in brackets.{budget}",
        ["", "trained", f"test {score}", "points below full", "equal predictions", "CKA",
         "within tolerance", "front"],
        rows,
        marked=[i for i, each in enumerate(every) if each is found.best],
    )  # fmt: skip


_SHORT = {"score": "score", "equal predictions": "predictions", "CKA": "CKA"}


def matrix(results: Results, found: Found, measure: Literal["score", "equal predictions"]) -> Table:
    """Return one measure, targets by rank."""
    ranks = sorted(results.config["ranks"])
    lines = by_targets(found.every)
    rows = [
        [name, *(fmt.percent(each.value(measure).mean) for each in line)]
        for name, line in lines.items()
    ]
    what = f"Test {score_name(results)}" if measure == "score" else "Equal predictions"
    return Table(
        f"{what}, targets by rank",
        "",
        ["targets", *(f"rank {rank}" for rank in ranks)],
        rows,
        marked=[i for i, name in enumerate(lines) if name == found.best.targets],
    )


def target_table(results: Results, found: Found) -> Table:
    """Return what no rank can make up for: full fine-tuning of each target set's weights alone."""
    rows = []
    for name in by_targets(found.every):
        view = only(results, name)
        drop, same = adapted_only(view, found.solver)
        score = fmt.share_between(full_score(view, found.solver, "targets"))
        rows.append(
            [
                name,
                score,
                fmt.points_between(drop),
                fmt.share_between(same),
                fmt.decimal(limit(view, "cka")),
            ]
        )
    return Table(
        "Full fine-tuning of the adapted weights alone",
        "What LoRA on these targets tends to as the rank grows, against full fine-tuning of the"
        " whole model.",
        ["targets", f"test {score_name(results)}", "points below full", "equal predictions", "CKA"],
        rows,
        marked=[i for i, name in enumerate(by_targets(found.every)) if name == found.best.targets],
    )

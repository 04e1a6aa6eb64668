"""The tables of ``analyze lora``: of the report, of what it cost, and for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace

from ..engine.pooling import Pooled
from ..show import numbers as fmt
from ..show.page import Table
from ..show.study_page import cost_table
from ..verify.rates_page import column, heading
from ..verify.trial import FULL
from .findings import Configuration, Findings, Judged, Measured

_NONE = "–"
_WIDE = 16  # characters of a target set's name in a terminal's line
_FRONTS = {"score": "score", "agreement": "predictions", "cka": "CKA"}


def table(found: Findings) -> Table:
    """Return the few numbers that a terminal shows: each rank, or the best one of each set."""
    title = f"LoRA of {found.model} on {found.task}, {_by(found)}"
    several = len(found.answer.by_targets) > 1
    rows = [
        [
            textwrap.fill(each.targets, _WIDE),
            str(each.rank),
            fmt.percent(each.share, 2),
            fmt.decimal(each.cka.mean),
            fmt.percent(each.agreement.mean),
            fmt.percent(each.score.mean),
            _within(each),
            *_rate(found, each),
        ]
        for each in found.briefly
    ]
    none = [""] * len(heading(found.rates))
    full = [fmt.decimal(1.0), fmt.percent(1.0), fmt.percent(found.full.mean)]
    return Table(
        f"{title}: best rank of each target set" if several else title,
        "",
        ["targets", "rank", "trained", "CKA", _same(found)[0], f"test {found.score}", "within",
         *heading(found.rates, "rate")],
        [
            *rows,
            ["full", "", fmt.percent(1.0, 0), *full, "", *column(found.rates, FULL)],
            ["zero-shot", *[""] * 4, fmt.percent(found.zero_shot.mean), "", *none],
        ],
        marked=[i for i, each in enumerate(found.briefly) if each is found.best],
        sections=[len(rows)],
    )  # fmt: skip


def tables(found: Findings) -> list[Table]:
    """Return the report's tables: the comparison of all target sets, then the best one's own."""
    own = [
        _verdict_table(found),
        _solver_table(found),
        _agreement_table(found, found.own.with_full, "full fine-tuning"),
        _agreement_table(found, found.own.with_adapted, "full fine-tuning of the adapted weights"),
    ]
    if not found.compares:
        return own
    return [
        _configuration_table(found),
        _by_rank(found, f"Test {found.score}", lambda each: each.score),
        _by_rank(found, _same(found)[1].capitalize(), lambda each: each.agreement),
        _adapted_table(found),
        *(replace(each, title=f"{each.title}: targets {found.own.targets}") for each in own),
    ]


def cost(found: Findings) -> list[Table]:
    """Return how many parameters are trained, and what computing the kernels took."""
    note = "The kernels of all ranks and adapter seeds of a data seed come from one pass."
    return [_trained_table(found), cost_table(found.costs, note)]


def _by(found: Findings) -> str:
    """Return what judges."""
    if found.real:
        return f"{found.answer.solver} regression"
    return found.answer.solver if found.steps else f"{found.answer.solver} classifier"


def _the(found: Findings) -> str:
    return "one step" if found.steps else f"the {_by(found)}"


def _same(found: Findings) -> tuple[str, str, str]:
    """Return what agreement on the test examples is called: briefly, as a heading, in words."""
    if found.steps:
        return "alike", "likeness", "likeness (cosine) of a step's changes of the test examples to"
    if found.real:
        return "alike", "correlation", "correlation of the test predictions with"
    return "equal", "equal predictions", "share of test predictions equal to"


def _rate(found: Findings, each: Configuration) -> list[str]:
    """Return the learning rate of a configuration, if any were suggested."""
    return column(found.rates, found.config.configuration(each.targets, each.rank))


def _within(each: Configuration) -> str:
    """Return whether tolerance and budget are kept."""
    if not each.affordable:
        return "over budget"
    return "yes" if each.ok else "no"


def _compared(each: Judged) -> list[str]:
    texts = (fmt.points_between(each.drop), fmt.share_between(each.agreement))
    return [fmt.share_between(each.score), *texts]


def _configuration_table(found: Findings) -> Table:
    """Return every rank of every target set, cheapest first: what the answer is read from."""
    every = sorted(found.answer.every, key=lambda each: (each.trained, each.targets))
    rows = [
        [
            f"{each.targets}, rank {each.rank}",
            f"{fmt.count(each.trained)} ({fmt.percent(each.share, 2)})",
            *_compared(each),
            fmt.decimal(each.cka.mean),
            "yes" if each.ok else "no",
            ", ".join(name for m, name in _FRONTS.items() if each in found.fronts[m].line) or _NONE,
            *_rate(found, each),
        ]
        for each in every
    ]
    full = [fmt.count(found.trained), fmt.share_between(found.full), *[_NONE] * 5]
    zero = ["0", fmt.share_between(found.zero_shot), *[_NONE] * 5]
    rows += [
        ["full kernel", *full, *column(found.rates, FULL)],
        ["zero-shot", *zero, *column(found.rates, _NONE)],
    ]
    budget = "" if found.limit is None else f" The budget is {fmt.count(found.limit)}."
    return Table(
        f"Rank and targets, by {_the(found)}, cheapest first",
        f"Trained parameters, and their share of full fine-tuning's; test {found.score}; how many"
        f" points below the full kernel's it is (negative: above); {_same(found)[2]}"
        " the full kernel's; CKA of the train kernels. Front: in which of score, predictions and"
        f" CKA nothing as cheap is as good. Intervals in brackets.{budget}",
        ["", "trained", f"test {found.score}", "points below full", _same(found)[1], "CKA",
         "within tolerance", "front", *heading(found.rates)],
        rows,
        marked=[i for i, each in enumerate(every) if each is found.best],
    )  # fmt: skip


def _by_rank(found: Findings, what: str, measure: Callable[[Configuration], Pooled]) -> Table:
    """Return one measure, targets by rank."""
    lines = found.answer.by_targets
    return Table(
        f"{what}, targets by rank",
        "",
        ["targets", *(f"rank {rank}" for rank in found.config.ranks)],
        [
            [name, *(fmt.percent(measure(each).mean) for each in line)]
            for name, line in lines.items()
        ],
        marked=[i for i, name in enumerate(lines) if name == found.own.targets],
    )


def _adapted_table(found: Findings) -> Table:
    """Return what no rank can make up for: full fine-tuning of each target set's weights alone."""
    return Table(
        "Full fine-tuning of the adapted weights alone",
        "What LoRA on these targets tends to as the rank grows, against full fine-tuning of the"
        " whole model.",
        ["targets", f"test {found.score}", "points below full", _same(found)[1], "CKA"],
        [[each.targets, *_compared(each), fmt.decimal(each.cka.mean)] for each in found.adapted],
        marked=[i for i, e in enumerate(found.adapted) if e.targets == found.own.targets],
    )


def _verdict_table(found: Findings) -> Table:
    """Return the table that the recommended rank is read from."""
    line = found.own.line
    rows = [
        [f"rank {each.rank}", *_compared(each), "yes" if each.ok else "no", *_rate(found, each)]
        for each in line
    ]
    full, none = column(found.rates, FULL), column(found.rates, _NONE)
    rows += [
        ["full kernel", fmt.share_between(found.full), *[_NONE] * 3, *full],
        ["full, adapted weights", *_compared(found.own.adapted), _NONE, *none],
        ["zero-shot", fmt.share_between(found.zero_shot), *[_NONE] * 3, *none],
    ]
    return Table(
        f"The verdict, by {_the(found)}",
        f"Test {found.score}; how many points below the full kernel's it is (negative: above);"
        f" {_same(found)[2]} the full kernel's. Intervals in brackets; with one"
        " data seed, those of the full kernels and zero-shot are over test examples.",
        ["", f"test {found.score}", "points below full", _same(found)[1], "within tolerance",
         *heading(found.rates)],
        rows,
        marked=[i for i, each in enumerate(line) if each is found.best and each.ok],
    )  # fmt: skip


def _solver_table(found: Findings) -> Table:
    """Return every classifier's score on every kernel, and how equal its predictions are."""
    solvers = found.own.solvers
    rows = [
        [
            f"rank {rank}",
            *(fmt.share_between(solver.scores[rank]) for solver in solvers),
            *(fmt.percent(solver.same[rank].mean) for solver in solvers),
        ]
        for rank in found.own.ranks
    ]
    for name, full in (("full kernel", "full"), ("full, adapted weights", "adapted")):
        scores = [fmt.share_between(getattr(solver, full)) for solver in solvers]
        rows.append([name, *scores, *[_NONE] * len(solvers)])
    header = [f"{solver.name}, {found.score}" for solver in solvers]
    header += [f"{solver.name}, {_same(found)[1]}" for solver in solvers]
    if found.steps:
        return Table("One step", "As above.", ["", *header], rows)
    if found.real:
        return Table("All regressions", "As above, for every solver.", ["", *header], rows)
    return Table("All classifiers", "As above, for every classifier.", ["", *header], rows)


def _agreement_table(found: Findings, measured: Mapping[str, Measured], whole: str) -> Table:
    """Return every agreement metric over the ranks, against one of the two full kernels."""
    rows = []
    for each in measured.values():
        bounds = each.metric.low, each.metric.high
        values = [fmt.number_between(value, bounds) for value in each.by_rank.values()]
        rows.append([each.metric.title, fmt.decimal(each.own), *values])
    return Table(
        f"Agreement of the train kernels with {whole}",
        "“Same” is the value of full agreement. Differences not at the best scale depend on LoRA's"
        " α, and what is not centered is mostly the constant part of the kernels: read the first"
        " rows first.",
        ["metric", "same", *(f"rank {rank}" for rank in found.own.ranks)],
        rows,
    )


def _trained_table(found: Findings) -> Table:
    """Return how many parameters each rank of each target set trains."""
    rows = [
        [each.name, fmt.count(each.trained), fmt.percent(each.share, 2)]
        for each in found.answer.every
    ]
    rows.append(["full", fmt.count(found.trained), fmt.percent(1.0, 0)])
    return Table("Trained parameters", "", ["", "parameters", "of full"], rows)

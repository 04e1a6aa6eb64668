"""The tables of ``analyze width``, for its report and for a terminal."""

from __future__ import annotations

import math

from ..show import numbers as fmt
from ..show.page import Table
from ..show.table import DASH
from .exponents import Exponent
from .findings import METRICS, RATES, Findings, Group
from .sizes import SIZED, Tuned

_SHORT = {"kernel limit": "kernel", "feature-learning limit": "features"}  # for 80 columns


def tables(found: Findings) -> tuple[list[Table], list[Table]]:
    """Return the report's tables, and those of what it took."""
    return [
        _exponents(found),
        _rates(found),
        _moves(found),
        *(_values(found, m) for m in _seen(found)),
    ], []


def summary(found: Findings) -> Table:
    """Return exponents and verdict of every parametrization and optimizer, for a terminal."""
    if found.models:
        return _sizes(found)
    rows = [
        [
            group.name,
            *(_short(group.exponents.get(m)) for m in ("features", "function", "error")),
            _SHORT.get(group.verdict, group.verdict),
        ]
        for group in found.groups
    ]
    return Table(
        f"Exponents of the width, {found.family} on {found.task}",
        f"Widths {fmt.joined(list(map(str, found.config.widths)))}; in brackets theory's.",
        ["", "features", "function", "error", "verdict"],
        rows,
    )


def _sizes(found: Findings) -> Table:
    first, last = found.models[0], found.models[-1]
    rows = [
        [tuned.optimizer, *(_bare(tuned.exponents.get(metric)) for metric in SIZED)]
        for tuned in found.tuned
    ]
    return Table(
        f"Exponents of the number of parameters, fine-tuning on {found.task}",
        f"Of {len(found.models)} models, {fmt.count(first.parameters)} ({first.name}) to"
        f" {fmt.count(last.parameters)} ({last.name}) parameters, with"
        f" {fmt.percent(found.config.confidence, 0)} intervals: change of kernel and last features,"
        " error of the kernel's prediction, change of the function.",
        ["", *(metric.partition(".")[0] for metric in SIZED)],
        rows,
    )


def _changes(found: Findings, tuned: Tuned) -> Table:
    rows = [
        [
            model.name,
            fmt.count(model.parameters),
            str(model.width),
            fmt.rate(tuned.rates[model.spec]),
            *(fmt.decimal(tuned.values.get(m, {}).get(model.spec, math.nan)) for m in SIZED),
        ]
        for model in found.models
    ]
    return Table(
        f"What fine-tuning changed, {tuned.optimizer}",
        "Geometric means over data seeds, at the suggested rate.",
        ["", "parameters", "width", "rate", *SIZED.values()],
        rows,
    )


def _bare(found: Exponent | None) -> str:
    """Return an exponent of which theory says nothing."""
    if found is None:
        return DASH
    value, low, high = (fmt.fixed(each, 2) for each in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})"


def _seen(found: Findings) -> list[str]:
    return [m for m in METRICS if any(m in group.values for group in found.groups)]


def _exponents(found: Findings) -> Table:
    seen = _seen(found)
    rows = [
        [group.name, *(_long(group.exponents.get(m)) for m in seen), group.verdict]
        for group in found.groups
    ]
    return Table(
        "Exponents of the width",
        f"Fitted to {fmt.counted(len(found.config.widths), 'width')} and all seeds, with"
        f" {fmt.percent(found.config.confidence, 0)} intervals; after a slash what theory predicts"
        " (for the last three under ntp: at least so steep).",
        ["", *(METRICS[m] for m in seen), "verdict"],
        rows,
    )


def _rates(found: Findings) -> Table:
    widths = found.config.widths
    rows = [
        [
            group.name,
            fmt.rate(found.suggested[group.optimizer]),
            *(_factors(group, width) for width in widths),
        ]
        for group in found.groups
    ]
    return Table(
        "Best and largest stable learning rate by width",
        "In units of the rate suggested at the base width; best: lowest final loss; stable: it is"
        " below that before training.",
        ["", "suggested", *(str(width) for width in widths)],
        rows,
    )


def _moves(found: Findings) -> Table:
    rows = [
        [
            group.name,
            *(_long(group.rates.get(name)) for name in RATES),
            DASH if group.moves is None else _between(*group.moves),
            group.carries,
        ]
        for group in found.groups
    ]
    first, last = min(found.config.widths), max(found.config.widths)
    return Table(
        "Do learning rates carry over?",
        "Exponents of the width with intervals, which count the grid's coarseness; after a slash"
        " theory's. A rate carries if the best one moves by less than two times.",
        ["", *RATES.values(), f"best at {last} over {first}", "a rate"],
        rows,
    )


def _between(value: float, low: float, high: float) -> str:
    return f"{value:.2g} ({low:.2g} to {high:.2g})"


def _values(found: Findings, metric: str) -> Table:
    widths = found.config.widths
    rows = [
        [group.name, *(fmt.decimal(group.values.get(metric, {}).get(w, math.nan)) for w in widths)]
        for group in found.groups
    ]
    what = METRICS[metric]
    return Table(
        f"{what[0].upper()}{what[1:]}",
        "Geometric means over seeds, by width.",
        ["", *map(str, widths)],
        rows,
    )


def _factors(group: Group, width: int) -> str:
    best, stable = group.best(width), group.stable(width)
    return (
        DASH if math.isnan(best) else f"{best:g} / {DASH if math.isnan(stable) else f'{stable:g}'}"
    )


def _short(found: Exponent | None) -> str:
    if found is None:
        return DASH
    said = "" if math.isnan(found.predicted) else f" ({found.predicted:g})".replace("-", "−")
    return fmt.fixed(found.value, 2) + said


def _long(found: Exponent | None) -> str:
    if found is None:
        return DASH
    said = "" if math.isnan(found.predicted) else f" / {fmt.fixed(found.predicted, 1)}"
    value, low, high = (fmt.fixed(each, 2) for each in (found.value, found.low, found.high))
    return f"{value} ({low} to {high}){said}"

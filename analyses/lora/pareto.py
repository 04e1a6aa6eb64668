"""The Pareto front of a LoRA study: what each rank and target set costs, and what it keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show import style
from ..show.page import Caption
from ..show.panels import DASHES, DOTS, Level
from .captions import intervals
from .grid import (
    MEASURES,
    Configuration,
    Found,
    by_targets,
    front,
    recommend_configuration,
)
from .numbers import full_score, score_name, trained, zero_shot

__all__ = ["caption", "pareto"]

_ROOM = 0.2  # of the width, for the labels of the horizontal lines
_LEGEND: dict[str, Any] = {
    "ncols": 3, "frameon": False, "fontsize": 9, "handlelength": 2.6, "columnspacing": 1.2,
}  # fmt: skip
_OPEN: dict[str, Any] = {"ls": "", "mfc": "none", "mec": style.INK, "mew": 1.2}
_RING: dict[str, Any] = {**_OPEN, "marker": "o", "ms": 11}
_SQUARE: dict[str, Any] = {**_OPEN, "marker": "s", "ms": 16}


def pareto(results: Results) -> Figure:
    """Draw score, equal predictions and CKA over the number of trained parameters.

    A line a target set, a marker a rank; a ring marks the front: what nothing as cheap equals.
    """
    found = recommend_configuration(results)
    lines = by_targets(found.every)
    strokes = dict(zip(lines, style.strokes(len(lines)), strict=True))
    with style.figure_style():
        figure, grid = style.subplots(3, 1, figsize=(style.WIDTH, 8.1), sharex=True)
        for axes, measure in zip(grid, MEASURES, strict=True):
            for name, line in lines.items():
                _draw_line(axes, line, measure, strokes[name])
            _draw_front(axes, found, measure, strokes)
            axes.set_title(_titles(results, found)[measure])
            axes.margins(y=0.09)  # room for the square around an outermost marker
            if measure != "CKA":
                axes.yaxis.set_major_formatter(PercentFormatter(1))
        ends = _size_axis(grid[0], [each.trained for each in found.every], trained(results))
        labels = [
            _draw_levels(axes, results, found, measure, ends)
            for axes, measure in zip(grid, MEASURES, strict=True)
        ]
        if found.limit is not None:
            _draw_limit(grid, found.limit, ends)
        grid[-1].set_xlabel("Trained parameters, and their share of full fine-tuning's")
        figure.legend(handles=_keys(strokes, found), loc="outside upper left", **_LEGEND)
        style.settle(figure)
        for axes, ends_here in zip(grid, labels, strict=True):
            style.direct_labels(axes, ends_here)
    return figure


def caption(results: Results) -> Caption:
    """Return title, caption and text alternative of the figure."""
    found, score = recommend_configuration(results), score_name(results)
    fronts = {measure: front(found.every, measure) for measure in MEASURES}
    shown = {"score": f"test {score}", "equal predictions": "equal predictions", "CKA": "CKA"}
    said = [f"by {shown[m]}: {_listed(fronts[m], m)}" for m in MEASURES]
    budget = "" if found.limit is None else " The vertical line is the budget."
    text = (
        f"Every target set (line) at {_ranks(results)} by how many parameters it trains. Ringed is"
        f" the Pareto front, what nothing as cheap or cheaper equals — {'; '.join(said)}. The"
        f" square is {found.best.targets} at rank {found.best.rank}, the {_answer(found)}. Lines"
        f" across: the full kernel, zero-shot, and what is asked for.{budget} The classifier is"
        f" {found.solver}. Bars, on the front only, are {intervals(results)}."
    )
    alt = f"Three charts over the number of trained parameters, log scale. Front {'; '.join(said)}."
    return Caption("What a budget of trained parameters buys", text, alt)


def _ranks(results: Results) -> str:
    """Return what the markers of a line are."""
    ranks = [str(rank) for rank in sorted(results.config["ranks"])]
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {fmt.joined(ranks)}, left to right,"


def _answer(found: Found) -> str:
    """Return what the square is."""
    return (
        "recommended configuration"
        if found.qualifies
        else "closest"
        + (" that the budget allows" if found.limit is not None and found.best.affordable else "")
    )


def _listed(line: Sequence[Configuration], measure: str) -> str:
    """Return the front's configurations and values; the middle of a long one is left out."""
    parts = [f"{each.targets} rank {each.rank} ({_number(each, measure)})" for each in line]
    return fmt.joined(parts) if len(parts) <= 4 else ", ".join([*parts[:2], "…", *parts[-2:]])


def _number(each: Configuration, measure: str) -> str:
    mean = each.value(measure).mean
    return fmt.decimal(mean, 2) if measure == "CKA" else fmt.percent(mean)


def _titles(results: Results, found: Found) -> dict[str, str]:
    """Return what the vertical axis of each panel is."""
    return {
        "score": f"Test {score_name(results)}, {found.solver} classifier",
        "equal predictions": "Test predictions equal to the full kernel's",
        "CKA": "CKA of the train kernels with the full one",
    }


def _draw_line(
    axes: Axes, line: Sequence[Configuration], measure: str, stroke: style.Stroke
) -> None:
    """Draw one target set over its ranks."""
    means = [each.value(measure).mean for each in line]
    x, (color, marker, dash) = [each.trained for each in line], stroke
    axes.plot(x, means, color=color, marker=marker, ls=dash, lw=1.5, zorder=3)


def _draw_front(
    axes: Axes, found: Found, measure: str, strokes: Mapping[str, style.Stroke]
) -> None:
    """Ring the front, join it by steps, draw its intervals; put the answer into a square."""
    line = front(found.every, measure)
    x, y = [e.trained for e in line], [e.value(measure).mean for e in line]
    for each in line:
        low, high = (min(max(getattr(each.value(measure), e), 0), 1) for e in ("low", "high"))
        color = strokes[each.targets].color
        axes.vlines(each.trained, low, high, color=color, alpha=0.45, lw=1.2, zorder=2)
    axes.plot(x, y, color=style.INK, drawstyle="steps-post", lw=0.8, alpha=0.55, zorder=2)
    axes.plot(x, y, zorder=4, **_RING)
    axes.plot(found.best.trained, found.best.value(measure).mean, zorder=4, **_SQUARE)


def _draw_levels(
    axes: Axes, results: Results, found: Found, measure: str, ends: tuple[float, float]
) -> list[tuple[float, float, str, str]]:
    """Draw the horizontal lines that the others are compared with; return their labels."""
    levels = {
        "score": [
            Level(full_score(results, found.solver).mean, "full kernel", "-"),
            Level(zero_shot(results).mean, "zero-shot", DASHES),
        ],
        "equal predictions": [Level(found.min_agreement, "asked for", DASHES)],
        "CKA": [Level(1.0, "full kernel", "-")],
    }[measure]
    for level in levels:
        axes.plot(ends, [level.y] * 2, color=style.MUTED, ls=level.dash, lw=1.3, zorder=1)
    return [(ends[1], level.y, level.label, style.MUTED) for level in levels]


def _draw_limit(grid: Sequence[Axes], limit: float, ends: tuple[float, float]) -> None:
    """Draw the budget as a vertical line where it lies within the axis."""
    if ends[0] < limit < ends[1]:
        for axes in grid:
            axes.axvline(limit, color=style.MUTED, ls=DOTS, lw=1.3, zorder=1)


def _size_axis(axes: Axes, sizes: Sequence[float], whole: float) -> tuple[float, float]:
    """Give ``axes`` a log axis of counts with shares below them; return where the lines end."""
    low, high = min(sizes), max(sizes)
    span = max(high / low, 4.0)
    ends = (low / span**0.06, high * span**0.06)
    axes.set_xscale("log")
    for each in axes.figure.axes:
        each.spines.bottom.set_bounds(*ends)
    axes.set_xlim(ends[0], high * span ** (0.06 + _ROOM / (1 - _ROOM)))
    decades = range(math.floor(math.log10(ends[0])), math.ceil(math.log10(ends[1])) + 1)
    ticks = [low, high]
    for steps in ((1,), (1, 3), (1, 2, 5)):  # the fewest that are enough to read a place by
        ticks = [n * 10.0**k for k in decades for n in steps if ends[0] <= n * 10.0**k <= ends[1]]
        if len(ticks) > 2:
            break
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda x, _: f"{_short(x)}\n{100 * x / whole:.2g}%")
    return ends


def _short(count: float) -> str:
    """Return a count as 200, 10k, 2M."""
    for unit, text in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{text}"
    return f"{count:.3g}"


def _keys(strokes: Mapping[str, style.Stroke], found: Found) -> list[Line2D]:
    """Return the legend's entries: a line a target set, and the other marks."""
    lines = [
        Line2D([], [], color=s.color, marker=s.marker, ls=s.dash, lw=1.5, label=_cut(name))
        for name, s in strokes.items()
    ]
    answer = "recommended" if found.qualifies else "closest"
    square = Line2D([], [], label=answer, **{**_SQUARE, "ms": 11})
    limit = Line2D([], [], color=style.MUTED, ls=DOTS, lw=1.3, label="budget")
    marks = [Line2D([], [], label="front", **_RING), square]
    return [*lines, *marks, *([limit] if found.limit is not None else [])]


def _cut(name: str, most: int = 18) -> str:
    """Return a name, or its beginning if it is too long for the legend; dollars are dollars."""
    short = name if len(name) <= most else f"{name[: most - 1]}…"
    return short.replace("$", r"\$")

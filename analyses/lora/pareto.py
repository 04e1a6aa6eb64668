"""The Pareto front of a LoRA study: what each rank and target set costs, and what it keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from ..engine.pooling import Pooled
from ..show import axes as ax
from ..show import style
from .findings import Configuration, Findings

_MEASURES = ("score", "agreement", "cka")
_ROOM = 0.2  # of the width, for the labels of the horizontal lines
_LEGEND: dict[str, Any] = {
    "ncols": 3, "frameon": False, "fontsize": 9, "handlelength": 2.6, "columnspacing": 1.2,
}  # fmt: skip
_OPEN: dict[str, Any] = {"ls": "", "mfc": "none", "mec": style.INK, "mew": 1.2}
_RING: dict[str, Any] = {**_OPEN, "marker": "o", "ms": 11}
_SQUARE: dict[str, Any] = {**_OPEN, "marker": "s", "ms": 16}


def pareto(found: Findings) -> Figure:
    """Draw score, equal predictions and CKA over the number of trained parameters.

    A line a target set, a marker a rank; a ring marks the front: what nothing as cheap equals.
    """
    lines = found.answer.by_targets
    strokes = dict(zip(lines, style.strokes(len(lines)), strict=True))
    titles = {
        "score": f"Test {found.score}, {found.answer.solver} classifier",
        "agreement": "Test predictions equal to the full kernel's",
        "cka": "CKA of the train kernels with the full one",
    }
    levels: dict[str, dict[str, tuple[float, Any]]] = {
        "score": {
            "full kernel": (found.full.mean, "-"),
            "zero-shot": (found.zero_shot.mean, ax.DASHES),
        },
        "agreement": {"asked for": (found.config.min_agreement, ax.DASHES)},
        "cka": {"full kernel": (1.0, "-")},
    }
    with style.figure_style():
        figure, grid = style.subplots(3, 1, figsize=(style.WIDTH, 8.1), sharex=True)
        for axes, measure in zip(grid, _MEASURES, strict=True):
            for name, line in lines.items():
                means = {each.trained: _value(each, measure).mean for each in line}
                ax.curve(axes, means, strokes[name], band=False, lw=1.5)
            _draw_front(axes, found, measure, strokes)
            axes.set_title(titles[measure])
            axes.margins(y=0.09)  # room for the square around an outermost marker
            if measure != "cka":
                axes.yaxis.set_major_formatter(PercentFormatter(1))
        ends = _size_axis(grid[0], [each.trained for each in found.answer.every], found.trained)
        labels: list[list[ax.Label]] = []
        for axes, measure in zip(grid, _MEASURES, strict=True):
            labels.append([])
            for name, (height, dash) in levels[measure].items():
                ax.level(axes, height, dash, ends=ends)
                labels[-1].append(ax.Label(ends[1], height, name, style.MUTED))
            if found.limit is not None and ends[0] < found.limit < ends[1]:
                axes.axvline(found.limit, color=style.MUTED, ls=ax.DOTS, lw=1.3, zorder=1)
        grid[-1].set_xlabel("Trained parameters, and their share of full fine-tuning's")
        figure.legend(handles=_keys(strokes, found), loc="outside upper left", **_LEGEND)
        style.settle(figure)
        for axes, each in zip(grid, labels, strict=True):
            ax.label_ends(axes, each)
    return figure


def _value(each: Configuration, measure: str) -> Pooled:
    value: Pooled = getattr(each, measure)
    return value


def _draw_front(
    axes: Axes, found: Findings, measure: str, strokes: dict[str, style.Stroke]
) -> None:
    """Ring the front, join it by steps, draw its intervals; put the answer into a square."""
    line = found.fronts[measure].line
    x, y = [e.trained for e in line], [_value(e, measure).mean for e in line]
    _, low, high = ax.reach(_value(each, measure) for each in line)
    colors = [strokes[each.targets].color for each in line]
    axes.vlines(x, low, high, color=colors, alpha=0.45, lw=1.2, zorder=2)
    axes.plot(x, y, color=style.INK, drawstyle="steps-post", lw=0.8, alpha=0.55, zorder=2)
    axes.plot(x, y, zorder=4, **_RING)
    axes.plot(found.best.trained, _value(found.best, measure).mean, zorder=4, **_SQUARE)


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


def _keys(strokes: dict[str, style.Stroke], found: Findings) -> list[Line2D]:
    """Return the legend's entries: a line a target set, and the other marks."""
    keys = [
        ax.key(_cut(name), color=s.color, marker=s.marker, ls=s.dash, lw=1.5)
        for name, s in strokes.items()
    ]
    answer = "recommended" if found.qualifies else "closest"
    keys += [ax.key("front", **_RING), ax.key(answer, **{**_SQUARE, "ms": 11})]
    if found.limit is not None:
        keys.append(ax.key("budget", color=style.MUTED, ls=ax.DOTS, lw=1.3))
    return keys


def _cut(name: str, most: int = 18) -> str:
    """Return a name, or its beginning if it is too long for the legend."""
    return name if len(name) <= most else f"{name[: most - 1]}…"

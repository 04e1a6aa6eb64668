"""The figure of a verification: predicted against trained score, configuration by configuration."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..engine.long_table import cells
from ..engine.run_folder import VERIFICATION, Results
from ..show import style
from ..show.panels import DOTS
from ..show.study_numbers import score_name
from .advice import Advice
from .numbers import names, value

__all__ = ["families", "predicted_against_trained"]

_RING: dict[str, Any] = {
    "ls": "", "marker": "o", "ms": 13, "mfc": "none", "mec": style.INK, "mew": 1.2,
}  # fmt: skip
Label = tuple[float, float, str, str]
"""Place, text and colour."""
_SCORES = ("predicted", "trained")
_MOST = len(style.GLYPHS)
_REST = "other methods"


def predicted_against_trained(advice: Callable[[Results], Advice], results: Results) -> Figure:
    """Draw every configuration at what its kernel predicted and what training gave."""
    grouped, found = families(results), advice(results)
    strokes = dict(zip(grouped, style.strokes(len(grouped)), strict=True))
    labels = []
    with style.figure_style():
        figure, axes = style.subplots(figsize=(style.WIDTH, style.WIDTH + 0.4))
        bars = _bars_fit(results)
        for family, members in grouped.items():
            for name, label in members.items():
                _draw(axes, results, name, strokes[family], bars)
                labels.append((*_place(results, name), label, strokes[family].color))
        if found.name in names(results):
            axes.plot(*_place(results, found.name), zorder=4, **_RING)
        reach = _frame(axes, results)
        figure.legend(
            handles=_keys(strokes, "advised" if found.qualifies else "closest"),
            loc="outside upper left",
            ncols=2,
            frameon=False,
            fontsize=9,
            columnspacing=1.2,
        )
        style.settle(figure)
        for near in _clusters(labels, reach[1] - reach[0]):
            right = max(x for x, _, _, _ in near)
            ends = [(right, y, text, color) for _, y, text, color in near]
            style.direct_labels(axes, ends, size=8.5)
    return figure


def families(results: Results) -> dict[str, dict[str, str]]:
    """Return name -> label of the configurations of each family, in the study's order.

    A figure tells six families apart; beyond that the last ones are joined.
    """
    table = results.beside[VERIFICATION]
    found: dict[str, dict[str, str]] = {}
    for name in names(results):
        first = cells(table, configuration=name).iloc[0]
        found.setdefault(str(first["family"]), {})[name] = str(first["label"])
    if len(found) <= _MOST:
        return found
    kept = list(found.items())
    rest = {name: label for _, members in kept[_MOST - 1 :] for name, label in members.items()}
    return {**dict(kept[: _MOST - 1]), _REST: rest}


def _place(results: Results, name: str) -> tuple[float, float]:
    """Return where a configuration stands."""
    across, up = (value(results, name, what).mean for what in _SCORES)
    return across, up


def _widths(results: Results) -> list[float]:
    """Return half the width of every interval of a score."""
    found = [value(results, name, what) for name in names(results) for what in _SCORES]
    halves = [(each.high - each.low) / 2 for each in found]
    return [half for half in halves if math.isfinite(half)]


def _bars_fit(results: Results) -> bool:
    """Say if intervals are short enough to be seen as such in a frame around the points."""
    low, high = _reach(results)
    return max(_widths(results), default=0.0) < (high - low) / 2


def _draw(axes: Axes, results: Results, name: str, stroke: style.Stroke, bars: bool) -> None:
    """Draw one configuration and, if asked for, its intervals."""
    across, up = (value(results, name, what) for what in _SCORES)
    if bars:
        bar: dict[str, Any] = {"color": stroke.color, "alpha": 0.3, "lw": 1.1, "zorder": 2}
        axes.hlines(up.mean, max(across.low, 0), min(across.high, 1), **bar)
        axes.vlines(across.mean, max(up.low, 0), min(up.high, 1), **bar)
    axes.plot(across.mean, up.mean, color=stroke.color, marker=stroke.marker, ls="", ms=6.5)


def _clusters(labels: list[Label], span: float) -> list[list[Label]]:
    """Return the labels in groups of places so near each other, on axes of this span, that the
    labels would touch.
    """
    found: list[list[Label]] = []
    for x, y, text, color in sorted(labels):
        for group in found:
            if x - group[0][0] < _label_end(group[0]) * span and abs(y - group[0][1]) < 0.03 * span:
                group.append((x, y, text, color))
                break
        else:
            found.append([(x, y, text, color)])
    return found


def _label_end(label: Label) -> float:
    """Return where about a label right of its mark ends, as a share of the axis."""
    return max(0.045, 0.027 + 0.0195 * len(label[2]))


def _reach(results: Results) -> tuple[float, float]:
    """Return from where to where both axes go: around the points, whatever the intervals."""
    start = value(results, names(results)[0], "start").mean
    shown = [start, *(each for name in names(results) for each in _place(results, name))]
    room = max(0.15 * (max(shown) - min(shown)), 0.005)
    return min(shown) - room, max(shown) + room


def _frame(axes: Axes, results: Results) -> tuple[float, float]:
    """Give both axes their reach, and return it.

    Draw the diagonal and the score before training, and say how wide intervals are that would not
    fit.
    """
    start = value(results, names(results)[0], "start").mean
    reach = _reach(results)
    if not _bars_fit(results):
        points = f"\N{PLUS-MINUS SIGN}{100 * max(_widths(results)):.0f} points"
        axes.text(
            0.98,
            0.02,
            f"intervals: up to {points}, wider than this frame",
            transform=axes.transAxes,
            ha="right",
            va="bottom",
            fontsize=7.5,
            color=style.MUTED,
        )
    axes.plot(reach, reach, color=style.MUTED, lw=1.2, zorder=1)
    axes.axhline(start, color=style.MUTED, ls=DOTS, lw=1.3, zorder=1)
    axes.set_xlim(*reach)
    axes.set_ylim(*reach)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(
            PercentFormatter(1, decimals=0 if reach[1] - reach[0] > 0.08 else None)
        )
    axes.set_xlabel(f"Test {score_name(results)} predicted from the kernel")
    axes.set_ylabel(f"Test {score_name(results)} after fine-tuning")
    return reach


def _keys(strokes: dict[str, style.Stroke], advised: str) -> list[Line2D]:
    """Return the legend's entries; ``advised`` is what the ring is called."""
    lines = [
        Line2D([], [], color=s.color, marker=s.marker, ls="", label=name.replace("$", r"\$"))
        for name, s in strokes.items()
    ]
    ring = Line2D([], [], label=advised, **{**_RING, "ms": 10})
    diagonal = Line2D([], [], color=style.MUTED, lw=1.2, label="predicted = trained")
    start = Line2D([], [], color=style.MUTED, ls=DOTS, lw=1.3, label="before training")
    return [*lines, ring, diagonal, start]

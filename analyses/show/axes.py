"""What is drawn into the axes of figures: the shapes that all studies share.

seaborn draws lines and points, textalloc places names beside points. Intervals are computed
elsewhere: wherever a function here takes a value, it is a `Pooled`, whose interval is drawn if it
has one, or a plain number, which has none. What a figure says is for the studies; how it looks is
in :mod:`analyses.show.style`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy.optimize import isotonic_regression
from textalloc import allocate

from ..engine.pooling import Pooled
from . import style

DOTS: Any = (0, (1, 1.6))
DASHES: Any = (0, (4, 2))
LEGEND: Any = {
    "frameon": False, "fontsize": 8.5, "handlelength": 2.4, "columnspacing": 1.2,
    "borderaxespad": 0.1, "labelspacing": 0.35,
}  # fmt: skip
"""Keyword arguments of every legend."""

_HALO = [withStroke(linewidth=2.5, foreground="white")]

Value = Pooled | float
Floats = npt.NDArray[np.float64]


class Label(NamedTuple):
    """A text that belongs to a place in the axes, in the color of what is drawn there."""

    x: float
    y: float
    text: str
    color: str


def reach(
    values: Iterable[Value], bounds: tuple[float, float] = (0.0, 1.0)
) -> tuple[Floats, Floats, Floats]:
    """Return means, lower and upper ends [k] of values; ends are cut to what a value can be.

    A plain number's ends are NaN.
    """
    found = [
        (v.mean, v.low, v.high) if isinstance(v, Pooled) else (v, np.nan, np.nan) for v in values
    ]
    mean, low, high = np.array(found, dtype=float).reshape(-1, 3).T
    return mean, np.clip(low, *bounds), np.clip(high, *bounds)


def curve(
    axes: Axes,
    line: Mapping[Any, Any],
    stroke: style.Stroke,
    *,
    band: bool = True,
    bounds: tuple[float, float] = (0.0, 1.0),
    label: str = "",
    **drawn: Any,
) -> Label:
    """Draw a line over positions, with its intervals as a band (a single point's as a bar).

    Args:
        axes: where.
        line: position -> value; the line joins them in this order.
        stroke: color, marker and dash.
        band: whether intervals are shown.
        bounds: what a value can be; the band ends there.
        label: what the line is; written by `label_ends`.
        drawn: for the line, as matplotlib takes it.

    Returns:
        The label, with the line's glyph, at the line's end.
    """
    x, (mean, low, high) = np.array(list(line), dtype=float), reach(line.values(), bounds)
    color, marker, dash = stroke
    sns.lineplot(
        x=x, y=mean, ax=axes, estimator=None, sort=False, legend=False,
        **{"color": color, "marker": marker, "linestyle": dash, "markeredgecolor": color,
           "zorder": 3, **drawn},
    )  # fmt: skip
    if band and len(x) > 1:
        axes.fill_between(x, low, high, color=color, alpha=0.16, lw=0)
    elif band:
        axes.vlines(x, low, high, color=color, alpha=0.5)
    glyph = style.GLYPHS.get(marker, "")
    return Label(float(x[-1]), float(mean[-1]), f"{glyph} {label}".strip(), color)


def points(
    axes: Axes,
    x: Sequence[Value],
    y: Sequence[Value],
    *,
    color: str,
    marker: str = "o",
    filled: bool = True,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    bar: Mapping[str, Any] | None = None,
    **drawn: Any,
) -> None:
    """Draw points, each with bars for the intervals of its coordinates.

    Args:
        axes: where.
        x: across, values or plain numbers.
        y: up, likewise (such as the rows that points stand in).
        color: of the points and bars.
        marker: of the points.
        filled: whether the markers are, or only outlined.
        bounds: what a value can be; bars end there.
        bar: for the bars, as matplotlib takes it.
        drawn: for the markers, such as ``s`` (points²).
    """
    (across, left, right), (up, below, above) = reach(x, bounds), reach(y, bounds)
    line = {"color": color, "lw": 1.2, "zorder": 2, **(bar or {})}
    if (known := np.isfinite(left)).any():
        axes.hlines(up[known], left[known], right[known], **line)
    if (known := np.isfinite(below)).any():
        axes.vlines(across[known], below[known], above[known], **line)
    face = color if filled else "white"
    sns.scatterplot(
        x=across, y=up, ax=axes, legend=False,
        **{"color": face, "marker": marker, "edgecolor": color, "s": 34, "linewidth": 1.2,
           "zorder": 3, **drawn},
    )  # fmt: skip


def level(
    axes: Axes, at: float, dash: Any = "-", *, ends: tuple[float, float] | None = None
) -> None:
    """Draw a thin horizontal line that others are compared with, across the axes or ``ends``."""
    drawn: Any = {"color": style.MUTED, "ls": dash, "lw": 1.3, "zorder": 1}
    if ends is None:
        axes.axhline(at, **drawn)
    else:
        axes.plot(ends, [at, at], **drawn)


def rows(axes: Axes, labels: Sequence[str]) -> None:
    """Give ``axes`` a row for each label, the first at height 0, the next at −1, downwards."""
    axes.set_yticks([-i for i in range(len(labels))], list(labels))
    axes.set_ylim(-len(labels) + 0.4, 0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines.left.set_visible(False)
    axes.grid(visible=False, axis="y")


def square(axes: Axes, low: float, high: float) -> None:
    """Give both axes of shares the same limits and scale, and draw the diagonal."""
    axes.plot([low, high], [low, high], color=style.MUTED, lw=1.2, zorder=1)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(PercentFormatter(1, decimals=0 if high - low > 0.08 else None))


def nothing(figure: Figure, axes: Axes, why: str) -> Figure:
    """Say in a figure why there is nothing to draw, and return it."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center")
    return figure


def key(label: str, **drawn: Any) -> Line2D:
    """Return a legend's sample of lines or (``ls=""``) markers; dollars are dollars."""
    return Line2D([], [], label=label.replace("$", r"\$"), **drawn)


def label_ends(axes: Axes, labels: Sequence[Label], *, size: float = 9) -> None:
    """Write labels right of where lines end, moved up or down where they would touch.

    They keep their order and move as little as that takes, in the sum of squares: with each
    position less the heights below it, an isotonic regression. Call it last, after `style.settle`:
    it uses the final place, limits and scale of ``axes``.
    """
    dpi = _figure(axes).dpi
    placed = sorted(labels, key=lambda label: axes.transData.transform(label[:2])[1])
    wanted = axes.transData.transform([label[:2] for label in placed]).reshape(-1, 2)[:, 1]
    heights = (
        np.array([size * 1.25 * (text.count("\n") + 1) for _, _, text, _ in placed]) * dpi / 72
    )
    below = np.cumsum(heights) - heights / 2  # of the middle of each, were they one stack
    free = isotonic_regression(wanted - below).x
    found = np.clip(free, axes.bbox.y0, max(axes.bbox.y1 - heights.sum(), axes.bbox.y0)) + below
    for label, shift in zip(placed, (found - wanted) * 72 / dpi, strict=True):
        axes.annotate(
            label.text, label[:2], xytext=(7, shift), textcoords="offset points",
            color=label.color, fontsize=size, linespacing=1.1, va="center", ha="left",
            annotation_clip=False, path_effects=_HALO, zorder=5,
        )  # fmt: skip


def label_points(
    axes: Axes,
    labels: Sequence[Label],
    marks: Sequence[tuple[float, float]],
    *,
    size: float = 8.5,
    all_of_them: bool = True,
) -> None:
    """Write labels beside points, where they hide neither each other nor one of the ``marks``.

    A thin line leads from a label that had to go farther to its point. Call it last, after
    `style.settle`.

    Args:
        axes: where.
        labels: the most important ones first.
        marks: what they must not hide.
        size: of the text, in points.
        all_of_them: else those that find no room right beside their point are left out, and none
            crosses the diagonal of a `square`.
    """
    if not labels:
        return
    x, y, texts, colors = (list(each) for each in zip(*labels, strict=True))
    across, up = np.array(marks or [(x[0], y[0])]).T
    options: dict[str, Any] = {"linecolor": style.MUTED, "margin": 0.01, "min_distance": 0.012}
    if not all_of_them:
        radius = 5.0  # pixels, half the width of a mark
        options = {
            "linecolor": colors, "margin": 0.002, "min_distance": 0.006, "draw_all": False,
            "scatter_sizes": [radius] * len(across), "text_scatter_sizes": [radius] * len(labels),
            "nbr_candidates": 12, "x_lines": [axes.get_xlim()], "y_lines": [axes.get_ylim()],
        }  # fmt: skip
    with redirect_stdout(None):  # it says so where it finds no room
        allocate(
            axes, x, y, texts, x_scatter=across, y_scatter=up, textcolor=colors, textsize=size,
            linewidth=0.6, zorder=5, path_effects=_HALO, **options,
        )  # fmt: skip


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("these axes are in no figure")
    return figure

"""Scatter plots of one method's score against another's, with the diagonal: one point a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...show import style
from ...show.axes import Label, key, label_points, square
from .draw_panels import LEGEND
from .read import SavedStudy
from .summary import Comparison

_SIZE = 4.4  # inches, the height of a panel: square, beside its tick labels
_LABELS = 7  # names a panel holds
_ROOM = 0.05  # of the score, at least so much on either side of the middle


def scatter(_: SavedStudy, panels: Sequence[Sequence[Comparison]]) -> Figure:
    """Draw one square panel below the other, all on the same scale."""
    every = [each.points for panel in panels for each in panel]
    shots = sorted({int(k) for points in every for k in points["k"]})
    low, high = _limits(every)
    strokes = style.strokes(max(map(len, panels)))
    with style.figure_style():
        figure, grid = style.subplots(
            len(panels), 1, figsize=(style.WIDTH, _SIZE * len(panels)), squeeze=False
        )
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            for each, stroke in zip(panel, strokes, strict=False):
                _points(axes, each.points, stroke, shots)
            square(axes, low, high)
            name = panel[0].second.label if len(panel) == 1 else "Kernel"
            axes.set(xlabel=f"{panel[0].first.label}, test score", ylabel=f"{name}, test score")
            axes.legend(
                handles=_handles(panel, strokes, shots), loc="lower left", ncols=3,
                bbox_to_anchor=(0, 1), **LEGEND,
            )  # fmt: skip
        style.settle(figure)
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            _name_outliers(axes, panel, strokes)
    return figure


def _limits(every: Sequence[pd.DataFrame]) -> tuple[float, float]:
    """Return the common limits of both axes: all error bars, and a margin."""
    ends = np.concatenate(
        [
            frame[axis].to_numpy() + sign * frame[f"{axis}_sd"].fillna(0).to_numpy()
            for frame in every
            for axis in ("x", "y")
            for sign in (-1, 1)
        ]
    )
    margin = max(0.06 * np.ptp(ends), _ROOM - np.ptp(ends) / 2)
    return max(float(ends.min() - margin), 0.0), min(float(ends.max() + margin), 1.02)


def _points(axes: Axes, points: pd.DataFrame, stroke: style.Stroke, shots: Sequence[int]) -> None:
    """Draw one series: hollow markers for the fewest shots, full ones for the most."""
    axes.errorbar(
        points["x"], points["y"], xerr=points["x_sd"].fillna(0), yerr=points["y_sd"].fillna(0),
        fmt="none", ecolor=stroke.color, elinewidth=0.7, alpha=0.55, zorder=2,
    )  # fmt: skip
    sns.scatterplot(
        points, x="x", y="y", hue="k", palette=_tints(stroke.color, shots), marker=stroke.marker,
        s=42, edgecolor=stroke.color, linewidth=1.2, legend=False, zorder=3, ax=axes,
    )  # fmt: skip


def _tints(color: str, shots: Sequence[int]) -> dict[int, str]:
    """Return white for the fewest shots, the color itself for the most, tints between."""
    if len(shots) == 1:
        return {shots[0]: color}
    tints = sns.light_palette(color, len(shots))
    return {k: to_hex(tint) for k, tint in zip(shots, ["white", *tints[1:]], strict=True)}


def _handles(
    panel: Sequence[Comparison], strokes: Sequence[style.Stroke], shots: Sequence[int]
) -> list[Line2D]:
    """Return the legend: markers for methods where there are several, fill for shots."""
    look: Any = {"ls": "", "ms": 6, "mew": 1.2}
    handles = []
    if len(panel) > 1:
        handles = [
            key(each.second.label, marker=stroke.marker, color=stroke.color, **look)
            for each, stroke in zip(panel, strokes, strict=False)
        ]
    if len(shots) > 1:
        tints = _tints(style.MUTED, shots).items()
        handles += [
            key(f"{k} shots", marker="o", mec=style.MUTED, mfc=tint, **look) for k, tint in tints
        ]
    return [*handles, key("equal scores", color=style.MUTED, lw=1.2)]


def _name_outliers(
    axes: Axes, panel: Sequence[Comparison], strokes: Sequence[style.Stroke]
) -> None:
    """Write the task beside the points farthest from the diagonal, where there is room."""
    marks = pd.concat(
        [
            each.points.assign(color=stroke.color)
            for each, stroke in zip(panel, strokes, strict=False)
        ]
    )
    marks = marks.assign(far=(marks["x"] - marks["y"]).abs())
    named = marks.sort_values("far", ascending=False, kind="stable").drop_duplicates("task")
    labels = [Label(row.x, row.y, row.task, row.color) for row in named.head(_LABELS).itertuples()]
    label_points(axes, labels, [*zip(marks["x"], marks["y"], strict=True)], all_of_them=False)

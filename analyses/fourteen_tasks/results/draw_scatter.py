"""Scatter plots of one method's score against another's, with the diagonal: one point a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from ...show import style
from .draw_panels import LEGEND, percent_tick
from .methods import method
from .read import Study
from .summary import compared, pairs

_SIZE = 4.4  # inches, the height of a panel: square, beside its tick labels
_LABELS = 7  # names a panel holds
_ROOM = 0.05  # of the score, at least so much on either side of the middle


@dataclass(frozen=True)
class Series:
    """The points of one method against another.

    Attributes:
        first, second: the methods on the horizontal and the vertical axis.
        points: as `analyses.fourteen_tasks.results.summary.pairs` returns them.
    """

    first: str
    second: str
    points: pd.DataFrame


def panel_data(study: Study, head: str) -> list[list[Series]]:
    """Return the series of every panel of `kernel_against_finetuning`: one panel an optimizer."""
    panels: dict[str, list[Series]] = {}
    for first, second in compared(study, head):
        found = Series(first, second, pairs(study, first, second, head=head))
        panels.setdefault(first, []).append(found)
    return list(panels.values())


def kernel_against_finetuning(study: Study) -> Figure:
    """Kernel score over fine-tuning score, a panel for each optimizer, under the first head."""
    return _scatter(panel_data(study, _head(study)))


def signgd_against_adam(study: Study) -> Figure:
    """SignGD fine-tuning over Adam fine-tuning, under the first head."""
    points = pairs(study, "finetune-adam", "finetune-signgd", head=_head(study))
    return _scatter([[Series("finetune-adam", "finetune-signgd", points)]])


def _head(study: Study) -> str:
    return study.heads[0]


def _scatter(panels: Sequence[Sequence[Series]]) -> Figure:
    """Draw one square panel below the other, all on the same scale."""
    every = [series.points for panel in panels for series in panel]
    shots = sorted({int(k) for points in every for k in points["k"]})
    low, high = _limits(every)
    with style.figure_style():
        figure, grid = style.subplots(
            len(panels), 1, figsize=(style.WIDTH, _SIZE * len(panels)), squeeze=False
        )
        strokes = style.strokes(max(len(panel) for panel in panels))
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            axes.plot([low, high], [low, high], color=style.MUTED, lw=1, zorder=1)
            for series, stroke in zip(panel, strokes, strict=False):
                _points(axes, series.points, stroke, shots)
            axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
                axis.set_major_formatter(FuncFormatter(percent_tick))
            axes.set_xlabel(f"{method(panel[0].first).label}, test score (%)")
            name = method(panel[0].second).label if len(panel) == 1 else "Kernel"
            axes.set_ylabel(f"{name}, test score (%)")
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
    margin = max(0.06 * (ends.max() - ends.min()), _ROOM - (ends.max() - ends.min()) / 2)
    return max(float(ends.min() - margin), 0.0), min(float(ends.max() + margin), 1.02)


def _points(axes: Axes, points: pd.DataFrame, stroke: style.Stroke, shots: Sequence[int]) -> None:
    """Draw one series: hollow markers for the fewest shots, full ones for the most."""
    for k, rows in points.groupby("k"):
        axes.errorbar(
            rows["x"], rows["y"], xerr=rows["x_sd"].fillna(0), yerr=rows["y_sd"].fillna(0),
            fmt="none", ecolor=stroke.color, elinewidth=0.7, alpha=0.55, zorder=2,
        )  # fmt: skip
        axes.plot(
            rows["x"], rows["y"], ls="none", marker=stroke.marker, ms=6, mew=1.2, zorder=3,
            mec=stroke.color, mfc=_fill(stroke.color, int(str(k)), shots),
        )  # fmt: skip


def _fill(color: str, k: int, shots: Sequence[int]) -> tuple[float, float, float]:
    """Return white for the fewest shots, the colour itself for the most, tints between."""
    share = shots.index(k) / (len(shots) - 1) if len(shots) > 1 else 1.0
    red, green, blue = to_rgb(color)
    return 1 - share * (1 - red), 1 - share * (1 - green), 1 - share * (1 - blue)


def _handles(
    panel: Sequence[Series], strokes: Sequence[style.Stroke], shots: Sequence[int]
) -> list[Line2D]:
    """Return the legend: markers for methods where there are several, fill for shots."""
    common: Any = {"ls": "none", "ms": 6, "mew": 1.2}
    handles = []
    if len(panel) > 1:
        handles = [
            Line2D([], [], marker=s.marker, mec=s.color, mfc=s.color, label=method(x.second).label,
                   **common)
            for x, s in zip(panel, strokes, strict=False)
        ]  # fmt: skip
    if len(shots) > 1:
        handles += [
            Line2D([], [], marker="o", mec=style.MUTED, mfc=_fill(style.MUTED, k, shots),
                   label=f"{k} shots", **common)
            for k in shots
        ]  # fmt: skip
    return [*handles, Line2D([], [], color=style.MUTED, lw=1, label="equal scores")]


def _name_outliers(axes: Axes, panel: Sequence[Series], strokes: Sequence[style.Stroke]) -> None:
    """Write the task beside the points farthest from the diagonal, where there is room."""
    marks = [
        (abs(row.x - row.y), row.x, row.y, str(row.task), stroke.color)
        for series, stroke in zip(panel, strokes, strict=False)
        for row in series.points.itertuples()
    ]
    places = axes.transData.transform([(x, y) for _, x, y, _, _ in marks])
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in places]
    named: set[str] = set()
    for _, x, y, task, color in sorted(marks, key=lambda mark: -mark[0]):
        if len(named) == _LABELS:
            break
        if task in named:
            continue
        side = -1 if y > x else 1  # away from the diagonal, where there are fewer points
        for dx, dy, ha, va in _offsets(side):
            text = axes.annotate(
                task, (x, y), xytext=(dx, dy), textcoords="offset points", fontsize=8.5, ha=ha,
                va=va, color=color, zorder=4,
                path_effects=[withStroke(linewidth=2, foreground="white")],
            )  # fmt: skip
            box = text.get_window_extent().padded(1)
            inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            free = inside and box.y0 > axes.bbox.y0 and not any(box.overlaps(b) for b in taken)
            if free and _nearest(box, places, axes.transData.transform((x, y))):
                taken.append(box)
                named.add(task)
                break
            text.remove()


def _nearest(box: Bbox, places: Any, own: Any) -> bool:
    """Say whether no point of another task is as near to a label as its own (within 4 pixels)."""

    def distance(point: Any) -> Any:
        gap = np.maximum(np.maximum(box.min - point, point - box.max), 0)
        return np.hypot(gap[..., 0], gap[..., 1])

    others = places[np.hypot(*(places - own).T) > 14]
    return not others.size or bool(distance(others).min() > distance(own) + 4)


def _offsets(side: int) -> list[tuple[float, float, str, str]]:
    """Return places for a label around a point, best first; ``side`` 1 is right and below."""
    ha, va = ("left", "top") if side > 0 else ("right", "bottom")
    return [
        (6 * side, 0, ha, "center"),
        (4 * side, -4 * side, ha, va),
        (0, -6 * side, "center", va),
        (4 * side, 4 * side, ha, "bottom" if side > 0 else "top"),
        (-6 * side, 0, "right" if side > 0 else "left", "center"),
        (0, 6 * side, "center", "bottom" if side > 0 else "top"),
    ]

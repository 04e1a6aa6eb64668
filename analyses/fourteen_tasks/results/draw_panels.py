"""Panels side by side with a line for every task, and the legend above them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ...show import style
from ...show.axes import LEGEND as SHARED
from ...show.axes import key
from .methods import task_heading
from .read import SavedStudy

LEGEND: Any = {**SHARED, "fontsize": 9, "handlelength": 1.2, "handletextpad": 0.5}


class Mark(NamedTuple):
    """How the marks of one thing look; hollow ones show what lies below them."""

    color: str
    marker: str
    hollow: bool = False

    def handle(self, label: str) -> Line2D:
        """Return its entry in a legend."""
        return key(label, ls="", **self.look)

    @property
    def look(self) -> dict[str, Any]:
        """Matplotlib's settings."""
        ms, mew = (13.0, 2.2) if self.marker == "|" else (5.5, 1.2)
        fill = "white" if self.hollow else self.color
        return {"color": self.color, "marker": self.marker, "ms": ms, "mew": mew, "mfc": fill}


class TaskPanels:
    """A figure of ``count`` panels that share their vertical axis: the tasks, first on top.

    Args:
        study: where the tasks' order and metrics are from.
        frames: the rows that will be drawn; only their tasks are shown.
        count: how many panels.
        line: inches a task.
    """

    def __init__(
        self,
        study: SavedStudy,
        frames: Iterable[pd.DataFrame],
        count: int,
        *,
        line: float = 0.27,
    ) -> None:
        present = {task for frame in frames for task in frame["task"]}
        self.tasks = [task for task in study.tasks if task in present]
        self.names = {task: task_heading(task, study.metrics[task]) for task in self.tasks}
        size = (style.WIDTH, line * max(len(self.tasks), 5) + 1.35)
        self.figure, grid = style.subplots(1, count, figsize=size, sharey=True, squeeze=False)
        self.axes: list[Axes] = list(grid[0])

    def dots(
        self,
        axes: Axes,
        rows: pd.DataFrame,
        by: str,
        marks: Mapping[str, Mark],
        *,
        apart: float = 0.0,
    ) -> None:
        """Draw means over data seeds with their standard deviation, a mark a value of a column.

        Args:
            axes: one of the panels.
            rows: columns task, value and the one that is named.
            by: that column.
            marks: value → mark.
            apart: lines between the marks of a task.
        """
        before = len(axes.lines)
        sns.pointplot(
            rows, x="value", y="task", order=self.tasks, hue=by, hue_order=list(marks),
            palette={name: mark.color for name, mark in marks.items()}, errorbar="sd",
            markers=[mark.marker for mark in marks.values()], linestyle="none", legend=False,
            err_kws={"linewidth": 0.8}, dodge=apart * (len(marks) - 1) or False, zorder=3, ax=axes,
        )  # fmt: skip
        drawn = [line for line in axes.lines[before:] if line.get_marker() not in ("", "None")]
        for line, mark in zip(drawn, marks.values(), strict=True):
            line.set(zorder=4, **mark.look)  # above all bars

    def finish(self, handles: Sequence[Any], xlabel: str = "") -> None:
        """Name the tasks, add legend and common label, and settle the layout."""
        for axes in self.axes:
            axes.set(xlabel=axes.get_xlabel().removesuffix("value"), ylabel="")
            axes.tick_params(axis="y", length=0)
            axes.grid(visible=True, axis="y")
        self.axes[0].set_yticks(range(len(self.tasks)), [*self.names.values()])
        self.axes[0].set_ylim(len(self.tasks) - 0.4, -0.6)
        self.figure.supxlabel(xlabel, fontsize=10)
        self.figure.legend(handles=handles, loc="outside upper right", ncols=3, **LEGEND)
        style.settle(self.figure)


def percent_tick(value: float, _: object = None) -> str:
    """Return a share as a tick in per cent."""
    return f"{100 * value:.0f}".replace("-", "\N{MINUS SIGN}")


def percent_axis(axes: Axes, panels: int = 2) -> None:
    """Give the horizontal axis few ticks, in per cent; the fewer, the more panels share a width."""
    axes.xaxis.set_major_formatter(FuncFormatter(percent_tick))
    ticks = 5 if panels <= 2 else 2
    axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))

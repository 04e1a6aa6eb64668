"""Panels side by side with a line for every task, and the legend above them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ...show import style
from .read import Study
from .tables import task_heading

LEGEND: Any = {
    "frameon": False, "fontsize": 9, "handlelength": 1.2, "handletextpad": 0.5,
    "columnspacing": 1.4, "borderaxespad": 0.1, "labelspacing": 0.35,
}  # fmt: skip


class TaskPanels:
    """A figure of ``count`` panels that share their vertical axis: the tasks, first on top.

    Args:
        study: where the tasks' order and metrics are from.
        frames: the rows that will be drawn; only their tasks are shown.
        count: how many panels.
        line: inches a task.
        options: for :func:`analyses.show.style.subplots`.
    """

    def __init__(
        self,
        study: Study,
        frames: Iterable[pd.DataFrame],
        count: int,
        *,
        line: float = 0.27,
        **options: Any,
    ) -> None:
        present = {task for frame in frames for task in frame["task"]}
        self.tasks = [task for task in study.tasks if task in present]
        size = (style.WIDTH, line * max(len(self.tasks), 5) + 1.35)
        self.figure, grid = style.subplots(
            1, count, figsize=size, sharey=True, squeeze=False, **options
        )
        self.axes: list[Axes] = list(grid[0])
        names = [task_heading(task, study.metrics[task]) for task in self.tasks]
        self.axes[0].set_yticks(range(len(names) - 1, -1, -1), names)
        self.axes[0].set_ylim(-0.6, len(names) - 0.4)
        for axes in self.axes:
            axes.tick_params(axis="y", length=0)

    def places(self, rows: pd.DataFrame) -> Any:
        """Return the height of every row's task."""
        last = len(self.tasks) - 1
        return np.array([last - self.tasks.index(task) for task in rows["task"]], float)

    def dots(
        self,
        axes: Axes,
        rows: pd.DataFrame,
        *,
        x: str = "mean",
        sd: str = "sd",
        shift: float = 0.0,
        **marks: Any,
    ) -> None:
        """Draw a marker a task with its standard deviation, ``shift`` lines above its own."""
        axes.errorbar(
            rows[x], self.places(rows) + shift, xerr=rows[sd].fillna(0), ls="none", elinewidth=0.8,
            zorder=3, **marks,
        )  # fmt: skip

    def finish(self, handles: Sequence[Any], xlabel: str = "") -> None:
        """Add legend and common label, and settle the layout."""
        if xlabel:
            self.figure.supxlabel(xlabel, fontsize=10)
        self.figure.legend(handles=handles, loc="outside upper right", ncols=3, **LEGEND)
        style.settle(self.figure)


def handle(label: str, **marks: Any) -> Line2D:
    """Return a legend entry of a marker."""
    return Line2D([], [], ls="none", label=label, **marks)


def percent_tick(value: float, _: object = None) -> str:
    """Return a share as a tick in per cent."""
    return f"{100 * value:.0f}".replace("-", "\N{MINUS SIGN}")


def percent_axis(axes: Axes, panels: int = 2) -> None:
    """Give the horizontal axis few ticks, in per cent; the fewer, the more panels share a width."""
    axes.xaxis.set_major_formatter(FuncFormatter(percent_tick))
    ticks = 5 if panels <= 2 else 2
    axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))

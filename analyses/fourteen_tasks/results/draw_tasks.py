"""Figures with a line for every task: prompt and linear head, linearization, fixed features."""

from __future__ import annotations

import math
import re

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ...show import numbers as fmt
from ...show import style
from ...show.axes import DASHES, key
from .draw_panels import Mark, TaskPanels, percent_axis
from .findings import Linearized, Moved, Prompted, Shown
from .methods import HEADS
from .read import SavedStudy

_BLUE, _ORANGE = (stroke.color for stroke in style.strokes(2))
_HEADS = {"linear": Mark(_ORANGE, "s", hollow=True), "prompt": Mark(_BLUE, "o")}
_STAGES = {
    "zero": ("start", "#c9ced4", ""),
    "linear": ("linearized", "#9fd0ea", "/////"),
    "tuned": ("fine-tuned", _BLUE, ""),
}


def prompting(study: SavedStudy, shown: Shown[Prompted]) -> Figure:
    """Test scores with prompt and with a linear head, task by task."""
    with style.figure_style():
        panels = TaskPanels(study, [each.rows for each in shown.parts], len(shown.parts))
        for axes, each in zip(panels.axes, shown.parts, strict=True):
            panels.dots(axes, each.rows, "head", _HEADS)
            means = each.rows.pivot_table("value", "task", "head").reindex(panels.tasks)
            axes.hlines(
                range(len(means)), means["linear"], means["prompt"], color=style.MUTED, lw=1.6
            )
            axes.set_title(each.method.label)
            percent_axis(axes, len(shown.parts))
        handles = [_HEADS[head].handle(label) for head, label in HEADS.items()]
        panels.finish(handles, f"Test score (%), {shown.k} shots")
    return panels.figure


def linearization(study: SavedStudy, shown: Shown[Linearized]) -> Figure:
    """Scores at the start, linearized and fine-tuned as bars, with the share recovered."""
    with style.figure_style():
        frames = [each.rows for each in shown.parts]
        panels = TaskPanels(study, frames, len(frames), line=0.42)
        for axes, each in zip(panels.axes, shown.parts, strict=True):
            _bars(axes, each, panels)
            axes.set_title(each.method.label)
            percent_axis(axes, len(frames))
            axes.set_xlim(0, 1)
        handles = [
            Patch(facecolor=color, hatch=hatch, edgecolor=style.INK, lw=0.5, label=label)
            for label, color, hatch in _STAGES.values()
        ]
        panels.finish(handles, f"Test score (%), {shown.k} shots")
    return panels.figure


def _bars(axes: Axes, each: Linearized, panels: TaskPanels) -> None:
    """Draw the bars of one optimizer, and the shares beside them."""
    sns.barplot(
        each.rows, x="value", y="task", order=panels.tasks, hue="stage", hue_order=list(_STAGES),
        palette={name: color for name, (_, color, _) in _STAGES.items()}, saturation=1,
        width=0.78, edgecolor=style.INK, linewidth=0.5, errorbar="sd",
        err_kws={"linewidth": 0.8, "color": style.INK}, legend=False, zorder=2, ax=axes,
    )  # fmt: skip
    for bars, (_, _, hatch) in zip(axes.containers, _STAGES.values(), strict=True):
        for bar in bars:
            bar.set_hatch(hatch)
    for y, task in enumerate(panels.tasks):
        share = each.shares.get(task, math.nan)
        if not math.isnan(share):
            axes.text(1.04, y, fmt.fixed(100 * share, 0), va="center", fontsize=9)
    axes.text(1.04, 1.0, "share\n(%)", va="bottom", fontsize=8, color=style.MUTED,
              transform=axes.transAxes, linespacing=1.0)  # fmt: skip


def fixed_features(study: SavedStudy, shown: Shown[Moved]) -> Figure:
    """How far the kernel moved in training, task by task; what still counts as fixed as lines."""
    labels = {
        each.method.key.removeprefix("finetune-"): each.method.label
        for part in shown.parts
        for each in part.ranges
    }
    strokes = zip(labels, style.strokes(len(labels)), strict=True)
    marks = {name: Mark(stroke.color, stroke.marker) for name, stroke in strokes}
    with style.figure_style():
        panels = TaskPanels(study, [each.rows for each in shown.parts], len(shown.parts))
        for axes, each in zip(panels.axes, shown.parts, strict=True):
            panels.dots(axes, each.rows, "optimizer", marks, apart=0.28)
            _feature_axis(axes, each)
        handles = [mark.handle(labels[name]) for name, mark in marks.items()]
        if any(each.limit is not None for each in shown.parts):
            handles.append(key("limit", color=style.INK, ls=DASHES, lw=1.1))
        panels.finish(handles, f"{shown.k} shots")
    return panels.figure


def _feature_axis(axes: Axes, each: Moved) -> None:
    """Set title, range and the limit of a panel of fixed features."""
    if each.alike:
        axes.set_xlim(min(axes.get_xlim()[0], 0.9), 1.02)
    else:
        right = max(axes.get_xlim()[1], 0.1)
        axes.set_xlim(-0.03 * right, right)  # a mark at 0 is whole
    if each.limit is not None:
        axes.axvline(each.limit, color=style.INK, ls=DASHES, lw=1.1, zorder=1)
    axes.set_title(re.sub(" (of|with) ", r"\n\1 ", each.heading))
    axes.set_xlabel("1: unchanged" if each.alike else "0: unchanged", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(4))

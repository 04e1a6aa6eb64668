"""Figures of what LoRA and random subspaces keep of the full kernel."""

from __future__ import annotations

from collections.abc import Sequence

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ...show import numbers as fmt
from ...show import style
from ...show.axes import key
from .draw_panels import LEGEND, Mark, TaskPanels, percent_axis, percent_tick
from .findings import FAMILIES, Curve, Preserved
from .read import SavedStudy

_BLUE, _ORANGE = (stroke.color for stroke in style.strokes(2))
_MARKS = {
    "kernel-sgd": Mark(style.INK, "|"),
    "kernel-random": Mark(_ORANGE, "s", hollow=True),
    "kernel-lora": Mark(_BLUE, "o"),
}
"""In the order of drawing: what is hollow would hide what is not."""
_TITLES = {"cka": "CKA with the full kernel", "score": "Test score − full kernel's (points)"}


def preservation(study: SavedStudy, shown: Preserved) -> Figure:
    """Test score and CKA of the largest LoRA and random subspace beside the full kernel's."""
    rows = shown.rows
    labels = dict(zip(rows["method"], rows["label"], strict=True))
    marks = {labels[key]: mark for key, mark in _MARKS.items() if key in labels}
    measured = set(rows.loc[rows["method"].isin(FAMILIES), "metric"])
    metrics = [name for name in ("score", "cka") if name in measured]
    with style.figure_style():
        panels = TaskPanels(study, [rows], len(metrics))
        for axes, metric in zip(panels.axes, metrics, strict=True):
            panels.dots(axes, rows[rows["metric"] == metric], "label", marks)
            if metric == "score":
                axes.set_title("Test score (%)")
                percent_axis(axes)
            else:
                axes.set_title("CKA with full kernel")
                axes.set_xlim(min(axes.get_xlim()[0], 0.9), 1.01)
        ordered = [key for key in ("kernel-sgd", *FAMILIES) if key in labels]
        handles = [_MARKS[key].handle(labels[key]) for key in ordered]
        panels.finish(handles, f"{shown.k} shots")
    return panels.figure


def sizes(_: SavedStudy, curves: Sequence[Curve]) -> Figure:
    """CKA and score over rank and dimension: a thin line a task, a thick one for the median."""
    metrics = [m for m in _TITLES if any((each.rows["metric"] == m).any() for each in curves)]
    with style.figure_style():
        figure, grid = style.subplots(
            len(metrics), len(curves), figsize=(style.WIDTH, 2.4 * len(metrics) + 0.4),
            squeeze=False, sharey="row", sharex="col",
        )  # fmt: skip
        for row, metric in zip(grid, metrics, strict=True):
            for axes, each, stroke in zip(row, curves, style.strokes(len(curves)), strict=True):
                _curves(axes, each, metric, stroke)
            row[0].set_title(_TITLES[metric])
        for axes, each in zip(grid[-1], curves, strict=True):
            of = each.method.label.removesuffix(" kernel")
            axes.set_xlabel(f"{of}: {each.of}, {each.k} shots")
        handles = [
            key("a task", color=style.MUTED, lw=0.8, alpha=0.6),
            key("median of tasks", color=style.INK, lw=2.2, marker="o"),
        ]
        figure.legend(handles=handles, loc="outside upper right", ncols=2,
                      **{**LEGEND, "handlelength": 2})  # fmt: skip
        style.settle(figure)
    return figure


def _curves(axes: Axes, each: Curve, metric: str, stroke: style.Stroke) -> None:
    """Draw one metric of one kind of subspace."""
    rows = each.rows[each.rows["metric"] == metric]
    sns.lineplot(
        rows, x="size", y="value", units="task", estimator=None, color=style.MUTED, lw=0.8,
        alpha=0.6, zorder=2, ax=axes,
    )  # fmt: skip
    sns.lineplot(
        rows, x="size", y="value", estimator="median", errorbar=None, color=stroke.color,
        marker=stroke.marker, mec="none", lw=2.2, zorder=3, ax=axes,
    )  # fmt: skip
    axes.set(xlabel="", ylabel="")
    axes.set_xscale("log", base=2)
    found = sorted(set(each.rows["size"]))
    axes.set_xticks(found, [fmt.count(size) for size in found])
    axes.minorticks_off()
    if metric == "score":
        axes.axhline(0, color=style.INK, lw=1, zorder=1)
        axes.yaxis.set_major_formatter(FuncFormatter(percent_tick))

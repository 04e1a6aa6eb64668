"""Figures of what LoRA and random subspaces keep of the full kernel."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from ...show import numbers as fmt
from ...show import style
from .behavior import fewest_shots
from .draw_panels import (
    LEGEND,
    TaskPanels,
    handle,
    percent_axis,
    percent_tick,
)
from .methods import method, size, variant
from .read import Study
from .summary import means

FAMILIES = ("kernel-lora", "kernel-random")
_LINES = {
    "kernel-lora": ("lora-adam", "rank"),
    "kernel-random": ("random-adam", "dimension"),
}
_KEYS = ["task", "k", "method", "subspace"]


def preservation_data(study: Study) -> pd.DataFrame:
    """Return scores and CKA of the largest LoRA and random subspace, and the full kernel's scores.

    The latter over the data seeds that have a subspace's, so that splits cancel. One head (the
    first with any) and one number of shots. Columns: task, k, method, subspace, metric (``score``
    or ``cka``), mean, sd, seeds.
    """
    scores = study.scores.assign(metric="score")
    small = pd.concat([_small(scores), study.measured(["cka"], FAMILIES)], ignore_index=True)
    on = ["task", "k", "head", "data_seed"]
    full = scores[scores["method"] == "kernel-sgd"].merge(small[on].drop_duplicates(), on=on)
    found = pd.concat([full, small], ignore_index=True)
    heads = [head for head in study.heads if (small["head"] == head).any()]
    if not heads:
        return found.iloc[:0]
    found = means(found[found["head"] == heads[0]], [*_KEYS, "metric"])
    largest = found[found["method"].isin(FAMILIES)]
    k = fewest_shots(largest, ("task", "method"))
    found = found[found["k"] == k].copy()
    found["size"] = found["subspace"].map(lambda text: size(text) or 0)
    top = found.groupby("method")["size"].transform("max")
    return found[found["size"] == top].reset_index(drop=True)


def preservation(study: Study) -> Figure:
    """Test score and CKA of the largest LoRA and random subspace beside the full kernel's."""
    found = preservation_data(study)
    strokes = style.strokes(3)
    drawn: dict[str, dict[str, Any]] = {
        "kernel-sgd": {"color": style.INK, "marker": "|", "ms": 13, "mew": 2.2},
        "kernel-lora": {"color": strokes[0].color, "marker": "o", "ms": 5.5, "mew": 1.2},
        "kernel-random": {"color": strokes[1].color, "marker": "s", "ms": 5.5, "mew": 1.2,
                          "mfc": "white"},
    }  # fmt: skip
    metrics = [name for name in ("score", "cka") if (_small(found)["metric"] == name).any()]
    with style.figure_style():
        panels = TaskPanels(study, [found], len(metrics))
        for axes, metric in zip(panels.axes, metrics, strict=True):
            for key, marks in drawn.items():
                rows = found[(found["metric"] == metric) & (found["method"] == key)]
                panels.dots(axes, rows, **marks)
            if metric == "score":
                axes.set_title("Test score (%)")
                percent_axis(axes)
            else:
                axes.set_title("CKA with full kernel")
                axes.set_xlim(min(axes.get_xlim()[0], 0.9), 1.01)
        names = {str(r.method): variant(str(r.method), str(r.subspace)) for r in found.itertuples()}
        handles = [handle(names[key], **drawn[key]) for key in drawn if key in names]
        panels.finish(handles, f"{int(found['k'].iloc[0])} shots")
    return panels.figure


def _small(found: pd.DataFrame) -> pd.DataFrame:
    return found[found["method"].isin(FAMILIES)]


def curves_data(study: Study) -> dict[str, pd.DataFrame]:
    """Return, by family, what the sizes of `sizes` keep: the families with several sizes.

    Columns: task, k, size, metric (``cka``, or ``score`` as difference from the full kernel's),
    mean, sd, seeds.
    """
    scores = study.scores
    full = scores[scores["method"] == "kernel-sgd"]
    on = ["task", "k", "head", "data_seed"]
    base = full.groupby(on, as_index=False)["value"].mean().rename(columns={"value": "full"})
    small = scores[scores["method"].isin(FAMILIES)].merge(base, on=on)
    small = small.assign(metric="score", value=small["value"] - small["full"])
    found = pd.concat([small, study.measured(["cka"], FAMILIES)], ignore_index=True)
    heads = [head for head in study.heads if (found["head"] == head).any()]
    found = found[found["head"] == heads[0]] if heads else found
    found = found.assign(size=found["subspace"].map(size)).dropna(subset=["size"])
    shown = {}
    for key in FAMILIES:
        rows = found[found["method"] == key]
        if rows["size"].nunique() > 1:
            rows = rows[rows["k"] == fewest_shots(rows, ("task", "size"))]
            shown[key] = means(rows, ["task", "k", "size", "metric"])
    return shown


def sizes(study: Study) -> Figure:
    """CKA and score over rank and dimension: a thin line a task, a thick one for the median."""
    shown = curves_data(study)
    titles = {"cka": "CKA with the full kernel", "score": "Test score − full kernel's (points)"}
    metrics = [m for m in titles if any((rows["metric"] == m).any() for rows in shown.values())]
    strokes = dict(zip(shown, style.strokes(len(shown)), strict=True))
    with style.figure_style():
        figure, grid = style.subplots(
            len(metrics), len(shown), figsize=(style.WIDTH, 2.4 * len(metrics) + 0.4),
            squeeze=False, sharey="row", sharex="col",
        )  # fmt: skip
        for row, metric in zip(grid, metrics, strict=True):
            row[0].set_title(titles[metric])
            for axes, (key, rows) in zip(row, shown.items(), strict=True):
                _curves(axes, rows[rows["metric"] == metric], strokes[key])
                if metric == "score":
                    axes.axhline(0, color=style.INK, lw=1, zorder=1)
                    axes.yaxis.set_major_formatter(FuncFormatter(percent_tick))
        for axes, (key, rows) in zip(grid[-1], shown.items(), strict=True):
            _size_axis(axes, sorted(set(rows["size"])))
            label = method(key).label.removesuffix(" kernel")
            axes.set_xlabel(f"{label}: {_LINES[key][1]}, {int(rows['k'].iloc[0])} shots")
        handles = [
            Line2D([], [], color=style.MUTED, lw=0.8, alpha=0.6, label="a task"),
            Line2D([], [], color=style.INK, lw=2.2, marker="o", label="median of tasks"),
        ]
        figure.legend(handles=handles, loc="outside upper right", ncols=2,
                      **{**LEGEND, "handlelength": 2})  # fmt: skip
        style.settle(figure)
    return figure


def _curves(axes: Axes, rows: pd.DataFrame, stroke: style.Stroke) -> None:
    for _, line in rows.groupby("task"):
        line = line.sort_values("size")
        axes.plot(line["size"], line["mean"], color=style.MUTED, lw=0.8, alpha=0.6, zorder=2)
    median = rows.groupby("size")["mean"].median()
    axes.plot(median.index, median, color=stroke.color, marker=stroke.marker, lw=2.2, zorder=3)


def _size_axis(axes: Axes, found: list[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(found, [fmt.count(each) for each in found])
    axes.minorticks_off()

"""Figures with a line for every task: prompt and linear head, linearization, fixed features."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ...show import numbers as fmt
from ...show import style
from ...show.panels import DASHES
from .behavior import (
    FEATURE_METRICS,
    feature_metrics,
    features,
    fewest_shots,
    linearization,
)
from .draw_panels import TaskPanels, handle, percent_axis
from .methods import METHODS, method
from .read import Study
from .summary import paired

_PROMPTED = (("kernel-sgd", "kernel-asymmetric_signgd", "kernel-signgd", "kernel-adam"),
             ("finetune-sgd", "finetune-adam", "finetune-signgd"))  # fmt: skip
_BLUE, _ORANGE = (stroke.color for stroke in style.strokes(2))
_PROMPT: Any = {"color": _BLUE, "marker": "o", "ms": 5.5, "mew": 1.2}
_LINEAR: Any = {"color": _ORANGE, "marker": "s", "mfc": "white", "ms": 5.5, "mew": 1.2}
_BARS = {
    "zero": ("start", "#c9ced4", ""),
    "linear": ("linearized", "#9fd0ea", "/////"),
    "tuned": ("fine-tuned", _BLUE, ""),
}


def prompting_data(study: Study) -> dict[str, pd.DataFrame]:
    """Return scores with prompt (y) and linear head (x): the best covered kernel and fine-tuning.

    By method, with one number of shots; empty where no method has both heads.
    """
    shown = {}
    for family in _PROMPTED:
        found = {key: _heads(study, key) for key in family}
        most = max(family, key=lambda key: len(found[key]))  # the first of the family if tied
        if len(found[most]):
            shown[most] = found[most]
    if not shown:
        return {}
    k = fewest_shots(pd.concat([rows.assign(method=key) for key, rows in shown.items()]),
                     ("task", "method"))  # fmt: skip
    picked = {key: rows[rows["k"] == k] for key, rows in shown.items()}
    return {key: rows for key, rows in picked.items() if len(rows)}


def _heads(study: Study, key: str) -> pd.DataFrame:
    rows = study.scores[study.scores["method"] == key]
    return paired(rows, "head", "linear", "prompt")


def prompting(study: Study) -> Figure:
    """Test scores with prompt and with a linear head, task by task."""
    shown = prompting_data(study)
    with style.figure_style():
        panels = TaskPanels(study, shown.values(), len(shown))
        for axes, (key, rows) in zip(panels.axes, shown.items(), strict=True):
            axes.hlines(panels.places(rows), rows["x"], rows["y"], color=style.MUTED, lw=1.6)
            panels.dots(axes, rows, x="x", sd="x_sd", **_LINEAR)
            panels.dots(axes, rows, x="y", sd="y_sd", **_PROMPT)
            axes.set_title(method(key).label)
            percent_axis(axes, len(shown))
        handles = [handle("prompt", **_PROMPT), handle("linear head", **_LINEAR)]
        panels.finish(handles, f"Test score (%), {_shots(shown.values())} shots")
    return panels.figure


def linearization_data(study: Study) -> dict[str, pd.DataFrame]:
    """Return the rows of `results.behavior.linearization` to draw, by optimizer.

    One head (the first with any), one number of shots.
    """
    found = _one_head(linearization(study), study)
    if found.empty:
        return {}
    found = found[found["k"] == fewest_shots(found, ("task", "optimizer"))]
    return {name: found[found["optimizer"] == name] for name in _optimizers(found)}


def linearization_bars(study: Study) -> Figure:
    """Scores at the start, linearized and fine-tuned as bars, with the share recovered."""
    shown = linearization_data(study)
    with style.figure_style():
        panels = TaskPanels(study, shown.values(), len(shown), line=0.42)
        for axes, (optimizer, rows) in zip(panels.axes, shown.items(), strict=True):
            y = panels.places(rows)
            for i, (name, (_, color, hatch)) in enumerate(_BARS.items()):
                axes.barh(
                    y + 0.26 * (1 - i), rows[name], 0.26, color=color, hatch=hatch, zorder=2,
                    xerr=rows[f"{name}_sd"].fillna(0), edgecolor=style.INK, linewidth=0.5,
                    error_kw={"elinewidth": 0.8, "ecolor": style.INK},
                )  # fmt: skip
            _shares(axes, rows, y)
            axes.set_title(method(f"finetune-{optimizer}").label)
            percent_axis(axes, len(shown))
            axes.set_xlim(0, 1)
        handles = [
            Patch(facecolor=color, hatch=hatch, edgecolor=style.INK, lw=0.5, label=label)
            for label, color, hatch in _BARS.values()
        ]
        panels.finish(handles, f"Test score (%), {_shots(shown.values())} shots")
    return panels.figure


def _shares(axes: Axes, rows: pd.DataFrame, y: Any) -> None:
    """Write the share of the improvement that the linearized model recovers right of the bars."""
    for place, share in zip(y, rows["share"], strict=True):
        text = "–" if np.isnan(share) else fmt.fixed(100 * share, 0)
        axes.text(1.04, place, text, va="center", fontsize=8.5,
                  transform=axes.get_yaxis_transform())  # fmt: skip
    axes.text(1.04, 1.0, "share\n(%)", va="bottom", fontsize=8, color=style.MUTED,
              transform=axes.transAxes, linespacing=1.0)  # fmt: skip


def fixed_features_data(study: Study) -> pd.DataFrame:
    """Return the rows of `analyses.fourteen_tasks.results.behavior.features` to draw.

    A distance and an alignment, of one head (the first with any) and one number of shots.
    """
    found = features(study)
    found = _one_head(found[found["metric"].isin(feature_metrics(found))], study)
    return found[found["k"] == fewest_shots(found)] if len(found) else found


def fixed_features(study: Study, limits: Mapping[str, float] | None = None) -> Figure:
    """How far the kernel moved in training, task by task; ``limits`` (by metric) as lines."""
    found, drawn_limits = fixed_features_data(study), limits or {}
    metrics, optimizers = feature_metrics(found), _optimizers(found)
    marks: dict[str, Any] = {
        name: {"color": color, "marker": marker, "ms": 5.5, "mew": 1.2}
        for name, (color, marker, _) in zip(optimizers, style.strokes(len(optimizers)), strict=True)
    }
    with style.figure_style():
        panels = TaskPanels(study, [found], len(metrics))
        for axes, metric in zip(panels.axes, metrics, strict=True):
            for i, name in enumerate(optimizers):
                rows = found[(found["metric"] == metric) & (found["optimizer"] == name)]
                shift = 0.28 * ((len(optimizers) - 1) / 2 - i)  # the first above
                panels.dots(axes, rows, shift=shift, **marks[name])
            _feature_axis(axes, metric, drawn_limits.get(metric))
        handles = [handle(method(f"finetune-{n}").label, **marks[n]) for n in optimizers]
        if drawn_limits.keys() & set(metrics):
            handles.append(Line2D([], [], color=style.INK, ls=DASHES, lw=1.1, label="limit"))
        panels.finish(handles, f"{int(found['k'].iloc[0])} shots")
    return panels.figure


def _feature_axis(axes: Axes, metric: str, limit: float | None) -> None:
    """Set title, range and the limit of a panel of fixed features."""
    alike = "cka" in metric
    if alike:
        axes.set_xlim(min(axes.get_xlim()[0], 0.9), 1.02)
    else:
        axes.set_xlim(0, max(axes.get_xlim()[1], 0.1))
    if limit is not None:
        axes.axvline(limit, color=style.INK, ls=DASHES, lw=1.1, zorder=1)
    axes.set_title(re.sub(" (of|with) ", r"\n\1 ", FEATURE_METRICS[metric]))
    axes.set_xlabel("1: unchanged" if alike else "0: unchanged", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(4))


def _one_head(found: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Return the rows of the first head that has any: the prompt's, if there are some."""
    heads = [head for head in study.heads if (found["head"] == head).any()]
    return found[found["head"] == heads[0]] if heads else found


def _optimizers(found: pd.DataFrame) -> list[str]:
    """Return the optimizers of the rows in the order of the tables."""
    known = [key.removeprefix("finetune-") for key in METHODS if key.startswith("finetune-")]
    return sorted(set(found["optimizer"]), key=lambda name: (*known, name).index(name))


def _shots(frames: Iterable[pd.DataFrame]) -> int:
    return int(next(iter(frames))["k"].iloc[0])

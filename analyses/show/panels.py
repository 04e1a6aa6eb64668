"""Panels of lines over one log2 axis (ranks, dimensions), with bands, levels and direct labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ..engine.pooling import Pooled
from . import style
from .axes import DASHES, DOTS

__all__ = ["DASHES", "DOTS", "Level", "Panel", "over_ranks"]


@dataclass(frozen=True)
class Level:
    """A horizontal line that the other lines of a panel are compared with."""

    y: float
    label: str
    dash: Any


@dataclass(frozen=True)
class Panel:
    """What one set of axes shows.

    Attributes:
        title: what the vertical axis means, with its unit.
        lines: label -> position on the horizontal axis -> value with interval.
        levels: horizontal lines.
        percent: write the vertical axis in per cent.
        bounds: what the value can be; bands end there.
    """

    title: str
    lines: Mapping[str, Mapping[int, Pooled]]
    levels: Sequence[Level] = ()
    percent: bool = False
    bounds: tuple[float, float] = (0.0, 1.0)


def over_ranks(
    panels: Sequence[Panel],
    ranks: Sequence[int],
    xlabel: str,
    *,
    share_y: bool = False,
    room: float = 0.34,
) -> Figure:
    """Draw panels below each other; ``room`` is the share of the width that direct labels take."""
    with style.figure_style():
        figure, grid = style.subplots(
            len(panels),
            1,
            figsize=(style.WIDTH, 2.3 * len(panels) + 0.5),
            sharex=True,
            sharey=share_y,
            squeeze=False,
        )
        column = list(grid[:, 0])
        labels = [_draw(axes, panel, ranks) for axes, panel in zip(column, panels, strict=True)]
        for axes in column:
            style.rank_axis(axes, ranks, room=room)
        column[-1].set_xlabel(xlabel)
        style.settle(figure)
        for axes, ends in zip(column, labels, strict=True):
            style.direct_labels(axes, ends)
    return figure


def _draw(axes: Axes, panel: Panel, ranks: Sequence[int]) -> list[tuple[float, float, str, str]]:
    """Draw one panel without its labels; return those, to be written where the lines end."""
    labels: list[tuple[float, float, str, str]] = []
    last = max(ranks)
    for level in panel.levels:
        start = min(ranks) if len(ranks) > 1 else last / 2
        axes.plot([start, last], [level.y] * 2, color=style.MUTED, ls=level.dash, lw=1.3, zorder=1)
        labels.append((last, level.y, level.label, style.MUTED))
    strokes = style.strokes(len(panel.lines))
    for (label, line), stroke in zip(panel.lines.items(), strokes, strict=True):
        x, values = list(line), list(line.values())
        low, high = (
            np.clip([getattr(v, end) for v in values], *panel.bounds) for end in ("low", "high")
        )
        means = [v.mean for v in values]
        color, marker, dash = stroke
        if len(x) > 1:
            axes.fill_between(x, low, high, color=color, alpha=0.16, lw=0)
        else:
            axes.vlines(x, low, high, color=color, alpha=0.5)
        axes.plot(x, means, color=color, marker=marker, ls=dash, zorder=3)
        labels.append((last, means[-1], f"{style.GLYPHS[marker]} {label}", color))
    axes.set_title(panel.title)
    if panel.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    return labels

"""The figures of ``analyze width``, each drawn from its findings alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ..show import axes as drawing
from ..show import style
from ..show.axes import DOTS, LEGEND
from .findings import Findings, Group
from .sizes import SIZED

At = TypeVar("At", int, float, str)


def prediction(found: Findings) -> Figure:
    """Error of the kernel's prediction over width, a panel an optimizer."""
    return _by_width(found, "error", "Error of the kernel's prediction")


def features(found: Findings) -> Figure:
    """Change of the last layer's features over width, a panel an optimizer."""
    return _by_width(found, "features", "Relative change of features")


def _by_width(found: Findings, metric: str, title: str) -> Figure:
    with style.figure_style():
        count = len(found.config.optimizers)
        figure, panels = style.subplots(
            count, 1, squeeze=False, sharex=True, figsize=(style.WIDTH, 0.6 + 2.2 * count)
        )
        strokes = style.strokes(len(found.config.parametrizations))
        for axes, optimizer in zip(panels[:, 0], found.config.optimizers, strict=True):
            groups = [group for group in found.groups if group.optimizer == optimizer]
            for group, stroke in zip(groups, strokes, strict=True):
                line = _known(group.values.get(metric, {}))
                axes.plot(
                    list(line), list(line.values()), color=stroke.color, marker=stroke.marker,
                    ls=stroke.dash, label=group.parametrization,
                )  # fmt: skip
            _width_axis(axes, found)
            axes.set_title(f"{title}, {optimizer}")
        panels[-1, 0].set_xlabel("Width")
        panels[0, 0].legend(loc="center left", bbox_to_anchor=(1, 0.5), **LEGEND)
    return figure


def coordinates(found: Findings) -> Figure:
    """Change of each layer's features over width: the coordinate check."""
    return _grid(found, _layers, "Width", "layer")


def rates(found: Findings) -> Figure:
    """Final loss over the learning rate, a line a width."""
    return _grid(found, _losses, "Rate over the suggested one", "width")


def _grid(
    found: Findings, draw: Callable[[Axes, Group, Findings], None], label: str, of: str
) -> Figure:
    """Draw a panel a group: optimizers down, parametrizations across."""
    down, across = len(found.config.optimizers), len(found.config.parametrizations)
    with style.figure_style():
        figure, panels = style.subplots(
            down, across, squeeze=False, sharex=True, sharey="row",
            figsize=(style.WIDTH, 0.8 + 1.9 * down),
        )  # fmt: skip
        for axes, group in zip(panels.flat, found.groups, strict=True):
            draw(axes, group, found)
            axes.set_title(f"{group.parametrization}, {group.optimizer}", fontsize=9)
        for axes in panels[-1]:
            axes.set_xlabel(label, fontsize=9)
        handles, names = panels[0, 0].get_legend_handles_labels()
        if handles:
            figure.legend(
                handles, names, title=of, loc="outside lower center", ncols=min(6, len(names)),
                **LEGEND,
            )  # fmt: skip
    return figure


def _layers(axes: Axes, group: Group, found: Findings) -> None:
    colors = style.rank_colors(max(1, len(group.layers)))
    for (layer, line), color in zip(group.layers.items(), colors, strict=False):
        known = _known(line)
        axes.plot(list(known), list(known.values()), color=color, marker="o", label=str(layer))
    _width_axis(axes, found)


def _losses(axes: Axes, group: Group, _: Findings) -> None:
    colors = style.rank_colors(len(group.losses))
    for (width, line), color in zip(group.losses.items(), colors, strict=True):
        known = {f: min(loss, 2 * group.start) for f, loss in _known(line).items()}
        axes.plot(
            list(known), list(known.values()), color=color, lw=1.3, marker="o", ms=3,
            label=str(width),
        )  # fmt: skip
    if not math.isnan(group.start):
        drawing.level(axes, group.start, DOTS)
    if any(np.size(line.get_xdata()) for line in axes.lines):
        axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)


def sizes(found: Findings) -> Figure:
    """What fine-tuning changed over the number of parameters, a panel a number."""
    shown = [m for m in SIZED if any(m in tuned.values for tuned in found.tuned)] or ["features"]
    with style.figure_style():
        figure, panels = style.subplots(
            len(shown), 1, squeeze=False, sharex=True,
            figsize=(style.WIDTH, 0.6 + 1.8 * len(shown)),
        )  # fmt: skip
        strokes = style.strokes(len(found.tuned))
        for axes, metric in zip(panels[:, 0], shown, strict=True):
            for tuned, stroke in zip(found.tuned, strokes, strict=True):
                known = _known(tuned.values.get(metric, {}))
                points = [(m.parameters, known[m.spec]) for m in found.models if m.spec in known]
                axes.plot(
                    [size for size, _ in points], [value for _, value in points],
                    color=stroke.color, marker=stroke.marker, ls=stroke.dash,
                    label=tuned.optimizer,
                )  # fmt: skip
            _scale(axes)
            axes.set_title(f"{SIZED[metric][0].upper()}{SIZED[metric][1:]}", fontsize=9)
        panels[-1, 0].set_xlabel("Parameters")
        panels[0, 0].legend(loc="center left", bbox_to_anchor=(1, 0.5), **LEGEND)
    return figure


def _scale(axes: Axes) -> None:
    """Take logarithms of both axes, unless all diverged and there is nothing to take them of."""
    if any(np.size(line.get_xdata()) for line in axes.lines):
        axes.set(xscale="log", yscale="log")


def _width_axis(axes: Axes, found: Findings) -> None:
    _scale(axes)
    widths = found.config.widths
    axes.set_xticks(list(widths), [str(width) for width in widths], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())


def _known(line: Mapping[At, float]) -> dict[At, float]:
    return {at: value for at, value in line.items() if math.isfinite(value)}


FIGURES: Mapping[str, Callable[[Findings], Figure]] = {
    "prediction": prediction,
    "features": features,
    "rates": rates,
    "coordinates": coordinates,
}
"""The figures by name."""

SIZE_FIGURES: Mapping[str, Callable[[Findings], Figure]] = {"sizes": sizes}
"""Those of pretrained models."""

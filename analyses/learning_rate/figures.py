"""The figures of ``analyze learning-rate``, each drawn from its findings alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from ..show import axes as drawing
from ..show import numbers as fmt
from ..show import style
from ..show.axes import DOTS, LEGEND
from .findings import ASKED, Findings, Optimizer


def edges(found: Findings) -> Figure:
    """Where training first spiked, over where it was said to."""
    with style.figure_style():
        figure, axes = style.subplots(figsize=(style.WIDTH, style.WIDTH * 0.75))
        ends: list[float] = []
        named = [each for each in found.optimizers if each.with_edge]
        for each, stroke in zip(named, style.strokes(len(named)), strict=True):
            said = np.array([cell.said["spike"] for cell in each.with_edge])
            if np.isnan(said).all():  # momentum: not known
                said = np.array([cell.suggested for cell in each.with_edge])
            seen = np.array([cell.edge for cell in each.with_edge])
            axes.plot(
                said, seen, ls="", marker=stroke.marker, color=stroke.color, ms=6,
                mec="white", label=each.name,
            )  # fmt: skip
            ends += [*said, *seen]
        if not ends:
            return drawing.nothing(figure, axes, "no training spiked")
        low, high = min(ends) / 1.5, max(ends) * 1.5
        line = np.array([low, high])
        axes.fill_between(line, line / ASKED, line * ASKED, color=style.MUTED, alpha=0.15, lw=0)
        axes.plot(line, line, color=style.MUTED, lw=1.2, zorder=1)
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(10, subs=(1, 3), numticks=6))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: fmt.rate(value)))
        axes.set(xlabel="Said before training", ylabel="", aspect="equal")
        axes.set_title("Learning rate at which training first spikes")
        if len(named) > 1:
            axes.legend(loc="upper left", **LEGEND)
    return figure


def losses(found: Findings) -> Figure:
    """Final loss over the learning rate in units of the suggestion, a line a configuration."""
    known = [each for each in found.optimizers if each.cells]
    with style.figure_style():
        figure, panels = style.subplots(
            max(1, len(known)), 1, squeeze=False, sharex=True,
            figsize=(style.WIDTH, 0.6 + 2.6 * max(1, len(known))),
        )  # fmt: skip
        if not known:
            return drawing.nothing(figure, panels[0, 0], "no rate could be suggested")
        for axes, each in zip(panels[:, 0], known, strict=True):
            _losses(axes, each)
        last = panels[-1, 0]
        last.set(xlabel="Learning rate over the suggested one")
        ticks = [2.0**k for k in range(-4, 10, 2)]
        last.xaxis.set_major_locator(FixedLocator(ticks))
        last.xaxis.set_minor_locator(NullLocator())
        last.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    return figure


def _losses(axes: Axes, each: Optimizer) -> None:
    names = list(dict.fromkeys(cell.subspace for cell in each.cells))
    colors = style.rank_colors(len(names))
    for cell in each.cells:
        color = colors[names.index(cell.subspace)]
        at = np.array([run.rate / cell.suggested for run in cell.runs])
        loss = np.array([run.loss for run in cell.runs]) / cell.said["initial_loss"]
        spiked = np.array([run.spiked for run in cell.runs])
        first = cell.data_seed == each.cells[0].data_seed
        axes.plot(at, loss, color=color, lw=1.3, label=cell.subspace if first else None)
        axes.plot(at[spiked], loss[spiked], ls="", marker="x", color=color, ms=5)
    axes.axvline(1.0, color=style.MUTED, ls=DOTS, lw=1.3)
    axes.set(xscale="log", ylabel="", title=f"Final loss over the first, {each.name}")
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set_ylim(0, 10)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.01, 0.1, 1, 10]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), **LEGEND)


def rules(found: Findings) -> Figure:
    """What every rule leaves of edge and best rate, in decades, for the first optimizer."""
    judged = [rule for rule in found.first.rules if not math.isnan(rule.best)]
    with style.figure_style():
        height = 1.0 + 0.33 * max(1, len(judged))
        figure, axes = style.subplots(figsize=(style.WIDTH, height))
        if not judged:
            return drawing.nothing(figure, axes, "no rate could be suggested")
        drawing.rows(axes, [rule.rule for rule in judged])
        for name, stroke in zip(("edge", "best"), style.strokes(2), strict=True):
            values = [getattr(rule, name) for rule in judged]
            label = {"edge": "first spike", "best": "lowest loss"}[name]
            axes.plot(
                values, [-i for i in range(len(judged))], ls="", marker=stroke.marker,
                color=stroke.color, ms=6, label=label,
            )  # fmt: skip
        axes.set(xlabel="Decades", xlim=(0, None))
        axes.set_title(f"What each rule leaves unexplained, {found.first.name}")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), **LEGEND)
    return figure


FIGURES: Mapping[str, Callable[[Findings], Figure]] = {
    "edges": edges,
    "losses": losses,
    "rules": rules,
}
"""The figures by name."""

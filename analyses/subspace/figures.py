"""The figures of ``analyze subspace``, each drawn from saved results alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator, PercentFormatter

from ..engine.run_folder import Results
from ..show import style
from ..show.panels import DASHES, DOTS
from .dimension import GOALS, needed
from .distortion_figure import distortion
from .numbers import (
    Curve,
    Family,
    agreement,
    constant,
    families,
    full_score,
    kinds,
    same_predictions,
    score_name,
    scores,
    trained_in_full,
    zero_shot,
)

__all__ = ["figures"]

_METHOD_MARKERS = ("*", "X", "<", ">", "d", "p", "h", "8", "1", "2", "3", "4")


def figures(rule: str) -> Mapping[str, Callable[[Results], Figure]]:
    """Return the figures of a study under an update rule, by name.

    Distortions are measured of gradients, not of their signs.
    """
    drawn = {"preservation": preservation, "dimension": dimension}
    return drawn | ({"distortion": distortion} if rule == "sgd" else {})


def preservation(results: Results) -> Figure:
    """CKA, equal predictions and test score over the trained parameters, all methods together."""
    config = results.config
    panels: list[tuple[str, Callable[[Results, Family], Curve], bool]] = [
        ("CKA with the full kernel", agreement, False),
        ("Test predictions equal to the full kernel's", same_predictions, True),
        (f"Test {score_name(results)}, {config['solvers'][0]} classifier", scores, True),
    ]
    asked = [config["min_cka"], config["min_agreement"], None]
    with style.figure_style():
        figure, column = style.subplots(3, 1, figsize=(style.WIDTH, 8.4), sharex=True)
        for axes, (title, curve, percent), level in zip(column, panels, asked, strict=True):
            for i, (family, drawn) in enumerate(_strokes(results)):
                band = i == 0 or family.kernel != "random"  # all kinds' would hide each other
                _line(axes, curve(results, family), drawn, band=band)
            if level is not None:
                axes.axhline(level, color=style.MUTED, ls=DOTS, lw=1.3, zorder=1)
            axes.set_title(title)
            if percent:
                axes.yaxis.set_major_formatter(PercentFormatter(1))
        levels = _levels(results)
        for _, y, dash in levels:
            column[-1].axhline(y, color=style.MUTED, ls=dash, lw=1.3, zorder=1)
        _parameter_axis(column[-1], results)
        handles = [_handle(family, drawn) for family, drawn in _strokes(results)]
        handles += [_rule_handle(name, dash) for name, _, dash in levels]
        handles.append(_rule_handle("asked for", DOTS))
        figure.legend(handles=handles, loc="outside upper left", ncols=3, **_LEGEND)
        style.settle(figure)
    return figure


def dimension(results: Results) -> Figure:
    """Test score over the dimension, and the dimensions at which it reaches its targets."""
    shown = kinds(results)
    drawn = dict(zip([kind.name for kind in shown], _kind_strokes(len(shown)), strict=True))
    with style.figure_style():
        height = 3.6 + 0.36 * len(shown) + 0.9
        figure, (top, bottom) = style.subplots(
            2, 1, figsize=(style.WIDTH, height), sharex=True,
            height_ratios=(3.2, 0.36 * len(shown) + 0.3),
        )  # fmt: skip
        for kind in shown:
            _line(top, scores(results, kind), drawn[kind.name], band=kind is shown[0])
        top.set_title(f"Test {score_name(results)}, {results.config['solvers'][0]} classifier")
        top.yaxis.set_major_formatter(PercentFormatter(1))
        levels = _levels(results)
        for _, y, dash in levels:
            top.axhline(y, color=style.MUTED, ls=dash, lw=1.3, zorder=1)
        _targets(top, bottom, results, shown, [drawn[kind.name] for kind in shown])
        _dimension_axis(bottom, results.config["dims"])
        bottom.set_xlabel("Dimension of the random subspace")
        handles = [_handle(kind, drawn[kind.name]) for kind in shown]
        handles += [_rule_handle(name, dash) for name, _, dash in levels]
        handles += [_rule_handle("targets", DOTS), *_goal_handles(results)]
        figure.legend(handles=handles, loc="outside upper left", ncols=3, **_LEGEND)
        style.settle(figure)
    return figure


_LEGEND: Any = {
    "frameon": False, "fontsize": 8.5, "handlelength": 2.4, "columnspacing": 1.2,
    "borderaxespad": 0.1, "labelspacing": 0.35,
}  # fmt: skip


def _kind_strokes(count: int) -> list[dict[str, Any]]:
    """Return how the kinds of random subspace are drawn."""
    return [
        {"color": color, "marker": marker, "ls": dash, "lw": 1.5, "ms": 4}
        for color, marker, dash in style.strokes(count)
    ]


def _strokes(results: Results) -> list[tuple[Family, dict[str, Any]]]:
    """Return how every family is drawn: kinds as lines, LoRA as a thick one, methods as points."""
    count = len(kinds(results))
    drawn: list[tuple[Family, dict[str, Any]]] = list(
        zip(kinds(results), _kind_strokes(count), strict=True)
    )
    open_: dict[str, Any] = {"color": style.INK, "mfc": "white", "mew": 1.2}
    i = 0
    for family in families(results)[count:]:
        if family.kernel == "lora":
            drawn.append((family, {**open_, "marker": "o", "ls": "-", "lw": 2.2, "ms": 5.5}))
            continue
        marker = _METHOD_MARKERS[i % len(_METHOD_MARKERS)]
        drawn.append((family, {**open_, "marker": marker, "ls": "none", "ms": 8}))
        i += 1
    return drawn


def _line(axes: Axes, curve: Curve, drawn: Mapping[str, Any], *, band: bool) -> None:
    """Draw one family: means, and if ``band`` their intervals where there are any."""
    x, means = list(curve), [value.mean for value in curve.values()]
    axes.plot(x, means, zorder=3, **drawn)
    if not band:
        return
    low, high = (
        np.clip([getattr(value, end) for value in curve.values()], 0.0, 1.0)
        for end in ("low", "high")
    )
    if len(x) > 1:
        axes.fill_between(x, low, high, color=drawn["color"], alpha=0.16, lw=0)
    elif np.isfinite(low).all():
        axes.vlines(x, low, high, color=drawn["color"], alpha=0.5)


def _levels(results: Results) -> list[tuple[str, float, Any]]:
    """Return name, score and dash of what the scores are compared with."""
    return [
        ("full kernel", full_score(results).mean, "-"),
        ("zero-shot", zero_shot(results).mean, DASHES),
        ("constant answer", constant(results).mean, (0, (6, 1.5, 1.5, 1.5))),
    ]


def _handle(family: Family, drawn: Mapping[str, Any]) -> Line2D:
    """Return the legend's sample of a family."""
    return Line2D([], [], label=family.name, **drawn)


def _rule_handle(name: str, dash: Any) -> Line2D:
    """Return the legend's sample of a level."""
    return Line2D([], [], label=name, color=style.MUTED, ls=dash, lw=1.3)


def _goal_handles(results: Results) -> list[Line2D]:
    """Return the legend's samples of the two goals."""
    share = f"{results.config['share']:.0%}"
    sample: dict[str, Any] = {"color": style.INK, "marker": "o", "ls": "none", "ms": 5}
    return [
        Line2D([], [], label=f"{share} of the score", **sample),
        Line2D([], [], label=f"{share} of the gain", mfc="white", **sample),
    ]


def _parameter_axis(axes: Axes, results: Results) -> None:
    """Give the shared axis of trained parameters, from the smallest to full fine-tuning."""
    axes.set_xscale("log")
    low, high = min(results.config["dims"]), trained_in_full(results)
    axes.set_xlim(low / 1.6, high * 1.6)
    axes.xaxis.set_major_locator(LogLocator(10, numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.set_xlabel("Trained parameters")


def _dimension_axis(axes: Axes, dims: Sequence[int]) -> None:
    """Give a log2 axis of dimensions with as many ticks as there is room for."""
    axes.set_xscale("log", base=2)
    axes.set_xlim(dims[0] / 1.5, dims[-1] * 1.5)
    every = -(-len(dims) // 8)
    axes.xaxis.set_major_locator(FixedLocator(list(dims)[(len(dims) - 1) % every :: every]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def short(value: float) -> str:
    """Return 16, 4k (4,096 is written 4096), 10M: a number for an axis."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:g}"


def _targets(
    top: Axes,
    bottom: Axes,
    results: Results,
    shown: Sequence[Family],
    drawn: Sequence[Mapping[str, Any]],
) -> None:
    """Draw the targets, and below them where each kind reaches them, with intervals."""
    bottom.set_title("Where the mean score reaches the targets")
    edge = results.config["dims"][-1] * 1.25
    for goal, shift, filled in zip(GOALS, (-0.16, 0.16), (True, False), strict=True):
        for i, (kind, stroke) in enumerate(zip(shown, drawn, strict=True)):
            found = needed(results, kind, goal)
            if i == 0 and not np.isnan(found.size):
                top.axhline(found.target, color=style.MUTED, ls=DOTS, lw=1.3, zorder=1)
            if np.isnan(found.size):
                continue
            color, y = stroke["color"], i + shift
            if not np.isnan(found.low):
                bottom.hlines(y, found.low, min(found.high, edge), color=color, lw=1.4)
            marker = stroke["marker"] if found.found else ">"
            face = color if filled else "white"
            bottom.plot(min(found.size, edge), y, marker=marker, color=color, mfc=face, ms=6)
    bottom.set_yticks(range(len(shown)), [kind.name for kind in shown])
    bottom.set_ylim(len(shown) - 0.5, -0.5)
    bottom.grid(visible=False, axis="y")
    bottom.tick_params(axis="y", length=0)

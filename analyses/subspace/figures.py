"""The figures of ``analyze subspace``, each drawn from what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator, PercentFormatter

from ..engine.pooling import Pooled
from ..show import style
from ..show.axes import DASHES, DOTS, LEGEND, curve, key, level, points
from .distortion import NORMAL
from .findings import GOALS, Curve, Distortion, Family, Findings

_METHOD_MARKERS = ("*", "X", "<", ">", "d", "p", "h", "8", "H")
_FAN = "#0072B2"
_THEORY = "#B04A00"
_TICKS = (-1.0, -0.1, -0.01, 0.0, 0.01, 0.1, 1.0)


def preservation(found: Findings) -> Figure:
    """CKA, equal predictions and test score over the trained parameters, all methods together."""
    config, handles = found.config, [*_kind_keys(found)]
    lora: Any = {"lw": 2.2, "ms": 5.5, "mfc": "white", "mew": 1.2}
    handles += [key(each.name, color=style.INK, marker="o", **lora) for each in found.lora]
    with style.figure_style():
        figure, column = style.subplots(3, 1, figsize=(style.WIDTH, 8.4), sharex=True)
        panels: list[tuple[str, Callable[[Family], Curve], float | None]] = [
            ("CKA with the full kernel", lambda each: each.cka, config.min_cka),
            (
                "Test predictions equal to the full kernel's",
                lambda each: each.same,
                config.min_agreement,
            ),
            (_score_title(found), lambda each: each.scores, None),
        ]
        for axes, (title, values, asked) in zip(column, panels, strict=True):
            _kinds(axes, found, values)
            for each in found.lora:
                stroke = style.Stroke(style.INK, "o", "-")
                curve(axes, values(each), stroke, **lora)
            for i, each in enumerate(found.methods):
                at = values(each)
                points(
                    axes, list(at), list(at.values()), color=style.INK, marker=_marker(i),
                    filled=False, s=64, bounds=(0.0, 1.0), bar={"alpha": 0.5},
                )  # fmt: skip
            if asked is not None:
                level(axes, asked, DOTS)
            axes.set_title(title)
        for axes in column[1:]:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        handles += [
            key(each.name, color=style.INK, marker=_marker(i), ls="", ms=8, mfc="white")
            for i, each in enumerate(found.methods)
        ]
        handles += [*_levels(column[-1], found), _level_key("asked for", DOTS)]
        column[-1].set_xscale("log")
        column[-1].set_xlim(min(config.dims) / 1.6, found.trained_in_full * 1.6)
        _ticks(column[-1], LogLocator(10, numticks=12))
        column[-1].set_xlabel("Trained parameters")
        figure.legend(handles=handles, loc="outside upper left", ncols=3, **LEGEND)
        style.settle(figure)
    return figure


def dimension(found: Findings) -> Figure:
    """Test score over the dimension, and the dimensions at which it reaches its targets."""
    share, dims, rows = f"{found.config.share:.0%}", found.config.dims, len(found.kinds)
    with style.figure_style():
        figure, (top, bottom) = style.subplots(
            2, 1, figsize=(style.WIDTH, 4.5 + 0.36 * rows), sharex=True,
            height_ratios=(3.2, 0.36 * rows + 0.3),
        )  # fmt: skip
        _kinds(top, found, lambda each: each.scores)
        top.set_title(_score_title(found))
        top.yaxis.set_major_formatter(PercentFormatter(1))
        handles = [*_kind_keys(found), *_levels(top, found), _level_key("targets", DOTS)]
        for each in (found.needed, found.gain):
            if each.makes_sense:
                level(top, each.target, DOTS)
        _reached(bottom, found, dims[-1] * 1.25)
        bottom.set_xscale("log", base=2)
        bottom.set_xlim(dims[0] / 1.5, dims[-1] * 1.5)
        _ticks(bottom, FixedLocator(_spread(dims, 8)))
        bottom.set_xlabel("Dimension of the random subspace")
        sample: Any = {"color": style.INK, "marker": "o", "ls": "", "ms": 5}
        handles += [key(f"{share} of the score", **sample)]
        handles += [key(f"{share} of the gain", mfc="white", **sample)]
        figure.legend(handles=handles, loc="outside upper left", ncols=3, **LEGEND)
        style.settle(figure)
    return figure


def distortion(found: Findings) -> Figure:
    """Quantiles of the distortion over the dimension, a row a kind; raw and centered gradients."""
    shown, dims = found.kinds, found.config.dims
    with style.figure_style():
        figure, grid = style.subplots(
            len(shown), 2, figsize=(style.WIDTH, 1.75 * len(shown) + 1.3), sharex=True,
            sharey=True, squeeze=False,
        )  # fmt: skip
        tallest = 0.0
        for row, kind in zip(grid, shown, strict=True):
            for axes, each in zip(row, kind.distortions, strict=True):
                tallest = max(tallest, _fan(axes, each))
                axes.set_title(f"{kind.name}, {each.form}", size=9.5)
        _signed_log_axis(grid[0][0], dims[-1], 1.25 * tallest)
        for axes in grid.flat:
            axes.set_xscale("log", base=2)
            _ticks(axes, FixedLocator(_spread(dims, 4)))
        figure.supxlabel("Dimension of the random subspace", size=10)
        handles = [
            Patch(color=_FAN, alpha=0.22, label="5 to 95 % of the pairs"),
            Patch(color=_FAN, alpha=0.6, label="25 to 75 %"),
            key("median", color=_FAN, marker="o", ms=2.5, lw=1.3),
            key("variance formula, ±σ", color=_THEORY, ls="-", lw=1.2),
            key("±1.96 σ", color=_THEORY, ls=DASHES, lw=1.2),
            key("JL bound, 95 % sure", color=_THEORY, ls=DOTS, lw=1.2),
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=2, **LEGEND)
        style.settle(figure)
    return figure


def short(value: float) -> str:
    """Return 16, 4k (4,096 is written 4096), 10M: a number for an axis."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:g}"


def _score_title(found: Findings) -> str:
    return f"Test {found.score}, {found.judge} classifier"


def _marker(i: int) -> str:
    """Return the marker of the i-th other method."""
    return _METHOD_MARKERS[i % len(_METHOD_MARKERS)]


def _kinds(axes: Axes, found: Findings, values: Callable[[Family], Curve]) -> None:
    """Draw a line for each kind of random subspace, and the first one's intervals.

    Those of all kinds would hide each other.
    """
    for kind, stroke in zip(found.kinds, style.strokes(len(found.kinds)), strict=True):
        curve(axes, values(kind), stroke, band=kind is found.first, lw=1.5, ms=4)


def _kind_keys(found: Findings) -> list[Line2D]:
    """Return the legend's samples of the kinds."""
    return [
        key(kind.name, color=stroke.color, marker=stroke.marker, ls=stroke.dash, lw=1.5, ms=4)
        for kind, stroke in zip(found.kinds, style.strokes(len(found.kinds)), strict=True)
    ]


def _levels(axes: Axes, found: Findings) -> list[Line2D]:
    """Draw what scores are compared with; return the legend's samples."""
    handles = []
    for name, value, dash in (
        ("full kernel", found.full_score, "-"),
        ("zero-shot", found.zero_shot, DASHES),
        ("constant answer", found.constant, (0, (6, 1.5, 1.5, 1.5))),
    ):
        level(axes, value.mean, dash)
        handles.append(_level_key(name, dash))
    return handles


def _level_key(name: str, dash: Any) -> Line2D:
    return key(name, color=style.MUTED, ls=dash, lw=1.3)


def _ticks(axes: Axes, major: Any) -> None:
    """Give the horizontal axis these ticks only, with short numbers."""
    axes.xaxis.set_major_locator(major)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _spread(dims: Sequence[int], most: int) -> list[int]:
    """Return at most so many of the dimensions, evenly spread, with the last one."""
    every = -(-len(dims) // most)
    return list(dims)[(len(dims) - 1) % every :: every]


def _reached(axes: Axes, found: Findings, edge: float) -> None:
    """Draw where each kind reaches the targets, with intervals; beyond ``edge`` a triangle."""
    axes.set_title("Where the mean score reaches the targets")
    for goal, shift in zip(GOALS, (-0.16, 0.16), strict=True):
        strokes = style.strokes(len(found.kinds))
        for i, (kind, stroke) in enumerate(zip(found.kinds, strokes, strict=True)):
            each = kind.needed[goal, found.judge]
            if each.makes_sense:
                size, low, high = (min(end, edge) for end in (each.size, each.low, each.high))
                points(
                    axes, [Pooled(size, low, high, 0, "examples")], [i + shift],
                    color=stroke.color, marker=stroke.marker if each.found else ">",
                    filled=goal == "score", s=36, bar={"lw": 1.4},
                )  # fmt: skip
    axes.set_yticks(range(len(found.kinds)), [kind.name for kind in found.kinds])
    axes.set_ylim(len(found.kinds) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _fan(axes: Axes, found: Distortion) -> float:
    """Draw measured quantiles and theory; return how far they reach from 0."""
    x = list(found.shape["sigma"])
    low, lower, middle, upper, high, sigma, epsilon = (
        np.array([value.mean for value in values.values()]) for values in found.shape.values()
    )
    axes.fill_between(x, low, high, color=_FAN, alpha=0.22, lw=0)
    axes.fill_between(x, lower, upper, color=_FAN, alpha=0.45, lw=0)
    axes.plot(x, middle, color=_FAN, marker="o", ms=2.5, lw=1.3)
    lines: Sequence[tuple[Any, Any]] = [(sigma, "-"), (NORMAL * sigma, DASHES), (epsilon, DOTS)]
    for reach, dash in lines:
        for sign in (-1, 1):
            axes.plot(x, sign * reach, color=_THEORY, ls=dash, lw=1.2)
    return float(np.nanmax(np.abs(np.concatenate([low, high, NORMAL * sigma, epsilon]))))


def _signed_log_axis(axes: Axes, last: int, reach: float) -> None:
    """Give a vertical axis that is logarithmic away from 0, on both sides of it."""
    width = float(last) ** -0.5 / 2
    axes.set_yscale("asinh", linear_width=width)
    ticks = [tick for tick in _TICKS if tick == 0 or (width < abs(tick) <= reach)]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    axes.set_ylim(-reach, reach)

"""Distortion of inner products over the dimension, with the bounds that theory gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ..engine.run_folder import Results
from ..show import style
from ..show.panels import DASHES, DOTS
from .distortion import NORMAL
from .numbers import Family, kinds
from .numbers import distortion as numbers

__all__ = ["distortion"]

_FAN = "#0072B2"
_THEORY = "#B04A00"
_TICKS = (-1.0, -0.1, -0.01, 0.0, 0.01, 0.1, 1.0)


def distortion(results: Results) -> Figure:
    """Quantiles of the distortion over the dimension, a row a kind; raw and centred gradients."""
    shown, dims = kinds(results), results.config["dims"]
    with style.figure_style():
        figure, grid = style.subplots(
            len(shown), 2, figsize=(style.WIDTH, 1.75 * len(shown) + 1.3), sharex=True,
            sharey=True, squeeze=False,
        )  # fmt: skip
        tallest = 0.0
        for row, kind in zip(grid, shown, strict=True):
            for axes, centred in zip(row, (False, True), strict=True):
                tallest = max(tallest, _fan(axes, results, kind, centred=centred))
                axes.set_title(f"{kind.name}, {'centred' if centred else 'raw'}", size=9.5)
        _signed_log_axis(grid[0][0], dims[-1], 1.25 * tallest)
        for axes in grid.flat:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_locator(FixedLocator(list(dims)[(len(dims) - 1) % 3 :: 3]))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        figure.supxlabel("Dimension of the random subspace", size=10)
        figure.legend(handles=_legend(), loc="outside upper left", ncols=2, frameon=False,
                      fontsize=8.5, borderaxespad=0.1, labelspacing=0.35)  # fmt: skip
        style.settle(figure)
    return figure


def _fan(axes: Axes, results: Results, kind: Family, *, centred: bool) -> float:
    """Draw measured quantiles and theory; return how far they reach from 0."""

    def means(what: str) -> tuple[list[int], npt.NDArray[np.float64]]:
        found = numbers(results, kind, what, centred=centred)
        return list(found), np.array([value.mean for value in found.values()])

    x, sigma = means("sigma")
    low, lower, middle, upper, high = (means(f"q{q}")[1] for q in ("05", "25", "50", "75", "95"))
    epsilon = means("epsilon")[1]
    axes.fill_between(x, low, high, color=_FAN, alpha=0.22, lw=0)
    axes.fill_between(x, lower, upper, color=_FAN, alpha=0.45, lw=0)
    axes.plot(x, middle, color=_FAN, marker="o", ms=2.5, lw=1.3)
    lines: list[tuple[npt.NDArray[np.float64], Any]] = [
        (sigma, "-"), (NORMAL * sigma, DASHES), (epsilon, DOTS),
    ]  # fmt: skip
    for reach, dash in lines:
        for sign in (-1, 1):
            axes.plot(x, sign * reach, color=_THEORY, ls=dash, lw=1.2)
    reached = [low, high, NORMAL * sigma, epsilon]
    return float(np.nanmax(np.abs(np.concatenate(reached))))


def _signed_log_axis(axes: Axes, last: int, reach: float) -> None:
    """Give a vertical axis that is logarithmic away from 0, on both sides of it."""
    width = float(last) ** -0.5 / 2
    axes.set_yscale("asinh", linear_width=width)
    ticks = [tick for tick in _TICKS if tick == 0 or (width < abs(tick) <= reach)]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    axes.set_ylim(-reach, reach)


def _legend() -> list[Any]:
    """Return samples of what is drawn, measured first."""
    return [
        Patch(color=_FAN, alpha=0.22, label="5 to 95 % of the pairs"),
        Patch(color=_FAN, alpha=0.6, label="25 to 75 %"),
        Line2D([], [], color=_FAN, marker="o", ms=2.5, lw=1.3, label="median"),
        Line2D([], [], color=_THEORY, ls="-", lw=1.2, label="variance formula, ±σ"),
        Line2D([], [], color=_THEORY, ls=DASHES, lw=1.2, label="±1.96 σ"),
        Line2D([], [], color=_THEORY, ls=DOTS, lw=1.2, label="JL bound, 95 % sure"),
    ]

"""The figure of a verification: predicted against trained score, configuration by configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from ..show import style
from ..show.axes import DOTS, LEGEND, Label, key, label_points, level, points, square
from .findings import Configuration, Findings

_MOST = len(style.GLYPHS)
_REST = "other methods"


def predicted_against_trained(found: Findings) -> Figure:
    """Draw every configuration at what its kernel predicted and what training gave."""
    grouped = families(found.configurations)
    strokes = style.strokes(len(grouped))
    low, high = _reach(found)
    widest = max(_widths(found), default=0.0)
    bars_fit = widest < (high - low) / 2
    labels = []
    with style.figure_style():
        figure, axes = style.subplots(figsize=(style.WIDTH, style.WIDTH + 0.4))
        square(axes, low, high)
        level(axes, found.configurations[0].start.mean, DOTS)
        for members, stroke in zip(grouped.values(), strokes, strict=True):
            points(
                axes,
                [each.predicted if bars_fit else each.predicted.mean for each in members],
                [each.trained if bars_fit else each.trained.mean for each in members],
                color=stroke.color,
                marker=stroke.marker, bounds=(0.0, 1.0), bar={"alpha": 0.3, "lw": 1.1},
            )  # fmt: skip
            labels += [Label(*_place(each), each.label, stroke.color) for each in members]
        ring = {"marker": "o", "ls": "", "mfc": "none", "mec": style.INK, "mew": 1.2}
        if found.advised is not None:
            axes.plot(*_place(found.advised), ms=11.5, zorder=4, **ring)
        if not bars_fit:
            axes.text(
                0.98, 0.02, f"intervals: up to ±{100 * widest:.0f} points, wider than this frame",
                transform=axes.transAxes, ha="right", va="bottom", fontsize=7.5, color=style.MUTED,
            )  # fmt: skip
        axes.set_xlabel(f"Test {found.score} predicted from the kernel")
        axes.set_ylabel(f"Test {found.score} after fine-tuning")
        handles = [
            key(name, color=stroke.color, marker=stroke.marker, ls="")
            for name, stroke in zip(grouped, strokes, strict=True)
        ]
        handles += [
            key("advised" if found.advice.qualifies else "closest", ms=10, **ring),
            key("predicted = trained", color=style.MUTED, lw=1.2),
            key("before training", color=style.MUTED, ls=DOTS, lw=1.3),
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=2, **LEGEND)
        style.settle(figure)
        label_points(axes, labels, [_place(each) for each in found.configurations])
    return figure


def families(shown: Sequence[Configuration]) -> dict[str, list[Configuration]]:
    """Return the configurations of each family, in the study's order.

    A figure tells six families apart; beyond that the last ones are joined.
    """
    found: dict[str, list[Configuration]] = {}
    for each in shown:
        found.setdefault(each.family, []).append(each)
    if len(found) <= _MOST:
        return found
    kept = list(found.items())
    rest = [each for _, members in kept[_MOST - 1 :] for each in members]
    return {**dict(kept[: _MOST - 1]), _REST: rest}


def _place(each: Configuration) -> tuple[float, float]:
    return each.predicted.mean, each.trained.mean


def _widths(found: Findings) -> list[float]:
    """Return half the width of every interval of a score."""
    scores = [score for each in found.configurations for score in (each.predicted, each.trained)]
    halves = [(score.high - score.low) / 2 for score in scores]
    return [half for half in halves if math.isfinite(half)]


def _reach(found: Findings) -> tuple[float, float]:
    """Return from where to where both axes go: around the points, whatever the intervals."""
    shown = [found.configurations[0].start.mean]
    shown += [at for each in found.configurations for at in _place(each)]
    room = max(0.15 * (max(shown) - min(shown)), 0.005)
    return min(shown) - room, max(shown) + room

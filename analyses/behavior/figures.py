"""The figures of ``analyze behavior``, each drawn from saved results alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator, PercentFormatter

from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show import style
from ..show.panels import DASHES, DOTS
from ..show.study_numbers import score_name
from .numbers import (
    Looked,
    Margins,
    curve,
    end_errors,
    feature,
    looked,
    margins,
    rates,
    score,
    seeds,
    subspaces,
)
from .text import rate

__all__ = ["FIGURES", "NAMES"]

NAMES = {
    "zero-shot": "Zero-shot",
    "kernel": "Kernel classifier",
    "linearized": "Linearized at the end",
    "trained": "Fine-tuned",
}

_LEGEND: Any = {
    "frameon": False, "fontsize": 8.5, "handlelength": 2.4, "columnspacing": 1.2,
    "borderaxespad": 0.1, "labelspacing": 0.35,
}  # fmt: skip
_LABELS = ("#0072B2", "#D55E00", "#00805C", "#A8457F", "#6B5B00", "#1f2328")


def linearization(results: Results) -> Figure:
    """Test scores before training, of the kernel, of the linearization and of fine-tuning."""
    with style.figure_style():
        figure, axes = style.subplots(figsize=(style.WIDTH, 2.3))
        if not looked(results):
            return _nothing(figure, axes)
        hatches = ("", "///", "...", "")
        greys = ("#b9c0c7", "#56B4E9", "#E69F00", "#1f2328")
        for i, (what, name) in enumerate(NAMES.items()):
            found = score(results, what)
            axes.barh(
                i, found.mean, color=greys[i], hatch=hatches[i], edgecolor="white", height=0.68
            )
            edge = found.mean
            if np.isfinite(found.low):
                low, high = max(found.low, 0.0), min(found.high, 1.0)
                axes.plot([low, high], [i, i], color=style.INK, lw=3.2, solid_capstyle="butt")
                axes.plot([low, high], [i, i], color="white", lw=1.4, solid_capstyle="butt")
                edge = max(high, edge)
            axes.annotate(
                fmt.percent(found.mean), (edge, i), xytext=(5, 0), textcoords="offset points",
                va="center", fontsize=9,
            )  # fmt: skip
            axes.text(-0.015, i, name, ha="right", va="center", fontsize=9.5)
        axes.axvline(score(results, "zero-shot").mean, color=style.MUTED, ls=DOTS, lw=1.3)
        axes.set(xlim=(0, 1.13), ylim=(3.6, -0.6), yticks=[], title=f"Test {score_name(results)}")
        axes.set_xticks(np.linspace(0, 1, 5))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.spines.left.set_visible(False)
    return figure


def features(results: Results) -> Figure:
    """How far the kernel goes from its start, against the step of training."""
    with style.figure_style():
        figure, (top, bottom) = style.subplots(2, 1, figsize=(style.WIDTH, 4.8), sharex=True)
        if not looked(results):
            return _nothing(figure, top)
        run = looked(results)[0]
        panels: list[tuple[Axes, dict[str, str]]] = [
            (top, {"cka": "CKA (centred)", "alignment": "uncentred"}),
            (
                bottom,
                {
                    "relative_frobenius": "raw",
                    "relative_frobenius_scaled": "best scale",
                    "relative_frobenius_centred": "centred",
                },
            ),
        ]
        ends = []
        for axes, lines in panels:
            labels = []
            for (name, label), stroke in zip(lines.items(), style.strokes(len(lines)), strict=True):
                found = feature(results, name, run.data_seed)
                x, y = list(found), [value.mean for value in found.values()]
                low, high = ([getattr(v, end) for v in found.values()] for end in ("low", "high"))
                axes.fill_between(x, low, high, color=stroke.color, alpha=0.14, lw=0)
                axes.plot(x, y, color=stroke.color, marker=stroke.marker, ls=stroke.dash)
                labels.append(
                    (x[-1], y[-1], f"{style.GLYPHS[stroke.marker]} {label}", stroke.color)
                )
            ends.append((axes, labels))
            axes.axvline(run.best_step, color=style.MUTED, ls=DASHES, lw=1.1, zorder=1)
        config = results.config
        for axes, level in ((top, config["cka"]), (bottom, config["relative_change"])):
            axes.axhline(level, color=style.MUTED, ls=DOTS, lw=1.3, zorder=1)
        top.set(title="Alignment with the kernel at the start")
        top.set_ylim(top=1.02)
        bottom.set(title="Relative difference from it (Frobenius)", xlabel="Step of training")
        bottom.set_ylim(bottom=0)
        bottom.set_xlim(0, config["steps"] * 1.42)
        bottom.set_xticks(np.linspace(0, config["steps"], 5).round())
        handles = [
            Line2D([], [], color=style.MUTED, ls=DASHES, lw=1.1, label="best step on dev"),
            Line2D([], [], color=style.MUTED, ls=DOTS, lw=1.3, label="threshold"),
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=2, **_LEGEND)
        style.settle(figure)
        for axes, labels in ends:
            style.direct_labels(axes, labels)
    return figure


def trajectories(results: Results) -> Figure:
    """Predicted against real logits: over the steps, and of all test examples at the end."""
    with style.figure_style():
        figure, (top, bottom) = style.subplots(
            2, 1, figsize=(style.WIDTH, 6.6), height_ratios=(1, 1.15)
        )
        if not looked(results):
            return _nothing(figure, top)
        run = looked(results)[0]
        _over_steps(top, margins(results, run))
        _at_the_end(bottom, results, run, margins(results, run, ends=True))
    return figure


def _over_steps(axes: Axes, found: Margins) -> None:
    """Draw the margins of a few examples over the steps, real and predicted."""
    drawn = _few(found)
    for example in drawn:
        real = found.real[example]
        color, marker = _label_style(found.labels[example])
        every = max(1, len(real) // 5)
        axes.plot(
            found.steps, real, color=color, lw=1.5, alpha=0.9, marker=marker, ms=5, markevery=every
        )
        for kind, dash in ((found.predicted, DOTS), (found.linearized, DASHES)):
            if example in kind:
                axes.plot(found.steps, kind[example], color=color, ls=dash, lw=1.5, alpha=0.9)
    predicted = [found.predicted[each] for each in drawn if each in found.predicted]
    low, high = _limits([found.real[each] for each in drawn], predicted)
    axes.set_ylim(low, high)
    axes.axhline(0, color=style.MUTED, lw=0.8, zorder=1)
    axes.set(title="Margin of some test examples", xlabel="Step of training")
    handles = [Line2D([], [], color=style.INK, lw=1.5, label="real")]
    handles += [Line2D([], [], color=style.INK, ls=DOTS, lw=1.5, label="from the kernel")]
    if found.linearized:
        handles.append(Line2D([], [], color=style.INK, ls=DASHES, lw=1.5, label="f_lin trained"))
    handles += [
        Line2D([], [], color=color, marker=marker, ms=5, ls="none", label=f"label {label}")
        for label in sorted({found.labels[example] for example in drawn})
        for color, marker in (_label_style(label),)
    ]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.1), ncols=3, **_LEGEND)


def _label_style(label: int) -> tuple[str, str]:
    """Return colour and marker of a label: in grey the marker tells it."""
    markers = list(style.GLYPHS)
    return _LABELS[label % len(_LABELS)], markers[label % len(markers)]


def _few(found: Margins) -> list[str]:
    """Return as many examples a label, in order, as make about six lines."""
    labels = {found.labels[example] for example in found.real}
    each = max(1, 6 // max(len(labels), 1))
    return [
        example
        for label in sorted(labels)
        for example in [name for name in found.real if found.labels[name] == label][:each]
    ]


def _limits(real: list[np.ndarray], predicted: list[np.ndarray]) -> tuple[float, float]:
    """Return limits that hold the real lines, and the predicted ones as far as twice that."""
    values = np.concatenate(real)
    low, high = float(values.min()), float(values.max())
    room = 0.75 * max(high - low, 1e-9)
    every = np.concatenate([values, *predicted])
    low, high = max(float(every.min()), low - room), min(float(every.max()), high + room)
    edge = 0.04 * (high - low)
    return low - edge, high + edge


def _at_the_end(axes: Axes, results: Results, run: Looked, found: Margins) -> None:
    """Draw predicted against real change of the margin at the last step."""
    kinds = [(found.predicted, "from the kernel", "o"), (found.linearized, "f_lin trained", "^")]
    shown = [each for each in kinds if each[0]]
    span = [0.0]
    for i, (kind, label, marker) in enumerate(shown):
        names = [name for name in kind if name in found.real]
        x = np.array([found.real[name][-1] - found.real[name][0] for name in names])
        y = np.array([kind[name][-1] - kind[name][0] for name in names])
        color = _LABELS[i]
        axes.plot(x, y, ls="none", marker=marker, ms=4, color=color, alpha=0.6, mew=0, label=label)
        span += [*x, *y]
    ends = [min(span), max(span)]
    axes.axline((0, 0), slope=1, color=style.MUTED, lw=1.1, zorder=1)
    edge = 0.04 * (ends[1] - ends[0] or 1.0)
    axes.set(xlim=(ends[0] - edge, ends[1] + edge), ylim=(ends[0] - edge, ends[1] + edge))
    axes.set_box_aspect(0.8)
    axes.set_title(f"All test examples: change by step {results.config['steps']}")
    axes.set(xlabel="Real change of the margin", ylabel="Predicted change")
    if len(shown) > 1:
        axes.legend(loc="upper left", **_LEGEND)
    elif not shown:
        axes.text(0.5, 0.5, "the prediction diverged", transform=axes.transAxes, ha="center")


def errors(results: Results) -> Figure:
    """Error of the kernel's prediction against step, learning rate and width of the subspace."""
    sizes = subspaces(results)
    wide = len(sizes) > 1
    with style.figure_style():
        figure, column = style.subplots(
            3 if wide else 2, 1, figsize=(style.WIDTH, 7.6 if wide else 5.2)
        )
        seed = seeds(results)[0]
        _error_over_steps(column[0], results, seed)
        _error_over_rates(column[1], results, seed)
        if wide:
            _error_over_widths(column[2], results, seed)
        for axes in column:
            axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(_share))
    return figure


def _share(value: float, _: object) -> str:
    return f"{100 * value:g}%"


def _error_over_steps(axes: Axes, results: Results, seed: int) -> None:
    """Draw one line a learning rate of what is trained."""
    name = results.config["subspace"]
    tried = rates(results, seed, name)
    colors = style.rank_colors(len(tried))
    markers = list(style.GLYPHS)
    for i, each in enumerate(tried):
        cell: dict[str, Any] = {"data_seed": seed, "subspace": name, "learning_rate": each}
        found = curve(results, "error.kernel", split="test", **cell)
        if found:
            axes.plot(
                list(found), list(found.values()), color=colors[i],
                marker=markers[i % len(markers)], ms=4, label=rate(each),
            )  # fmt: skip
        exact = curve(results, "error.linearized", split="test", **cell)
        if exact:
            axes.plot(
                list(exact), list(exact.values()), color=colors[i], ls=DASHES,
                label=f"{rate(each)}, f_lin trained",
            )  # fmt: skip
    axes.set(title="Test error of the prediction, by learning rate", yscale="log")
    axes.set_xlabel("Step of training")
    if axes.lines:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), **_LEGEND)


def _error_over_rates(axes: Axes, results: Results, seed: int) -> None:
    """Draw one line a subspace, at the last step."""
    sizes = subspaces(results)
    drawn = list(sizes)[:6]
    for name, stroke in zip(drawn, style.strokes(len(drawn)), strict=True):
        found = end_errors(results, seed, name)
        if found:
            axes.plot(
                list(found), list(found.values()), color=stroke.color, marker=stroke.marker,
                ls=stroke.dash, label=name.removeprefix("random:"),
            )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="Learning rate")
    axes.set_title(f"The same at step {results.config['steps']}, by subspace")
    tried = sorted({each for name in drawn for each in end_errors(results, seed, name)})
    if tried:
        _rate_axis(axes, tried)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), **_LEGEND)


def _rate_axis(axes: Axes, tried: list[float]) -> None:
    """Give an axis of learning rates a tick at up to five of those tried."""
    every = -(-len(tried) // 5)
    axes.xaxis.set_major_locator(FixedLocator(tried[::every]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: rate(value)))


def _error_over_widths(axes: Axes, results: Results, seed: int) -> None:
    """Draw one line a learning rate, over the trained parameters."""
    sizes = sorted(subspaces(results).items(), key=lambda pair: pair[1])
    found = {name: end_errors(results, seed, name) for name, _ in sizes}
    shared = sorted({each for values in found.values() for each in values})[:6]
    for each, color, marker in zip(
        shared, style.rank_colors(len(shared)), list(style.GLYPHS), strict=False
    ):
        points = [(size, found[name][each]) for name, size in sizes if each in found[name]]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=color, marker=marker, label=rate(each))
    axes.set(xscale="log", yscale="log", xlabel="Trained parameters")
    axes.set_title("The same, by width of the subspace")
    axes.xaxis.set_minor_locator(NullLocator())
    if any(found.values()):
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), **_LEGEND)


def _nothing(figure: Figure, axes: Axes) -> Figure:
    """Say that there is nothing to draw."""
    axes.text(0.5, 0.5, "every run diverged", transform=axes.transAxes, ha="center")
    return figure


FIGURES: Mapping[str, Callable[[Results], Figure]] = {
    "linearization": linearization,
    "features": features,
    "trajectories": trajectories,
    "errors": errors,
}
"""The figures by name."""

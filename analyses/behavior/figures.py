"""The figures of ``analyze behavior``, each drawn from its findings alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator, PercentFormatter

from ..show import axes as drawing
from ..show import numbers as fmt
from ..show import style
from ..show.axes import DASHES, DOTS, LEGEND
from .findings import Findings, Inside, Margins, Trained
from .page import NAMES

_LABELS = ("#0072B2", "#D55E00", "#00805C", "#A8457F", "#6B5B00", "#1f2328")
_ALIGNMENT = {"cka": "CKA (centered)", "alignment": "uncentered"}
_DIFFERENCE = {
    "relative_frobenius": "raw",
    "relative_frobenius_scaled": "best scale",
    "relative_frobenius_centred": "centered",
}


def linearization(found: Findings) -> Figure:
    """Test scores before training, of the kernel, of the linearization and of fine-tuning."""
    with style.figure_style():
        figure, axes = style.subplots(figsize=(style.WIDTH, 2.3))
        if found.inside is None:
            return drawing.nothing(figure, axes, "every run diverged")
        scores = list(found.inside.scores.values())
        mean, low, high = drawing.reach(scores)
        sns.barplot(
            x=mean, y=list(NAMES.values()), ax=axes, hue=list(NAMES.values()), legend=False,
            palette=["#b9c0c7", "#56B4E9", "#E69F00", "#1f2328"], edgecolor="white", width=0.68,
        )  # fmt: skip
        for bar, hatch in zip(axes.containers, ("", "///", "...", ""), strict=True):
            bar[0].set_hatch(hatch)
        for color, width in ((style.INK, 3.2), ("white", 1.4)):
            axes.hlines(range(len(mean)), low, high, color=color, lw=width)
        for at, (value, end) in enumerate(zip(mean, np.fmax(mean, high), strict=True)):
            axes.annotate(
                fmt.percent(float(value)), (end, at), xytext=(5, 0), textcoords="offset points",
                va="center", fontsize=9,
            )  # fmt: skip
        axes.axvline(mean[0], color=style.MUTED, ls=DOTS, lw=1.3)
        axes.set(xlim=(0, 1.13), ylabel="", title=f"Test {found.score_name}")
        axes.set_xticks(np.linspace(0, 1, 5))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.tick_params(axis="y", length=0)
        axes.spines.left.set_visible(False)
    return figure


def features(found: Findings) -> Figure:
    """How far the kernel goes from its start, against the step of training."""
    with style.figure_style():
        figure, (top, bottom) = style.subplots(2, 1, figsize=(style.WIDTH, 4.8), sharex=True)
        if found.inside is None:
            return drawing.nothing(figure, top, "every run diverged")
        run, config = found.inside.runs[0], found.config
        own = found.inside.features[run.data_seed]
        ends = []
        for axes, lines, level in (
            (top, _ALIGNMENT, config.cka),
            (bottom, _DIFFERENCE, config.relative_change),
        ):
            strokes = style.strokes(len(lines))
            ends.append(
                [
                    drawing.curve(axes, own[name], stroke, bounds=(-np.inf, np.inf), label=label)
                    for (name, label), stroke in zip(lines.items(), strokes, strict=True)
                ]
            )
            axes.axvline(run.best_step, color=style.MUTED, ls=DASHES, lw=1.1, zorder=1)
            drawing.level(axes, level, DOTS)
        top.set(title="Alignment with the kernel at the start")
        top.set_ylim(top=1.02)
        bottom.set(title="Relative difference from it (Frobenius)", xlabel="Step of training")
        bottom.set_ylim(bottom=0)
        bottom.set_xlim(0, config.steps * 1.42)
        bottom.set_xticks(np.linspace(0, config.steps, 5).round())
        handles = [
            drawing.key("best step on dev", color=style.MUTED, ls=DASHES, lw=1.1),
            drawing.key("threshold", color=style.MUTED, ls=DOTS, lw=1.3),
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=2, **LEGEND)
        style.settle(figure)
        for axes, labels in zip((top, bottom), ends, strict=True):
            drawing.label_ends(axes, labels)
    return figure


def trajectories(found: Findings) -> Figure:
    """Predicted against real logits: over the steps, and of all test examples at the end."""
    with style.figure_style():
        figure, (top, bottom) = style.subplots(
            2, 1, figsize=(style.WIDTH, 6.6), height_ratios=(1, 1.15)
        )
        if found.inside is None:
            return drawing.nothing(figure, top, "every run diverged")
        _over_steps(top, found.inside.few)
        _at_the_end(bottom, found.inside, found.config.steps)
    return figure


def _over_steps(axes: Axes, found: Margins) -> None:
    """Draw the margins of a few examples over the steps, real and predicted."""
    drawn = _few(found)
    for example in drawn:
        real = found.real[example]
        color, marker = _label_style(found.labels[example])
        common: Any = {"x": found.steps, "ax": axes, "color": color, "lw": 1.5, "alpha": 0.9}
        every = max(1, len(real) // 5)
        sns.lineplot(y=real, marker=marker, markersize=5, markevery=every, mec=color, **common)
        for kind, dash in ((found.predicted, DOTS), (found.linearized, DASHES)):
            if example in kind:
                sns.lineplot(y=kind[example], linestyle=dash, **common)
    predicted = [found.predicted[each] for each in drawn if each in found.predicted]
    axes.set_ylim(*_limits([found.real[each] for each in drawn], predicted))
    axes.axhline(0, color=style.MUTED, lw=0.8, zorder=1)
    axes.set(title="Margin of some test examples", xlabel="Step of training", ylabel="")
    handles = [drawing.key("real", color=style.INK, lw=1.5)]
    handles += [drawing.key("from the kernel", color=style.INK, ls=DOTS, lw=1.5)]
    if found.linearized:
        handles.append(drawing.key("f_lin trained", color=style.INK, ls=DASHES, lw=1.5))
    handles += [
        drawing.key(f"label {label}", color=color, marker=marker, ms=5, ls="none")
        for label in sorted({found.labels[example] for example in drawn})
        for color, marker in (_label_style(label),)
    ]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.1), ncols=3, **LEGEND)


def _label_style(label: int) -> tuple[str, str]:
    """Return color and marker of a label: in gray the marker tells it."""
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


def _at_the_end(axes: Axes, inside: Inside, step: int) -> None:
    """Draw predicted against real change of the margin at the last step."""
    found = inside.ends
    kinds = [(found.predicted, "from the kernel", "o"), (found.linearized, "f_lin trained", "^")]
    shown = [each for each in kinds if each[0]]
    span = [0.0]
    for i, (kind, label, marker) in enumerate(shown):
        x, y = found.changes(kind)
        sns.scatterplot(
            x=x, y=y, ax=axes, marker=marker, s=16, color=_LABELS[i], alpha=0.6, linewidth=0,
            label=label,
        )  # fmt: skip
        span += [*x, *y]
    low, high = min(span), max(span)
    axes.axline((0, 0), slope=1, color=style.MUTED, lw=1.1, zorder=1)
    edge = 0.04 * (high - low or 1.0)
    axes.set(xlim=(low - edge, high + edge), ylim=(low - edge, high + edge))
    axes.set_box_aspect(0.8)
    axes.set_title(f"All test examples: change by step {step}")
    axes.set(xlabel="Real change of the margin", ylabel="Predicted change")
    if len(shown) > 1:
        axes.legend(loc="upper left", **LEGEND)
    elif axes.legend_ is not None:
        axes.legend_.remove()
    if not shown:
        axes.text(0.5, 0.5, "the prediction diverged", transform=axes.transAxes, ha="center")


def errors(found: Findings) -> Figure:
    """Error of the kernel's prediction against step, learning rate and width of the subspace."""
    wide = len(found.sizes) > 1
    with style.figure_style():
        figure, column = style.subplots(
            3 if wide else 2, 1, figsize=(style.WIDTH, 7.6 if wide else 5.2)
        )
        own = {name: found.of(found.seed, name) for name in found.sizes}
        _error_over_steps(column[0], own[found.config.subspace])
        _error_over_rates(column[1], own, found.config.steps)
        if wide:
            _error_over_widths(column[2], own)
        for axes in column:
            axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    return figure


def _error_over_steps(axes: Axes, runs: list[Trained]) -> None:
    """Draw one line a learning rate of what is trained."""
    colors, markers = style.rank_colors(len(runs)), list(style.GLYPHS)
    for at, run in enumerate(runs):
        label = fmt.rate(run.learning_rate)
        stroke = style.Stroke(colors[at], markers[at % len(markers)], "-")
        if run.error:
            drawing.curve(axes, run.error, stroke, band=False, ms=4)
            axes.lines[-1].set_label(label)
        if run.linear_error:
            drawing.curve(axes, run.linear_error, style.Stroke(colors[at], "", DASHES), band=False)
            axes.lines[-1].set_label(f"{label}, f_lin trained")
    axes.set(title="Test error of the prediction, by learning rate", yscale="log")
    axes.set(xlabel="Step of training", ylabel="")
    _legend(axes)


def _error_over_rates(axes: Axes, own: Mapping[str, list[Trained]], step: int) -> None:
    """Draw one line a subspace, at the last step."""
    drawn = list(own)[:6]
    tried: set[float] = set()
    for name, stroke in zip(drawn, style.strokes(len(drawn)), strict=True):
        ended = {r.learning_rate: r.end_error for r in own[name] if np.isfinite(r.end_error)}
        if ended:
            drawing.curve(axes, ended, stroke, band=False)
            axes.lines[-1].set_label(name.removeprefix("random:"))
            tried |= ended.keys()
    axes.set(xscale="log", yscale="log", xlabel="Learning rate", ylabel="")
    axes.set_title(f"The same at step {step}, by subspace")
    if tried:
        _rate_axis(axes, sorted(tried))
    _legend(axes)


def _rate_axis(axes: Axes, tried: list[float]) -> None:
    """Give an axis of learning rates a tick at up to five of those tried."""
    every = -(-len(tried) // 5)
    axes.xaxis.set_major_locator(FixedLocator(tried[::every]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: fmt.rate(value)))


def _error_over_widths(axes: Axes, own: Mapping[str, list[Trained]]) -> None:
    """Draw one line a learning rate, over the trained parameters."""
    ended = [run for runs in own.values() for run in runs if np.isfinite(run.end_error)]
    shared = sorted({run.learning_rate for run in ended})[:6]
    colors, markers = style.rank_colors(len(shared)), list(style.GLYPHS)
    for at, each in enumerate(shared):
        line = {r.parameters: r.end_error for r in ended if r.learning_rate == each}
        stroke = style.Stroke(colors[at], markers[at % len(markers)], "-")
        drawing.curve(axes, dict(sorted(line.items())), stroke, band=False)
        axes.lines[-1].set_label(fmt.rate(each))
    axes.set(xscale="log", yscale="log", xlabel="Trained parameters", ylabel="")
    axes.set_title("The same, by width of the subspace")
    axes.xaxis.set_minor_locator(NullLocator())
    _legend(axes)


def _legend(axes: Axes) -> None:
    if axes.lines:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), **LEGEND)


FIGURES: Mapping[str, Callable[[Findings], Figure]] = {
    "linearization": linearization,
    "features": features,
    "trajectories": trajectories,
    "errors": errors,
}
"""The figures by name."""

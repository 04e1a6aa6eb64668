"""The figures of ``analyze prompting``, each drawn from saved results alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from ..engine.run_folder import Results
from ..show import style
from ..show.panels import DASHES, DOTS
from ..show.study_numbers import score_name
from .numbers import (
    Trial,
    chance,
    compared,
    constant,
    predictions,
    prompts,
    trials,
    value,
)

__all__ = ["figures", "numbered", "ranked"]

_KERNEL, _TRAINED, _RANDOM = (stroke.color for stroke in style.strokes(3))
_METHODS: Mapping[str, dict[str, Any]] = {
    "zero-shot": {"marker": "o", "color": style.MUTED, "mfc": "white", "ms": 6},
    "probe": {"marker": "o", "color": style.MUTED, "ms": 6},
    "kernel": {"marker": "s", "color": _KERNEL, "ms": 6},
    "finetune": {"marker": "D", "color": _TRAINED, "ms": 6},
}
_NAMES = {
    "zero-shot": "zero-shot",
    "probe": "linear probe",
    "kernel": "kernel",
    "finetune": "fine-tuned",
}
_OFFSETS = {
    "zero-shot": 0.0,
    "probe": 0.0,
    "kernel": 0.13,
    "finetune": -0.13,
}  # of rows, so none hides another
_LEGEND: Any = {
    "frameon": False, "fontsize": 8.5, "handlelength": 1.6, "columnspacing": 1.2,
    "borderaxespad": 0.1, "labelspacing": 0.35,
}  # fmt: skip


def figures(config: Mapping[str, Any]) -> Mapping[str, Callable[[Results], Figure]]:
    """Return the figures of a study with these settings, by name."""
    drawn: dict[str, Callable[[Results], Figure]] = {"prompts": prompt_scores}
    if config["finetune"]:
        drawn |= {"trained": trained, "ranking": ranking}
    if config["linear"] or config["random"]:
        drawn["heads"] = heads
    return drawn


def ranked(results: Results) -> list[Trial]:
    """Return the prompts from best to worst, fine-tuned or else by their kernel.

    Those not fine-tuned on every data seed come last: their means are of other examples.
    """
    tuned = results.config["finetune"]
    whole = compared(results) if tuned else prompts(results)

    def rank(trial: Trial) -> tuple[bool, float]:
        found = value(results, trial, "finetune" if tuned else "kernel")
        return trial in whole, -1.0 if found is None else found.mean

    return sorted(prompts(results), key=rank, reverse=True)


def numbered(results: Results) -> dict[Trial, int]:
    """Return the number that a prompt has in all figures."""
    return {trial: i for i, trial in enumerate(ranked(results), 1)}


def prompt_scores(results: Results) -> Figure:
    """Test score of every prompt without training, by its kernel, and fine-tuned."""
    rows = [(f"{trial.prompt}  {number}", trial) for trial, number in numbered(results).items()]
    return _dots(results, rows)


def heads(results: Results) -> Figure:
    """The same of prompt and linear head, with pretrained and with random weights."""
    first = prompts(results)[0].prompt
    shown = [t for t in trials(results) if t.head == "linear" or t.prompt == first]
    return _dots(results, [(_head_label(trial), trial) for trial in shown])


def _head_label(trial: Trial) -> str:
    what = "linear head" if trial.head == "linear" else f"prompt {trial.prompt}"
    return f"{what},\n{trial.weights}"


def _dots(results: Results, rows: Sequence[tuple[str, Trial]]) -> Figure:
    """Draw a row of markers for each trial."""
    methods = [m for m in _METHODS if any(value(results, t, m) is not None for _, t in rows)]
    lines = max(label.count("\n") + 1 for label, _ in rows)
    with style.figure_style():
        height = 1.25 + (0.36 if lines == 1 else 0.48) * len(rows)
        figure, axes = style.subplots(figsize=(style.WIDTH, height))
        for i, (_, trial) in enumerate(rows):
            for method in methods:
                _marker(axes, results, trial, method, -i + _OFFSETS[method])
        level = constant(results).mean
        axes.axvline(level, color=style.MUTED, ls=DOTS, lw=1.3, zorder=1)
        axes.set_yticks([-i for i in range(len(rows))], [label for label, _ in rows])
        axes.set_ylim(-len(rows) + 0.4, 0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines.left.set_visible(False)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel(f"Test {score_name(results)}")
        handles = [Line2D([], [], ls="", label=_NAMES[m], **_METHODS[m]) for m in methods]
        handles.append(Line2D([], [], color=style.MUTED, ls=DOTS, label="constant answer"))
        figure.legend(handles=handles, loc="outside upper left", ncols=4, **_LEGEND)
        style.settle(figure)
    return figure


def _marker(axes: Axes, results: Results, trial: Trial, method: str, y: float) -> None:
    """Draw one score with its interval, if there is one."""
    found = value(results, trial, method)
    if found is None:
        return
    drawn = _METHODS[method]
    if method not in ("zero-shot", "probe"):
        axes.hlines(y, max(found.low, 0.0), min(found.high, 1.0), color=drawn["color"], lw=1.2)
    axes.plot([found.mean], [y], ls="", zorder=3, **drawn)


def trained(results: Results) -> Figure:
    """Test score fine-tuned over that of the kernel, a point a prompt, with the diagonal."""
    numbers = numbered(results)
    with style.figure_style():
        figure, axes = style.subplots(figsize=(style.WIDTH, style.WIDTH))
        places = _places(results)
        for (x, y), shown in places.items():
            _points(axes, x, y, shown, numbers)
        ends = [end for place in places for end in place] or [0.0, 1.0]
        low, high = max(min(ends) - 0.06, 0.0), min(max(ends) + 0.06, 1.03)
        axes.plot([low, high], [low, high], color=style.MUTED, ls=DASHES, lw=1.3, zorder=1)
        axes.set(xlim=(low, high), ylim=(low, high))
        axes.set_aspect("equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            axis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel(f"Test {score_name(results)} of the kernel's classifier")
        axes.set_ylabel(f"Test {score_name(results)} fine-tuned")
        keys = [(f"${n}$  {t.prompt}", "o", _KERNEL, _KERNEL) for t, n in numbers.items()]
        others = [t for t in trials(results) if t not in numbers]
        keys += [(t.label, *_other(t)) for t in others]
        handles = [
            Line2D([], [], ls="", marker=marker, color=edge, mfc=face, ms=6, label=label)
            for label, marker, edge, face in keys
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=2, **_LEGEND)
        style.settle(figure)
    return figure


def _other(trial: Trial) -> tuple[str, str, str]:
    """Return marker, edge and face of what is no prompt on pretrained weights."""
    color = style.INK if trial.head == "linear" else _RANDOM
    return (
        ("s" if trial.head == "linear" else "^"),
        color,
        (color if trial.weights == "pretrained" else "white"),
    )


def _places(results: Results) -> dict[tuple[float, float], list[Trial]]:
    """Return what stands at each (kernel, fine-tuned) score; several trials where they tie."""
    found: dict[tuple[float, float], list[Trial]] = {}
    for trial in trials(results):
        kernel, tuned = value(results, trial, "kernel"), value(results, trial, "finetune")
        if kernel is not None and tuned is not None:
            found.setdefault((round(kernel.mean, 9), round(tuned.mean, 9)), []).append(trial)
    return found


def _points(
    axes: Axes, x: float, y: float, shown: Sequence[Trial], numbers: Mapping[Trial, int]
) -> None:
    """Draw trials at one place: prompts as a disc with their numbers, anything else as a shape."""
    for trial in (each for each in shown if each not in numbers):
        marker, edge, face = _other(trial)
        axes.plot([x], [y], ls="", marker=marker, color=edge, mfc=face, ms=8, zorder=3)
    here = sorted(numbers[trial] for trial in shown if trial in numbers)
    if not here:
        return
    axes.plot([x], [y], ls="", marker="o", color=_KERNEL, ms=13, mec="white", mew=0.8, zorder=4)
    inside: Any = {"fontsize": 8.5, "fontweight": "bold", "va": "center", "zorder": 5}
    axes.annotate(str(here[0]), (x, y), color="white", ha="center", **inside)
    if here[1:]:
        also = ", ".join(map(str, here[1:]))
        axes.annotate(
            f", {also}", (x, y), (8, 0), textcoords="offset points", color=_KERNEL, **inside
        )


def ranking(results: Results) -> Figure:
    """Rank correlation of each predictor with fine-tuning, and what its choice loses."""
    found = predictions(results)
    with style.figure_style():
        rows = len(found)
        figure, (top, bottom) = style.subplots(
            2, 1, figsize=(style.WIDTH, 2.2 + 0.6 * (rows or 1) + 0.5),
            height_ratios=(max(rows, 1), max(rows + 2, 1)),
        )  # fmt: skip
        if found:
            _correlations(top, results)
            _regrets(bottom, results)
        else:
            for axes in (top, bottom):
                axes.set_axis_off()
            top.text(0, 0.5, "Fewer than two prompts were fine-tuned: nothing to rank.")
        style.settle(figure)
    return figure


def _correlations(axes: Axes, results: Results) -> None:
    """Draw the rank correlations with their intervals."""
    found = predictions(results)
    for i, each in enumerate(found):
        rho = each.correlation
        color = _color(each.name)
        if math.isnan(rho.value):
            axes.text(0.04, -i, "all tie", color=color, fontsize=9, va="center")
            continue
        axes.hlines(-i, rho.low, rho.high, color=color, lw=1.4)
        axes.plot([rho.value], [-i], ls="", marker="s", color=color, zorder=3)
    axes.axvline(0, color=style.MUTED, ls=DOTS, lw=1.3, zorder=1)
    axes.set_xlim(-1.05, 1.05)
    _rows(axes, [each.name for each in found])
    axes.set_title("Rank correlation with fine-tuning")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}".replace("-", "−")))


def _regrets(axes: Axes, results: Results) -> None:
    """Draw what each way to choose a prompt loses."""
    lost = {each.name: each.regret for each in predictions(results)} | chance(results)
    for i, (name, regret) in enumerate(lost.items()):
        color = _color(name)
        axes.hlines(-i, 0, regret, color=color, lw=3)
        axes.plot([regret], [-i], ls="", marker="s", color=color, zorder=3)
        axes.annotate(
            f"{100 * regret:.1f}", (regret, -i), xytext=(7, 0), textcoords="offset points",
            va="center", fontsize=9, color=color,
        )  # fmt: skip
    axes.set_xlim(0, max(*lost.values(), 0.01) * 1.15)
    _rows(axes, list(lost))
    axes.set_title(f"Points of {score_name(results)} lost by its choice")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}"))


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    """Give ``axes`` one labelled row for each of these, from the top."""
    axes.set_yticks([-i for i in range(len(labels))], labels)
    axes.set_ylim(-len(labels) + 0.4, 0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines.left.set_visible(False)


def _color(name: str) -> str:
    """Return the colour of a predictor: the kernel's or not."""
    return _KERNEL if name.startswith("kernel") else style.MUTED

"""The figures of ``analyze prompting``, each drawn from its findings alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from ..engine.pooling import Pooled
from ..show import axes as drawing
from ..show import style
from ..show.axes import DOTS, LEGEND
from .findings import METHODS, Checked, Findings, Trial

_KERNEL, _TRAINED, _RANDOM = (stroke.color for stroke in style.strokes(3))
_NAMES = {
    "zero-shot": "zero-shot",
    "probe": "linear probe",
    "kernel": "kernel",
    "finetune": "fine-tuned",
}
_LOOKS: Mapping[str, tuple[str, str, bool]] = {
    "zero-shot": ("o", style.MUTED, False),
    "probe": ("o", style.MUTED, True),
    "kernel": ("s", _KERNEL, True),
    "finetune": ("D", _TRAINED, True),
}
"""Method -> marker, color, whether filled."""

_OFFSETS = {"kernel": 0.13, "finetune": -0.13}  # of rows, so that none hides another


def figures(found: Findings) -> Mapping[str, Callable[[Findings], Figure]]:
    """Return the figures of a study, by name."""
    drawn: dict[str, Callable[[Findings], Figure]] = {"prompts": prompt_scores}
    if found.config.finetune:
        drawn |= {"trained": trained, "ranking": ranking}
    if found.config.linear or found.config.random:
        drawn["heads"] = heads
    return drawn


def prompt_scores(found: Findings) -> Figure:
    """Test score of every prompt without training, by its kernel, and fine-tuned."""
    return _dots(found, [(f"{trial.prompt}  {trial.number}", trial) for trial in found.ranked])


def heads(found: Findings) -> Figure:
    """The same of prompt and linear head, with pretrained and with random weights."""

    def label(trial: Trial) -> str:
        what = "linear head" if trial.head == "linear" else f"prompt {trial.prompt}"
        return f"{what},\n{trial.weights}"

    return _dots(found, [(label(trial), trial) for trial in found.beside])


def _dots(found: Findings, rows: Sequence[tuple[str, Trial]]) -> Figure:
    """Draw a row of markers for each trial."""
    methods = [m for m in METHODS if any(t.score(m) is not None for _, t in rows)]
    lines = max(label.count("\n") + 1 for label, _ in rows)
    with style.figure_style():
        height = 1.25 + (0.36 if lines == 1 else 0.48) * len(rows)
        figure, axes = style.subplots(figsize=(style.WIDTH, height))
        for method in methods:
            marker, color, filled = _LOOKS[method]
            scores = [
                (t.score(method), -i + _OFFSETS.get(method, 0.0)) for i, (_, t) in enumerate(rows)
            ]
            known = [(score, y) for score, y in scores if score is not None]
            across = [s if method in ("kernel", "finetune") else s.mean for s, _ in known]
            drawing.points(
                axes, across, [y for _, y in known], color=color, marker=marker, filled=filled,
                bounds=(0.0, 1.0),
            )  # fmt: skip
        drawing.rows(axes, [label for label, _ in rows])
        axes.axvline(found.constant.mean, color=style.MUTED, ls=DOTS, lw=1.3, zorder=1)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.set(xlabel=f"Test {found.score_name}", ylabel="")
        handles = [
            drawing.key(
                _NAMES[m], ls="", ms=6, marker=_LOOKS[m][0], color=_LOOKS[m][1],
                mfc=_LOOKS[m][1] if _LOOKS[m][2] else "white",
            )
            for m in methods
        ]  # fmt: skip
        handles.append(drawing.key("constant answer", color=style.MUTED, ls=DOTS))
        figure.legend(handles=handles, loc="outside upper left", ncols=4, **LEGEND)
        style.settle(figure)
    return figure


def trained(found: Findings) -> Figure:
    """Test score fine-tuned over that of the kernel, a point a prompt, with the diagonal."""
    with style.figure_style():
        figure, axes = style.subplots(figsize=(style.WIDTH, style.WIDTH))
        places = _places(found)
        ends = [end for place in places for end in place] or [0.0, 1.0]
        drawing.square(axes, max(min(ends) - 0.06, 0.0), min(max(ends) + 0.06, 1.03))
        for (x, y), shown in places.items():
            _at_place(axes, x, y, shown)
        axes.set_xlabel(f"Test {found.score_name} of the kernel's classifier")
        axes.set_ylabel(f"Test {found.score_name} fine-tuned")
        handles = [
            drawing.key(f"{t.number}  {t.prompt}", ls="", marker="o", color=_KERNEL, ms=6)
            for t in found.ranked
        ]
        for trial in found.others:
            marker, color, filled = _other(trial)
            face = color if filled else "white"
            handles.append(
                drawing.key(trial.label, ls="", marker=marker, color=color, mfc=face, ms=6)
            )
        figure.legend(handles=handles, loc="outside upper left", ncols=2, **LEGEND)
        style.settle(figure)
    return figure


def _other(trial: Trial) -> tuple[str, str, bool]:
    """Return marker, color and whether filled of what is no prompt on pretrained weights."""
    linear = trial.head == "linear"
    return "s" if linear else "^", style.INK if linear else _RANDOM, trial.weights == "pretrained"


def _places(found: Findings) -> dict[tuple[float, float], list[Trial]]:
    """Return what stands at each (kernel, fine-tuned) score; several trials where they tie."""
    places: dict[tuple[float, float], list[Trial]] = {}
    for trial in found.trials:
        kernel, tuned = trial.score("kernel"), trial.score("finetune")
        if kernel is not None and tuned is not None:
            places.setdefault((round(kernel.mean, 9), round(tuned.mean, 9)), []).append(trial)
    return places


def _at_place(axes: Axes, x: float, y: float, shown: Sequence[Trial]) -> None:
    """Draw trials at one place: prompts as a disc with their numbers, anything else as a shape."""
    for trial in (each for each in shown if each.number is None):
        marker, color, filled = _other(trial)
        drawing.points(axes, [x], [y], color=color, marker=marker, filled=filled, s=64)
    here = sorted(trial.number for trial in shown if trial.number is not None)
    if not here:
        return
    drawing.points(axes, [x], [y], color=_KERNEL, s=170, edgecolor="white", zorder=4)
    inside: Any = {"fontsize": 8.5, "fontweight": "bold", "va": "center", "zorder": 5}
    axes.annotate(str(here[0]), (x, y), color="white", ha="center", **inside)
    if here[1:]:
        also = ", ".join(map(str, here[1:]))
        axes.annotate(
            f", {also}", (x, y), (8, 0), textcoords="offset points", color=_KERNEL, **inside
        )


def ranking(found: Findings) -> Figure:
    """Rank correlation of each predictor with fine-tuning, and what its choice loses."""
    checked = found.checked
    rows = 0 if checked is None else len(checked.predictions)
    with style.figure_style():
        figure, (top, bottom) = style.subplots(
            2, 1, figsize=(style.WIDTH, 2.2 + 0.6 * (rows or 1) + 0.5),
            height_ratios=(max(rows, 1), max(rows + 2, 1)),
        )  # fmt: skip
        if checked is not None:
            _correlations(top, checked)
            _regrets(bottom, checked, found.score_name)
        else:
            for axes in (top, bottom):
                axes.set_axis_off()
            top.text(0, 0.5, "Fewer than two prompts were fine-tuned: nothing to rank.")
        style.settle(figure)
    return figure


def _correlations(axes: Axes, checked: Checked) -> None:
    """Draw the rank correlations with their intervals."""
    for i, each in enumerate(checked.predictions):
        rho, color = each.correlation, _color(each.name)
        if each.ties:
            axes.text(0.04, -i, "all tie", color=color, fontsize=9, va="center")
            continue
        value = Pooled(rho.value, rho.low, rho.high, rho.count, "examples")
        drawing.points(axes, [value], [-i], color=color, marker="s", bar={"lw": 1.4})
    axes.axvline(0, color=style.MUTED, ls=DOTS, lw=1.3, zorder=1)
    axes.set_xlim(-1.05, 1.05)
    drawing.rows(axes, [each.name for each in checked.predictions])
    axes.set_title("Rank correlation with fine-tuning")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}".replace("-", "−")))


def _regrets(axes: Axes, checked: Checked, score: str) -> None:
    """Draw what each way to choose a prompt loses."""
    lost = {each.name: each.regret for each in checked.predictions} | dict(checked.chance)
    for i, (name, regret) in enumerate(lost.items()):
        color = _color(name)
        axes.hlines(-i, 0, regret, color=color, lw=3)
        drawing.points(axes, [regret], [-i], color=color, marker="s")
        axes.annotate(
            f"{100 * regret:.1f}", (regret, -i), xytext=(7, 0), textcoords="offset points",
            va="center", fontsize=9, color=color,
        )  # fmt: skip
    axes.set_xlim(0, max(*lost.values(), 0.01) * 1.15)
    drawing.rows(axes, list(lost))
    axes.set_title(f"Points of {score} lost by its choice")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}"))


def _color(name: str) -> str:
    """Return the color of a predictor: the kernel's or not."""
    return _KERNEL if name.startswith("kernel") else style.MUTED

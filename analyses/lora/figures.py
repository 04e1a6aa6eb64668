"""The figures of one target set of ``analyze lora``, each drawn from the findings alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)

from ..engine.pooling import Pooled
from ..show import axes as ax
from ..show import style
from .findings import OVERLAP, Findings
from .train_kernels import heatmap

_LEAST = 0.02  # what a vertical axis spans at least


@dataclass(frozen=True)
class _Panel:
    """What one set of axes shows over the ranks.

    Attributes:
        title: what the vertical axis means, with its unit.
        lines: label -> rank -> value with interval.
        levels: label -> height and dash of what the lines are compared with.
        percent: write the vertical axis in per cent.
    """

    title: str
    lines: Mapping[str, Mapping[int, Pooled]]
    levels: Mapping[str, tuple[float, object]]
    percent: bool = False

    def draw(self, axes: Axes, ends: tuple[float, float]) -> list[ax.Label]:
        """Draw it without its labels; return those, to be written where the lines end."""
        labels = []
        for label, (height, dash) in self.levels.items():
            ax.level(axes, height, dash, ends=ends)
            labels.append(ax.Label(ends[1], height, label, style.MUTED))
        strokes = style.strokes(len(self.lines))
        for (label, line), stroke in zip(self.lines.items(), strokes, strict=True):
            labels.append(ax.curve(axes, line, stroke, label=label))
        low, high = axes.get_ylim()
        if high - low < _LEAST:  # rounding noise around one value is no axis
            axes.set_ylim(high - _LEAST, high + _LEAST)
        axes.set_title(self.title)
        if self.percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        return labels


def agreement(found: Findings) -> Figure:
    """Agreement with full fine-tuning over the rank: CKA, leading directions, predictions."""
    own, least = found.own, found.config.min_agreement
    same = {solver.name: solver.same for solver in own.solvers}
    asked = {f"{least:.0%} asked for": (least, ax.DASHES)}
    return _over_ranks(
        own.ranks,
        [
            _against_both(found, "cka", "CKA of the train kernels (1 = same up to scale)"),
            _against_both(found, OVERLAP, "Overlap of the leading directions (1 = same)"),
            _Panel(f"{_same(found)} the full kernel's", same, asked, percent=True),
        ],
    )


def _same(found: Findings) -> str:
    if found.real:
        return "Correlation of test predictions with"
    return "Likeness of a step's changes to" if found.steps else "Test predictions equal to"


def accuracy(found: Findings) -> Figure:
    """Test score over the rank, a panel a solver; the full kernel and zero-shot as lines."""
    panels = [
        _Panel(
            f"Test {found.score}, {solver.name}{_kind(found)}",
            {"LoRA": solver.scores},
            {
                "full kernel": (solver.full.mean, "-"),
                "zero-shot": (found.zero_shot.mean, ax.DASHES),
            },
            percent=True,
        )
        for solver in found.own.solvers
    ]
    return _over_ranks(found.own.ranks, panels, share_y=True, room=0.24)


def _kind(found: Findings) -> str:
    if found.real:
        return " regression"
    return "" if found.steps else " classifier"


def kernels(found: Findings) -> Figure:
    """Train kernels side by side: rows and columns sorted by label, same centering, same colors."""
    shown = found.shapes.sorted
    labels = shown[0].kernel.left_labels
    if labels is None:
        raise ValueError("the kernels carry no labels to sort by")
    order = np.argsort(labels, kind="stable")
    maps = [heatmap(each.kernel)[np.ix_(order, order)] for each in shown]
    off_diagonal = ~np.eye(len(order), dtype=bool)
    bound = float(np.quantile(np.abs(maps[0][off_diagonal]), 0.995))  # full's: the yardstick
    rows = -(-len(maps) // 2)
    with style.figure_style():
        size = (style.WIDTH, 2.35 * rows + 0.75)
        figure, grid = style.subplots(rows, 2, figsize=size, squeeze=False)
        used = list(grid.flat)[: len(maps)]
        for i, (axes, shape, values) in enumerate(zip(used, shown, maps, strict=True)):
            sns.heatmap(
                values, ax=axes, cmap=style.KERNEL_CMAP, vmin=-bound, vmax=bound, square=True,
                cbar=False, xticklabels=False, yticklabels=False, rasterized=True,
            )  # fmt: skip
            axes.set_title(shape.title)
            _mark_labels(axes, labels[order], found.label_words if i % 2 == 0 else ())
        for axes in list(grid.flat)[len(maps) :]:
            axes.remove()
        bar = figure.colorbar(
            used[0].collections[0], ax=used, location="bottom", shrink=0.85, aspect=35,
            extend="both",
        )  # fmt: skip
        bar.set_label("Centered kernel ÷ its mean diagonal", size=9)
        style.settle(figure)
    return figure


def spectra(found: Findings) -> Figure:
    """Eigenvalues of the centered train kernels as shares of their sum, on a log axis."""
    shown, room = found.shapes.spectra, 0.3
    longest = max(len(each.spectrum) for each in shown)
    what = "singular value" if found.caveats.unusual_judge else "eigenvalue"
    with style.figure_style():
        figure, axes = style.subplots(figsize=(style.WIDTH, 4.2))
        colors = [style.INK, *style.rank_colors(len(shown) - 1)]
        ends = []
        for i, (shape, color) in enumerate(zip(shown, colors, strict=True)):
            line = dict(enumerate(map(float, shape.spectrum), start=1))
            width, above = (2.8, 3) if i == 0 else (1.5, 2)
            end = ax.curve(
                axes, line, style.Stroke(color, "", "-"), band=False, lw=width, zorder=above,
                label=shape.title.removeprefix("LoRA "),
            )  # fmt: skip
            ends.append(end)
        axes.set_yscale("log")
        _percent_ticks(axes)
        axes.set_xlim(1 - longest / 40, longest * (1 + room / (1 - room)))
        ticks = MaxNLocator(6, integer=True).tick_values(1, longest)
        axes.set_xticks([1, *(int(tick) for tick in ticks if 1 < tick <= longest)])
        axes.spines.bottom.set_bounds(1 - longest / 40, longest)
        axes.set_xlabel(f"{what.capitalize()}, largest first")
        axes.set_title(f"Share of the sum of the {what}s")
        axes.grid(visible=False, axis="x")
        style.settle(figure)
        for part in (True, False):  # lines that end early are labeled where they end
            ax.label_ends(axes, [end for end in ends if (end.x == longest) is part])
    return figure


FIGURES: Mapping[str, Callable[[Findings], Figure]] = {
    "agreement": agreement,
    "accuracy": accuracy,
    "kernels": kernels,
    "spectra": spectra,
}


def _over_ranks(
    ranks: Sequence[int], panels: Sequence[_Panel], *, share_y: bool = False, room: float = 0.34
) -> Figure:
    """Draw panels below each other; ``room`` is the share of the width that labels take."""
    first, last = min(ranks), max(ranks)
    ends = (first, last) if len(ranks) > 1 else (last / 2, last)
    with style.figure_style():
        size = (style.WIDTH, 2.3 * len(panels) + 0.5)
        figure, grid = style.subplots(
            len(panels), 1, figsize=size, sharex=True, sharey=share_y, squeeze=False
        )
        column = list(grid[:, 0])
        labels = [panel.draw(axes, ends) for axes, panel in zip(column, panels, strict=True)]
        for axes in column:
            style.rank_axis(axes, ranks, room=room)
        column[-1].set_xlabel("LoRA rank")
        style.settle(figure)
        for axes, each in zip(column, labels, strict=True):
            ax.label_ends(axes, each)
    return figure


def _against_both(found: Findings, metric: str, title: str) -> _Panel:
    """Return the panel of a metric against both full kernels, and how these two agree."""
    own = found.own
    lines = {
        "to full": own.with_full[metric].by_rank,
        "to full of the\n    adapted weights": own.with_adapted[metric].by_rank,
    }
    return _Panel(title, lines, {"limit of “to full”": (own.limit[metric], ax.DOTS)})


def _percent_ticks(axes: Axes) -> None:
    """Label a log axis of shares in per cent: at 1, 2 and 5 of each decade if there are few."""
    low, high = axes.get_ylim()
    steps = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(10, steps))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _mark_labels(axes: Axes, labels: npt.NDArray[np.int64], names: Sequence[str]) -> None:
    """Part the blocks of equal labels by thin lines, and write their names on the left if given."""
    present, starts, counts = np.unique(labels, return_index=True, return_counts=True)
    for start in starts[1:]:
        axes.axhline(start, color="white", lw=1)
        axes.axvline(start, color="white", lw=1)
    if names:
        axes.set_yticks(starts + counts / 2, [names[i] for i in present], rotation=0)
    axes.tick_params(length=0)

"""The four figures of ``analyze lora``, each drawn from saved results alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from subkern.kernels.kernel import Kernel

from ..engine.run_folder import Results
from ..show import style
from ..show.panels import DASHES, DOTS, Level, Panel, over_ranks
from .numbers import (
    full_score,
    kernel_agreement,
    limit,
    same_predictions,
    score_name,
    scores,
    zero_shot,
)

__all__ = [
    "FIGURES",
    "OVERLAP",
    "heatmap",
    "shown_kernels",
    "spectral",
    "spectrum",
    "spectrum_kernels",
]

Floats = npt.NDArray[np.float64]

OVERLAP = "eigenspace_overlap_centred"


def agreement(results: Results) -> Figure:
    """Agreement with full fine-tuning over the rank: CKA, leading directions, predictions."""
    config = results.config
    predictions = {solver: same_predictions(results, solver) for solver in config["solvers"]}
    asked = Level(config["min_agreement"], f"{config['min_agreement']:.0%} asked for", DASHES)
    panels = [
        _against_both(results, "cka", "CKA of the train kernels (1 = same up to scale)"),
        _against_both(results, OVERLAP, "Overlap of the leading directions (1 = same)"),
        Panel("Test predictions equal to the full kernel's", predictions, [asked], percent=True),
    ]
    return over_ranks(panels, config["ranks"], "LoRA rank")


def accuracy(results: Results) -> Figure:
    """Test score over the rank, a panel a solver; the full kernel and zero-shot as lines."""
    without = Level(zero_shot(results).mean, "zero-shot", DASHES)
    panels = [
        Panel(
            f"Test {score_name(results)}, {solver} classifier",
            {"LoRA": scores(results, solver)},
            [Level(full_score(results, solver).mean, "full kernel", "-"), without],
            percent=True,
        )
        for solver in results.config["solvers"]
    ]
    return over_ranks(panels, results.config["ranks"], "LoRA rank", share_y=True, room=0.24)


def kernels(results: Results) -> Figure:
    """Train kernels side by side: rows and columns sorted by label, same centring, same colours."""
    shown = shown_kernels(results)
    labels = shown[0][1].left_labels
    if labels is None:
        raise ValueError("the kernels carry no labels to sort by")
    order = np.argsort(labels, kind="stable")
    maps = [(title, heatmap(kernel)[np.ix_(order, order)]) for title, kernel in shown]
    off_diagonal = ~np.eye(len(order), dtype=bool)
    bound = float(np.quantile(np.abs(maps[0][1][off_diagonal]), 0.995))  # full's: the yardstick
    rows = -(-len(maps) // 2)
    with style.figure_style():
        size = (style.WIDTH, 2.35 * rows + 0.75)
        figure, grid = style.subplots(rows, 2, figsize=size, squeeze=False)
        used = list(grid.flat)[: len(maps)]
        for i, (axes, (title, values)) in enumerate(zip(used, maps, strict=True)):
            image = axes.imshow(values, cmap=style.KERNEL_CMAP, vmin=-bound, vmax=bound)
            axes.set_title(title)
            names = results.inputs["task"]["label_words"] if i % 2 == 0 else None
            _mark_labels(axes, labels[order], names)
        for axes in list(grid.flat)[len(maps) :]:
            axes.remove()
        bar = figure.colorbar(
            image, ax=used, location="bottom", shrink=0.85, aspect=35, extend="both"
        )
        bar.set_label("Centred kernel ÷ its mean diagonal", size=9)
        style.settle(figure)
    return figure


def spectra(results: Results) -> Figure:
    """Eigenvalues of the centred train kernels as shares of their sum, on a log axis."""
    shown = spectrum_kernels(results)
    shares = [spectrum(kernel) for _, kernel in shown]
    longest, room = max(len(each) for each in shares), 0.3
    with style.figure_style():
        figure, axes = style.subplots(figsize=(style.WIDTH, 4.2))
        colors = [style.INK, *style.rank_colors(len(shown) - 1)]
        for i, (each, color) in enumerate(zip(shares, colors, strict=True)):
            width, above = (2.8, 3) if i == 0 else (1.5, 2)
            axes.plot(range(1, len(each) + 1), each, color=color, lw=width, zorder=above)
        axes.set_yscale("log")
        _percent_ticks(axes)
        axes.set_xlim(1 - longest / 40, longest * (1 + room / (1 - room)))
        axes.set_xticks([1, *(t for t in axes.get_xticks() if 1 < t <= longest)])
        axes.spines.bottom.set_bounds(1 - longest / 40, longest)
        axes.set_xlabel(f"{spectral(results).capitalize()}, largest first")
        axes.set_title(f"Share of the sum of the {spectral(results)}s")
        axes.grid(visible=False, axis="x")
        titles = [title.removeprefix("LoRA ") for title, _ in shown]
        ends = [
            (len(each), float(each[-1]), title, color)
            for each, title, color in zip(shares, titles, colors, strict=True)
        ]
        style.settle(figure)
        for part in (True, False):  # lines that end early are labelled where they end
            style.direct_labels(axes, [end for end in ends if (end[0] == longest) is part])
    return figure


FIGURES: Mapping[str, Callable[[Results], Figure]] = {
    "agreement": agreement,
    "accuracy": accuracy,
    "kernels": kernels,
    "spectra": spectra,
}


def heatmap(kernel: Kernel) -> Floats:
    """Return ``[n, n]``: the kernel's trace over logits, doubly centred, over its mean diagonal.

    With H = 1 − 11ᵀ/n: H (Σ_a K[:, a, :, a]) H, divided by the mean of its diagonal. Centring takes
    out the constant that prompted kernels mostly are, the division LoRA's arbitrary scale.
    """
    values = np.einsum("iaja->ij", kernel.values)
    values = values - values.mean(0, keepdims=True)
    values = values - values.mean(1, keepdims=True)
    mean = float(np.trace(values)) / len(values)
    return values / mean if mean > 0 else values


def spectrum(kernel: Kernel) -> Floats:
    """Return the eigenvalues of the centred kernel ``[n·c, n·c]``, descending, over their sum.

    Centred over the examples, logit by logit. That makes c eigenvalues 0; they are left out, as are
    those within rounding of 0. Of a kernel that is not symmetric, the singular values.
    """
    n, c, _, _ = kernel.shape
    values = kernel.values - kernel.values.mean(0, keepdims=True)
    values = values - values.mean(2, keepdims=True)
    matrix = values.reshape(n * c, n * c)
    if kernel.is_symmetric:
        found = np.linalg.eigvalsh(matrix)[::-1]
    else:
        found = np.linalg.svd(matrix, compute_uv=False)
    shares = found[: (n - 1) * c] / found[: (n - 1) * c].sum()
    return np.asarray(shares[shares > 1e-9])  # captured in float32: below that is rounding


def spectral(results: Results) -> str:
    """Return what the `spectrum` of the study's kernels is made of."""
    return "singular value" if results.config["rule"].startswith("asymmetric") else "eigenvalue"


def shown_kernels(results: Results) -> list[tuple[str, Kernel]]:
    """Return title and train kernel of full fine-tuning and the least, middle and greatest rank."""
    ranks = sorted(results.config["ranks"])
    return _titled(results, sorted({ranks[0], ranks[len(ranks) // 2], ranks[-1]}))


def spectrum_kernels(results: Results) -> list[tuple[str, Kernel]]:
    """Return title and train kernel of full fine-tuning and of at most 8 ranks."""
    ranks = sorted(results.config["ranks"])
    picked = np.linspace(0, len(ranks) - 1, min(len(ranks), 8)).round().astype(int)
    return _titled(results, [ranks[i] for i in picked])


def _titled(results: Results, ranks: list[int]) -> list[tuple[str, Kernel]]:
    """Return title and train kernel of full fine-tuning and of these ranks, of the first seeds."""
    data_seed, adapter_seed = results.config["data_seeds"][0], results.config["adapter_seeds"][0]
    names = {"full fine-tuning": f"{data_seed}/full"}
    names |= {f"LoRA rank {r}": f"{data_seed}/lora-r{r}-s{adapter_seed}" for r in ranks}
    loaded = {title: results.kernels[name] for title, name in names.items()}
    return [(title, k.select(right=list(k.left_ids))) for title, k in loaded.items()]


def _against_both(results: Results, metric: str, title: str) -> Panel:
    """Return the panel of a metric against both full kernels, and how these two agree."""
    lines = {
        "to full": kernel_agreement(results, metric),
        "to full of the\n    adapted weights": kernel_agreement(results, metric, "targets"),
    }
    return Panel(title, lines, [Level(limit(results, metric), "limit of “to full”", DOTS)])


def _percent_ticks(axes: Axes) -> None:
    """Label a log axis of shares in per cent: at 1, 2 and 5 of each decade if there are few."""
    low, high = axes.get_ylim()
    steps = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(10, steps))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _mark_labels(axes: Axes, labels: npt.NDArray[np.int64], names: list[str] | None) -> None:
    """Part the blocks of equal labels by thin lines, and write their names on the left if given."""
    present, starts, counts = np.unique(labels, return_index=True, return_counts=True)
    for start in starts[1:]:
        axes.axhline(start - 0.5, color="white", lw=1)
        axes.axvline(start - 0.5, color="white", lw=1)
    axes.set_xticks([])
    middles = starts + (counts - 1) / 2
    axes.set_yticks(middles if names else [], [names[i] for i in present] if names else [])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)

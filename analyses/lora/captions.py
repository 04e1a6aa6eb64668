"""What each figure of ``analyze lora`` shows, in words computed from the same numbers."""

from __future__ import annotations

import numpy as np

from subkern.kernels.kernel import Kernel

from ..engine.pooling import Pooled
from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.page import Caption
from .figures import (
    OVERLAP,
    heatmap,
    shown_kernels,
    spectral,
    spectrum,
    spectrum_kernels,
)
from .numbers import (
    full_score,
    kernel_agreement,
    limit,
    same_predictions,
    score_name,
    scores,
    zero_shot,
)
from .verdict import recommend

__all__ = ["captions", "contrast", "effective_directions", "intervals"]


_FAINT = 0.2  # standard deviations: blocks that differ less are not seen


def captions(results: Results) -> dict[str, Caption]:
    """Return title, caption and text alternative of every figure, by its name."""
    return {
        "agreement": _agreement(results),
        "accuracy": _accuracy(results),
        "kernels": _kernels(results),
        "spectra": _spectra(results),
    }


def intervals(results: Results) -> str:
    """Return what the intervals are and what they are over."""
    config = results.config
    if len(config["data_seeds"]) > 1:
        over = f"Student's t over the means of {len(config['data_seeds'])} data seeds"
    elif len(config["adapter_seeds"]) > 1:
        over = f"Student's t over {len(config['adapter_seeds'])} adapter seeds, on one data split"
    else:
        over = "bootstrap over the examples, as there is one seed only"
    return f"{config['confidence']:.0%} intervals ({over})"


def contrast(kernel: Kernel) -> float:
    """Return how far the `heatmap` is higher within labels than between them, in their spread.

    (mean within − mean between) / standard deviation of the entries around these two means, the
    diagonal left out; 0 where there is one label only.
    """
    labels, values = kernel.left_labels, heatmap(kernel)
    if labels is None:
        raise ValueError("the kernel carries no labels")
    same = labels[:, None] == labels[None, :]
    within, between = values[same & ~np.eye(len(labels), dtype=bool)], values[~same]
    if not within.size or not between.size:
        return 0.0
    residuals = np.concatenate([within - within.mean(), between - between.mean()])
    spread = float(residuals.std())
    return float(within.mean() - between.mean()) / spread if spread > 0 else 0.0


def effective_directions(kernel: Kernel) -> float:
    """Return exp(−Σ p ln p) of the `spectrum` p: how many equal eigenvalues would be as spread."""
    shares = spectrum(kernel)
    return float(np.exp(-np.sum(shares * np.log(shares))))


def _trend(values: dict[int, Pooled]) -> str:
    """Return how a value goes over the ranks, with the numbers at both ends."""
    first, last = min(values), max(values)
    if first == last:
        return f"is {fmt.decimal(values[first].mean, 2)} at rank {first}"
    return fmt.moves(values[first].mean, values[last].mean, 2)


def _percents(values: dict[int, Pooled]) -> str:
    """Return the shares at both ends of the ranks, as ``65.2 % to 91.8 %``."""
    ends = dict.fromkeys(fmt.percent(values[rank].mean) for rank in (min(values), max(values)))
    return " to ".join(ends)


def _span(results: Results) -> str:
    """Return the ranks, as ``from rank 1 to 32``."""
    ranks = results.config["ranks"]
    return f"from rank {min(ranks)} to {max(ranks)}" if len(ranks) > 1 else f"at rank {ranks[0]}"


def _agreement(results: Results) -> Caption:
    found = recommend(results)
    cka, own = kernel_agreement(results, "cka"), kernel_agreement(results, "cka", "targets")
    overlap = kernel_agreement(results, OVERLAP)
    same = same_predictions(results, found.solver)
    asked = fmt.percent(found.min_agreement, 0)
    reached = next((str(v.rank) for v in found.verdicts if v.agreement_ok), None)
    where = (
        f"reaches the {asked} asked for at rank {reached}" if reached else f"never reaches {asked}"
    )
    text = (
        f"{_span(results).capitalize()}, CKA with full fine-tuning {_trend(cka)}; with full"
        " fine-tuning of the adapted weights only, whose kernel LoRA's estimates, it"
        f" {_trend(own)}. These two have CKA {fmt.decimal(limit(results, 'cka'), 2)} with each"
        " other (dotted), which LoRA's CKA with full fine-tuning tends to as the rank grows. The"
        f" overlap of the leading directions with full fine-tuning's {_trend(overlap)}. The share"
        f" of equal test predictions ({found.solver}) is {_percents(same)} and {where}. Bands are"
        f" {intervals(results)}."
    )
    alt = (
        f"Three line charts over the LoRA rank. CKA with full fine-tuning {_trend(cka)}, the"
        f" overlap of leading directions {_trend(overlap)}, the share of equal predictions is"
        f" {_percents(same)}."
    )
    return Caption("Agreement with full fine-tuning, by rank", text, alt)


def _accuracy(results: Results) -> Caption:
    name, zero = score_name(results), fmt.percent(zero_shot(results).mean)
    parts = [
        f"{solver} {_percents(scores(results, solver))}"
        f" ({fmt.percent(full_score(results, solver).mean)})"
        for solver in results.config["solvers"]
    ]
    text = (
        f"Test {name} {_span(results)} of classifiers solved on LoRA's kernels, and in brackets on"
        f" the full kernel: {fmt.joined(parts)}. Zero-shot, without any training example, it is"
        f" {zero} (dashed). Bands are {intervals(results)}."
    )
    alt = f"Line charts of test {name} over the LoRA rank: {fmt.joined(parts)}; zero-shot {zero}."
    return Caption(f"Test {name} of the kernel classifiers, by rank", text, alt)


def _kernels(results: Results) -> Caption:
    shown = shown_kernels(results)
    faint = " They hardly do here." if abs(contrast(shown[0][1])) < _FAINT else ""
    values = [f"{fmt.fixed(contrast(kernel), 2)} for {title}" for title, kernel in shown]
    words = ", ".join(results.inputs["task"]["label_words"])
    data_seed, adapter_seed = (results.config[f"{name}_seeds"][0] for name in ("data", "adapter"))
    text = (
        f"Kernels of the {len(shown[0][1].left_ids)} training examples sorted by label ({words}),"
        f" of data seed {data_seed} and adapter seed {adapter_seed}. Light blocks on the diagonal"
        " mean that examples of one label pull the model the same way. By how many standard"
        f" deviations of the entries they stand out from the rest: {fmt.joined(values)}.{faint}"
        " Same centring, scaling and colours throughout; values beyond the ends of the scale have"
        " the colour of the end."
    )
    alt = (
        "Heatmaps of the train kernels sorted by label. Same-label less other-label entries, in"
        f" standard deviations: {fmt.joined(values)}."
    )
    return Caption("The kernels, sorted by label", text, alt)


def _spectra(results: Results) -> Caption:
    shown = spectrum_kernels(results)
    picked = [shown[0], shown[1], shown[-1]] if len(shown) > 2 else shown
    top = [f"{fmt.percent(spectrum(kernel)[0], 0)} in {title}" for title, kernel in picked]
    width = [f"{effective_directions(kernel):.1f} for {title}" for title, kernel in picked]
    text = (
        f"{spectral(results).capitalize()}s of the centred train kernels over their sum. The"
        f" largest holds {fmt.joined(top)}. As widely spread as so many equal ones (effective"
        f" rank): {fmt.joined(width)}. Where a spectrum falls faster than full fine-tuning's,"
        " directions that full fine-tuning tells apart have merged."
    )
    alt = f"Log-scale line chart of {spectral(results)} shares; effective rank {fmt.joined(width)}."
    return Caption(f"{spectral(results).capitalize()} spectra", text, alt)

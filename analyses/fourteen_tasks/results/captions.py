"""What each figure of a study shows, in words computed from the numbers it is drawn from."""

from __future__ import annotations

import math

import pandas as pd

from ...engine.ranking import spearman
from ...show import numbers as fmt
from ...show.page import Caption
from .behavior import FEATURE_METRICS, feature_metrics
from .draw_scatter import panel_data
from .draw_subspaces import (
    FAMILIES,
    curves_data,
    preservation_data,
)
from .draw_tasks import (
    fixed_features_data,
    linearization_data,
    prompting_data,
)
from .methods import method, variant
from .read import Study
from .summary import gap, pairs
from .tables import HEADS


def rank_correlation(points: pd.DataFrame) -> float:
    """Return Spearman's ρ of the two scores of `results.numbers.pairs`; NaN below 3."""
    return spearman(points["x"], points["y"]) if len(points) > 2 else math.nan


def kernel_against_finetuning(study: Study) -> Caption:
    """Return the words of the scatter plot of kernels against fine-tuning."""
    said = [
        f"{method(series.second).label} and {method(series.first).label} {_distance(series.points)}"
        for panel in panel_data(study, study.heads[0])
        for series in panel
    ]
    text = (
        f"Test scores with {HEADS.get(study.heads[0], study.heads[0])}, a point for each task and"
        f" number of shots{_spread(study)}. On the line the kernel, solved, does as well as the"
        f" model trained by the optimizer it describes; below it, training does better. Mean"
        f" difference and rank correlation: {'; '.join(said)}. Tasks far from the line are named."
    )
    return Caption("Kernels and fine-tuning", text, f"Scatter plots with diagonal. {text}")


def signgd_against_adam(study: Study) -> Caption:
    """Return the words of the scatter plot of SignGD against Adam."""
    points = pairs(study, "finetune-adam", "finetune-signgd", head=study.heads[0])
    text = (
        "Fine-tuning by the signs of the gradients alone, against Adam's"
        f"{_spread(study)}: {_distance(points)}. The closer the points to the line, the better the"
        " sign kernels' assumption that Adam's early steps are sign steps."
    )
    return Caption("SignGD and Adam", text, f"Scatter plot with diagonal. {text}")


def prompting(study: Study) -> Caption:
    """Return the words of the figure of prompts and linear heads."""
    shown = prompting_data(study)
    said = []
    for key, rows in shown.items():
        more = rows["y"] - rows["x"]
        said.append(
            f"{method(key).label}: prompt better on {int((more > 0).sum())} of {len(rows)}, mean"
            f" difference {fmt.points(more.mean())} points"
        )
    text = (
        f"The same examples read through a prompt and through a linear head{_spread(study)}."
        f" {'. '.join(said)}."
    )
    return Caption("Prompt and linear head", text, f"Dot plot, a line a task. {text}")


def linearization(study: Study) -> Caption:
    """Return the words of the bars of linearized models."""
    said = []
    for optimizer, rows in linearization_data(study).items():
        share = rows["share"].dropna()
        if share.empty:
            said.append(f"{method(f'finetune-{optimizer}').label}: training improved nothing")
            continue
        half = int((share >= 0.5).sum())
        said.append(
            f"{method(f'finetune-{optimizer}').label}: median {fmt.percent(share.median(), 0)}, at"
            f" least half on {half} of {len(rows)}"
        )
    text = (
        "The model where it starts (a prompt zero-shot, a linear head at its probe), the linearized"
        " model f(θ₀) + ∇f·Δθ with the change Δθ that training found, and the trained model"
        f" itself{_spread(study)}. The share is what linearization recovers of the improvement over"
        f" the start. {'. '.join(said)}."
    )
    return Caption("Linearization", text, f"Bar chart, three bars a task. {text}")


def fixed_features(study: Study) -> Caption:
    """Return the words of the figure of kernels that moved."""
    found = fixed_features_data(study)
    said = []
    for metric in feature_metrics(found):
        rows = found[found["metric"] == metric].groupby("optimizer")["mean"]
        ends = [
            f"{method(f'finetune-{name}').label} {fmt.decimal(mean.median(), 2)}"
            f" ({fmt.decimal(mean.min(), 2)} to {fmt.decimal(mean.max(), 2)})"
            for name, mean in rows
        ]
        said.append(f"{FEATURE_METRICS[metric]}, median (range) over tasks: {fmt.joined(ends)}")
    text = (
        "The SGD kernel of the fine-tuned model, whatever the optimizer, against that of the"
        f" pretrained one{_spread(study)}."
        f" {'. '.join(said)}."
    )
    return Caption("Fixed features", text, f"Dot plot, a line a task. {text}")


def preservation(study: Study) -> Caption:
    """Return the words of the figure of subspace kernels task by task."""
    found = preservation_data(study)
    score = found[found["metric"] == "score"].set_index(["task", "method"])["mean"].unstack()
    said = []
    for key in (name for name in FAMILIES if name in set(found["method"])):
        rows = found[found["method"] == key]
        parts = []
        if {key, "kernel-sgd"} <= set(score.columns):
            less = (score[key] - score["kernel-sgd"]).dropna()
            parts.append(
                f"{fmt.points(less.mean())} points from the full kernel's score on average"
            )
        alike = rows[rows["metric"] == "cka"]["mean"]
        if len(alike):
            parts.append(f"CKA {fmt.decimal(alike.min(), 2)} to {fmt.decimal(alike.max(), 2)}")
        said.append(f"{variant(key, str(rows['subspace'].iloc[0]))}: {', '.join(parts)}")
    text = (
        "What the largest LoRA and random subspace keep of the full kernel, in test score and in"
        f" alignment{_spread(study)}. {'. '.join(said)}."
    )
    return Caption("LoRA and random-subspace kernels", text, f"Dot plot, a line a task. {text}")


def sizes(study: Study) -> Caption:
    """Return the words of the curves over rank and dimension."""
    said = []
    for key, rows in curves_data(study).items():
        alike = rows[rows["metric"] == "cka"].groupby("size")["mean"].median()
        if len(alike) > 1:
            first, last = alike.index.min(), alike.index.max()
            said.append(
                f"{method(key).label}: median CKA {fmt.moves(alike[first], alike[last])} from"
                f" {fmt.count(first)} to {fmt.count(last)}"
            )
    text = (
        "Kernels of subspaces over rank or dimension: a thin line a task, a thick one for the"
        f" median of the tasks. {'. '.join(said)}{'.' if said else ''}"
    ).strip()
    return Caption("Kernels by rank and dimension", text, f"Line charts. {text}")


def _distance(points: pd.DataFrame) -> str:
    """Return ``2.3 points, ρ = 0.95 over 28 points``."""
    rho = rank_correlation(points)
    known = "" if math.isnan(rho) else f", ρ = {fmt.decimal(rho, 2)}"
    word = "task and shots" if len(points) == 1 else "tasks and shots"
    return f"{fmt.points(gap(points))} points{known} ({len(points)} {word})"


def _spread(study: Study) -> str:
    """Say what markers and bars are."""
    if len(study.seeds) == 1:
        return " (one data seed)"
    return f" (mean and standard deviation over up to {len(study.seeds)} data seeds)"

"""What the results of every study hold, by what it means: the task's score, costs, sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..engine.long_table import cells
from ..engine.one_step import DECREASE
from ..engine.pooling import Pooled, pool
from ..engine.run_folder import PREDICTIONS, Results


@dataclass(frozen=True)
class Costs:
    """What computing the kernels took.

    Attributes:
        by_seed: data seed -> what -> how much; the name of what ends with its unit.
        zeroed: data seed -> how many gradient entries counted as zero, as noise, in the full
            kernel; None where it was not recorded, as of a rule that takes no signs.
    """

    by_seed: Mapping[int, Mapping[str, float]]
    zeroed: Mapping[int, int | None]


@dataclass(frozen=True)
class AtChance:
    """A model that does the task no better than chance before training.

    There its label words, or its head, mean nothing yet, and kernels at the start tell least.

    Attributes:
        score: its test accuracy.
        level: what chance comes to: one in as many as there are labels, or always giving the most
            frequent label, if that is more.
        error: one standard error of the score.
    """

    score: float
    level: float
    error: float


_SCORE_NAMES = {"accuracy": "accuracy", "f1": "F1", DECREASE: "decrease of loss"} | {
    "log_likelihood": "log-likelihood",
    "pearson": "correlation",
}


def model_name(results: Results) -> str:
    """Return the model as the user named it, a path by its last part."""
    return str(results.config["model"]).rstrip("/").split("/")[-1]


def score_metric(results: Results) -> str:
    """Return the task's metric as the table calls it, or what judges where nothing is classified.

    That is what one step does to held-out loss.
    """
    task = results.inputs["task"]
    by_step = "kind" in task and task["kind"] != "regression"
    return DECREASE if results.analysis == "lora" and by_step else str(task["metric"])


def score_name(results: Results) -> str:
    """Return the task's metric as readers call it."""
    metric = score_metric(results)
    return _SCORE_NAMES.get(metric, metric)


def zero_shot(results: Results) -> Pooled:
    """Return the test score of the initial logits."""
    return pooled(results, kernel="zero-shot", split="test", metric=score_metric(results))


def at_chance(results: Results) -> AtChance | None:
    """Return how the initial logits score if not above chance by more than a standard error.

    None as well where the score is no accuracy: F1 has no such level.
    """
    task = results.inputs["task"]
    labels = len(task.get("labels") or task.get("label_words", ()))
    if score_metric(results) != "accuracy" or labels < 2:
        return None
    score = zero_shot(results).mean
    error = math.sqrt(max(score * (1 - score), 0.0) / tested(results))
    level = max(1 / labels, _most_frequent(results))
    return AtChance(score, level, error) if score - level <= error else None


def _most_frequent(results: Results) -> float:
    """Return the share of the most frequent label among the first seed's tests; 0 if not kept."""
    seed = int(results.config["data_seeds"][0])
    said, kernel = results.beside.get(PREDICTIONS), results.kernels.get(f"{seed}/full")
    if said is None or kernel is None:
        return 0.0
    tests = cells(said, data_seed=seed, configuration="full")["example"].unique()
    labels = kernel.select(right=[str(each) for each in tests]).right_labels
    return (
        0.0
        if labels is None
        else float(np.unique(labels, return_counts=True)[1].max()) / len(labels)
    )


def cost(results: Results, data_seed: int) -> dict[str, float]:
    """Return what computing the kernels of a data seed took, by name."""
    rows = cells(results.table, data_seed=data_seed)
    rows = rows[rows["metric"].str.startswith("cost.")]
    names = rows["metric"].str.removeprefix("cost.")
    return {str(name): float(value) for name, value in zip(names, rows["value"], strict=True)}


def costs(results: Results) -> Costs:
    """Return what computing the kernels of every data seed took."""
    seeds = [int(seed) for seed in results.config["data_seeds"]]
    return Costs(
        {seed: cost(results, seed) for seed in seeds},
        {seed: _zeroed_entries(results, seed) for seed in seeds},
    )


def _zeroed_entries(results: Results, seed: int) -> int | None:
    kernel = results.kernels.get(f"{seed}/full")
    recorded = {} if kernel is None else kernel.provenance.get("recorded", {})
    return recorded.get("zeroed_entries")


def tested(results: Results) -> int:
    """Return the number of test examples (of the smallest test split)."""
    return min(sizes["test"] for sizes in results.inputs["examples"].values())


def score_error(results: Results, rows: pd.DataFrame) -> float:
    """Return one standard error of a test score over the test examples, as a share.

    Of an accuracy p over m examples it is √(p(1 − p)/m), p the mean of the rows. F1 is no mean over
    examples and has no such formula: its error is half its bootstrap interval over examples,
    divided by the normal quantile of the confidence, the mean over the rows. Runs share the test
    examples, so that more of them make neither smaller.

    Args:
        results: whose task and confidence.
        rows: of a long table: the task's test score of one or more runs. NaN is returned where none
            of them has the interval that it takes.
    """
    if score_metric(results) == "accuracy":
        share = float(rows["value"].mean())
        return math.sqrt(max(share * (1 - share), 0.0) / tested(results))
    half = float((rows["high"] - rows["low"]).mean()) / 2
    return half / float(stats.norm.ppf((1 + results.config["confidence"]) / 2))


def pooled(results: Results, **cell: Any) -> Pooled:
    """Pool the rows of one cell of the table."""
    return pool(cells(results.table, **cell), results.config["confidence"])

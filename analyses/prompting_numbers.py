"""What the results of ``analyze prompting`` hold, by what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analyses.long_table import cells
from analyses.pooling import Pooled, pool
from analyses.prompting_ranking import Correlation, rank_correlation, regret
from analyses.results import Results
from analyses.study_numbers import score_metric

__all__ = [
    "PREDICTORS",
    "Prediction",
    "Trial",
    "alignment",
    "chance",
    "constant",
    "learned",
    "lost",
    "predictions",
    "prompts",
    "seconds",
    "settings",
    "trials",
    "value",
]

Floats = npt.NDArray[np.float64]

PREDICTORS: Mapping[str, tuple[str, str]] = {
    "kernel, dev": ("kernel", "dev"),
    "kernel alignment, train": ("alignment", "train"),
    "zero-shot, dev": ("zero-shot", "dev"),
    "kernel, test": ("kernel", "test"),
}
"""Name -> (method, split) of what is known before training; the last needs the test labels."""


@dataclass(frozen=True)
class Trial:
    """One thing that was tried, on all data seeds."""

    prompt: str
    head: str
    weights: str

    @property
    def cell(self) -> dict[str, str]:
        """The columns of the table that name it."""
        return {"prompt": self.prompt, "head": self.head, "weights": self.weights}

    @property
    def label(self) -> str:
        """How figures and tables call it."""
        return self.prompt if self.weights == "pretrained" else f"{self.prompt}, random weights"


@dataclass(frozen=True)
class Prediction:
    """How well a predictor orders the prompts.

    Attributes:
        name: a name of `PREDICTORS`.
        correlation: with the test score of fine-tuning.
        choice: the prompts it puts first on some data seed.
        regret: what training with these loses against the best prompt.
    """

    name: str
    correlation: Correlation
    choice: tuple[str, ...]
    regret: float


def trials(results: Results) -> list[Trial]:
    """Return all that was tried, in order."""
    return [Trial(**arm) for arm in results.inputs["arms"]]


def prompts(results: Results) -> list[Trial]:
    """Return the prompts on pretrained weights; the first is the task's own or the first named."""
    return [t for t in trials(results) if t.head == "prompt" and t.weights == "pretrained"]


def value(results: Results, trial: Trial, method: str, split: str = "test") -> Pooled | None:
    """Return the pooled score of ``kernel`` (its judge), ``finetune`` or ``zero-shot``, if any."""
    rows = _rows(results, trial, method, split)
    rows = rows[rows["value"].notna()]
    return None if rows.empty else pool(rows, results.config["confidence"])


def alignment(results: Results, trial: Trial) -> Pooled | None:
    """Return the pooled kernel-target alignment on train."""
    return value(results, trial, "alignment", "train")


def constant(results: Results) -> Pooled:
    """Return the score of the best answer that is the same for all examples."""
    rows = cells(results.table, method="constant")
    return pool(rows, results.config["confidence"])


def learned(results: Results) -> bool:
    """Return whether there is fine-tuning to compare with: of two prompts, on every data seed."""
    return len(_compared(results)) >= 2


def lost(results: Results) -> list[Trial]:
    """Return the prompts whose fine-tuning gave no number on some data seed."""
    if not results.config["finetune"]:
        return []
    return [trial for trial in prompts(results) if trial not in _compared(results)]


def predictions(results: Results) -> list[Prediction]:
    """Return how well each predictor orders the prompts; none without fine-tuning to compare."""
    found = []
    compared = _compared(results)
    if len(compared) < 2:
        return []
    truth = _array(results, compared, "finetune", "test")
    for name, (method, split) in PREDICTORS.items():
        predictor = _array(results, compared, method, split)
        if np.isnan(predictor).any():
            continue
        correlation = rank_correlation(
            predictor,
            truth,
            confidence=results.config["confidence"],
            resamples=results.config["resamples"],
        )
        first = (predictor == predictor.max(0)).any(1)
        choice = tuple(t.prompt for t, chosen in zip(compared, first, strict=True) if chosen)
        found.append(Prediction(name, correlation, choice, regret(predictor, truth)))
    return found


def chance(results: Results) -> dict[str, float]:
    """Return the regret of not predicting: a random prompt, and the first one always."""
    compared = _compared(results)
    truth = _array(results, compared, "finetune", "test")
    first = prompts(results)[0]
    found = {"a prompt at random": regret(None, truth)}
    if first in compared:
        always = np.zeros_like(truth)
        always[compared.index(first)] = 1.0
        found[f"always {first.prompt}"] = regret(always, truth)
    return found


def best(results: Results, method: str, split: str) -> list[str]:
    """Return the prompts whose mean over data seeds is the highest: several if they tie."""
    means = {t.prompt: value(results, t, method, split) for t in prompts(results)}
    known = {name: pooled.mean for name, pooled in means.items() if pooled is not None}
    top = max(known.values(), default=0.0)
    return [name for name, mean in known.items() if mean == top]


def seconds(results: Results, method: str) -> float:
    """Return the seconds that all kernels, or all fine-tuning, took."""
    return float(cells(results.table, method=method, metric="seconds")["value"].sum())


def settings(results: Results, trial: Trial, name: str) -> list[tuple[float, str]]:
    """Return ``learning_rate``, ``batch_size`` or ``best_step``, and a note, by data seed."""
    rows = cells(results.table, method="finetune", metric=name, **trial.cell)
    notes = rows["note"].fillna("")
    return [(float(v), str(note)) for v, note in zip(rows["value"], notes, strict=True)]


def _compared(results: Results) -> list[Trial]:
    """Return the prompts that were fine-tuned with a number on every data seed."""
    if not results.config["finetune"]:
        return []
    truth = _array(results, prompts(results), "finetune", "test")
    gaps = np.isnan(truth).sum(1)
    return [trial for trial, gap in zip(prompts(results), gaps, strict=True) if gap == 0]


def _array(results: Results, tried: list[Trial], method: str, split: str) -> Floats:
    """Return numbers ``[p, s]`` of prompts on data seeds, NaN where there is none."""
    seeds = [int(seed) for seed in results.config["data_seeds"]]
    found = np.full((len(tried), len(seeds)), np.nan)
    for i, trial in enumerate(tried):
        rows = _rows(results, trial, method, split).set_index("data_seed")["value"]
        for s, seed in enumerate(seeds):
            found[i, s] = rows.get(seed, np.nan)
    return found


def _rows(results: Results, trial: Trial, method: str, split: str) -> pd.DataFrame:
    """Return the rows of a score, or of the alignment, by data seed."""
    cell: dict[str, Any] = {**trial.cell, "method": method, "split": split}
    cell["metric"] = score_metric(results)
    if method == "alignment":
        cell |= {"method": "kernel", "metric": "kernel_target_alignment"}
    elif method == "kernel":
        cell["solver"] = results.config["solvers"][0]
    return cells(results.table, **cell)

"""What the results of ``analyze prompting`` hold, by what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..engine.long_table import cells
from ..engine.pooling import Pooled, pool
from ..engine.ranking import Correlation, rank_correlation
from ..engine.run_folder import Results
from ..show.study_numbers import score_metric
from .ranking import firsts, followed, regret

__all__ = [
    "PREDICTORS",
    "Prediction",
    "Trial",
    "alignment",
    "best",
    "chance",
    "compared",
    "constant",
    "kernel_choice",
    "learned",
    "lost",
    "predictions",
    "promised",
    "prompts",
    "seconds",
    "settings",
    "start",
    "trained_rows",
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
        choice: the prompts it puts first, most often first -> on which data seeds.
        regret: what training with these loses against each data seed's best prompt, on average.
    """

    name: str
    correlation: Correlation
    choice: Mapping[str, tuple[int, ...]]
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


def start(results: Results, trial: Trial, split: str = "test") -> Pooled | None:
    """Return the score before training: zero-shot, or that of the probe where a head starts."""
    found = value(results, trial, "zero-shot", split)
    return value(results, trial, "probe", split) if found is None else found


def trained_rows(results: Results) -> pd.DataFrame:
    """Return the test scores of all that was fine-tuned, one row a prompt and data seed."""
    rows = cells(results.table, method="finetune", metric=score_metric(results), split="test")
    return rows[rows["value"].notna()]


def alignment(results: Results, trial: Trial) -> Pooled | None:
    """Return the pooled kernel-target alignment on train."""
    return value(results, trial, "alignment", "train")


def constant(results: Results) -> Pooled:
    """Return the score of the best answer that is the same for all examples."""
    rows = cells(results.table, method="constant")
    return pool(rows, results.config["confidence"])


def learned(results: Results) -> bool:
    """Return whether there is fine-tuning to compare with: of two prompts, on every data seed."""
    return len(compared(results)) >= 2


def compared(results: Results) -> list[Trial]:
    """Return the prompts that were fine-tuned with a number on every data seed."""
    if not results.config["finetune"]:
        return []
    truth = _array(results, prompts(results), "finetune", "test")
    gaps = np.isnan(truth).sum(1)
    return [trial for trial, gap in zip(prompts(results), gaps, strict=True) if gap == 0]


def lost(results: Results) -> list[Trial]:
    """Return the prompts whose fine-tuning gave no number on some data seed."""
    if not results.config["finetune"]:
        return []
    done = compared(results)
    return [trial for trial in prompts(results) if trial not in done]


def predictions(results: Results) -> list[Prediction]:
    """Return how well each predictor orders the prompts; none without fine-tuning to compare."""
    found = []
    tried = compared(results)
    if len(tried) < 2:
        return []
    truth = _array(results, tried, "finetune", "test")
    for name, (method, split) in PREDICTORS.items():
        predictor = _array(results, tried, method, split)
        if np.isnan(predictor).any():
            continue
        correlation = rank_correlation(
            predictor,
            truth,
            confidence=results.config["confidence"],
            resamples=results.config["resamples"],
        )
        choice = _choice(results, tried, predictor)
        found.append(Prediction(name, correlation, choice, regret(predictor, truth)))
    return found


def chance(results: Results) -> dict[str, float]:
    """Return the regret of not predicting: a random prompt, and the first one always."""
    tried = compared(results)
    truth = _array(results, tried, "finetune", "test")
    first = prompts(results)[0]
    found = {"a prompt at random": regret(None, truth)}
    if first in tried:
        always = np.zeros_like(truth)
        always[tried.index(first)] = 1.0
        found[f"always {first.prompt}"] = regret(always, truth)
    return found


def best(results: Results) -> list[str]:
    """Return the compared prompts with the highest mean fine-tuned test score: several may tie."""
    tried = compared(results)
    means = _array(results, tried, "finetune", "test").mean(1)
    return [t.prompt for t, mean in zip(tried, means, strict=True) if mean == means.max()]


def kernel_choice(results: Results) -> Mapping[str, tuple[int, ...]]:
    """Return the prompts that the kernel puts first on dev -> on which data seeds, most first.

    Where fine-tuning checks it, it chooses among the prompts that are compared.
    """
    tried = _choosable(results)
    return _choice(results, tried, _array(results, tried, "kernel", "dev"))


def promised(results: Results) -> float:
    """Return the kernel's own test score of its choice on each data seed, on average."""
    tried = _choosable(results)
    dev, test = (_array(results, tried, "kernel", split) for split in ("dev", "test"))
    return followed(dev, test)


def seconds(results: Results, method: str) -> float:
    """Return the seconds that all kernels, or all fine-tuning, took."""
    return float(cells(results.table, method=method, metric="seconds")["value"].sum())


def settings(results: Results, trial: Trial, name: str) -> list[tuple[float, str]]:
    """Return ``learning_rate``, ``batch_size`` or ``best_step``, and a note, by data seed."""
    rows = cells(results.table, method="finetune", metric=name, **trial.cell)
    notes = rows["note"].fillna("")
    return [(float(v), str(note)) for v, note in zip(rows["value"], notes, strict=True)]


def _choosable(results: Results) -> list[Trial]:
    """Return the prompts that a predictor chooses among."""
    return compared(results) if learned(results) else prompts(results)


def _choice(
    results: Results, tried: list[Trial], predictor: Floats
) -> Mapping[str, tuple[int, ...]]:
    """Return the prompts that come first by ``[p, s]`` -> on which data seeds, most first."""
    seeds = results.config["data_seeds"]
    found = {
        trial.prompt: tuple(int(s) for s, on in zip(seeds, first, strict=True) if on)
        for trial, first in zip(tried, firsts(predictor), strict=True)
    }
    chosen = {prompt: on for prompt, on in found.items() if on}
    return dict(sorted(chosen.items(), key=lambda each: len(each[1]), reverse=True))


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

"""The numbers of a verification by what they mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..engine.long_table import cells
from ..engine.pooling import Pooled, pool
from ..engine.ranking import FEWEST, rank_correlation
from ..engine.run_folder import VERIFICATION, Results
from ..show.study_numbers import cost, score_error
from .advice import FULL, Advice

__all__ = [
    "ASKED",
    "Cost",
    "Proof",
    "Ranking",
    "asked_of",
    "cheapest",
    "costs",
    "failed",
    "is_compared",
    "is_verified",
    "names",
    "on_edge",
    "parameters",
    "proof",
    "ranking",
    "trained_error",
    "trial_of",
    "value",
    "values",
]

Floats = npt.NDArray[np.float64]

ASKED = "asked"  # attribute of the table
_RESAMPLES = 2000


def is_verified(results: Results) -> bool:
    """Say if anything was fine-tuned to set beside the predictions."""
    return VERIFICATION in results.beside


def is_compared(results: Results) -> bool:
    """Say if any configuration was trained in every run, so that there is something to show."""
    return is_verified(results) and bool(names(results))


def _table(results: Results) -> pd.DataFrame:
    return results.beside[VERIFICATION]


def asked_of(results: Results) -> Mapping[str, Any]:
    """Return what the verification was told: how to train, and which configurations."""
    found: Mapping[str, Any] = _table(results).attrs[ASKED]
    return found


def trial_of(results: Results) -> Mapping[str, Any]:
    """Return how everything was trained: what `analyses.verify.trial.Trial.describe` gave."""
    found: Mapping[str, Any] = asked_of(results)["trial"]
    return found


def failed(results: Results) -> list[str]:
    """Return the configurations that diverged at every setting in some run, in order."""
    return list(cells(_table(results), metric="diverged")["configuration"].unique())


def names(results: Results) -> list[str]:
    """Return the configurations that were trained in every run, in the study's order."""
    lost = failed(results)
    return [str(name) for name in _table(results)["configuration"].unique() if name not in lost]


def value(results: Results, name: str, metric: str) -> Pooled:
    """Return a number of a configuration, pooled over its runs; NaN where it was not measured."""
    rows = cells(_table(results), configuration=name, metric=metric)
    if rows.empty:
        return Pooled(math.nan, math.nan, math.nan, 0, "examples")
    return pool(rows, results.config["confidence"])


def values(results: Results, name: str, metric: str) -> list[float]:
    """Return a number of a configuration in every run."""
    rows = cells(_table(results), configuration=name, metric=metric)
    return [float(each) for each in rows["value"]]


def on_edge(results: Results, name: str) -> bool:
    """Say if the best learning rate of a configuration is at an end of the grid in some run."""
    return any(values(results, name, "edge"))


def parameters(results: Results, name: str) -> int:
    """Return how many parameters a configuration trains."""
    return int(cells(_table(results), configuration=name)["parameters"].iloc[0])


@dataclass(frozen=True)
class Ranking:
    """Whether the kernels put configurations into the order of training.

    Attributes:
        rho: Spearman's rank correlation of predicted and trained scores (means over runs), full
            fine-tuning left out; NaN where there are too few or all are alike.
        low, high: percentile bootstrap over configurations.
        count: how many configurations.
        spread: highest trained score minus the lowest.
        error: one standard error of a trained score over the test examples.
    """

    rho: float
    low: float
    high: float
    count: int
    spread: float = 0.0
    error: float = math.nan


def ranking(results: Results) -> Ranking:
    """Correlate predicted with trained scores over the configurations."""
    compared = [name for name in names(results) if name != FULL]
    predicted, trained = (
        np.array([value(results, name, metric).mean for name in compared])
        for metric in ("predicted", "trained")
    )
    count = len(compared)
    if count < FEWEST:
        return Ranking(math.nan, math.nan, math.nan, count)
    found = rank_correlation(
        predicted[:, None], trained[:, None],
        confidence=results.config["confidence"], resamples=_RESAMPLES,
    )  # fmt: skip
    if math.isnan(found.value):
        return Ranking(math.nan, math.nan, math.nan, count)
    spread, error = float(np.ptp(trained)), trained_error(results, compared)
    return Ranking(found.value, found.low, found.high, count, spread, error)


def trained_error(results: Results, compared: Sequence[str]) -> float:
    """Return one standard error of the trained scores of configurations, over test examples."""
    rows = cells(_table(results), metric="trained")
    return score_error(results, rows[rows["configuration"].isin(compared)])


@dataclass(frozen=True)
class Proof:
    """What became of the advice.

    Attributes:
        advised, best: the configuration advised, and the one that trained best (means over runs)
            of those that could have been; full fine-tuning is not among them.
        of_best: in how many runs the advised one was within tolerance of that run's best.
        of_full: likewise of full fine-tuning.
        right: in how many runs it was right about full fine-tuning: where it says that the advised
            one is within tolerance of it, in score and, where that was asked, in predictions,
            whether it was; where that nothing is, whether nothing was. None where predictions were
            asked for and not kept.
        runs: how many runs: data seeds × draws.
        blind: share of all (run, configuration) pairs within tolerance of the run's best: what
            choosing blindly comes to.
    """

    advised: str
    best: str
    of_best: int
    of_full: int
    right: int | None
    runs: int
    blind: float


def proof(results: Results, advice: Advice) -> Proof | None:
    """Count how often the advice held; None where it or full fine-tuning could not be trained."""
    trained = names(results)
    if advice.name not in trained or FULL not in trained:
        return None
    rivals = _rivals(trained, advice)
    runs, same = (_runs(results, trained, each) for each in ("trained", "full_agreement"))
    of_best = of_full = right = blind = 0
    for scores, labels in zip(runs, same, strict=True):
        best = max(scores[name] for name in (*rivals, advice.name))
        of_best += advice.within(scores[advice.name], best)
        of_full += advice.within(scores[advice.name], scores[FULL])
        like_full = [
            name for name in rivals if advice.like_full(scores[name], scores[FULL], labels[name])
        ]
        right += advice.name in like_full if advice.qualifies else not like_full
        blind += sum(advice.within(scores[name], best) for name in rivals)
    means = {name: value(results, name, "trained").mean for name in rivals}
    best_name = max(means, key=lambda name: means[name])
    share = blind / (len(runs) * len(rivals))
    told = advice.agreement is None or not math.isnan(
        value(results, advice.name, "full_agreement").mean
    )
    return Proof(
        advice.name, best_name, of_best, of_full, right if told else None, len(runs), share
    )


def _rivals(trained: Sequence[str], advice: Advice) -> list[str]:
    """Return what could have been advised, the advice itself included."""
    allowed = trained if advice.rivals is None else [*advice.rivals, advice.name]
    return [name for name in trained if name in allowed and name != FULL]


def _runs(results: Results, trained: Sequence[str], metric: str) -> list[dict[str, float]]:
    """Return a number of every run: the n-th draw of each configuration on a data seed.

    What has fewer draws, or none of its own, stands with its last one in the runs beyond; what was
    not measured is NaN.
    """
    table = _table(results)
    rows, drawn = cells(table, metric=metric), cells(table, metric="trained")
    drawn = drawn[drawn["configuration"].isin(trained)]
    found = []
    for seed in drawn["data_seed"].unique():
        here = cells(rows, data_seed=int(seed))
        numbers = {
            name: cells(here, configuration=name)["value"].tolist() or [math.nan]
            for name in trained
        }
        for n in range(cells(drawn, data_seed=int(seed)).groupby("configuration").size().max()):
            found.append({name: each[min(n, len(each) - 1)] for name, each in numbers.items()})
    return found


def cheapest(results: Results, advice: Advice) -> str | None:
    """Return what trains fewest parameters of all that trained within tolerance of full."""
    trained = names(results)
    if FULL not in trained:
        return None
    full = value(results, FULL, "trained").mean
    good = [
        name
        for name in _rivals(trained, advice)
        if advice.like_full(
            value(results, name, "trained").mean, full, value(results, name, "full_agreement").mean
        )
    ]
    return min(good, key=lambda name: parameters(results, name), default=None)


@dataclass(frozen=True)
class Cost:
    """Seconds over all data seeds.

    Attributes:
        predicting: computing all kernels and solving all classifiers on them.
        trying: fine-tuning every configuration at every setting of the grid, but those of `lost`.
        runs: how many searches that was, each over a whole grid.
        lost: how many fine-tunings diverged: what they took was not kept.
    """

    predicting: float
    trying: float
    runs: int
    lost: int = 0


def costs(results: Results) -> Cost:
    """Return what predicting and what trying took, both measured in this run."""
    counted = {
        metric: cells(_table(results), metric=metric)["value"]
        for metric in ("seconds", "diverged", "diverged_points")
    }
    by_seed = [cost(results, int(seed)) for seed in results.config["data_seeds"]]
    predicting = sum(
        each.get("seconds", each.get("total_seconds", 0.0)) + each.get("judging_seconds", 0.0)
        for each in by_seed
    )
    return Cost(
        predicting,
        float(counted["seconds"].sum()),
        len(counted["seconds"]) + len(counted["diverged"]),
        int(counted["diverged_points"].sum()),
    )

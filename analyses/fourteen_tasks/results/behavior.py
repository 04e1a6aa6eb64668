"""What a study says of kernel behaviour: linearized models beside trained ones, kernels that moved.

Rows of method ``linearized`` hold the score of f(θ₀) + ∇f·(θ_T − θ₀), those of ``features`` how far
the kernel is from where it started; both are of the fine-tuning that ``optimizer`` names.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from .read import Study
from .summary import means

FEATURE_METRICS = {
    "relative change": "Relative change of the kernel",
    "relative_frobenius": "Relative change of the kernel",
    "relative_frobenius_scaled": "Relative change, best scale",
    "relative_frobenius_centred_scaled": "Relative change, centred, best scale",
    "cka with start": "CKA with the start",
    "cka": "CKA with the start",
}
"""Metrics of fixed features → heading; distances (0: unchanged), then alignments (1: unchanged)."""

_KEYS = ["task", "k", "head", "optimizer", "data_seed"]


def linearization(study: Study) -> pd.DataFrame:
    """Return scores at the start, linearized and fine-tuned, and the share recovered.

    The start is zero-shot; for a linear head that starts from the linear probe, that probe. One
    row for each task, shots, head and optimizer, over the data seeds that have all three: columns
    ``zero``, ``linear``, ``tuned``, each with ``_sd``, ``share`` = (linear − zero) /
    (tuned − zero) of the means (NaN where training improved nothing), and ``seeds``.
    """
    return _pooled(by_seed(study).dropna(subset=["zero", "linear", "tuned"]))


def by_seed(study: Study) -> pd.DataFrame:
    """Return what every full fine-tuning has: a row a task, shots, head, optimizer and data seed.

    Columns: those keys, ``tuned``, and ``zero``, ``linear`` (see `linearization`) and every metric
    of fixed features that the study has, NaN where one was not measured.
    """
    scores = study.scores
    tuned = scores[scores["method"].str.startswith("finetune-")]
    tuned = tuned.assign(optimizer=tuned["method"].str.removeprefix("finetune-"))
    found = tuned.groupby(_KEYS)["value"].mean().rename("tuned").to_frame()
    rows = study.table[study.table["method"] == "linearized"]
    metric = rows["task"].map(study.metrics)
    named = (rows["metric"] == metric) | (rows["metric"] == "linearized " + metric.astype(str))
    named |= rows["metric"] == "linearized accuracy"
    named &= rows["split"].isin(("test", ""))
    found = found.join(rows[named].groupby(_KEYS)["value"].mean().rename("linear"))
    for name, each in study.measured(list(FEATURE_METRICS), ["features"]).groupby("metric"):
        found = found.join(each.groupby(_KEYS)["value"].mean().rename(name))
    on = [key for key in _KEYS if key != "optimizer"]
    zero = _starts(study).groupby(on)["value"].mean().rename("zero")
    return found.reset_index().join(zero, on=on)


def _starts(study: Study) -> pd.DataFrame:
    """Return the scores from which training starts; see `linearization`."""
    scores = study.scores
    zero = scores["method"] == "zero-shot"
    if study.results.config.get("head_init") == "random":
        return scores[zero]
    probe = (scores["method"] == "linear-probe") & (scores["head"] == "linear")
    with_zero = set(scores.loc[zero, "head"])
    return scores[zero | (probe & ~scores["head"].isin(with_zero))]


def _pooled(found: pd.DataFrame) -> pd.DataFrame:
    """Return means and deviations over data seeds, and the recovered share of the means."""
    keys, names = _KEYS[:-1], ["zero", "linear", "tuned"]
    grouped = found.groupby(keys)
    mean = grouped[names].mean()
    spread = grouped[names].std(ddof=1).add_suffix("_sd")
    gained = mean["tuned"] - mean["zero"]
    share = ((mean["linear"] - mean["zero"]) / gained).where(gained > 0).rename("share")
    seeds = grouped.size().rename("seeds")
    return pd.concat([mean, spread, share, seeds], axis=1).reset_index()


def features(study: Study) -> pd.DataFrame:
    """Return mean, sd and seeds of every metric of fixed features.

    Keys: task, k, head, optimizer, metric.
    """
    rows = study.measured(list(FEATURE_METRICS), ["features"])
    return means(rows, ["task", "k", "head", "optimizer", "metric"])


def feature_metrics(found: pd.DataFrame) -> list[str]:
    """Return the metrics of `features` to show: a distance and an alignment, as far as there are.

    Of each the first that `FEATURE_METRICS` lists.
    """
    present = [name for name in FEATURE_METRICS if (found["metric"] == name).any()]
    distances = [name for name in present if "cka" not in name]
    alignments = [name for name in present if "cka" in name]
    return distances[:1] + alignments[:1]


def fewest_shots(found: pd.DataFrame, by: Sequence[str] = ("task",)) -> int:
    """Return the shots that a figure of one number shows: most rows, the fewest shots if tied."""
    counts = found.drop_duplicates(["k", *by])["k"].value_counts()
    return int(min(counts[counts == counts.max()].index))

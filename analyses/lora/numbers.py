"""The numbers of a LoRA study by what they mean, read from its long table and pooled over seeds."""

from __future__ import annotations

from typing import Any

from ..engine.long_table import cells
from ..engine.pooling import Pooled, pool
from ..engine.run_folder import Results
from ..show.study_numbers import cost, pooled, score_metric, score_name, tested, zero_shot

__all__ = [
    "adapted_only",
    "cost",
    "drops",
    "full_score",
    "kernel_agreement",
    "limit",
    "own_value",
    "same_predictions",
    "score_metric",
    "score_name",
    "scores",
    "tested",
    "trained",
    "zero_shot",
]


def scores(results: Results, solver: str) -> dict[int, Pooled]:
    """Return the test score of a classifier solved on LoRA kernels, by rank."""
    return _by_rank(results, solver=solver, split="test", metric=score_metric(results))


def full_score(results: Results, solver: str, kernel: str = "full") -> Pooled:
    """Return the test score of a classifier solved on the ``full`` or the ``targets`` kernel."""
    metric = score_metric(results)
    return pooled(results, kernel=kernel, solver=solver, split="test", metric=metric)


def drops(results: Results, solver: str) -> dict[int, Pooled]:
    """Return by how much a classifier scores lower than on the full kernel, by rank."""
    return _by_rank(results, solver=solver, split="test", reference="full", metric="drop")


def same_predictions(results: Results, solver: str) -> dict[int, Pooled]:
    """Return the share of test examples predicted as on the full kernel, by rank."""
    about = {"solver": solver, "split": "test", "reference": "full"}
    return _by_rank(results, metric="prediction_agreement", **about)


def adapted_only(results: Results, solver: str) -> tuple[Pooled, Pooled]:
    """Return drop and share of equal predictions of full fine-tuning of the adapted weights."""
    about = {"kernel": "targets", "solver": solver, "split": "test", "reference": "full"}
    drop = pooled(results, metric="drop", **about)
    return drop, pooled(results, metric="prediction_agreement", **about)


def kernel_agreement(results: Results, metric: str, reference: str = "full") -> dict[int, Pooled]:
    """Return the agreement of the LoRA train kernels with ``full`` or ``targets``, by rank."""
    return _by_rank(results, metric=metric, reference=reference, split="train", solver=None)


def limit(results: Results, metric: str) -> float:
    """Return the agreement of the two full kernels: what LoRA's tends to at high rank."""
    about = {"kernel": "targets", "reference": "full", "split": "train", "solver": None}
    return pooled(results, metric=metric, **about).mean


def own_value(results: Results, metric: str, reference: str = "full") -> float:
    """Return what a full kernel scores against itself: the value of full agreement."""
    about = {"kernel": reference, "reference": reference, "split": "train", "solver": None}
    return pooled(results, metric=metric, **about).mean


def trained(results: Results, rank: int | None = None) -> float:
    """Return how many parameters LoRA of a rank trains, or full fine-tuning."""
    kernel = "full" if rank is None else "lora"
    about = {"kernel": kernel, "rank": rank, "metric": "trainable_parameters"}
    return pooled(results, **about).mean


def _by_rank(results: Results, **cell: Any) -> dict[int, Pooled]:
    """Pool the rows of the LoRA kernels at each rank, ranks ascending."""
    rows = cells(results.table, kernel="lora", **cell)
    confidence = results.config["confidence"]
    return {
        rank: pool(cells(rows, rank=rank), confidence) for rank in sorted(results.config["ranks"])
    }

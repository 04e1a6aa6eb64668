"""The tables of the ``analyze lora`` report."""

from __future__ import annotations

from collections.abc import Sequence

from subkern.agreement import METRICS, Metric

from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.page import Table
from .numbers import (
    adapted_only,
    full_score,
    kernel_agreement,
    own_value,
    same_predictions,
    score_name,
    scores,
    trained,
    zero_shot,
)
from .verdict import Recommendation

__all__ = [
    "agreement_table",
    "solver_table",
    "trained_table",
    "verdict_table",
]

_NONE = "–"
_FIRST = (
    "cka",
    "relative_frobenius_centred_scaled",
    "eigenspace_overlap_centred",
    "pearson",
    "spearman",
    "kernel_target_alignment",
    "effective_rank_centred",
)
_FULL = {"full": "full kernel", "targets": "full, adapted weights"}


def verdict_table(results: Results, found: Recommendation) -> Table:
    """Return the table that the recommendation is read from."""
    score = score_name(results)
    rows = [
        [
            f"rank {verdict.rank}",
            fmt.share_between(verdict.score),
            fmt.points_between(verdict.drop),
            fmt.share_between(verdict.agreement),
            "yes" if verdict.ok else "no",
        ]
        for verdict in found.verdicts
    ]
    full, adapted = (
        fmt.share_between(full_score(results, found.solver, kernel)) for kernel in _FULL
    )
    drop, same = adapted_only(results, found.solver)
    rows.append([_FULL["full"], full, *[_NONE] * 3])
    rows.append(
        [_FULL["targets"], adapted, fmt.points_between(drop), fmt.share_between(same), _NONE]
    )
    rows.append(["zero-shot", fmt.share_between(zero_shot(results)), *[_NONE] * 3])
    return Table(
        f"The verdict, by the {found.solver} classifier",
        f"Test {score}; how many points below the full kernel's it is (negative: above); share of"
        " test predictions equal to the full kernel's. Intervals in brackets; with one data seed,"
        " those of the full kernels and zero-shot are over test examples.",
        ["", f"test {score}", "points below full", "equal predictions", "within tolerance"],
        rows,
        marked=[i for i, verdict in enumerate(found.verdicts) if verdict.rank == found.rank],
    )


def solver_table(results: Results) -> Table:
    """Return every classifier's score on every kernel, and how equal its predictions are."""
    solvers: Sequence[str] = results.config["solvers"]
    score = {solver: scores(results, solver) for solver in solvers}
    same = {solver: same_predictions(results, solver) for solver in solvers}
    rows = [
        [
            f"rank {rank}",
            *(fmt.share_between(score[solver][rank]) for solver in solvers),
            *(fmt.percent(same[solver][rank].mean) for solver in solvers),
        ]
        for rank in sorted(results.config["ranks"])
    ]
    for kernel, name in _FULL.items():
        full = [fmt.share_between(full_score(results, solver, kernel)) for solver in solvers]
        rows.append([name, *full, *[_NONE] * len(solvers)])
    header = [f"{solver}, {score_name(results)}" for solver in solvers]
    header += [f"{solver}, equal predictions" for solver in solvers]
    return Table("All classifiers", "As above, for every classifier.", ["", *header], rows)


def agreement_table(results: Results, reference: str) -> Table:
    """Return every agreement metric over the ranks, against one of the two full kernels.

    Some are not defined for the kernels of an asymmetric rule, and are left out.
    """
    ranks = sorted(results.config["ranks"])
    measured = set(results.table["metric"])
    rows = []
    for metric in sorted(METRICS.values(), key=_reading_order):
        if metric.name not in measured:
            continue
        values = kernel_agreement(results, metric.name, reference)
        own = fmt.decimal(own_value(results, metric.name, reference))
        cells = [fmt.number_between(values[rank], (metric.low, metric.high)) for rank in ranks]
        rows.append([metric.title, own, *cells])
    whole = "full fine-tuning" if reference == "full" else "full fine-tuning of the adapted weights"
    return Table(
        f"Agreement of the train kernels with {whole}",
        "“Same” is the value of full agreement. Differences not at the best scale depend on LoRA's"
        " α, and what is not centred is mostly the constant part of the kernels: read the first"
        " rows first.",
        ["metric", "same", *(f"rank {rank}" for rank in ranks)],
        rows,
    )


def _reading_order(metric: Metric) -> int:
    """Return where a metric stands in the table: the most telling ones first, the others after."""
    return _FIRST.index(metric.name) if metric.name in _FIRST else len(_FIRST)


def trained_table(results: Results) -> Table:
    """Return how many parameters each rank trains."""
    whole = trained(results)
    rows = []
    for rank in sorted(results.config["ranks"]):
        number = trained(results, rank)
        rows.append([f"rank {rank}", fmt.count(number), fmt.percent(number / whole, 2)])
    rows.append(["full", fmt.count(whole), fmt.percent(1.0, 0)])
    return Table("Trained parameters", "", ["", "parameters", "of full"], rows)

"""All agreement metrics of two kernels as one table."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import pandas as pd
from numpy.typing import ArrayLike

from subkern.agreement.blocks import KernelLike, UndefinedError, as_pair
from subkern.agreement.intervals import intervals
from subkern.agreement.metrics import METRICS, Metric, get_metric
from subkern.errors import UserError
from subkern.symmetry import is_symmetric

__all__ = ["agreement_table"]


def agreement_table(
    reference: KernelLike,
    other: KernelLike,
    *,
    labels: ArrayLike | None = None,
    right_labels: ArrayLike | None = None,
    metrics: Sequence[str] | None = None,
    confidence: float = 0.95,
    n_resamples: int = 200,
    random_state: int = 0,
) -> pd.DataFrame:
    """Return agreement metrics of ``other`` with ``reference``, one row each, intervals over
    examples included.

    Columns: ``metric``, ``title``, ``value``, ``low`` and ``high`` (NaN where there is no
    interval), ``reference`` (what the reference kernel itself scores: the ideal), ``better``
    (``higher``, ``lower`` or ``reference``: near that ideal) and ``unit``. Without ``metrics``, all
    that apply: those for symmetric kernels only where both are, those that need labels only where
    there are some. ``n_resamples=0`` leaves the intervals out. An undefined value (CKA of a
    constant kernel) is NaN.

    Kernels are ``[n, m]`` or ``[n, c, m, c]``. Raises `UserError` on bad input, or a metric asked
    for that does not apply.
    """
    left, right = as_pair(reference, other)
    symmetric = is_symmetric(left) and is_symmetric(right)
    if labels is None:
        labels, right_labels = (
            getattr(reference, "left_labels", None),
            getattr(reference, "right_labels", None),
        )
    labeled = labels is not None and (right_labels is not None or left.shape[0] == left.shape[2])
    chosen = _choose(metrics, symmetric, labeled)
    rows = intervals(
        chosen,
        left,
        right,
        labels=labels,
        right_labels=right_labels,
        confidence=confidence,
        n_resamples=n_resamples,
        random_state=random_state,
        symmetric=symmetric,
    )
    return pd.DataFrame(
        {
            "metric": [metric.name for metric in chosen],
            "title": [metric.title for metric in chosen],
            "value": [row.value for row in rows],
            "low": [row.low for row in rows],
            "high": [row.high for row in rows],
            "reference": [_own(metric, left, labels, right_labels) for metric in chosen],
            "better": [metric.better for metric in chosen],
            "unit": [metric.unit for metric in chosen],
        }
    )


def _choose(names: Sequence[str] | None, symmetric: bool, labeled: bool) -> list[Metric]:
    """Return the metrics asked for, or all that apply."""
    if names is None:
        return [
            metric
            for metric in METRICS.values()
            if (symmetric or not metric.needs_symmetric) and (labeled or not metric.needs_labels)
        ]
    chosen = [get_metric(name) for name in names]
    for metric in chosen:
        if metric.needs_symmetric and not symmetric:
            raise UserError(
                f"{metric.name} needs symmetric kernels: give train against train, or leave it out"
            )
        if metric.needs_labels and not labeled:
            raise UserError(
                f"{metric.name} needs labels: give labels (and right_labels), or leave it out"
            )
    return chosen


def _own(
    metric: Metric, reference: KernelLike, labels: ArrayLike | None, right_labels: ArrayLike | None
) -> float:
    """Return what the reference scores against itself, NaN where that is undefined."""
    try:
        return metric(reference, reference, labels, right_labels)
    except UndefinedError:
        return nan

"""How far two kernels agree: entries, alignment, spectra, predictions, each with an interval over
examples.

Every metric takes the reference (full) kernel first and the other one second, each a
`Kernel`, a NumPy array or a torch tensor of shape ``[n, m]`` or ``[n, c, m, c]``::

    from subkern.agreement import agreement_table, cka, interval

    cka(full, lora)
    interval("cka", full, lora)
    agreement_table(full, lora)
"""

from __future__ import annotations

from subkern.agreement.alignment import alignment, cka, kernel_target_alignment
from subkern.agreement.blocks import KernelLike, UndefinedError, centre
from subkern.agreement.entries import (
    entry_difference,
    optimal_scale,
    pearson,
    relative_frobenius,
    spearman,
)
from subkern.agreement.intervals import Interval, interval, intervals, prediction_interval
from subkern.agreement.metrics import METRICS, Metric, get_metric
from subkern.agreement.predictions import accuracy_gap, prediction_agreement, score_predictions
from subkern.agreement.spectrum import (
    effective_rank,
    eigenspace_overlap,
    spectral_epsilon,
    stable_rank,
)
from subkern.agreement.table import agreement_table

__all__ = [
    "METRICS",
    "Interval",
    "KernelLike",
    "Metric",
    "UndefinedError",
    "accuracy_gap",
    "agreement_table",
    "alignment",
    "centre",
    "cka",
    "effective_rank",
    "eigenspace_overlap",
    "entry_difference",
    "get_metric",
    "interval",
    "intervals",
    "kernel_target_alignment",
    "optimal_scale",
    "pearson",
    "prediction_agreement",
    "prediction_interval",
    "relative_frobenius",
    "score_predictions",
    "spearman",
    "spectral_epsilon",
    "stable_rank",
]

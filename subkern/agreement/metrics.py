"""The registry: every kernel metric with its title, range and direction, under one calling
convention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from math import inf
from types import MappingProxyType
from typing import Literal

from numpy.typing import ArrayLike

from subkern.agreement.alignment import alignment, cka, kernel_target_alignment
from subkern.agreement.blocks import KernelLike
from subkern.agreement.entries import (
    entry_difference,
    optimal_scale,
    pearson,
    relative_frobenius,
    spearman,
)
from subkern.agreement.spectrum import (
    effective_rank,
    eigenspace_overlap,
    spectral_epsilon,
    stable_rank,
)
from subkern.errors import UserError

__all__ = ["METRICS", "Metric", "get_metric"]


@dataclass(frozen=True)
class Metric:
    """One agreement metric: what it is called, how it reads, and how to compute it.

    ``metric(reference, other, labels, right_labels)`` gives its value for ``other``. A metric of a
    single kernel (``kernels == 1``) looks at ``other`` only; its value for the reference is
    ``metric(reference, reference)``, as is the ideal value of a metric of two.
    """

    name: str
    title: str
    function: Callable[..., float]
    low: float
    """Smallest possible value."""
    high: float
    """Largest possible value."""
    better: Literal["higher", "lower", "reference"]
    """Which way agreement lies; ``reference`` means close to the reference kernel's own value."""
    kernels: Literal[1, 2] = 2
    unit: str = ""
    needs_symmetric: bool = False
    needs_labels: bool = False
    has_interval: bool = True
    """False where resampling examples says nothing about the value (extremes of a spectrum)."""

    def __call__(
        self,
        reference: KernelLike,
        other: KernelLike,
        labels: ArrayLike | None = None,
        right_labels: ArrayLike | None = None,
    ) -> float:
        """Return the value of ``other`` against ``reference``."""
        kernels = (other,) if self.kernels == 1 else (reference, other)
        if self.needs_labels:
            return self.function(*kernels, labels, right_labels)
        return self.function(*kernels)


_frobenius = "relative Frobenius difference"
_entry = "relative difference of entries"

_ALL = (
    Metric("relative_frobenius", _frobenius, relative_frobenius, 0, inf, "lower"),
    Metric(
        "relative_frobenius_scaled",
        f"{_frobenius}, best scale",
        partial(relative_frobenius, scaled=True),
        0,
        1,
        "lower",
    ),
    Metric(
        "relative_frobenius_centred",
        f"{_frobenius}, centred",
        partial(relative_frobenius, centred=True),
        0,
        inf,
        "lower",
    ),
    Metric(
        "relative_frobenius_centred_scaled",
        f"{_frobenius}, centred, best scale",
        partial(relative_frobenius, scaled=True, centred=True),
        0,
        1,
        "lower",
    ),
    Metric("entry_mean", f"mean {_entry}", entry_difference, 0, inf, "lower"),
    Metric(
        "entry_mean_scaled",
        f"mean {_entry}, best scale",
        partial(entry_difference, scaled=True),
        0,
        inf,
        "lower",
    ),
    Metric(
        "entry_median",
        f"median {_entry}",
        partial(entry_difference, reduce="median"),
        0,
        inf,
        "lower",
    ),
    Metric(
        "entry_median_scaled",
        f"median {_entry}, best scale",
        partial(entry_difference, scaled=True, reduce="median"),
        0,
        inf,
        "lower",
    ),
    Metric(
        "entry_median_centred",
        f"median {_entry}, centred",
        partial(entry_difference, centred=True, reduce="median"),
        0,
        inf,
        "lower",
    ),
    Metric(
        "entry_median_centred_scaled",
        f"median {_entry}, centred, best scale",
        partial(entry_difference, scaled=True, centred=True, reduce="median"),
        0,
        inf,
        "lower",
    ),
    Metric("cka", "CKA (centred alignment)", cka, -1, 1, "higher"),
    Metric("alignment", "alignment (uncentred)", alignment, -1, 1, "higher"),
    Metric(
        "kernel_target_alignment",
        "kernel-target alignment",
        kernel_target_alignment,
        -1,
        1,
        "reference",
        kernels=1,
        needs_labels=True,
    ),
    Metric("pearson", "Pearson correlation of entries", pearson, -1, 1, "higher"),
    Metric("spearman", "Spearman correlation of entries", spearman, -1, 1, "higher"),
    Metric(
        "effective_rank",
        "effective rank (entropy)",
        effective_rank,
        1,
        inf,
        "reference",
        kernels=1,
        unit="directions",
    ),
    Metric(
        "effective_rank_centred",
        "effective rank (entropy), centred",
        partial(effective_rank, centred=True),
        1,
        inf,
        "reference",
        kernels=1,
        unit="directions",
    ),
    Metric(
        "stable_rank", "stable rank", stable_rank, 1, inf, "reference", kernels=1, unit="directions"
    ),
    Metric(
        "eigenspace_overlap",
        "overlap of the leading eigenspaces",
        eigenspace_overlap,
        0,
        1,
        "higher",
    ),
    Metric(
        "eigenspace_overlap_centred",
        "overlap of the leading eigenspaces, centred",
        partial(eigenspace_overlap, centred=True),
        0,
        1,
        "higher",
    ),
    Metric(
        "spectral_epsilon",
        "spectral epsilon",
        spectral_epsilon,
        0,
        inf,
        "lower",
        needs_symmetric=True,
        has_interval=False,
    ),
    Metric(
        "spectral_epsilon_scaled",
        "spectral epsilon, best scale",
        partial(spectral_epsilon, scaled=True),
        0,
        inf,
        "lower",
        needs_symmetric=True,
        has_interval=False,
    ),
    Metric(
        "optimal_scale",
        "optimal scale of the other kernel",
        optimal_scale,
        -inf,
        inf,
        "reference",
        unit="K per K'",
    ),
)

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _ALL})
"""Every metric of two kernels (or of one, beside the reference's own), by name, in reading
order."""


def get_metric(name: str) -> Metric:
    """Return the metric called ``name``, or raise `UserError` with the closest names."""
    if name not in METRICS:
        close = get_close_matches(name, METRICS, n=3, cutoff=0.4)
        raise UserError(
            f"no agreement metric is called {name!r}: did you mean {' or '.join(close or METRICS)}?"
        )
    return METRICS[name]

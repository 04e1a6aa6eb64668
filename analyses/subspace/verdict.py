"""Which method preserves the kernel with the fewest parameters, and whether theory holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import inf, isnan

import numpy as np

from ..engine.long_table import cells
from ..engine.run_folder import Results
from .dimension import crossing
from .numbers import (
    Curve,
    Family,
    agreement,
    distortion,
    families,
    kinds,
    same_predictions,
)

__all__ = ["Calibration", "Preserves", "as_dimension", "calibrate", "fewest", "front"]


@dataclass(frozen=True)
class Preserves:
    """How many parameters a family needs until something is preserved.

    Attributes:
        family: which.
        size: how many, interpolated on a log axis between the sizes tried; infinity if none does.
        first, last: smallest and largest size tried.
    """

    family: Family
    size: float
    first: int
    last: int

    @property
    def found(self) -> bool:
        """Whether a size tried preserves it."""
        return self.size < inf


def fewest(results: Results, what: str = "cka") -> list[Preserves]:
    """Return what each family needs for ``min_cka`` (``cka``) or ``min_agreement``, least first.

    What is not reached stands last, the closest first in the order of the sizes tried.
    """
    curve: Callable[[Results, Family], Curve] = agreement if what == "cka" else same_predictions
    level = results.config["min_cka" if what == "cka" else "min_agreement"]
    found = []
    for family in families(results):
        values = curve(results, family)
        found.append(Preserves(family, _reaches(values, level), min(values), max(values)))
    return sorted(found, key=lambda each: (each.size, each.last))


def front(results: Results) -> list[tuple[Family, int]]:
    """Return the Pareto front: families and sizes no smaller one of which has as much CKA."""
    points = sorted(
        (size, -value.mean, i)
        for i, family in enumerate(families(results))
        for size, value in agreement(results, family).items()
    )
    best, kept = -inf, []
    for size, negative, i in points:
        if -negative > best:
            best = -negative
            kept.append((families(results)[i], size))
    return kept


def as_dimension(results: Results, cka: float) -> float:
    """Return the dimension at which a random subspace has this CKA; infinity if none tried has."""
    return _reaches(agreement(results, kinds(results)[0]), cka)


def _reaches(values: Curve, level: float) -> float:
    """Return the size at which the means first reach a level, infinity if they never do."""
    sizes = np.array(list(values))
    means = np.array([value.mean for value in values.values()])
    if isnan(level) or not (means >= level - 1e-12).any():
        return inf
    return float(2.0 ** crossing(sizes, means, level))


@dataclass(frozen=True)
class Calibration:
    """How measured distortions compare with theory, for one kind of projection, all dimensions.

    Attributes:
        ratio: measured root mean square over the variance formula's: 1 if the formula holds.
        low, high: the range in which so few draws put it if the formula holds for all kinds
            (simulated; 95 % for all of them together).
        inside: share of the distortions within ±1.96 σ (normally distributed: 0.95).
        inside_bound: share within the JL bound at 95 %, where it gives one (at least 0.95).
        slack: how many times wider the JL bound is than the measured 5 to 95 % range, at least.
        shared: share of the mean square that all pairs of a draw have in common.
    """

    ratio: float
    low: float
    high: float
    inside: float
    inside_bound: float
    slack: float
    shared: float

    @property
    def holds(self) -> bool:
        """Whether the ratio is where theory lets chance put it."""
        return self.low <= self.ratio <= self.high


@lru_cache(maxsize=32)
def calibrate(results: Results, kind: Family, *, centred: bool = False) -> Calibration | None:
    """Return the calibration of a kind, None where distortions were not measured.

    The ratio's mean square is over pairs, dimensions, draws and data seeds. Data seeds share their
    draws, so they narrow the range that chance allows by nothing.
    """
    form = "centred_distortion" if centred else "distortion"
    rows = cells(results.table, **kind.cell, metric=f"{form}.ratio")
    if rows.empty:
        return None
    expected = cells(results.table, **kind.cell, metric=f"{form}.expected_ratio")

    def mean(what: str) -> float:
        values = [value.mean for value in distortion(results, kind, what, centred=centred).values()]
        known = [value for value in values if not isnan(value)]
        return float(np.mean(known)) if known else float("nan")

    return Calibration(
        ratio=float(np.sqrt((rows["value"] ** 2).mean())),
        low=float(expected["low"].mean()),
        high=float(expected["high"].mean()),
        inside=mean("inside"),
        inside_bound=mean("inside_bound"),
        slack=_slack(results, kind, centred=centred),
        shared=mean("shared"),
    )


def _slack(results: Results, kind: Family, *, centred: bool) -> float:
    """Return the least ratio of the JL bound to the measured 5 and 95 % quantiles; NaN for none."""
    names = ("epsilon", "q05", "q95")
    epsilon, low, high = (distortion(results, kind, name, centred=centred) for name in names)
    widths = {dim: max(-low[dim].mean, high[dim].mean) for dim in epsilon}
    found = [
        value.mean / widths[dim]
        for dim, value in epsilon.items()
        if not isnan(value.mean) and widths[dim] > 0
    ]
    return min(found) if found else float("nan")

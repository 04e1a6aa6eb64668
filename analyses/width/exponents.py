"""The exponent with which a number goes with the size of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

__all__ = ["Exponent", "by_width", "exponent", "mean"]


@dataclass(frozen=True)
class Exponent:
    """A fitted exponent of the width.

    Attributes:
        value: the slope.
        low, high: its interval.
        predicted: what theory says; NaN where it says nothing.
    """

    value: float
    low: float
    high: float
    predicted: float

    @property
    def off(self) -> float:
        """How far the prediction lies outside the interval; 0 inside, NaN of no prediction."""
        if math.isnan(self.predicted):
            return math.nan
        return max(0.0, self.low - self.predicted, self.predicted - self.high)


def exponent(
    rows: pd.DataFrame, confidence: float, predicted: float, rounded: float = 0.0
) -> Exponent | None:
    """Fit the exponent of the width; None with fewer than three widths whose numbers are known.

    Args:
        rows: numbers by width.
        confidence: of the interval.
        predicted: what theory says.
        rounded: step of the grid that logarithms of the numbers are rounded to; 0 for none.
    """
    known = rows[np.isfinite(rows["value"]) & (rows["value"] > 0)]
    if known["width"].nunique() < 3:
        return None
    x = np.log(known["width"].to_numpy(dtype=float))
    fit = stats.linregress(x, np.log(known["value"].to_numpy(dtype=float)))
    scatter = 0.0 if math.isnan(fit.stderr) else fit.stderr  # NaN of numbers that are all the same
    error = math.hypot(scatter, rounded / math.sqrt(12 * len(x) * x.var()))
    reach = float(error * stats.t.ppf((1 + confidence) / 2, len(x) - 2))
    slope = float(fit.slope)
    return Exponent(slope, slope - reach, slope + reach, predicted)


def by_width(rows: pd.DataFrame) -> dict[int, float]:
    """Return the geometric mean over seeds at each width."""
    return {int(width): mean(own["value"]) for width, own in rows.groupby("width")}


def mean(values: pd.Series) -> float:
    """Return the geometric mean of what is above 0 and finite; NaN of nothing."""
    known = values[np.isfinite(values) & (values > 0)]
    return float(np.exp(np.log(known).mean())) if len(known) else math.nan

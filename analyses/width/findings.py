"""What ``analyze width`` found: exponents of the width, beside theory's, and verdicts.

An exponent is the slope of the logarithm of a number over that of the width, fitted to all seeds by
least squares, with the t interval of that fit. A verdict compares intervals with −¼ and ¼, halfway
between what theory predicts for the two limits and half of what leaves them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from ..engine.long_table import cells
from ..engine.run_folder import Results
from .config import SYNTHETIC, Config
from .training import AT

Verdict = Literal["kernel limit", "feature-learning limit", "unstable", "trivial", "undecided"]

METRICS: Mapping[str, str] = {
    "features": "change of the last layer's features",
    "function.first": "change of the function, first step",
    "function": "change of the function, all steps",
    "error": "error of the kernel's prediction",
    "distance": "distance to twice the width",
    "kernel.frobenius": "change of the kernel",
}
"""What exponents are fitted to, and what that is."""

THEORY: Mapping[str, Mapping[str, float]] = {
    "ntp": {
        "features": -0.5, "function.first": 0.0, "function": 0.0, "error": -0.5,
        "distance": -0.5, "kernel.frobenius": -0.5,
    },
    "mup": {
        "features": 0.0, "function.first": 0.0, "function": 0.0, "error": 0.0,
        "distance": -0.5, "kernel.frobenius": 0.0,
    },
    "standard": {},
}  # fmt: skip
"""Exponents that theory predicts; error, distance and change of the kernel fall at least so fast
under ``ntp`` (sums of independent terms; where their mean vanishes they fall as 1/n)."""

HALF = 0.25


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
    def agrees(self) -> bool:
        """Whether the prediction lies in the interval."""
        return self.low <= self.predicted <= self.high


@dataclass(frozen=True)
class Group:
    """A parametrization with an optimizer.

    Attributes:
        optimizer, parametrization: which.
        exponents: by metric of `METRICS`; those that could be fitted.
        values: metric → width → geometric mean over seeds.
        layers: layer → width → change of its features.
        losses: width → factor → mean final loss; NaN where one diverged.
        start: mean loss before training.
        diverged: widths at which a training at the suggested rate diverged.
        verdict: what it is.
    """

    optimizer: str
    parametrization: str
    exponents: Mapping[str, Exponent]
    values: Mapping[str, Mapping[int, float]]
    layers: Mapping[int, Mapping[int, float]]
    losses: Mapping[int, Mapping[float, float]]
    start: float
    diverged: Sequence[int]
    verdict: Verdict

    @property
    def name(self) -> str:
        """Parametrization and optimizer, for tables."""
        return f"{self.parametrization}, {self.optimizer}"

    def best(self, width: int) -> float:
        """Factor of the rate with the lowest final loss; NaN if all diverged."""
        known = {f: loss for f, loss in self.losses[width].items() if not math.isnan(loss)}
        return min(known, key=lambda factor: known[factor]) if known else math.nan

    def stable(self, width: int) -> float:
        """Largest factor whose final loss is below that before training; NaN if none is."""
        known = [f for f, loss in self.losses[width].items() if loss < self.start]
        return max(known, default=math.nan)

    @property
    def drift(self) -> float:
        """Best factor at the largest width over that at the smallest: 1 if rates carry over."""
        return self.best(max(self.losses)) / self.best(min(self.losses))


@dataclass(frozen=True)
class Findings:
    """All that was found.

    Attributes:
        config: the settings.
        family, task: as readers call them.
        groups: every optimizer and parametrization.
        suggested: optimizer → rate at the base width, geometric mean over data seeds.
        seconds: of all trainings.
    """

    config: Config
    family: str
    task: str
    groups: Sequence[Group]
    suggested: Mapping[str, float]
    seconds: float

    def of(self, verdict: str) -> list[Group]:
        """Return the groups with a verdict."""
        return [group for group in self.groups if group.verdict == verdict]

    @property
    def verdicts(self) -> dict[str, list[Group]]:
        """The groups by verdict, those that occur."""
        return {v: self.of(v) for v in dict.fromkeys(group.verdict for group in self.groups)}

    @property
    def disagreeing(self) -> list[tuple[Group, str, Exponent]]:
        """Exponents whose interval leaves out what theory predicts exactly."""
        exact = ("features", "function.first", "function")
        return [
            (group, metric, group.exponents[metric])
            for group in self.groups
            for metric in exact
            if metric in group.exponents
            and not math.isnan(group.exponents[metric].predicted)
            and not group.exponents[metric].agrees
        ]

    @property
    def few_seeds(self) -> bool:
        """Whether intervals rest on one seed a width."""
        return len(self.config.seeds) * len(self.config.data_seeds) == 1


def findings(results: Results) -> Findings:
    """Return what was found in the results."""
    config, table = Config.from_dict(results.config), results.table
    suggested = cells(table, metric="suggested").groupby("optimizer")["value"]
    return Findings(
        config=config,
        family=config.family.rstrip("/").split("/")[-1],
        task="a synthetic target" if config.task == SYNTHETIC else results.inputs["task"]["name"],
        groups=[
            _group(config, cells(table, optimizer=optimizer, parametrization=parametrization))
            for optimizer in config.optimizers
            for parametrization in config.parametrizations
        ],
        suggested={str(name): _mean(values) for name, values in suggested},
        seconds=float(cells(table, metric="seconds")["value"].sum()),
    )


def _group(config: Config, rows: pd.DataFrame) -> Group:
    features = cells(rows, metric="features")
    last = features["layer"].max()
    looked = {
        metric: features[features["layer"] == last]
        if metric == "features"
        else cells(rows, metric=metric)
        for metric in METRICS
    }
    parametrization = str(rows["parametrization"].iloc[0])
    theory = THEORY[parametrization]
    fitted = {
        metric: exponent(own, config.confidence, theory.get(metric, math.nan))
        for metric, own in looked.items()
    }
    exponents = {metric: found for metric, found in fitted.items() if found is not None}
    losses = cells(rows, metric="loss")
    at = losses[losses["factor"] == AT]
    diverged = sorted({int(width) for width in at.loc[at["value"].isna(), "width"]})
    return Group(
        optimizer=str(rows["optimizer"].iloc[0]),
        parametrization=parametrization,
        exponents=exponents,
        values={metric: _by_width(own) for metric, own in looked.items() if len(own)},
        layers={int(n): _by_width(own) for n, own in features.groupby("layer")},
        losses={
            int(width): {
                float(factor): float(each["value"].mean(skipna=False))
                for factor, each in own.groupby("factor")
            }
            for width, own in losses.groupby("width")
        },
        start=float(cells(rows, metric="loss.start")["value"].mean()),
        diverged=diverged,
        verdict=verdict(exponents, bool(diverged)),
    )


def exponent(rows: pd.DataFrame, confidence: float, predicted: float) -> Exponent | None:
    """Fit the exponent of the width; None with fewer than three widths whose numbers are known."""
    known = rows[np.isfinite(rows["value"]) & (rows["value"] > 0)]
    if known["width"].nunique() < 3:
        return None
    x = np.log(known["width"].to_numpy(dtype=float))
    fit = stats.linregress(x, np.log(known["value"].to_numpy(dtype=float)))
    reach = float(fit.stderr * stats.t.ppf((1 + confidence) / 2, len(x) - 2))
    slope = float(fit.slope)
    return Exponent(slope, slope - reach, slope + reach, predicted)


def verdict(exponents: Mapping[str, Exponent], diverged: bool) -> Verdict:
    """Return what the exponents say.

    Unstable: a training diverged at the rate suggested at the base width, or the function moves
    ever more, by the interval. Trivial: ever less. Kernel limit: features move ever less, and the
    kernel's prediction errs ever less. Feature-learning limit: neither falls.
    """
    function = exponents.get("function.first")
    if diverged or (function is not None and function.low > HALF):
        return "unstable"
    features, error = exponents.get("features"), exponents.get("error")
    if function is None or features is None or error is None:
        return "undecided"
    if function.high < -HALF:
        return "trivial"
    if features.high < -HALF and error.high < -HALF:
        return "kernel limit"
    if features.low > -HALF and error.low > -HALF:
        return "feature-learning limit"
    return "undecided"


def _by_width(rows: pd.DataFrame) -> dict[int, float]:
    return {int(width): _mean(own["value"]) for width, own in rows.groupby("width")}


def _mean(values: pd.Series) -> float:
    """Return the geometric mean of what is above 0 and finite; NaN of nothing."""
    known = values[np.isfinite(values) & (values > 0)]
    return float(np.exp(np.log(known).mean())) if len(known) else math.nan

"""What ``analyze width`` found: exponents of the width, beside theory's, and verdicts.

An exponent is the slope of the logarithm of a number over that of the width, fitted to all seeds by
least squares, with the t interval of that fit. A verdict compares intervals with −¼ and ¼, halfway
between what theory predicts for the two limits and half of what leaves them.

Learning rates are those of a grid of factors: the best and the largest stable one of each seed are
off by up to half a step, which adds the variance of that rounding to the slope's. At the edge of
the grid they are only bounds, and widths with such a seed are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from ..engine.long_table import cells
from ..engine.run_folder import Results
from .config import SYNTHETIC, Config
from .exponents import Exponent, by_width, exponent, mean
from .sizes import Model, Tuned, models_of, tuned_of
from .training import AT

Carries = Literal["carries", "does not carry", "unclear"]
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

RATES: Mapping[str, str] = {"best": "best rate", "stable": "largest stable rate"}
"""Learning rates that exponents are fitted to; scaled as a parametrization says, theory's is 0."""

NEAR = 0.05
"""Exponents this near to theory's are no news: finite widths are never quite the limit."""

SAME = 2.0
"""A rate carries where, by the interval, the best one moves by less than so many times."""


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
        rates: by name of `RATES`: their exponents, those that could be fitted.
        edges: by name of `RATES`: widths where a seed's lies at the edge of the factors tried.
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
    rates: Mapping[str, Exponent]
    edges: Mapping[str, Sequence[int]]
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
    def moves(self) -> tuple[float, float, float] | None:
        """Best rate at the largest width over that at the smallest, by the fit, and interval."""
        if (fit := self.rates.get("best")) is None:
            return None
        span = max(self.losses) / min(self.losses)
        return span**fit.value, span**fit.low, span**fit.high

    @property
    def carries(self) -> Carries:
        """Whether a rate found at the smallest width is that of the largest."""
        if self.moves is None:
            return "unclear"
        _, low, high = self.moves
        if low > 1 / SAME and high < SAME:
            return "carries"
        return "does not carry" if high < 1 / SAME or low > SAME else "unclear"

    @property
    def divided(self) -> list[str]:
        """What leaves the verdict undecided: numbers whose interval holds −¼."""
        return [
            metric
            for metric in ("features", "error")
            if metric in self.exponents
            and self.exponents[metric].low <= -HALF <= self.exponents[metric].high
        ]


@dataclass(frozen=True)
class Findings:
    """All that was found.

    Attributes:
        config: the settings.
        family, task: as readers call them.
        groups: every optimizer and parametrization.
        suggested: optimizer → rate at the base width, geometric mean over data seeds.
        seconds: of all trainings.
        models, tuned: of ``--pretrained``, instead of groups: which, and what fine-tuning changed.
    """

    config: Config
    family: str
    task: str
    groups: Sequence[Group]
    suggested: Mapping[str, float]
    seconds: float
    models: Sequence[Model] = ()
    tuned: Sequence[Tuned] = ()

    def of(self, verdict: str) -> list[Group]:
        """Return the groups with a verdict."""
        return [group for group in self.groups if group.verdict == verdict]

    @property
    def verdicts(self) -> dict[str, list[Group]]:
        """The groups by verdict, those that occur."""
        return {v: self.of(v) for v in dict.fromkeys(group.verdict for group in self.groups)}

    def carrying(self, how: Carries) -> list[Group]:
        """Return the groups whose rates carry over, do not, or may."""
        return [group for group in self.groups if group.carries == how]

    @property
    def disagreeing(self) -> list[tuple[Group, str, Exponent]]:
        """Exponents whose interval leaves out what theory predicts exactly, by more than `NEAR`."""
        exact = ("features", "function.first", "function")
        return [
            (group, metric, group.exponents[metric])
            for group in self.groups
            for metric in exact
            if metric in group.exponents
            and not math.isnan(group.exponents[metric].predicted)
            and group.exponents[metric].off > NEAR
        ]

    @property
    def few_seeds(self) -> bool:
        """Whether intervals rest on one seed a width."""
        return len(self.config.seeds) * len(self.config.data_seeds) == 1


def findings(results: Results) -> Findings:
    """Return what was found in the results."""
    config, table = Config.from_dict(results.config), results.table
    suggested = cells(table, metric="suggested").groupby("optimizer")["value"]
    models = models_of(config, table)
    groups = [
        _group(config, cells(table, optimizer=optimizer, parametrization=parametrization))
        for optimizer in config.optimizers
        for parametrization in config.parametrizations
        if not models
    ]
    return Findings(
        config=config,
        family=config.family.rstrip("/").split("/")[-1],
        task="a synthetic target" if config.task == SYNTHETIC else results.inputs["task"]["name"],
        groups=groups,
        suggested={str(name): mean(values) for name, values in suggested},
        seconds=float(cells(table, metric="seconds")["value"].sum()),
        models=models,
        tuned=tuned_of(config, table, models),
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
    rates, edges = _rates(config, losses, cells(rows, metric="loss.start"), parametrization)
    return Group(
        optimizer=str(rows["optimizer"].iloc[0]),
        parametrization=parametrization,
        exponents=exponents,
        values={metric: by_width(own) for metric, own in looked.items() if len(own)},
        layers={int(n): by_width(own) for n, own in features.groupby("layer")},
        losses={
            int(width): {
                float(factor): float(each["value"].mean(skipna=False))
                for factor, each in own.groupby("factor")
            }
            for width, own in losses.groupby("width")
        },
        start=float(cells(rows, metric="loss.start")["value"].mean()),
        rates=rates,
        edges=edges,
        diverged=diverged,
        verdict=verdict(exponents, bool(diverged)),
    )


def _rates(
    config: Config, losses: pd.DataFrame, starts: pd.DataFrame, parametrization: str
) -> tuple[dict[str, Exponent], dict[str, list[int]]]:
    """Return the exponents of the rates of `RATES`, and widths where one lies at an edge."""
    factors = sorted(config.factors)
    runs = ["width", "data_seed", "seed"]
    before = starts.set_index(runs)["value"]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in RATES}
    edges: dict[str, set[int]] = {name: set() for name in RATES}
    for run, own in losses.groupby(runs):
        line = own.set_index("factor")["value"]
        start = before.get(run, float(before.mean()))
        known = line.dropna()
        best = float(known.idxmin()) if len(known) else math.nan
        stable = float(line[line < start].index.max())
        for name, factor, bounds in (
            ("best", best, (factors[0], factors[-1])),
            ("stable", stable, (factors[-1],)),
        ):
            if math.isnan(factor) or factor in bounds:
                edges[name].add(int(run[0]))
            else:
                found[name].append({"width": run[0], "value": factor})
    step = math.log(factors[-1] / factors[0]) / (len(factors) - 1) if len(factors) > 1 else 0.0
    predicted = math.nan if parametrization == "standard" else 0.0
    fitted = {}
    for name, rows in found.items():
        inside = pd.DataFrame(rows, columns=["width", "value"], dtype=float)
        inside = inside[~inside["width"].isin(edges[name])]
        fit = exponent(inside, config.confidence, predicted, step)
        if fit is not None:
            fitted[name] = fit
    return fitted, {name: sorted(widths) for name, widths in edges.items()}


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

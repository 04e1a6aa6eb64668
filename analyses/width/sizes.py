"""Pretrained models of several sizes: how fine-tuning's changes go with the number of parameters.

Sizes of a family differ in more than width, so theory has no exponent for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from ..engine.long_table import cells
from .config import Config
from .exponents import Exponent, exponent, mean
from .training import AT

__all__ = ["SIZED", "Model", "Tuned", "models_of", "tuned_of"]

SIZED: Mapping[str, str] = {
    "kernel.frobenius": "change of the kernel",
    "features": "change of the last layer's features",
    "error": "error of the kernel's prediction",
    "function": "change of the function",
}
"""What exponents are fitted to."""

Trend = Literal["falls", "grows", "neither falls nor grows", "unknown"]


@dataclass(frozen=True)
class Model:
    """One of the models.

    Attributes:
        spec: as the user names it.
        name: as readers call it.
        parameters, width: its size.
    """

    spec: str
    name: str
    parameters: int
    width: int


@dataclass(frozen=True)
class Tuned:
    """Fine-tuning with an optimizer.

    Attributes:
        optimizer: which.
        exponents: of the number of parameters, by metric of `SIZED`; those that could be fitted.
        values: metric → spec → geometric mean over data seeds; NaN where it diverged.
        rates: spec → learning rate, likewise.
        diverged: names of models whose training diverged.
    """

    optimizer: str
    exponents: Mapping[str, Exponent]
    values: Mapping[str, Mapping[str, float]]
    rates: Mapping[str, float]
    diverged: Sequence[str]

    @property
    def trend(self) -> Trend:
        """Where the change of the kernel goes with size, by the interval; features' without it."""
        fit = self.exponents.get("kernel.frobenius", self.exponents.get("features"))
        if fit is None:
            return "unknown"
        if fit.high < 0:
            return "falls"
        return "grows" if fit.low > 0 else "neither falls nor grows"


def models_of(config: Config, table: pd.DataFrame) -> list[Model]:
    """Return the models of ``--pretrained``, small ones first."""
    found = []
    for spec in config.pretrained:
        own = cells(table, model=spec, metric="parameters")
        short = spec.rstrip("/").split("/")[-1]
        twice = sum(each.rstrip("/").split("/")[-1] == short for each in config.pretrained) > 1
        count, width = int(own["value"].iloc[0]), int(own["width"].iloc[0])
        found.append(Model(spec, spec if twice else short, count, width))
    return sorted(found, key=lambda model: model.parameters)


def tuned_of(config: Config, table: pd.DataFrame, models: Sequence[Model]) -> list[Tuned]:
    """Return what fine-tuning changed, by optimizer."""
    return [
        _tuned(config, cells(table, optimizer=o), o, models) for o in config.optimizers if models
    ]


def _tuned(config: Config, table: pd.DataFrame, optimizer: str, models: Sequence[Model]) -> Tuned:
    sizes = {model.spec: model.parameters for model in models}
    exponents, values = {}, {}
    for metric in SIZED:
        rows = cells(table, metric=metric)
        if metric == "features":
            rows = rows[rows["layer"] == rows.groupby("model")["layer"].transform("max")]
        if rows.empty:
            continue
        sized = rows.assign(width=[sizes[str(spec)] for spec in rows["model"]])
        if fit := exponent(sized, config.confidence, math.nan):
            exponents[metric] = fit
        values[metric] = {s: mean(rows.loc[rows["model"] == s, "value"]) for s in sizes}
    losses = cells(table, metric="loss", factor=AT)
    rates = cells(table, metric="suggested")
    lost = set(losses.loc[losses["value"].isna(), "model"])
    return Tuned(
        optimizer,
        exponents,
        values,
        {s: mean(rates.loc[rates["model"] == s, "value"]) for s in sizes},
        [model.name for model in models if model.spec in lost],
    )

"""The numbers of a subspace study by what they mean, from its long table, pooled over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..engine.long_table import cells
from ..engine.pooling import Pooled, pool_values
from ..engine.run_folder import Results
from ..show.study_numbers import cost, pooled, score_metric, score_name, tested, zero_shot

__all__ = [
    "Curve",
    "Family",
    "Runs",
    "agreement",
    "baseline",
    "constant",
    "cost",
    "distortion",
    "families",
    "full_score",
    "judge",
    "kinds",
    "lora",
    "methods",
    "runs",
    "same_predictions",
    "score_metric",
    "score_name",
    "scores",
    "tested",
    "trained_in_full",
    "zero_shot",
]

Floats = npt.NDArray[np.float64]
Curve = Mapping[int, Pooled]
"""Trained parameters -> value with its interval."""


@dataclass(frozen=True)
class Family:
    """Kernels that differ in how many parameters are trained.

    Attributes:
        kernel: ``random``, ``lora`` or ``method``, as in the table.
        name: what readers call it.
        method: the table's ``method``, or None for all of ``kernel`` (LoRA's ranks).
    """

    kernel: str
    name: str
    method: str | None = None

    @property
    def cell(self) -> dict[str, Any]:
        """The columns that select it."""
        method = {} if self.method is None else {"method": self.method}
        return {"kernel": self.kernel, **method}


def kinds(results: Results) -> list[Family]:
    """Return the kinds of random subspace, that which gives the answer first."""
    return [Family("random", kind.replace("_", " "), kind) for kind in results.config["kinds"]]


def lora(results: Results) -> list[Family]:
    """Return LoRA, if there is any."""
    return [Family("lora", "LoRA")] if results.config["ranks"] else []


def methods(results: Results) -> list[Family]:
    """Return the other methods."""
    return [Family("method", method, method) for method in results.inputs["methods"]]


def families(results: Results) -> list[Family]:
    """Return all of them."""
    return [*kinds(results), *lora(results), *methods(results)]


def judge(results: Results, solver: str | None) -> str:
    """Return the classifier asked for, or the one that judges."""
    return solver or str(results.config["solvers"][0])


def scores(results: Results, family: Family, solver: str | None = None) -> Curve:
    """Return the test score of a classifier over the trained parameters."""
    return _curve(results, family, score_metric(results), judge(results, solver))


def same_predictions(results: Results, family: Family, solver: str | None = None) -> Curve:
    """Return the share of test examples predicted as on the full kernel."""
    return _curve(results, family, "prediction_agreement", judge(results, solver))


def agreement(results: Results, family: Family, metric: str = "cka") -> Curve:
    """Return the agreement of the train kernels with the full one."""
    return _curve(results, family, metric)


def distortion(results: Results, family: Family, what: str, *, centred: bool = False) -> Curve:
    """Return a number of `analyses.subspace.distortion` over the dimension; empty if none."""
    form = "centred_distortion" if centred else "distortion"
    return _curve(results, family, f"{form}.{what}")


def full_score(results: Results, solver: str | None = None) -> Pooled:
    """Return the test score of the full kernel's classifier."""
    return pooled(
        results,
        kernel="full",
        solver=judge(results, solver),
        split="test",
        metric=score_metric(results),
    )


def constant(results: Results) -> Pooled:
    """Return the test score of the best answer that is the same for all examples."""
    return pooled(results, kernel="constant", split="test", metric=score_metric(results))


def baseline(results: Results) -> Pooled:
    """Return the better one of the two scores without training."""
    return max(zero_shot(results), constant(results), key=lambda found: found.mean)


def trained_in_full(results: Results) -> int:
    """Return the number of parameters of full fine-tuning."""
    return round(pooled(results, kernel="full", metric="trainable_parameters").mean)


@dataclass(frozen=True)
class Runs:
    """Scores of single runs, for intervals over seeds.

    Attributes:
        sizes: trained parameters ``[k]``, ascending.
        scores: ``[u, k]``: unit × size. Units are the data seeds (means over the draws' seeds) if
            there are several, else the draws.
        full, without: scores ``[u]`` of the full kernel, and of the better way without training.
        over: what the units are.
    """

    sizes: npt.NDArray[np.int64]
    scores: Floats
    full: Floats
    without: Floats
    over: str


@lru_cache(maxsize=64)
def runs(results: Results, family: Family, solver: str | None = None) -> Runs:
    """Return the scores of a family of which there is more than one size, run by run."""
    metric, solver = score_metric(results), judge(results, solver)
    table = _index(results)
    found = table.rows[family.kernel, family.method, solver, metric]
    several = len(results.config["data_seeds"]) > 1
    units = table.data_seed if several else table.seed
    known = np.unique(np.concatenate([units[rows] for rows in found.values()]))
    means = [
        [table.value[rows][units[rows] == unit].mean() for rows in found.values()] for unit in known
    ]

    def of(**cell: Any) -> Floats:
        rows = cells(results.table, metric=metric, **cell).set_index("data_seed")["value"]
        return np.array([rows.loc[int(u)] if several else rows.iloc[0] for u in known], float)

    without = np.maximum(*(of(kernel=name) for name in ("zero-shot", "constant")))
    over = "data seeds" if several else "seeds"
    full = of(kernel="full", solver=solver)
    return Runs(np.array(list(found)), np.array(means), full, without, over)


Key = tuple[str, str | None, str | None, str]
"""Kernel, method (None: all of them), solver (None: none), metric."""


@dataclass(frozen=True)
class _Index:
    """The table as arrays ``[t]``, and where in it each curve stands.

    Attributes:
        rows: key -> trained parameters, ascending -> positions in the table.
        value, low, high, seed, data_seed: columns; NaN where missing.
    """

    rows: dict[Key, dict[int, npt.NDArray[np.intp]]]
    value: Floats
    low: Floats
    high: Floats
    seed: Floats
    data_seed: Floats


@lru_cache(maxsize=8)
def _index(results: Results) -> _Index:
    """Return the index of a study's table: reports ask for hundreds of curves."""
    table = results.table
    names = ("kernel", "method", "solver", "metric", "parameters")
    columns = [table[name].astype(object).where(table[name].notna(), None) for name in names]
    found: dict[Key, dict[int, list[int]]] = {}
    for position, (kernel, method, solver, metric, size) in enumerate(zip(*columns, strict=True)):
        if size is not None:
            for each in (method, None):
                by_size = found.setdefault((kernel, each, solver, metric), {})
                by_size.setdefault(int(size), []).append(position)
    rows = {
        key: {size: np.array(by_size[size]) for size in sorted(by_size)}
        for key, by_size in found.items()
    }
    values = ("value", "low", "high", "seed", "data_seed")
    return _Index(rows, *(table[name].to_numpy(float, na_value=np.nan) for name in values))


@lru_cache(maxsize=1024)
def _curve(results: Results, family: Family, metric: str, solver: str | None = None) -> Curve:
    """Pool the rows of a family at each number of parameters, ascending."""
    table, confidence = _index(results), results.config["confidence"]
    found = table.rows.get((family.kernel, family.method, solver, metric), {})
    return {
        size: pool_values(
            table.value[at], table.data_seed[at], (table.low[at[0]], table.high[at[0]]), confidence
        )
        for size, at in found.items()
    }

"""What the long table of ``analyze behavior`` holds, by what it means; and the verdict from it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from subkern.kernel_behavior import Evidence, Thresholds, Verdict, judge
from subkern.training.grid_search import TrainingGrid

from ..engine.long_table import cells
from ..engine.pooling import Pooled
from ..engine.run_folder import Results
from ..show.study_numbers import pooled

__all__ = [
    "Looked",
    "Margins",
    "at_edge",
    "critical_rates",
    "curve",
    "diverged",
    "end_errors",
    "evidence",
    "feature",
    "looked",
    "margins",
    "rates",
    "score",
    "seeds",
    "steps_of_kernels",
    "subspaces",
    "verdict",
]

Curve = dict[float, float]


@dataclass(frozen=True)
class Looked:
    """The run of a data seed that was looked into.

    Attributes:
        data_seed: which.
        subspace, parameters, learning_rate: what was trained, and how fast.
        best_step: the best on dev.
    """

    data_seed: int
    subspace: str
    parameters: int
    learning_rate: float
    best_step: int

    @property
    def cell(self) -> dict[str, Any]:
        """The columns that name it."""
        return {
            "data_seed": self.data_seed,
            "subspace": self.subspace,
            "learning_rate": self.learning_rate,
        }


def seeds(results: Results) -> list[int]:
    """Return the data seeds."""
    return [int(seed) for seed in results.config["data_seeds"]]


def looked(results: Results) -> list[Looked]:
    """Return the runs that were looked into, at most one a data seed (none where all diverged)."""
    rows = cells(results.table, metric="chosen")
    return [
        Looked(
            int(row.data_seed),
            str(row.subspace),
            int(row.parameters),
            float(row.learning_rate),
            int(row.step),
        )
        for row in rows.itertuples()
    ]


def subspaces(results: Results) -> dict[str, int]:
    """Return every subspace that was trained -> its number of coordinates, the main one first."""
    rows = results.table.dropna(subset=["subspace"]).drop_duplicates("subspace")
    return {str(row.subspace): int(row.parameters) for row in rows.itertuples()}


def rates(results: Results, seed: int, subspace: str) -> list[float]:
    """Return the learning rates tried, ascending."""
    rows = cells(results.table, data_seed=seed, subspace=subspace)
    return sorted(float(rate) for rate in rows["learning_rate"].unique())


def at_edge(results: Results, run: Looked) -> str | None:
    """Return ``smallest`` or ``largest`` if a run's learning rate is that of all that were tried.

    Rates at which training diverged count: beyond them there is nothing to be found.
    """
    return TrainingGrid(rates(results, run.data_seed, run.subspace)).edge(run.learning_rate)


def diverged(results: Results) -> list[tuple[int, str, float, int]]:
    """Return data seed, subspace, learning rate and step of every run that diverged."""
    rows = cells(results.table, metric="diverged")
    return [
        (int(r.data_seed), str(r.subspace), float(r.learning_rate), int(r.value))
        for r in rows.itertuples()
    ]


def critical_rates(results: Results) -> dict[int, float]:
    """Return data seed -> SGD's critical learning rate 2n/λ_max; empty for other optimizers."""
    rows = cells(results.table, metric="critical_rate").dropna(subset=["value"])
    return {int(row.data_seed): float(row.value) for row in rows.itertuples()}


def curve(results: Results, metric: str, **cell: Any) -> dict[int, float]:
    """Return step -> value of one number of one run."""
    rows = cells(results.table, metric=metric, **cell).sort_values("step")
    return {int(row.step): float(row.value) for row in rows.itertuples()}


def end_errors(results: Results, seed: int, subspace: str, split: str = "test") -> Curve:
    """Return learning rate -> error of the kernel's prediction at the last step."""
    last = int(results.config["steps"])
    where: dict[str, Any] = {"data_seed": seed, "subspace": subspace, "split": split, "step": last}
    rows = cells(results.table, metric="error.kernel", **where).sort_values("learning_rate")
    return {float(row.learning_rate): float(row.value) for row in rows.itertuples()}


def score(results: Results, what: str) -> Pooled:
    """Return the test score of ``zero-shot``, ``kernel``, ``linearized`` or ``trained``."""
    return pooled(results, metric=f"score.{what}", split="test")


def steps_of_kernels(results: Results, seed: int) -> list[int]:
    """Return the steps at which the kernel was computed, from 0 on."""
    return sorted(curve(results, "features.cka", data_seed=seed))


def feature(results: Results, metric: str, seed: int) -> dict[int, Pooled]:
    """Return step -> agreement of the kernel there with that at the start, with its interval."""
    return {
        step: pooled(results, metric=f"features.{metric}", data_seed=seed, step=step)
        for step in steps_of_kernels(results, seed)
    }


def evidence(results: Results) -> Evidence | None:
    """Return what the verdict is read from, means over data seeds; None where all diverged."""
    found = looked(results)
    if not found:
        return None
    scores = {
        name: score(results, text).mean
        for name, text in (
            ("zero_shot", "zero-shot"),
            ("kernel", "kernel"),
            ("linearized", "linearized"),
            ("trained", "trained"),
        )
    }
    last = [
        curve(results, f"features.{name}", **run.cell)[run.best_step]
        for name in ("cka", "relative_frobenius")
        for run in found
    ]
    return Evidence(
        **scores,
        cka=float(np.mean(last[: len(found)])),
        relative_change=float(np.mean(last[len(found) :])),
    )


def verdict(results: Results) -> Verdict | None:
    """Return the verdict; None where every run diverged."""
    found = evidence(results)
    asked = Thresholds(**{f.name: results.config[f.name] for f in fields(Thresholds)})
    return None if found is None else judge(found, asked)


@dataclass(frozen=True)
class Margins:
    """Margins of test examples over training: f of the true label less the best of the others.

    Attributes:
        steps: ``[s]``.
        real: example -> margins ``[s]``.
        predicted: the same, from the kernel; empty if the prediction diverged.
        linearized: the same, from training f_lin; empty where that was not done.
        labels: example -> its label.
    """

    steps: list[int]
    real: dict[str, np.ndarray]
    predicted: dict[str, np.ndarray]
    linearized: dict[str, np.ndarray]
    labels: dict[str, int]


def margins(results: Results, run: Looked, *, ends: bool = False) -> Margins:
    """Return margins of the examples followed at every step, or of all of them at both ends."""
    table = cells(results.table, **run.cell)
    labels = {str(r.example): int(r.value) for r in cells(table, metric="label").itertuples()}
    steps = sorted(int(step) for step in cells(table, metric="logit.real")["step"].unique())
    if ends:
        steps = [steps[0], steps[-1]]
    real, predicted, linearized = (
        _margins(cells(table, metric=f"logit.{kind}"), steps, labels)
        for kind in ("real", "kernel", "linearized")
    )
    return Margins(steps, real, predicted, linearized, labels)


def _margins(rows: pd.DataFrame, steps: list[int], labels: dict[str, int]) -> dict[str, np.ndarray]:
    """Return example -> margins ``[s]`` of the examples that have logits at all of ``steps``."""
    if rows.empty:
        return {}
    wide = rows.pivot_table(index="example", columns=["step", "logit"], values="value")
    found = {}
    for example, values in wide.iterrows():
        at = np.array([values[step].to_numpy(dtype=float) for step in steps])
        if np.isfinite(at).all():
            label = labels[str(example)]
            if at.shape[1] == 1:
                found[str(example)] = at[:, 0] * (1 if label == 1 else -1)
            else:
                others = np.delete(at, label, axis=1).max(1)
                found[str(example)] = at[:, label] - others
    return found

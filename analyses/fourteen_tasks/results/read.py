"""A study's long table, read and checked: what tables, figures and report are made from.

One row of ``results.parquet`` is one number of one finished cell. Here it becomes scores: one per
method, task, shots, head and data seed, on the test split, of the solver that dev chose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from subkern.errors import UserError
from subkern.tasks.catalogue import TASKS

from ...engine.run_folder import Results
from ..config import RATES, Config
from ..table import COLUMNS, JUDGES, SCHEMA, SCORES
from .methods import METHODS

RUN = ("task", "k", "data_seed", "head", "method", "subspace", "optimizer")
"""What names one run: its rows differ in solver, split and metric only."""


@dataclass(frozen=True, eq=False)
class SavedStudy:
    """A study's results.

    Attributes:
        table: the rows of finished cells.
        failed: one row for each cell that failed.
        where: the directory they were read from.
        results: environment and command that belong to them.
        config: the settings.
    """

    table: pd.DataFrame
    failed: pd.DataFrame
    where: Path
    results: Results
    config: Config

    @cached_property
    def tasks(self) -> list[str]:
        """Tasks in the paper's order, a user's own after them."""
        return _ordered(self.table["task"], list(TASKS))

    @cached_property
    def shots(self) -> list[int]:
        """Shots a label, ascending."""
        return sorted({int(k) for k in self.table["k"]})

    @cached_property
    def heads(self) -> list[str]:
        """Heads, the prompt first."""
        return _ordered(self.table["head"].dropna(), ["prompt", "linear"])

    @cached_property
    def seeds(self) -> list[int]:
        """Data seeds, ascending."""
        return sorted({int(seed) for seed in self.table["data_seed"]})

    @property
    def one_seed(self) -> bool:
        """Whether nothing shows how much splits matter."""
        return len(self.seeds) == 1

    @property
    def done(self) -> int:
        """Number of finished cells."""
        return int(self.table["cell"].nunique())

    @cached_property
    def metrics(self) -> dict[str, str]:
        """The score of each task: ``accuracy`` or ``f1``."""
        return {task: self._metric(task) for task in self.tasks}

    def _metric(self, task: str) -> str:
        """Return the metric of a task: the paper's, else the one that the table has."""
        if task in TASKS:
            return TASKS[task].metric
        rows = self.table[(self.table["task"] == task) & self.table["metric"].isin(SCORES)]
        return "accuracy" if (rows["metric"] == "accuracy").any() or rows.empty else "f1"

    @cached_property
    def at_edge(self) -> set[tuple[str, str, str, int, str]]:
        """Fine-tuning whose best learning rate was the least or greatest tried, in some seed.

        As (method, subspace, head, shots, task).
        """
        rows = _undrawn(
            self.table[(self.table["metric"] == "grid edge") & (self.table["value"] != 0)]
        )
        names = (rows[name] for name in ("method", "subspace", "head", "k", "task"))
        return {(m, s, h, int(k), t) for m, s, h, k, t in zip(*names, strict=True)}

    @cached_property
    def edge_places(self) -> set[tuple[str, str, int, str]]:
        """The places of `at_edge` as (method, head, shots, task), whatever the subspace."""
        return {(method, head, k, task) for method, _, head, k, task in self.at_edge}

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Test scores, one row a run: the columns of `RUN`, ``value``, ``dev`` and ``solver``.

        ``dev`` is the score on dev, for choosing between runs (−∞ where there is none). A kernel
        solved in several ways counts by the solver with the best dev score (the project's standard
        one where they tie or there is no dev). Draws of an adapter or of a random subspace are
        averaged.
        """
        wanted = self.table["task"].map(self.metrics)
        rows = self.table[(self.table["metric"] == wanted) & np.isfinite(self.table["value"])]
        rows = rows[rows["method"].isin(METHODS) | rows["method"].str.startswith("kernel-")]
        keys = [*RUN, "solver"]
        sides = {
            side: rows[rows["split"] == side].groupby(keys, dropna=False)["value"].mean()
            for side in ("dev", "test")
        }
        found = sides["test"].to_frame().join(sides["dev"].rename("dev")).reset_index()
        found["dev"] = found["dev"].fillna(-np.inf)
        found["standard"] = found["solver"].isin(JUDGES)
        found = found.sort_values(["dev", "standard"], ascending=False, kind="stable")
        chosen = _undrawn(found.drop_duplicates(list(RUN)))
        mean = chosen.groupby(list(RUN), dropna=False, as_index=False)
        return mean.agg(value=("value", "mean"), dev=("dev", "mean"), solver=("solver", "first"))

    def measured(self, metrics: Sequence[str], methods: Sequence[str]) -> pd.DataFrame:
        """Return numbers that are no scores, one row a run and metric: `RUN`, metric, value."""
        rows = self.table[
            self.table["metric"].isin(metrics)
            & self.table["method"].isin(methods)
            & np.isfinite(self.table["value"])
        ]
        keys = [*RUN, "metric"]
        return _undrawn(rows).groupby(keys, dropna=False, as_index=False)["value"].mean()


def load(directory: str | Path) -> SavedStudy:
    """Read and check the results in a study's folder.

    Raises:
        UserError: there is no such directory, no study in it, or one that is unfinished or empty;
            its table lacks a column (named), or is of another version.
    """
    root = Path(directory)
    if not root.is_dir():
        raise UserError(f"'{root}' is no directory: give the --out folder of a study")
    results = Results.load(root)
    stored = results.inputs.get("schema", SCHEMA)
    if stored != SCHEMA:
        raise UserError(
            f"the table in '{root}' is of version {stored}, this subkern reads {SCHEMA}: draw it"
            " with the version that made it, or run the study again"
        )
    missing = [name for name in COLUMNS if name not in results.table.columns]
    if missing:
        raise UserError(
            f"the table in '{root}' lacks the column '{missing[0]}'"
            f"{f' and {len(missing) - 1} more' if missing[1:] else ''}: it is not that of"
            f" 'analyze fourteen-tasks' but of 'analyze {results.analysis}'"
        )
    return _checked(results, root)


def _checked(results: Results, where: Path) -> SavedStudy:
    """Return the study of a long table that has the columns of `COLUMNS`; refuse an empty one."""
    plain = results.table[list(COLUMNS)].copy()
    plain["value"] = plain["value"].to_numpy(float, na_value=np.nan)
    plain["seconds"] = plain["seconds"].to_numpy(float, na_value=np.nan)
    texts = plain.columns.difference(["value", "seconds", "k", "data_seed"])
    plain[texts] = plain[texts].astype(object).where(plain[texts].notna(), "")
    done = plain[plain["status"] == "done"]
    failed = plain[plain["status"] == "failed"].drop_duplicates("cell")
    if done.empty:
        raise UserError(f"no cell of the study in '{where}' is finished: run its command again")
    done, failed = (rows.reset_index(drop=True) for rows in (done, failed))
    # Before rates were suggested, a method that the settings do not name had these.
    given = {**RATES, **results.config.get("learning_rates", {})}
    config = Config.from_dict({**results.config, "learning_rates": given})
    return SavedStudy(done, failed, where, results, config)


def _undrawn(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with subspaces named without their seed: draws count as one method."""
    return rows.assign(subspace=rows["subspace"].str.replace(r",?\bseed=\d+", "", regex=True))


def _ordered(values: pd.Series, known: Sequence[str]) -> list[str]:
    """Return the distinct texts, known ones first in their order, others sorted."""
    found = {str(value) for value in values if value}
    return [name for name in known if name in found] + sorted(found - set(known))

"""Does the kernel predict what fine-tuning does? Every method on every task, as cells.

`analyze` computes what is missing in a folder and writes the long table (see `.table`)::

    config = Config(model="roberta-base", data="data/k-shot", tasks=("SST-2", "trec"))
    done = analyze(config, "runs/study")
    done.table

`StudyFolder` says what there is and how far it is, without computing anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd

from subkern.errors import DamagedError, UserError
from subkern.storage import provenance
from subkern.storage.checksums import is_sound
from subkern.storage.claim import refuse_foreign

from ..engine.parts import environment_since
from ..engine.run_folder import (
    ENVIRONMENT,
    FIGURE_FOLDER,
    REPORT,
    TABLE,
    read_record,
    read_table,
    write_record,
    write_results,
)
from ..scheduler.cell import Cell, Plan, State
from ..scheduler.executors import Executor, Here
from ..scheduler.run import Ran, prepare, run_cells
from ..scheduler.store import CellStore
from ..scheduler.work import Ended, Found, Place
from .config import Config
from .inputs import Context
from .plan import check_worker, make_plan
from .results.page import draw
from .steps import STEPS
from .table import SCHEMA, SCORES, tidy

NAME = "fourteen-tasks"

Progress = Callable[[Plan, Mapping[str, State], Ended | None], None]
"""Called with the plan and the state of its cells, and with how one ended."""


@dataclass(frozen=True)
class Work:
    """What computes a cell of the study, here or in another process.

    Attributes:
        config: the study's settings.
        where: the folder that relative paths in them start at.
    """

    config: Config
    where: Path = field(default_factory=Path.cwd)

    def __call__(self, cell: Cell, needs: Mapping[str, Path], place: Place) -> Found:
        """Compute one cell.

        Raises:
            OtherWorkerError: see `check_worker`.
        """
        there = contextlib.chdir(self.where) if self.where.is_dir() else contextlib.nullcontext()
        with there:  # a worker of a cluster starts elsewhere
            context = Context(self.config, cell, needs, place)
            check_worker(self.config, cell, context.inputs)
            return STEPS[cell.step.partition(" ")[0]](context)


@dataclass(frozen=True)
class Done:
    """What a run of the study leaves.

    Attributes:
        table: the long table of everything that is finished, as written.
        ran: what this run did, and the state of every cell.
        report: path of the report page, or None where nothing could be drawn yet.
    """

    table: pd.DataFrame
    ran: Ran
    report: Path | None = None


@dataclass(frozen=True)
class StudyFolder:
    """A study and the folder it is kept in."""

    config: Config
    out: Path

    @cached_property
    def plan(self) -> Plan:
        """Its cells."""
        return make_plan(self.config)

    @cached_property
    def store(self) -> CellStore:
        """Where they are kept."""
        return CellStore(self.out)

    def check(self) -> None:
        """Raise `UserError` if the folder holds something else, which is never written to."""
        record = self._record
        if record is None:
            if not any((self.out / name).exists() for name in ("cells", "work")):
                refuse_foreign(self.out, "study", "give another --out")
        elif record["analysis"] != NAME:
            raise UserError(
                f"'{self.out}' holds a run of analyze {record['analysis']}: give another"
            )
        elif "parts" in record["asked"]:
            raise UserError(
                f"'{self.out}' holds several studies drawn as one by subkern figures: give another"
            )

    def table(self) -> pd.DataFrame:
        """Return the long table of all cells that are finished or failed."""
        rows: list[dict[str, Any]] = []
        states = self.store.states(self.plan)
        for cell in self.plan:
            if states[cell.key] == "done":
                stored = self.store.stored(cell.key)
                assert stored is not None
                end = {"seconds": stored.seconds, "status": "done", "cell": cell.key}
                rows += [row | end for row in stored.rows or [_about(cell)]]
            elif states[cell.key] == "failed":
                rows.append(_about(cell) | {"status": "failed", "cell": cell.key})
        return tidy(rows)

    def claim(self, command: str) -> None:
        """Write down what is asked for, on what, and by which commands so far."""
        settings, before = self._settings, (self._record or {}).get("command", "")
        others = [line for line in before.splitlines() if line != command]
        examples = {
            f"{cell.task}/{cell.k}-{cell.data_seed}": cell.identity["examples"]["digest"]
            for cell in self.plan
        }
        record = {
            "analysis": NAME,
            "command": "\n".join([*others, command]),
            "config": settings,
            "inputs": {
                "schema": SCHEMA,
                "cells": len(self.plan),
                "model": dict(next(iter(self.plan)).identity["model"]),
                "examples": examples,
            },
            "asked": {"analysis": NAME, "settings": settings},
        }
        write_record(self.out, record)

    @property
    def _record(self) -> dict[str, Any] | None:
        """What was written down; None if nothing was, or it is damaged: cells know themselves."""
        try:
            return read_record(self.out)
        except DamagedError:
            return None

    @property
    def _settings(self) -> Any:
        return provenance.normalize(self.config.as_dict())

    def written(self) -> pd.DataFrame | None:
        """Return the table as it was last written; None if it was not, or it is damaged."""
        try:
            if not is_sound(self.out / ENVIRONMENT):
                return None
            return read_table(self.out / TABLE) if (self.out / TABLE).is_file() else None
        except DamagedError:
            return None

    def withdraw(self) -> bool:
        """Remove a report, and a table, that are not of these settings; say if a table was."""
        written, record = self.written(), self._record
        other = written is not None and not self.table().equals(written)
        if other or (record is not None and record["config"] != self._settings):
            (self.out / REPORT).unlink(missing_ok=True)
        if other:
            (self.out / TABLE).unlink()
        return other

    def refresh(self, started: datetime) -> None:
        """Write the table of what is finished, and the environment.

        The report, which is of the table before, goes first.
        """
        (self.out / REPORT).unlink(missing_ok=True)
        write_results(self.out, self.table(), environment_since(started))


def analyze(
    config: Config,
    out: str | Path,
    *,
    executor: Executor | None = None,
    only: Sequence[Mapping[str, str]] = (),
    overwrite: bool = False,
    retry_failed: bool = False,
    progress: Progress | None = None,
    command: str | None = None,
    report: bool = True,
) -> Done:
    """Compute what is missing of the study in a folder, then write its table and report.

    Whatever happens, finished cells stay; the same call goes on. Cells of other tasks, seeds or
    methods in the folder stay too, but the table is of those that ``config`` names.

    Args:
        config: the settings.
        out: the study's folder.
        executor: who computes; this process if None.
        only: filters on cells (`parse_only`); all if there are none. Cells that they do not pick
            stay as they are; of other settings or versions, they are not in the table.
        overwrite: compute cells of other settings or versions anew.
        retry_failed: try failed cells again.
        progress: told of every cell that ends.
        command: what the report says makes it again; the call of this function if None.
        report: draw figures and the report from the table
            (`analyses.fourteen_tasks.results.page.draw`).

    Raises:
        UserError: anything the user can put right; cells that fail are no such thing.
    """
    study, started = StudyFolder(config, Path(out)), datetime.now(UTC)
    study.check()
    chosen = study.plan.choose(only)
    if not overwrite:
        study.store.refuse_others(study.plan, chosen)
    with study.store.lock():
        prepare(study.plan, study.store, chosen=chosen, overwrite=overwrite)
        # Whoever looks while this runs, or after it is killed, finds a table of these settings.
        withdrawn = study.withdraw()
        study.claim(command or f"analyses.fourteen_tasks.study.analyze({config!r}, {str(out)!r})")
        if withdrawn:
            study.refresh(started)
        try:
            ran = run_cells(
                study.plan,
                study.store,
                Work(config),
                executor or Here(),
                chosen=chosen,
                retry_failed=retry_failed,
                seen=None if progress is None else partial(progress, study.plan),
            )
        except BaseException:
            with contextlib.suppress(OSError):
                if not study.table().equals(study.written()):  # what is done may be read
                    study.refresh(started)
            raise
        table = study.table()
        changed = not table.equals(study.written())
        if changed:
            study.refresh(started)
    return Done(table, ran, _draw(study.out, table, changed=changed) if report else None)


def _about(cell: Cell) -> dict[str, Any]:
    """Return what a cell is about, as a row without a number: its time counts, or its failure."""
    row = {n: getattr(cell, n) for n in ("task", "k", "data_seed", "head", "method")}
    named = ("rule", "subspace", "optimizer", "solver")
    return row | {n: cell.settings[n] for n in named if n in cell.settings}


def _draw(out: Path, table: pd.DataFrame, *, changed: bool) -> Path | None:
    """Draw figures and report of a table that has something to show, unless they are there."""
    report = out / REPORT
    if not table["metric"].isin(SCORES).any():
        return None
    pictures = (out / FIGURE_FOLDER).glob("*")
    if not changed and report.is_file() and all(is_sound(each) for each in (report, *pictures)):
        return report
    return draw(out)

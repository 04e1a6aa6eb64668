"""Computing ``analyze width``: cells, here, by other processes or on a cluster.

A cell (`analyses.scheduler`) is a learning rate that is suggested, or the trainings of a width,
parametrization, optimizer and seed, or of a pretrained model and optimizer. Those that are finished
are kept until the run is whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from subkern.errors import UserError
from subkern.storage.progress import Progress

from ..engine.inputs import Inputs
from ..engine.parts import Computed, Prepared, Workplace
from ..scheduler.cell import Cell, Plan, State
from ..scheduler.executors import Executor
from ..scheduler.run import prepare, run_cells
from ..scheduler.store import CellStore
from ..scheduler.work import Found, Place
from .config import Config
from .table import TABLE


class CellWork(Protocol):
    """What there is to compute, and how: other processes get it whole."""

    def cells(self) -> Iterator[Cell]:
        """Yield the cells, those that are to be first first."""
        ...

    def __call__(self, cell: Cell, needs: Mapping[str, Path], place: Place) -> Found:
        """Compute a cell."""
        ...

    def rows(self, plan: Plan, store: CellStore) -> Iterator[dict[str, Any]]:
        """Yield the rows of all cells, and what follows from them together."""
        ...


@dataclass(frozen=True)
class Chosen:
    """What is known before a computation.

    Attributes:
        work: what there is to compute.
        executor: who computes.
    """

    work: CellWork
    executor: Executor


def compute(
    config: Config,
    inputs: Inputs,
    prepared: Prepared,
    place: Workplace,
    progress: Progress | None,
) -> Computed:
    """Compute the cells.

    Raises:
        UserError: no learning rate can be suggested, or a training failed; those that are finished
            are kept.
    """
    chosen: Chosen = prepared.chosen
    plan = Plan(chosen.work.cells())
    with ExitStack() as stack:
        root = place.checkpoint or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root.mkdir(parents=True, exist_ok=True)
        store = CellStore(root)
        stack.enter_context(store.lock())
        prepare(plan, store)
        needed = {name for cell in plan for name in cell.needs}
        trainings = plan.cells.keys() - needed

        def seen(states: Mapping[str, State], _: object) -> None:
            if progress is not None:
                done = [key for key in trainings if states[key] == "done"]
                progress(len(done), len(trainings))

        for keys in filter(None, (needed, trainings)):  # what cannot be suggested is said at once
            ran = run_cells(
                plan, store, chosen.work, chosen.executor, chosen=keys, retry_failed=True, seen=seen
            )
            _refuse_failed(ran.failed, keys)
        return Computed(TABLE.tidy(chosen.work.rows(plan, store)))


def _refuse_failed(failed: Mapping[str, str], of: Collection[str]) -> None:
    if failed:
        key, reason = next(iter(failed.items()))
        raise UserError(
            f"{len(failed)} of {len(of)} cells failed, such as {key}: {reason}; the others are"
            " kept: the same command tries these again"
        )

"""A study of quick made-up cells, as a module so that other processes find it.

``python tests/support/fake_cells.py OUT [--tasks a,b] [--nap SECONDS] [--workers N | --ray]``
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]

from analyses.scheduler.cell import Cell, Plan  # noqa: E402
from analyses.scheduler.executors import Executor, make_executor  # noqa: E402
from analyses.scheduler.run import Ran, prepare, run_cells  # noqa: E402
from analyses.scheduler.store import CellStore  # noqa: E402
from analyses.scheduler.work import Found, Place  # noqa: E402
from subkern.errors import UserError  # noqa: E402

RATES = (0.1, 1.0, 10.0)


def plan(
    tasks: Sequence[str] = ("a", "b"), seeds: Sequence[int] = (13, 21), version: int = 1
) -> Plan:
    """Return kernels, two classifiers on each, and three trainings with the best of them."""
    cells: list[Cell] = []
    for task in tasks:
        for seed in seeds:

            def cell(
                method: str,
                step: str,
                needs: Sequence[Cell] = (),
                after: Sequence[Cell] = (),
                /,
                **settings: Any,
            ) -> Cell:
                keys = (tuple(each.key for each in group) for group in (needs, after))
                identity = {"settings": settings, "environment": {"versions": {"x": version}}}
                made = Cell(
                    task=task,  # noqa: B023 (used before the next turn)
                    k=16,
                    data_seed=seed,  # noqa: B023
                    head="prompt",
                    method=method,
                    step=step,
                    identity=identity,
                    **dict(zip(("needs", "after"), keys, strict=True)),
                )
                cells.append(made)
                return made

            kernel = cell("kernel-sgd", "kernel", value=seed)
            for solver in ("ridge", "svc"):
                cell("kernel-sgd", f"solve {solver}", [kernel], value=len(solver))
            grid = [cell("finetune", f"train {rate}", [], [], value=rate) for rate in RATES]
            cell("finetune", "best", [], grid, value=0)
    return Plan(cells)


@dataclass(frozen=True)
class Work:
    """A cell is its value plus those of the cells it waited for.

    Attributes:
        nap: seconds it takes.
        fail: key → how it goes wrong: ``error``, ``user``, ``nan``, ``full`` or ``die``.
        once: folder in which a cell that dies leaves a mark, to die only once.
    """

    nap: float = 0.0
    fail: tuple[tuple[str, str], ...] = ()
    once: Path | None = None

    def __call__(self, cell: Cell, needs: Mapping[str, Path], place: Place) -> Found:
        """Compute a cell in two halves, with a file in between."""
        folder = place.folder
        time.sleep(self.nap / 2)
        self._go_wrong(cell, folder)
        total = float(cell.settings["value"])
        for key in sorted(needs):
            total += float((needs[key] / "number.txt").read_text(encoding="utf-8"))
        (folder / "number.txt").write_text(str(total), encoding="utf-8")
        time.sleep(self.nap / 2)
        row = {"task": cell.task, "data_seed": cell.data_seed, "cell": cell.key, "value": total}
        return Found([row])

    def _go_wrong(self, cell: Cell, folder: Path) -> None:
        """Fail as asked."""
        how = dict(self.fail).get(cell.key)
        if how == "error":
            raise ZeroDivisionError("there was\nno number")
        if how == "user":
            raise UserError("loss is nan at step 7 with learning rate 10.0: give a smaller one")
        if how == "full":
            (folder / "half.bin").write_bytes(b"x" * 1000)
            Path("/dev/full").write_bytes(b"x")  # the system says that no space is left
        if how == "die":
            mark = self.once / cell.key.replace("/", "-") if self.once is not None else None
            if mark is not None and mark.exists():
                return
            if mark is not None:
                mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def run(out: Path, of: Plan, work: Work, executor: Executor | None = None, **how: Any) -> Ran:
    """Run a plan as studies do: lock, put in order, compute."""
    store = CellStore(out)
    with store.lock():
        prepare(of, store, chosen=how.get("chosen"), overwrite=how.pop("overwrite", False))
        return run_cells(of, store, work, executor or make_executor(), **how)


def table(out: Path, of: Plan) -> list[dict[str, Any]]:
    """Return the rows of every finished cell."""
    store = CellStore(out)
    found = [store.stored(cell.key) for cell in of]
    return [row for stored in found if stored is not None for row in stored.rows]


def main() -> None:
    """Run the study in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", default="a,b")
    parser.add_argument("--nap", type=float, default=0.0)
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    of = plan(asked.tasks.split(","))
    print("started", flush=True)
    try:
        run(asked.out, of, Work(asked.nap), make_executor(workers=asked.workers))
    except (UserError, KeyboardInterrupt) as error:
        sys.exit(str(error) or "interrupted")
    print("finished", flush=True)


if __name__ == "__main__":
    main()

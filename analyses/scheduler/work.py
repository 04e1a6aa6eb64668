"""One cell computed by whoever does it: this process, another, or a worker of a cluster."""

from __future__ import annotations

import json
import platform
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from subkern.errors import NoMemoryError, UserError
from subkern.gradients.factor_files import FACTORS
from subkern.storage import provenance
from subkern.storage.files import is_full, read_json, replacing

from .cell import Cell
from .store import BEAT, Attempt, CellStore

ATTEMPTS = 3
"""How often a cell is tried whose process dies under it."""
FAILED = "failed"
"""A mark beside what an attempt left unfinished that failed, as where memory ran out."""


@dataclass(frozen=True)
class Found:
    """What computing a cell gives.

    Attributes:
        rows: its numbers; NaN where one is undefined.
        drop: files of other cells that nobody needs any more. They go before the cell is kept, so
            that no kill leaves them for good: work must not need them if it is done again.
    """

    rows: list[dict[str, Any]]
    drop: tuple[Path, ...] = field(default=())


@dataclass(frozen=True)
class Place:
    """Where a cell leaves files while it is computed.

    Attributes:
        folder: for what it leaves to others; empty, and kept only once the cell is finished.
        unfinished: for what a killed attempt goes on from: it outlives this one, until the cell is
            finished, or has failed and a further one would too; with the mark `FAILED` where the
            last attempt did. None where there is no going on.
    """

    folder: Path
    unfinished: Path | None = None


Work = Callable[[Cell, Mapping[str, Path], Place], Found]
"""(cell, folders of the finished cells it waited for, place for its own files) → `Found`.

A function of a module, or an object whose class is: other processes get it by name.
"""


@dataclass(frozen=True)
class Job:
    """A cell to compute: where it is kept, and what computes it."""

    root: Path
    cell: Cell
    work: Work


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        key: of the cell.
        state: ``done``, ``failed`` (kept as such), ``full`` (no space left: nothing is kept) or
            ``lost`` (its process died).
        reason: one line, unless it is done.
        unfinished: what becomes of what it left to go on from: it is ``gone``; it is ``kept``, as
            it failed by no mistake of the user's and may succeed elsewhere or later, but not a
            second time; or it was ``untouched``.
    """

    key: str
    state: Literal["done", "failed", "full", "lost"]
    reason: str = ""
    unfinished: Literal["gone", "kept", "untouched"] = "gone"


class OtherWorkerError(UserError):
    """Who was given a cell must not compute it: its numbers would be of something else."""


def require_like(asked: Mapping[str, Any], here: Mapping[str, Any], what: str) -> None:
    """Raise `OtherWorkerError` unless this process computes with what the cell is planned for.

    Another machine may have other code or libraries; its numbers would be mixed with those of
    others.

    Args:
        asked: of the cell's identity.
        here: the same of this process.
        what: all should have the same of.
    """
    if changes := provenance.differences(asked, here):
        found = provenance.summary([change.removesuffix(" stored") for change in changes])
        raise OtherWorkerError(
            f"the worker on '{platform.node()}' is not like the study's start ({found} there): give"
            f" all the same {what}"
        )


def run_job(job: Job) -> Ended:
    """Compute one cell and keep what comes of it; an error is kept, not raised.

    A cell that is finished already is left as it is: who died after the last step may be repeated.
    """
    store, cell = CellStore(job.root), job.cell
    if not job.root.is_dir():
        return Ended(cell.key, "lost", f"'{job.root}' is not there: every machine has to see it")
    if store.stored(cell.key) is not None:
        return Ended(cell.key, "done")
    try:
        attempt = store.begin(cell)
    except OSError as error:
        if not is_full(error):
            raise
        return Ended(cell.key, "full", _line(error))
    try:
        with attempt.unfinished() as unfinished:
            with _beating(attempt, unfinished) as spent:
                end = _attempt(attempt, job, Place(attempt.folder, unfinished), spent)
            if unfinished is not None and end.state != "full":
                _settle(end, unfinished)
            return end
    except OSError as error:  # of the folder that outlives the attempt; others are kept
        if not is_full(error):
            raise
        return Ended(cell.key, "full", _line(error))
    finally:
        attempt.end()


def _settle(end: Ended, unfinished: Path) -> None:
    """Remove what an attempt left, unless a retry may go on from it.

    It may once: after a second failure that may be the reason, and the next attempt begins anew.
    Captured factors go in any case: they take gigabytes until somebody tries again.
    """
    if end.unfinished == "untouched":
        return
    mark = unfinished / FAILED
    if end.unfinished == "gone" or mark.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        return
    mark.touch()
    for path in unfinished.rglob(FACTORS):
        path.unlink()


def _attempt(attempt: Attempt, job: Job, place: Place, spent: Callable[[], float]) -> Ended:
    """Compute, then keep the cell or its failure."""
    key = job.cell.key
    try:
        needs = {
            name: attempt.store.folder(name)
            for name in (*job.cell.needs, *job.cell.after)
            if attempt.store.stored(name) is not None
        }
        found = job.work(job.cell, needs, place)
        for path in found.drop:  # first: nobody comes back to a cell that is kept
            _unlink(path)
        attempt.finish([_plain(row) for row in found.rows], spent(), needs)
        return Ended(key, "done")
    except Exception as error:
        if is_full(error):
            return Ended(key, "full", _line(error))
        return _failed(attempt, error)


def _failed(attempt: Attempt, error: Exception) -> Ended:
    """Keep a failure, if there is room for it."""
    reason = _line(error)
    try:
        attempt.fail(reason, traceback.format_exc())
    except OSError as other:
        if not is_full(other):
            raise
        return Ended(attempt.cell.key, "full", _line(other))
    return Ended(attempt.cell.key, "failed", reason, _left_by(error))


def _left_by(error: Exception) -> Literal["gone", "kept", "untouched"]:
    """Return what becomes of what an attempt left that failed so."""
    if isinstance(error, OtherWorkerError):
        return "untouched"
    if isinstance(error, UserError) and not isinstance(error, NoMemoryError):
        return "gone"
    return "kept"


def lost(job: Job, reason: str) -> Ended:
    """Keep as failed a cell whose process died each time it was tried."""
    key = job.cell.key
    try:
        attempt = CellStore(job.root).begin(job.cell)
        end = Ended(key, "failed", reason, "kept")
        try:
            attempt.fail(reason, f"{reason}\n")
            with attempt.unfinished() as unfinished:
                if unfinished is not None:
                    _settle(end, unfinished)
        finally:
            attempt.end()
    except OSError as error:
        if not is_full(error):
            raise
        return Ended(key, "full", _line(error))
    return end


def _line(error: BaseException) -> str:
    """Return an error in one line; the user's mistakes need no name of a class."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as JSON values; NumPy's numbers become Python's, NaN and infinities None."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        plain = value.item() if hasattr(value, "item") else value
        found[name] = None if isinstance(plain, float) and not isfinite(plain) else plain
    return found


def _unlink(path: Path) -> None:
    """Remove a file or folder if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _beating(attempt: Attempt, unfinished: Path | None) -> Iterator[Callable[[], float]]:
    """Renew a lease from a thread for as long as this lasts; yield what tells the time spent.

    It is that of all attempts: what they spent is written down with what they left unfinished.
    """
    over, started = threading.Event(), time.perf_counter()
    record = None if unfinished is None else unfinished / "spent.json"
    before = _seconds(record)

    def spent() -> float:
        return before + time.perf_counter() - started

    def note() -> None:
        if record is not None and record.parent.is_dir():
            with suppress(OSError), replacing(record) as part:
                part.write_text(json.dumps({"seconds": spent()}), encoding="utf-8")

    def beat() -> None:
        while not over.wait(BEAT):
            attempt.renew()
            note()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield spent
    finally:
        over.set()
        thread.join()
        note()


def _seconds(record: Path | None) -> float:
    """Return what earlier attempts spent; 0 if there is no record, or half of one."""
    try:
        return 0.0 if record is None else float(read_json(record)["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0

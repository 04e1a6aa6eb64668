"""Where the cells of a study lie: each finished cell a folder that appears whole or not at all.

Below the study's folder::

    cells/<key>/cell.json      a finished cell: what identifies it, its rows, its seconds
    cells/<key>/...            what it left for others (kernels, shifts)
    failed/<key>/              failure.json and traceback.txt of a cell that failed
    work/<name>/lease.json     a running cell: which, and by whom; its folder moves to cells/
    unfinished/<key>/          what an attempt left to go on from that was killed, or failed by no
                               mistake of the user's; identity.json, spent.json

A lease counts while its process lives, or, on another machine, while it is renewed. So a killed
run's cells are missing again at once and nothing has to be cleaned by hand.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import psutil

from subkern.errors import DamagedError, UserError
from subkern.storage.checksums import seal, unsound
from subkern.storage.claim import refuse_other
from subkern.storage.files import read_json, replacing, sync
from subkern.storage.lock import hold, only_run
from subkern.storage.provenance import decisive, differences

from .cell import Cell, Plan, State

BEAT = 5.0
"""Seconds between two renewals of a lease."""
STALE = 60.0
"""Seconds after which a lease of another machine that was not renewed is void."""


@dataclass(frozen=True)
class Stored:
    """A finished cell as it was kept.

    Attributes:
        identity: of the cell, and under ``after`` what it waited for.
        rows: the numbers it found, as columns of the study's table.
        seconds: wall time, with that of the attempts it went on from (to within `BEAT` each).
        saw: the cells of ``after`` that were finished when it was computed; None: not known.
    """

    identity: Mapping[str, Any]
    rows: list[dict[str, Any]]
    seconds: float
    saw: list[str] | None = None


@dataclass(frozen=True)
class Failure:
    """A cell that failed: its identity, one line that says why, and where the traceback lies."""

    identity: Mapping[str, Any]
    reason: str
    traceback: Path


class CellStore:
    """The cells below one folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._read: dict[str, Stored] = {}

    def folder(self, key: str) -> Path:
        """Return where a finished cell lies."""
        return self.root / "cells" / key

    def unfinished(self, key: str) -> Path:
        """Return where lies what a killed attempt at a cell left."""
        return self.root / "unfinished" / quote(key, safe=" :=,+@")

    def stored(self, key: str) -> Stored | None:
        """Return a finished cell, or None if it is not finished, or its record is damaged."""
        if key not in self._read:
            found = _json(self.folder(key) / "cell.json")
            if found is None:
                return None
            known = {f.name: found[f.name] for f in fields(Stored) if f.name in found}
            try:
                self._read[key] = Stored(**known)
            except TypeError:  # of before there were checksums
                return None
        return self._read[key]

    def failure(self, key: str) -> Failure | None:
        """Return why a cell failed, or None if it did not."""
        place = self.root / "failed" / key
        found = _json(place / "failure.json")
        if found is None or not {"identity", "reason"} <= found.keys():
            return None
        return Failure(found["identity"], found["reason"], place / "traceback.txt")

    def states(self, plan: Plan) -> dict[str, State]:
        """Return the state of every cell of a plan; writes nothing.

        A finished cell of other settings or another version, or one that uses such a cell or chose
        from such cells, or from fewer or more than are finished now, does not count: it is missing.
        So does a failure.
        """
        running = {lease["key"] for _, lease in self._leases() if lease and _alive(lease)}
        found: dict[str, State] = {}
        for key in plan.order:
            cell = plan[key]
            stored, failure = self.stored(key), self.failure(key)
            settled = all(found[name] not in ("missing", "running") for name in cell.after)
            fresh = settled and all(found[name] == "done" for name in cell.needs)
            if fresh and stored is not None and self.is_current(cell, found):
                found[key] = "done"
            elif key in running:
                found[key] = "running"
            elif settled and failure is not None and _is_of(cell, failure.identity):
                found[key] = "failed"
            elif any(found[name] in ("failed", "blocked") for name in cell.needs):
                found[key] = "blocked"
            else:
                found[key] = "missing"
        return {cell.key: found[cell.key] for cell in plan}

    def is_current(self, cell: Cell, states: Mapping[str, State]) -> bool:
        """Say if a cell is finished as it would be now that those before it are in these states."""
        stored = self.stored(cell.key)
        if stored is None or not _is_of(cell, stored.identity):
            return False
        return stored.saw in (None, sorted(n for n in cell.after if states[n] == "done"))

    def others(self, plan: Plan, chosen: Collection[str] | None = None) -> dict[str, list[str]]:
        """Return finished cells that are of other settings or versions, and how they differ.

        Of the chosen cells, or of all.
        """
        found = {}
        for cell in plan:
            stored = self.stored(cell.key)
            if stored is None or (chosen is not None and cell.key not in chosen):
                continue
            mine, theirs = (
                {**each, "after": None} for each in (identity_of(cell), stored.identity)
            )
            if mine != theirs and (changes := differences(mine, theirs)):  # the first is quick
                found[cell.key] = changes
        return found

    def refuse_others(self, plan: Plan, chosen: Collection[str] | None = None) -> None:
        """Raise `UserError` if a finished cell is of other settings or another version."""
        if others := self.others(plan, chosen):
            key, changes = next(iter(others.items()))
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            instead = "--overwrite computes what differs anew, another --out keeps it"
            refuse_other(self.root, f"cell {key}{more}", changes, instead)

    def discard(self, keys: Iterable[str]) -> None:
        """Forget cells, finished or failed; give the last ones first."""
        for key in keys:
            self._read.pop(key, None)
            for folder in (self.folder(key), self.root / "failed" / key, self.unfinished(key)):
                self._remove(folder)

    def discard_damaged(self, plan: Plan, chosen: Collection[str] | None = None) -> list[str]:
        """Forget finished cells of which a file is not what was written; return which.

        Of the chosen cells, or of all. What uses them stays: the same numbers come again.
        """
        found = [
            cell.key
            for cell in plan
            if (chosen is None or cell.key in chosen)
            and self.folder(cell.key).exists()
            and (self.stored(cell.key) is None or any(unsound(self.folder(cell.key))))
        ]
        self.discard(found)
        return found

    def discard_stale(self, plan: Plan, chosen: Collection[str] | None = None) -> None:
        """Forget finished cells that now wait for other cells than they did, and what uses them.

        Of the chosen cells, or of all; those that use them may be others.
        """
        stale = [
            cell.key
            for cell in plan
            if (chosen is None or cell.key in chosen)
            and (stored := self.stored(cell.key)) is not None
            and _after(stored.identity) != sorted(cell.after)
        ]
        self.discard(plan.dependents(stale))

    def forget_failures(self, keys: Iterable[str]) -> None:
        """Forget how cells failed."""
        for key in keys:
            self._remove(self.root / "failed" / key)

    def _remove(self, folder: Path) -> None:
        """Remove a folder; it is out of the way at once, whatever happens meanwhile."""
        if folder.exists():
            away = self._new_work()
            folder.rename(away / "old")
            shutil.rmtree(away, ignore_errors=True)

    # --- running cells ---

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only run in this folder; the lock goes with the process, however it ends.

        Raises:
            UserError: another run is at work there.
        """
        with only_run(self.root, otherwise="see --status"):
            self._sweep()
            yield
            self._sweep()  # after workers that died: others did their cells

    def _sweep(self) -> None:
        """Remove what killed runs left half done.

        Whoever has the lock is the only run, so no lease counts: a worker that has not noticed yet
        that its run is gone finds its folder gone.
        """
        for work, _ in self._leases():
            shutil.rmtree(work, ignore_errors=True)
        for left in (self.root / "unfinished").glob("*"):
            if self.stored(unquote(left.name)) is not None:
                shutil.rmtree(left, ignore_errors=True)

    def _leases(self) -> Iterator[tuple[Path, dict[str, Any] | None]]:
        """Yield every folder of running cells and its lease."""
        for work in (self.root / "work").glob("*"):
            lease = _json(work / "lease.json")
            if lease is not None:
                with contextlib.suppress(OSError):
                    lease["renewed"] = (work / "lease.json").stat().st_mtime
            yield work, lease

    def _new_work(self) -> Path:
        """Return a new folder of its own."""
        work = self.root / "work" / secrets.token_hex(8)
        work.mkdir(parents=True)
        return work

    def begin(self, cell: Cell) -> Attempt:
        """Take a lease on a cell and return its folder to be filled."""
        work = self._new_work()
        process = psutil.Process()
        lease = {
            "key": cell.key,
            "pid": process.pid,
            "born": process.create_time(),
            "host": socket.gethostname(),
        }
        with replacing(work / "lease.json", kept=False) as part:
            part.write_text(json.dumps(lease), encoding="utf-8")
        (work / "cell").mkdir()
        return Attempt(self, cell, work)


@dataclass(frozen=True)
class Attempt:
    """One try at a cell, in a folder of its own."""

    store: CellStore
    cell: Cell
    work: Path

    @property
    def folder(self) -> Path:
        """Where the cell leaves its files."""
        return self.work / "cell"

    @cached_property
    def _lease(self) -> Path:
        return self.work / "lease.json"

    @contextlib.contextmanager
    def unfinished(self) -> Iterator[Path | None]:
        """Yield the folder that outlives this attempt, with what the last one left there.

        What is of other settings or another version is removed. None where another attempt is at
        it (one that was given up, perhaps, on a machine that is not heard of) or nothing says so.
        """
        folder = self.store.unfinished(self.cell.key)
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            try:
                hold(handle, folder, "give up")
            except (UserError, OSError):
                yield None
                return
            record = folder / "identity.json"
            identity = _json(record)
            if identity is None or not _is_of(self.cell, identity):
                for path in folder.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            with replacing(record) as part:
                part.write_text(json.dumps(identity_of(self.cell)), encoding="utf-8")
            yield folder

    def renew(self) -> None:
        """Say that the cell is still being computed."""
        with contextlib.suppress(OSError):
            os.utime(self._lease)

    def finish(self, rows: list[dict[str, Any]], seconds: float, saw: Collection[str]) -> None:
        """Keep the cell: its folder appears under its key, whole; the first to finish wins.

        Args:
            rows: its numbers.
            seconds: what it took.
            saw: the cells it waited for that were finished.
        """
        seen = sorted(name for name in self.cell.after if name in saw)
        stored = Stored(identity_of(self.cell), rows, seconds, seen)
        record = {f.name: getattr(stored, f.name) for f in fields(stored)}
        (self.folder / "cell.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        seal(self.folder)
        _flush(self.folder)
        target = self.store.folder(self.cell.key)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and self.store.stored(self.cell.key) is None:
            self.store._remove(target)  # it is damaged
        try:
            self.folder.rename(target)
        except OSError:
            if not (target / "cell.json").exists():
                raise
        self.store.forget_failures([self.cell.key])

    def fail(self, reason: str, traceback: str) -> None:
        """Keep why the cell failed."""
        place = self.work / "failed"
        place.mkdir()
        (place / "traceback.txt").write_text(traceback, encoding="utf-8")
        record = {"identity": identity_of(self.cell), "reason": reason}
        (place / "failure.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        seal(place)
        _flush(place)
        target = self.store.root / "failed" / self.cell.key
        self.store._remove(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        place.rename(target)

    def end(self) -> None:
        """Give the lease back, and the space with it."""
        shutil.rmtree(self.work, ignore_errors=True)


def identity_of(cell: Cell) -> dict[str, Any]:
    """Return what is kept to identify a cell."""
    return {**decisive(cell.identity), "after": sorted(cell.after), "needs": sorted(cell.needs)}


def _is_of(cell: Cell, identity: Mapping[str, Any]) -> bool:
    """Say if what is kept is of this very cell; equality is quick, JSON's the one that counts."""
    mine = identity_of(cell)
    return mine == identity or not differences(mine, identity)


def _after(identity: Mapping[str, Any]) -> list[str]:
    """Return what a finished cell waited for."""
    found: list[str] = identity["after"]
    return found


def _alive(lease: Mapping[str, Any]) -> bool:
    """Say if the process that holds a lease is there still."""
    if lease["host"] != socket.gethostname():
        return time.time() - float(lease.get("renewed", 0.0)) < STALE
    try:
        return bool(abs(psutil.Process(lease["pid"]).create_time() - lease["born"]) < 1.0)
    except psutil.Error:
        return False


def _json(path: Path) -> dict[str, Any] | None:
    """Return what a JSON file holds, or None if it is not there, or is damaged."""
    try:
        found = read_json(path)
    except (FileNotFoundError, NotADirectoryError, DamagedError):
        return None
    return found if isinstance(found, dict) else None


def _flush(folder: Path) -> None:
    """Have the system write every file below a folder to the disk."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)

"""One trial: something happens to a command, and the same command is given again."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from subkern.errors import UserError
from subkern.storage.checksums import unsound
from tests.endurance.commands import Command

Outcome = Literal["right", "lost", "wrong", "silent", "traceback", "blocked", "left"]
OUTCOMES: tuple[Outcome, ...] = (
    "right", "lost", "wrong", "silent", "traceback", "blocked", "left",
)  # fmt: skip
"""``right``: the numbers and files of a run that nothing happened to. Else: finished work is gone;
other numbers; damage under exit status 0; an error that is not one line for a user; no way on, not
by ``--overwrite``; files or processes left over."""

HOWS = ("flip", "zeros", "empty", "cut")
"""A byte flipped, the last part zeros, no bytes, the last part missing."""

ROOT = Path(__file__).resolve().parents[2]
_BARE = re.compile(r"Traceback|--debug says more|^Aborted", re.MULTILINE)


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    status: int
    stderr: str
    operations: Sequence[str]
    struck: str
    stayed: int

    @property
    def is_bare(self) -> bool:
        """Whether it ended in an error that is none of a user's, or in more than one line."""
        if self.status in (0, -9, -14):
            return False
        lines = [line for line in self.stderr.splitlines() if line.startswith("subkern: ")]
        return bool(_BARE.search(self.stderr)) or self.status not in (1, 2) or len(lines) != 1


class Server:
    """The process that runs commands."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.endurance.server"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def run(self, *asked: dict[str, Any]) -> list[Ran]:
        """Run commands side by side."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"runs": asked}) + "\n")
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        fields = ("status", "stderr", "operations", "struck", "stayed")
        return [Ran(*(each[name] for name in fields)) for each in found]

    def stop(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@dataclass(frozen=True)
class Lab:
    """A command, and what it does if nothing happens to it."""

    server: Server
    command: Command
    root: Path
    digest: str = ""
    operations: Sequence[str] = ()
    files: frozenset[str] = frozenset()
    seconds: float = 0.0

    @classmethod
    def of(cls, server: Server, command: Command, root: Path) -> Lab:
        """Run the command undisturbed, twice: the first time it imports what it needs."""
        lab = cls(server, command, root)
        if command.after:
            (done,) = server.run({"args": command.after, "folder": str(root / "none")})
            assert done.status == 0, done.stderr
        found = []
        for _ in range(2):
            with lab.folder() as folder:
                started = time.perf_counter()
                done = lab.run(folder)
                took = time.perf_counter() - started
                assert done.status == 0, done.stderr
                assert not done.stayed
                found.append((command.digest(folder), done.operations, _names(folder), took))
        assert found[0][0] == found[1][0]
        return cls(server, command, root, *found[1])

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A new folder."""
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            yield Path(folder)

    def run(self, folder: Path, *more: str, **fault: Any) -> Ran:
        """Run the command once."""
        return self.server.run(self.asked(folder, *more, **fault))[0]

    def asked(self, folder: Path, *more: str, **fault: Any) -> dict[str, Any]:
        """A run, as the server is asked for it."""
        return {"args": self.command.line(folder, *more), "folder": str(folder), **fault}

    def again(self, folder: Path, *, damaged: bool = False) -> tuple[Outcome, str]:
        """Give the command again, and judge what it leaves; in words what went wrong."""
        done = self.run(folder)
        if done.is_bare:
            return "traceback", done.stderr
        if done.status != 0:
            if not damaged or str(folder) not in done.stderr or not self.command.replaces:
                return "blocked", done.stderr
            done = self.run(folder, "--overwrite")
            if done.is_bare:
                return "traceback", done.stderr
            if done.status != 0:
                return "blocked", done.stderr
        return self.judge(folder, done, damaged=damaged)

    def judge(self, folder: Path, done: Ran, *, damaged: bool = False) -> tuple[Outcome, str]:
        """Judge what a command left that succeeded."""
        try:
            digest = self.command.digest(folder)
        except UserError as error:
            return "silent" if damaged else "lost", str(error)
        if digest != self.digest:
            return "wrong", f"{digest} is not {self.digest}"
        if bad := list(unsound(folder)):
            return "silent", str(bad)
        names = _names(folder)
        if missing := self.files - names:
            return "lost", str(sorted(missing))
        if names - self.files or done.stayed:
            return "left", f"{sorted(names - self.files)}, {done.stayed} processes"
        return "right", ""


def kind_of(operation: str) -> str:
    """Return what is done, from where in the program."""
    return " ".join(operation.split(" ")[:2])


Trial = tuple[Outcome, str] | tuple[Outcome, str, int]
"""How it ended, in words why, and how many trials it was, if not one."""


def kill_before(lab: Lab, at: Sequence[int]) -> Trial:
    """Kill the command before its n-th file operation, and the next before its own."""
    with lab.folder() as folder:
        for n in at:
            done = lab.run(folder, kill_at=n)
            if done.is_bare:
                return "traceback", done.stderr
            if done.stayed:
                return "left", f"{done.stayed} processes"
        outcome, why = lab.again(folder)
        return outcome, f"at {[(n, lab.operations[n - 1]) for n in at]}: {why}"


def kill_at_each_kind(lab: Lab, times: int, rng: random.Random) -> Trial:
    """Kill the command before an operation of each kind, the same folder's next run at the next.

    Of a kind, ``times`` operations: the first that a run comes to, or a later one.
    """
    killed: Counter[str] = Counter()
    with lab.folder() as folder:
        struck = ""
        while True:
            spared = [kind for kind, often in killed.items() if often >= times]
            spared += [k for k in killed.keys() - set(spared) if rng.random() < 0.5]
            done = lab.run(folder, spared=sorted(spared))
            if done.status != -9:
                break
            struck = done.struck
            killed[struck] += 1
            if done.stayed:
                return "left", f"{done.stayed} processes", killed.total()
        at = f"after {killed.total()} kills, the last at {struck}"
        if done.is_bare:
            return "traceback", f"{at}: {done.stderr}", killed.total()
        if done.status != 0:
            return "blocked", f"{at}: {done.stderr}", killed.total()
        outcome, why = lab.judge(folder, done)
        return outcome, f"{at}: {why}", killed.total()


def kill_worker(lab: Lab, at: int) -> Trial:
    """Kill the worker process that comes to the n-th file operation: the command goes on."""
    with lab.folder() as folder:
        done = lab.run(folder, kill_at=at, whom="worker")
        if done.is_bare:
            return "traceback", done.stderr
        if done.status != 0:
            return "blocked", done.stderr
        outcome, why = lab.judge(folder, done)
        return outcome, f"at {at, lab.operations[at - 1]}: {why}"


def kill_after(lab: Lab, seconds: float) -> Trial:
    """Kill the command at any moment."""
    with lab.folder() as folder:
        done = lab.run(folder, kill_after=seconds)
        if done.is_bare:
            return "traceback", done.stderr
        if done.stayed:
            return "left", f"{done.stayed} processes"
        outcome, why = lab.again(folder)
        return outcome, f"after {seconds} of {lab.seconds} s: {why}"


def fill_disk(lab: Lab, at: int) -> Trial:
    """Let the disk be full from the n-th operation; with room again, the command goes on."""
    with lab.folder() as folder:
        done = lab.run(folder, full_at=at)
        if done.is_bare:
            return "traceback", done.stderr
        if done.status != 0 and "space" not in done.stderr:
            return "traceback", f"says nothing of space: {done.stderr}"
        outcome, why = lab.again(folder)
        return outcome, f"full at {at, lab.operations[at - 1]}: {why}"


def rival(lab: Lab, delay: float) -> Trial:
    """Start the command twice."""
    with lab.folder() as folder:
        both = lab.server.run(lab.asked(folder), lab.asked(folder, delay=delay))
        for done in both:
            if done.is_bare:
                return "traceback", done.stderr
            if done.status != 0 and "another run is at work" not in done.stderr:
                return "blocked", done.stderr
        if all(done.status != 0 for done in both):
            return "blocked", str(both)
        return lab.again(folder)


def damage(lab: Lab, rng: random.Random, at: int | None, how: str) -> Trial:
    """Damage a file of a command that was killed at its n-th operation, or finished (None)."""
    with lab.folder() as folder:
        lab.run(folder, kill_at=at)
        path = _choose(folder, rng)
        if path is None:
            return "right", ""
        spoil(path, how, rng)
        outcome, why = lab.again(folder, damaged=True)
        return outcome, f"{path.relative_to(folder)} {how}: {why}"


def _names(folder: Path) -> frozenset[str]:
    """Return what lies below a folder; temporary names and those of hidden folders are left out."""
    return frozenset(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def _choose(folder: Path, rng: random.Random) -> Path | None:
    """A file: first its kind, so that few of a kind come as often as many."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size and not path.name.endswith(".lock"):
            name = re.sub(r"\.zarr/.*/", ".zarr/", path.relative_to(folder).as_posix())
            kind = re.sub(r"[0-9a-f]{8,}|\d+", "#", name)
            kinds.setdefault(kind, []).append(path)
    return rng.choice(kinds[rng.choice(sorted(kinds))]) if kinds else None


def spoil(path: Path, how: str, rng: random.Random) -> None:
    """Damage a file."""
    content = bytearray(path.read_bytes())
    tail = rng.randint(1, max(1, len(content) // 2))
    if how == "flip":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == "zeros":
        content[-tail:] = bytes(tail)
    else:
        del content[0 if how == "empty" else -tail :]
    path.write_bytes(content)

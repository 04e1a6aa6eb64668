"""Runs commands of the program in forks of one process that has everything imported.

One JSON line in: ``{"runs": [{"args", "folder", "kill_at", "spared", "whom", "full_at",
"kill_after", "delay"}]}``, which run side by side; one out: ``[{"status", "stdout", "stderr",
"operations", "struck", "stayed"}]``. A run can be killed before its n-th file operation, before its
first that is of no kind that is spared, or after some seconds, or find the disk full from its n-th.
Its worker processes are forks too, and count with it; killed is ``whom``: the ``run``, or the
``worker`` that came to the operation. ``operations`` are all, in order: event, place in the
program, path; ``struck`` is the kind of the one where it was killed, ``stayed`` how many processes
outlive it.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import importlib
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from matplotlib.figure import Figure

# As the program sets it, and one thread: the commands are small.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_LIMIT = 300  # seconds of a command
_GRACE = 10  # seconds that workers have to see that their run is gone
_LINE = 240  # characters of an operation
_PLACE = re.compile(r"/(?:subkern|analyses)/(?:\w+/)*(\w+)\.py$")
_OWN = re.compile(r"[0-9a-f]{8,}|\d+")  # what is of one file alone in its name


class Fault:
    """An audit hook that counts file operations below a folder, and strikes at one of them."""

    def __init__(self, asked: dict[str, Any], trace: Path, struck: Path) -> None:
        self.folder = os.path.realpath(asked["folder"])
        self.kill_at, self.full_at = asked.get("kill_at"), asked.get("full_at")
        self.spared = None if asked.get("spared") is None else set(asked["spared"])
        self.run = os.getpid()
        self.whom = asked.get("whom", "run")
        self.trace, self.struck = trace, struck
        self.lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forked)
        self._forked()

    def _forked(self) -> None:
        # A lock of a file is a process's own, and that of another thread stays with its thread.
        self.lock = threading.Lock()
        self.handle = os.open(self.trace, os.O_RDWR | os.O_APPEND)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count an operation, and strike if it is time."""
        grows = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _WRITES)
        if not grows and event not in _CHANGES:
            return
        if not self._is_here(event, arguments):
            return
        path = _OWN.sub("#", str(arguments[0]).replace(self.folder, ""))
        kind = f"{event} {_at() or path.rpartition('/')[2]}"
        count = self._count(f"{kind} {path}")
        now = count == self.kill_at or (self.spared is not None and kind not in self.spared)
        if now and (self.whom == "run" or os.getpid() != self.run):
            self.struck.write_text(kind)
            os.kill(self.run if self.whom == "run" else os.getpid(), signal.SIGKILL)
            time.sleep(60)  # a worker ends with its run
        full = self.full_at is not None and count >= self.full_at
        if full and (grows or event == "os.mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    def _count(self, operation: str) -> int:
        """Write down an operation; return its number."""
        with self.lock:
            fcntl.lockf(self.handle, fcntl.LOCK_EX)
            try:
                os.write(
                    self.handle, operation.encode("ascii", "replace")[:_LINE].ljust(_LINE) + b"\n"
                )
                return os.fstat(self.handle).st_size // (_LINE + 1)
            finally:
                fcntl.lockf(self.handle, fcntl.LOCK_UN)

    def _is_here(self, event: str, arguments: tuple[Any, ...]) -> bool:
        path = arguments[0]
        if event in ("os.remove", "os.rmdir", "os.mkdir") and arguments[-1] != -1:
            return True  # relative to an open folder, as shutil.rmtree does
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        return str(Path.cwd() / os.fsdecode(path)).startswith(self.folder)


def _at() -> str:
    """Return where in the program an operation is asked for; nothing in a library's thread."""
    found: list[str] = []
    frame = sys._getframe(2)
    while frame is not None and len(found) < 3:
        code = frame.f_code
        if (place := _PLACE.search(code.co_filename)) and code.co_name[0] != "<":
            found.append(f"{place[1]}:{code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return "<".join(found)


def _child(asked: dict[str, Any], files: dict[str, Path]) -> None:
    """Run one command and end."""
    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(files[name], os.O_WRONLY | os.O_CREAT), number)
    time.sleep(asked.get("delay", 0.0))
    os.fsync = lambda _descriptor: None  # no power fails here
    signal.alarm(_LIMIT)
    if asked.get("kill_after") is not None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, max(1e-3, asked["kill_after"]))
    context = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda _method=None: context  # type: ignore[assignment]
    Figure.savefig = _save  # type: ignore[method-assign]
    Figure.draw_without_rendering = lambda _figure: None  # type: ignore[method-assign]
    sys.addaudithook(Fault(asked, files["operations"], files["struck"]))
    sys.argv = ["subkern", *asked["args"]]
    from cli import main

    status = 0
    try:
        status = main() or 0  # type: ignore[func-returns-value]
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 70
    sys.stdout.flush(), sys.stderr.flush()
    files["modules"].write_text("\n".join(sys.modules))
    os._exit(status)


def _save(figure: Figure, where: Any, **_: Any) -> None:
    """Write a file for a figure: drawing takes most of the time of a small study."""
    content = f"{figure.get_size_inches()}".encode()
    where.write(content) if hasattr(where, "write") else Path(where).write_bytes(content)


def _stayed(run: int) -> int:
    """Return how many processes of a run that ended are there still, and end them."""
    found: list[psutil.Process] = []
    for _ in range(_GRACE * 20):
        found = [each for each in psutil.process_iter() if _is_of(each, run)]
        if not found:
            return 0
        time.sleep(0.05)
    for each in found:
        each.kill()
    return len(found)


def _is_of(process: psutil.Process, run: int) -> bool:
    with suppress(psutil.Error, ProcessLookupError):
        return os.getsid(process.pid) == run and process.status() != psutil.STATUS_ZOMBIE
    return False


def _serve() -> None:
    import torch

    torch.set_num_threads(1)
    names = ("stdout", "stderr", "operations", "struck", "modules")
    print("ready", flush=True)
    for line in sys.stdin:
        answer = []
        with tempfile.TemporaryDirectory() as folder:
            running = []
            for i, asked in enumerate(json.loads(line)["runs"]):
                files = {name: Path(folder, f"{name}-{i}") for name in names}
                for path in files.values():
                    path.touch()
                pid = os.fork()
                if pid == 0:
                    _child(asked, files)
                running.append((pid, files))
            for pid, files in running:
                _, status = os.waitpid(pid, 0)
                found: dict[str, Any] = {n: p.read_text(errors="replace") for n, p in files.items()}
                found["operations"] = [each.rstrip() for each in found["operations"].splitlines()]
                _learn(found.pop("modules").split())
                ended = {"status": os.waitstatus_to_exitcode(status), "stayed": _stayed(pid)}
                answer.append(found | ended)
        print(json.dumps(answer), flush=True)


def _learn(modules: list[str]) -> None:
    """Import what a command needed: the next one starts with it."""
    if not (new := [name for name in modules if name not in sys.modules]):
        return
    for name in new:
        with suppress(Exception):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # forks share what they do not touch


if __name__ == "__main__":
    _serve()

"""Runs commands of the program in forks of one process that has everything imported.

One JSON line in: ``{"runs": [{"args", "folder", "kill_at", "full_at", "kill_after", "delay"}]}``,
which run side by side; one out: ``[{"status", "stdout", "stderr", "operations"}]``. A run can be
killed before its n-th file operation or after some seconds, or find the disk full from its n-th.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

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


class Fault:
    """An audit hook that counts file operations below a folder, and strikes at one of them."""

    def __init__(self, asked: dict[str, Any], counter: Path) -> None:
        self.folder = os.path.realpath(asked["folder"])
        self.kill_at, self.full_at = asked.get("kill_at"), asked.get("full_at")
        self.handle = os.open(counter, os.O_WRONLY)
        self.count, self.lock, self.inside = 0, threading.Lock(), threading.local()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count an operation, and strike if it is time."""
        grows = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _WRITES)
        if not grows and event not in _CHANGES:
            return
        if not self._is_here(event, arguments):
            return
        with self.lock:
            self.count += 1
            os.pwrite(self.handle, str(self.count).encode(), 0)
            if self.count == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            full = self.full_at is not None and self.count >= self.full_at
        if full and (grows or event == "os.mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    def _is_here(self, event: str, arguments: tuple[Any, ...]) -> bool:
        path = arguments[0]
        if event in ("os.remove", "os.rmdir", "os.mkdir") and arguments[-1] != -1:
            return True  # relative to an open folder, as shutil.rmtree does
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        return str(Path.cwd() / os.fsdecode(path)).startswith(self.folder)


def _child(asked: dict[str, Any], files: dict[str, Path]) -> None:
    """Run one command and end."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(files[name], os.O_WRONLY | os.O_CREAT), number)
    time.sleep(asked.get("delay", 0.0))
    os.fsync = lambda _descriptor: None  # no power fails here
    signal.alarm(_LIMIT)
    if asked.get("kill_after") is not None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, max(1e-3, asked["kill_after"]))
    sys.addaudithook(Fault(asked, files["operations"]))
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
    os._exit(status)


def _serve() -> None:
    import torch
    import transformers

    for name in ("AutoModelForMaskedLM", "AutoTokenizer", "Trainer"):
        getattr(transformers, name)  # loaded on first use
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        answer = []
        with tempfile.TemporaryDirectory() as folder:
            running = []
            for i, asked in enumerate(json.loads(line)["runs"]):
                files = {n: Path(folder, f"{n}-{i}") for n in ("stdout", "stderr", "operations")}
                for path in files.values():
                    path.touch()
                pid = os.fork()
                if pid == 0:
                    _child(asked, files)
                running.append((pid, files))
            for pid, files in running:
                _, status = os.waitpid(pid, 0)
                found: dict[str, Any] = {n: p.read_text(errors="replace") for n, p in files.items()}
                found["operations"] = int(found["operations"] or 0)
                answer.append(found | {"status": os.waitstatus_to_exitcode(status)})
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()

"""Workers as processes of their own, spawned or Ray's: their run is killed, and nobody stays."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from tests.endurance.commands import ROOT, Command, make_commands

pytestmark = pytest.mark.slow
WORKERS = ("--workers 2", "--executor ray")
_MARK = "SUBKERN_ENDURANCE"
_GRACE = 30  # seconds in which workers see that their run is gone


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The study, computed by one process."""
    return make_commands(tmp_path_factory.mktemp("workers"))["analyze fourteen-tasks"]


def _start(study: Command, folder: Path, how: str) -> subprocess.Popen[bytes]:
    """Start the study in a process; all that it starts carries its mark."""
    line = [sys.executable, "cli.py", *study.line(folder), *how.split()]
    known = {"PYTHONPATH": str(ROOT), _MARK: str(folder), "HF_HUB_OFFLINE": "1"}
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        return subprocess.Popen(
            line, cwd=ROOT, env=os.environ | known, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )


def _marked(folder: Path) -> Iterator[psutil.Process]:
    """Yield the processes that a run started and that are there still."""
    for each in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if each.environ().get(_MARK) == str(folder) and each.status() != psutil.STATUS_ZOMBIE:
                yield each


@pytest.mark.parametrize("how", WORKERS)
def test_a_killed_run_leaves_no_worker_and_loses_nothing(
    how: str, study: Command, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if how.endswith("ray") and find_spec("ray") is None:
        pytest.skip("needs ray: pip install 'subkern[ray]'")
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    alone.mkdir(), killed.mkdir()
    assert _start(study, alone, "").wait() == 0
    rng, times = random.Random(how), 1 + request.config.getoption("endurance")
    cells: set[Path] = set()
    for _ in range(times):
        process = _start(study, killed, how)
        deadline = time.monotonic() + 300
        wanted = len(cells) + rng.randrange(1, 3)  # in the middle of some work
        while len(_finished(killed)) < wanted and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + _GRACE
        while left := list(_marked(killed)):
            assert time.monotonic() < deadline, [each.cmdline() for each in left]
            time.sleep(0.1)
        assert cells <= _finished(killed)
        cells = _finished(killed)
    before = {path: path.stat().st_mtime_ns for path in cells}
    assert _start(study, killed, how).wait() == 0, (tmp_path / "killed.log").read_text()
    assert {path: path.stat().st_mtime_ns for path in cells} == before
    assert study.digest(killed) == study.digest(alone)
    assert not list(_marked(killed))


def _finished(folder: Path) -> set[Path]:
    """Return the records of the cells that are done."""
    return set(folder.glob("run/cells/**/cell.json"))

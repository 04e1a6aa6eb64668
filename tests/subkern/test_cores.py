"""Threads that do not spin where others compute, and the word to those whose threads do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace

import pytest

from subkern import cores

CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


def spins_seen_by_openmp(code: str, **settings: str) -> str:
    """What torch's OpenMP says its spin count is after ``code`` (it prints its settings)."""
    environment = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    environment |= {"OMP_DISPLAY_ENV": "verbose"} | settings
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import torch"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [row for row in done.stderr.splitlines() if "GOMP_SPINCOUNT" in row]
    if not rows:
        pytest.skip("this torch has another OpenMP than GNU's")
    return rows[0].split("'")[1]


def test_openmp_is_told_to_spin_briefly() -> None:
    assert spins_seen_by_openmp("from subkern.cores import share_cores; share_cores()") == str(
        cores.SPINS
    )


def test_the_program_does_it_by_itself() -> None:
    start = "import sys; sys.argv = ['subkern', '--version']; import analyses.commands.group as g"
    code = f"{start}\ntry: g.main()\nexcept SystemExit: pass\npass"
    assert spins_seen_by_openmp(code) == str(cores.SPINS)


@pytest.mark.parametrize("name", CHOSEN)
def test_what_the_user_chose_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in CHOSEN:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "2")
    before = dict(os.environ)
    assert cores.share_cores()
    assert dict(os.environ) == before


def test_after_torch_it_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in CHOSEN:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    assert not cores.share_cores()
    assert not any(name in os.environ for name in CHOSEN)


@pytest.mark.parametrize(
    ("threads", "took", "others", "chosen", "told"),
    [
        (2, 60.0, 60.0, "", True),
        (1, 60.0, 60.0, "", False),  # one thread waits for none
        (2, 5.0, 5.0, "", False),  # short
        (2, 60.0, 3.0, "", False),  # hardly anybody else
        (2, 60.0, 60.0, "OMP_WAIT_POLICY", False),
        (2, 60.0, 60.0, "GOMP_SPINCOUNT", False),  # what `share_cores` sets
    ],
)
def test_who_spins_beside_others_is_told(
    threads: int, took: float, others: float, chosen: str, told: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for each in CHOSEN:
        monkeypatch.delenv(each, raising=False)
    if chosen:
        monkeypatch.setenv(chosen, "PASSIVE")
    clock, used = iter([100.0, 100.0 + took]), iter([7.0, 7.0 + others])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(cores, "_seconds_of_others", lambda: next(used))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with cores.heeding_others(threads):
            pass
    assert [each.category for each in seen] == [cores.BusyMachineWarning] * told


def test_seconds_of_others_leave_out_ones_own() -> None:
    before, began = cores._seconds_of_others(), time.process_time()
    while time.process_time() - began < 0.2:
        pass
    every = (os.cpu_count() or 1) * 5.0
    assert -0.05 <= cores._seconds_of_others() - before < every

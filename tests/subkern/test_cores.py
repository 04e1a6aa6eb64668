"""Threads that do not spin where others compute, and the word to those whose threads do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from subkern import compute_kernel, cores
from tests.support.families import FAMILIES, random_examples
from tests.support.oracles import logit_model

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
    monkeypatch.setattr(cores, "_sharing", False)
    assert cores.share_cores()
    assert dict(os.environ) == before
    assert not cores._sharing


def test_after_torch_it_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in CHOSEN:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    assert not cores.share_cores()
    assert not any(name in os.environ for name in CHOSEN)


class Machine:
    """A clock, and what two cores did until then, as `cores` reads them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sharing: bool, chosen: str = "") -> None:
        for each in CHOSEN:
            monkeypatch.delenv(each, raising=False)
        if chosen:
            monkeypatch.setenv(chosen, "PASSIVE")
        self.seen = cores._Look(100.0, 50.0, 50.0, 20.0)
        monkeypatch.setattr(cores, "_look", lambda: self.seen)
        monkeypatch.setattr(cores, "_sharing", sharing)
        monkeypatch.setattr(time, "monotonic", lambda: self.seen.when)

    def go_on(self, seconds: float, own: float, others: float, count: int = 2) -> None:
        """So many cores are used for a while, by this process and by others; the rest is idle."""
        when, idle, busy, mine = self.seen
        self.seen = cores._Look(
            when + seconds,
            idle + seconds * (count - own - others),
            busy + seconds * (own + others),
            mine + seconds * own,
        )


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("threads", "took", "others", "chosen", "told"),
    [
        (2, 60.0, 1.0, "", True),
        (1, 60.0, 1.0, "", False),  # one thread waits for none
        (2, 5.0, 1.0, "", False),  # short
        (2, 60.0, 0.05, "", False),  # hardly anybody else
        (2, 60.0, 1.0, "OMP_WAIT_POLICY", False),
        (2, 60.0, 1.0, "GOMP_SPINCOUNT", False),  # what `share_cores` sets
    ],
)
@pytest.mark.usefixtures("two_threads")
def test_who_spins_beside_others_is_told(
    threads: int, took: float, others: float, chosen: str, told: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    machine = Machine(monkeypatch, sharing=False, chosen=chosen)
    torch.set_num_threads(threads)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with cores.heeding_others():
            machine.go_on(took, own=1.0, others=others)
            cores.make_way()
            assert torch.get_num_threads() == threads
    assert [each.category for each in seen] == [cores.BusyMachineWarning] * told


@pytest.mark.usefixtures("two_threads")
def test_threads_are_as_many_as_others_leave_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, sharing=True)
    with cores.heeding_others():
        for own, others, threads in [
            (1.9, 0.1, 2),
            (1.3, 0.7, 1),  # a busy process and two threads of ours, turn by turn
            (1.0, 1.0, 1),
            (0.6, 1.4, 1),  # two busy processes: never none
            (1.0, 0.0, 2),  # they ended
        ]:
            machine.go_on(0.6, own, others)
            cores.make_way()
            assert torch.get_num_threads() == threads
        machine.go_on(0.1, own=0.5, others=1.5)
        cores.make_way()
        assert torch.get_num_threads() == 2  # too early to tell
        machine.go_on(0.5, own=0.5, others=1.5)
        other = threading.Thread(target=cores.make_way)
        other.start()
        other.join()
        assert torch.get_num_threads() == 2  # a thread beside the one that computes heeds nobody
        cores.make_way()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2  # as before
    machine.go_on(60.0, own=0.0, others=2.0)
    cores.make_way()
    assert torch.get_num_threads() == 2  # outside nobody asked for it


@pytest.mark.usefixtures("two_threads")
def test_a_kernel_makes_way(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, seen = Machine(monkeypatch, True, "GOMP_SPINCOUNT"), set[int]()
    set_threads = torch.set_num_threads

    def noted(threads: int) -> None:
        seen.add(threads)
        set_threads(threads)

    def later() -> cores._Look:
        machine.go_on(0.6, own=1.0, others=1.0)
        return machine.seen

    monkeypatch.setattr(torch, "set_num_threads", noted)

    monkeypatch.setattr(cores, "_look", later)
    monkeypatch.setattr(time, "monotonic", lambda: machine.seen.when + 1.0)
    family = next(each for each in FAMILIES if each.kind == "masked")
    compute_kernel(logit_model(family), random_examples(3, read=family.read, seed=0))
    assert seen == {1, 2}


def test_a_look_at_this_machine() -> None:
    before, began = cores._look(), time.process_time()
    while time.process_time() - began < 0.2:
        pass
    after = cores._look()
    took = after.when - before.when
    assert after.own - before.own >= 0.2
    assert after.idle + after.busy - before.idle - before.busy <= 1.5 * took * (os.cpu_count() or 1)
    assert after.busy - before.busy >= 0.1

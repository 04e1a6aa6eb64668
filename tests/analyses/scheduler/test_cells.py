"""The engine of studies: cells, what they wait for, what is kept, what becomes of failures."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from analyses.scheduler.cell import Cell, Plan, parse_only
from analyses.scheduler.executors import Here, Processes, make_executor
from analyses.scheduler.run import prepare
from analyses.scheduler.status import Timing, counts, duration, status_table, time_left
from analyses.scheduler.store import Attempt, CellStore
from analyses.scheduler.work import Found, Job, OtherWorkerError, Place, lost, run_job
from subkern.errors import NoMemoryError, NoSpaceError, UserError
from subkern.storage.files import is_full
from tests.support import fake_cells
from tests.support.fake_cells import Work, plan, run, table

KERNEL = "a/16-13/prompt/kernel-sgd/kernel"
RIDGE = "a/16-13/prompt/kernel-sgd/solve ridge"
TRAIN = "a/16-13/prompt/finetune/train 10.0"
BEST = "a/16-13/prompt/finetune/best"


def files(out: Path) -> dict[str, int]:
    """Return every finished cell's file and when it was written."""
    found = sorted((out / "cells").rglob("*"))
    return {p.relative_to(out).as_posix(): p.stat().st_mtime_ns for p in found if p.is_file()}


def value(out: Path, key: str) -> float:
    stored = CellStore(out).stored(key)
    assert stored is not None
    found: float = stored.rows[0]["value"]
    return found


# --- plans ---


def test_keys_are_readable_and_one_folder_each() -> None:
    of = plan()
    assert KERNEL in of.cells
    assert len(of) == 2 * 2 * 7
    odd = Cell(task="my/task", k=1, data_seed=2, head="linear", method="m", step="x=1,y")
    assert odd.key == "my%2Ftask/1-2/linear/m/x=1,y"


@pytest.mark.parametrize(
    ("needs", "message"),
    [(("t/1-1/h/m/1",), "wait for each other"), (("nothing",), "lacks cells")],
)
def test_impossible_plans_are_refused(needs: tuple[str, ...], message: str) -> None:
    about: dict[str, Any] = {"task": "t", "k": 1, "data_seed": 1, "head": "h", "method": "m"}
    cells = [
        Cell(**about, step="0", needs=needs),
        Cell(**about, step="1", after=("t/1-1/h/m/0",)),
    ]
    with pytest.raises(ValueError, match=message):
        Plan(cells)
    with pytest.raises(ValueError, match="same key"):
        Plan([cells[1], cells[1]])


@pytest.mark.parametrize(
    ("only", "count"),
    [
        (["task=a"], 14),
        (["task=A,data_seed=13"], 7),
        (["task=a,method=kernel-*", "step=best"], 6 + 4 * 4),
        (["step=solve ridge,task=b"], 4),  # and the kernels they need
    ],
)
def test_only_chooses_cells_and_what_they_wait_for(only: list[str], count: int) -> None:
    assert len(plan().choose(parse_only(only))) == count


@pytest.mark.parametrize("text", ["task", "taks=a", "task=a,", "=a", "task="])
def test_only_that_is_not_understood(text: str) -> None:
    with pytest.raises(UserError, match="is not understood"):
        parse_only([text])


def test_only_that_picks_nothing() -> None:
    with pytest.raises(UserError, match="no cell has task=c,method=x"):
        plan().choose(parse_only(["task=c,method=x"]))


# --- running ---


def test_every_cell_is_computed_after_those_it_waits_for(tmp_path: Path) -> None:
    of = plan()
    ran = run(tmp_path, of, Work())
    assert set(ran.states.values()) == {"done"}
    assert sorted(ran.computed) == sorted(of.cells)
    assert value(tmp_path, RIDGE) == 13 + 5
    assert value(tmp_path, BEST) == 0.1 + 1 + 10
    assert list((tmp_path / "work").iterdir()) == []


def test_again_computes_nothing(tmp_path: Path) -> None:
    run(tmp_path, plan(), Work())
    before = files(tmp_path)
    assert run(tmp_path, plan(), Work()).computed == []
    assert files(tmp_path) == before


def test_a_task_and_a_seed_later_compute_only_what_is_new(tmp_path: Path) -> None:
    run(tmp_path, plan(["a"]), Work())
    before = files(tmp_path)
    ran = run(tmp_path, plan(["a", "c"], [13, 21, 42]), Work())
    assert len(ran.computed) == 7 + 3 * 7
    assert {name: files(tmp_path)[name] for name in before} == before


def test_only_some(tmp_path: Path) -> None:
    of = plan()
    ran = run(tmp_path, of, Work(), chosen=of.choose(parse_only(["task=b,step=solve*"])))
    assert len(ran.computed) == 2 * 3
    assert all(key.startswith("b/") for key in ran.computed)
    assert counts(ran.states.values()) == "6 done, 22 missing"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_stops_only_those_who_need_it(tmp_path: Path, workers: int) -> None:
    of = plan()
    work = Work(fail=((KERNEL, "error"), (TRAIN, "user")))
    ran = run(tmp_path, of, work, make_executor(workers=workers))
    assert counts(ran.states.values()) == "24 done, 2 failed, 2 blocked"
    assert ran.states[RIDGE] == "blocked"
    assert ran.failed[KERNEL] == "ZeroDivisionError: there was no number"
    assert ran.failed[TRAIN].startswith("loss is nan at step 7 with learning rate 10.0")
    assert value(tmp_path, BEST) == 0.1 + 1  # what is left of the grid
    failure = CellStore(tmp_path).failure(KERNEL)
    assert failure is not None
    assert "Traceback" in failure.traceback.read_text(encoding="utf-8")
    assert CellStore(tmp_path).states(of) == ran.states


def test_failures_are_tried_again_only_when_asked(tmp_path: Path) -> None:
    of = plan(["a"], [13])
    run(tmp_path, of, Work(fail=((KERNEL, "error"), (TRAIN, "user"))))
    assert run(tmp_path, of, Work()).computed == []
    ran = run(tmp_path, of, Work(), retry_failed=True)
    # The best of the grid was chosen without one of its points: it is chosen again.
    assert sorted(ran.computed) == sorted([KERNEL, RIDGE, RIDGE[:-5] + "svc", TRAIN, BEST])
    assert value(tmp_path, BEST) == 0.1 + 1 + 10
    assert ran.failed == {}


def test_a_retry_that_fails_again_costs_nothing_that_was_done(tmp_path: Path) -> None:
    """The best of a grid stays if the point that diverged diverges once more."""
    of, work = plan(["a"], [13]), Work(fail=((TRAIN, "user"),))
    run(tmp_path, of, work)
    before = files(tmp_path)
    ran = run(tmp_path, of, work, retry_failed=True)
    assert (ran.computed, list(ran.failed)) == ([], [TRAIN])
    assert ran.states[BEST] == "done"
    assert files(tmp_path) == before


def test_a_retry_that_is_killed_takes_nothing_away(tmp_path: Path) -> None:
    of = plan(["a"], [13])
    run(tmp_path, of, Work(fail=((TRAIN, "user"),)))
    before = CellStore(tmp_path).states(of)

    def killed(*_: Any) -> Found:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, of, killed, retry_failed=True)  # type: ignore[arg-type]
    assert CellStore(tmp_path).states(of) == before
    only = run(tmp_path, of, Work(fail=((TRAIN, "user"),)), chosen={TRAIN}, retry_failed=True)
    assert only.states == before  # of cells that were not chosen, too


def test_what_was_chosen_without_a_cell_that_is_there_now_is_not_current(tmp_path: Path) -> None:
    of = plan(["a"], [13])
    run(tmp_path, of, Work(fail=((TRAIN, "user"),)))
    ran = run(tmp_path, of, Work(), chosen={TRAIN}, retry_failed=True)
    assert ran.computed == [TRAIN]
    assert CellStore(tmp_path).states(of)[BEST] == "missing"
    assert run(tmp_path, of, Work()).computed == [BEST]
    assert value(tmp_path, BEST) == 0.1 + 1 + 10


def test_a_worker_that_dies_takes_only_its_cell(tmp_path: Path) -> None:
    of = plan(["a"], [13])
    ran = run(tmp_path, of, Work(fail=((KERNEL, "die"),)), make_executor(workers=2))
    assert "its process died 3 times" in ran.failed[KERNEL]
    assert counts(ran.states.values()) == "4 done, 1 failed, 2 blocked"


def test_a_worker_that_dies_once_is_no_failure(tmp_path: Path) -> None:
    of = plan(["a"], [13])
    work = Work(fail=((KERNEL, "die"),), once=tmp_path)
    assert run(tmp_path / "out", of, work, make_executor(workers=2)).failed == {}
    assert not any((tmp_path / "out" / "work").iterdir())  # nor does the dead one's folder stay
    run(tmp_path / "quiet", of, Work())
    assert table(tmp_path / "out", of) == table(tmp_path / "quiet", of)


def test_an_idle_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    of = plan(["a"], [13])
    with make_executor(workers=2) as executor:
        assert isinstance(executor, Processes)
        executor.submit(Job(tmp_path, of[KERNEL], Work()))
        assert [end.state for end in executor.ended()] == ["done"]
        process = executor._idle[-1].process
        process.kill()
        process.join()
        executor.submit(Job(tmp_path, of[RIDGE], Work()))
        assert [end.state for end in executor.ended()] == ["done"]


def test_a_full_disk_before_the_work_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Attempt, "unfinished", full)
    of = plan(["a"], [13])
    with pytest.raises(NoSpaceError, match=r"no space left .* the 0 of 7 cells"):
        run(tmp_path, of, Work())


def test_workers_find_a_folder_that_is_named_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's workers start elsewhere."""
    monkeypatch.chdir(tmp_path)
    given: list[Job] = []

    class Elsewhere(Here):
        def submit(self, job: Job) -> None:
            given.append(job)
            super().submit(job)

    run(Path("out"), plan(["a"], [13]), Work(), Elsewhere())
    assert {job.root for job in given} == {tmp_path / "out"}


def test_a_full_disk_keeps_what_is_done(tmp_path: Path) -> None:
    of = plan(["a"], [13])
    with pytest.raises(NoSpaceError, match=r"no space left .* the 1 of 7 cells that are done are"):
        run(tmp_path, of, Work(fail=((RIDGE, "full"),)))
    assert CellStore(tmp_path).states(of)[RIDGE] == "missing"
    assert list((tmp_path / "work").iterdir()) == []
    assert set(run(tmp_path, of, Work()).states.values()) == {"done"}


def test_a_full_disk_is_known_in_libraries_too() -> None:
    wrapped = RuntimeError("could not write")
    wrapped.__cause__ = OSError(28, "No space left on device")
    assert is_full(wrapped)
    assert is_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not is_full(OSError(13, "Permission denied"))


# --- versions and settings ---


def test_results_of_another_version_are_refused_by_name(tmp_path: Path) -> None:
    run(tmp_path, plan(), Work())
    with pytest.raises(UserError, match=r"cell a/.* and 27 more .*environment\.versions\.x: 2 ask"):
        run(tmp_path, plan(version=2), Work())
    before = files(tmp_path)
    ran = run(tmp_path, plan(version=2), Work(), overwrite=True)
    assert len(ran.computed) == 28
    assert all(files(tmp_path)[name] != when for name, when in before.items())


def test_overwrite_computes_only_what_differs_and_what_uses_it(tmp_path: Path) -> None:
    run(tmp_path, plan(["a"], [13]), Work())
    of = plan(["a"], [13])
    changed = Plan(
        replace(cell, identity={**cell.identity, "settings": {"value": 1}})
        if cell.key == KERNEL
        else cell
        for cell in of
    )
    ran = run(tmp_path, changed, Work(), overwrite=True)
    assert sorted(ran.computed) == sorted([KERNEL, RIDGE, RIDGE[:-5] + "svc"])
    assert value(tmp_path, RIDGE) == 1 + 5


def test_a_larger_grid_is_chosen_from_again(tmp_path: Path) -> None:
    whole = plan(["a"], [13])
    run(tmp_path, _without(whole, "10.0"), Work())
    assert sorted(run(tmp_path, whole, Work()).computed) == sorted([TRAIN, BEST])
    assert value(tmp_path, BEST) == 0.1 + 1 + 10


def _without(of: Plan, rate: str) -> Plan:
    """Return a plan whose grids lack a point."""
    return Plan(
        replace(cell, after=tuple(key for key in cell.after if not key.endswith(rate)))
        for cell in of
        if not cell.key.endswith(f"train {rate}")
    )


def test_cells_that_are_not_chosen_stay_and_do_not_count_as_this_study_s(tmp_path: Path) -> None:
    of = plan(["a", "b"], [13])
    run(tmp_path, _without(of, "10.0"), Work())
    before = files(tmp_path)
    ran = run(tmp_path, of, Work(), chosen=of.choose(parse_only(["task=b"])))
    assert all(key.startswith("b/") for key in ran.computed)
    assert {name: files(tmp_path)[name] for name in before if "/a/" in name} == {
        name: when for name, when in before.items() if "/a/" in name
    }
    assert ran.states[BEST] == "missing"  # it was chosen from another grid
    assert ran.states[RIDGE] == "done"


def test_only_what_is_chosen_is_computed_anew(tmp_path: Path) -> None:
    run(tmp_path, plan(["a", "b"], [13]), Work())
    of = plan(["a", "b"], [13], version=2)
    chosen = of.choose(parse_only(["task=b"]))
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"cell b/.* and 6 more"):
        run(tmp_path, of, Work(), chosen=chosen)
    ran = run(tmp_path, of, Work(), chosen=chosen, overwrite=True)
    assert sorted(ran.computed) == sorted(chosen)
    assert all((files(tmp_path)[name] == when) == ("/a/" in name) for name, when in before.items())
    assert counts(ran.states.values()) == "7 done, 7 missing"


def _with_other_points(of: Plan) -> Plan:
    """Return a plan whose points of a grid, under the same keys, have other settings."""
    return Plan(
        replace(cell, identity={**cell.identity, "settings": {"value": 7}})
        if cell.step.startswith("train")
        else cell
        for cell in of
    )


def test_the_best_of_points_of_other_settings_does_not_count(tmp_path: Path) -> None:
    """Though nothing of it and of the grid's keys has changed."""
    run(tmp_path, plan(["a"], [13]), Work())
    other = _with_other_points(plan(["a"], [13]))
    kernels = other.choose(parse_only(["method=kernel-*"]))
    assert run(tmp_path, other, Work(), chosen=kernels).states[BEST] == "missing"
    assert run(tmp_path, plan(["a"], [13]), Work()).computed == []  # its own finds it again
    run(tmp_path, other, Work(), overwrite=True)
    assert value(tmp_path, BEST) == 21


def test_a_best_that_failed_is_chosen_once_its_points_are_others(tmp_path: Path) -> None:
    of = plan(["a"], [13])
    broken = tuple((key, "error") for key in (*of[BEST].after, BEST))
    assert run(tmp_path, of, Work(fail=broken)).states[BEST] == "failed"
    other = _with_other_points(of)
    points = set(of[BEST].after)
    assert run(tmp_path, other, Work(), chosen=points).states[BEST] == "missing"
    assert run(tmp_path, other, Work()).states[BEST] == "done"
    assert value(tmp_path, BEST) == 21


def test_only_chosen_failures_are_tried_again(tmp_path: Path) -> None:
    of = plan(["a", "b"], [13])
    other = KERNEL.replace("a/", "b/")
    run(tmp_path, of, Work(fail=((KERNEL, "error"), (other, "error"))))
    ran = run(tmp_path, of, Work(), chosen=of.choose(parse_only(["task=b"])), retry_failed=True)
    assert ran.states[other] == "done"
    assert ran.states[KERNEL] == "failed"


def test_a_failure_of_another_version_does_not_count(tmp_path: Path) -> None:
    run(tmp_path, plan(["a"], [13]), Work(fail=((KERNEL, "error"),)))
    ran = run(tmp_path, plan(["a"], [13], version=2), Work(), overwrite=True)
    assert set(ran.states.values()) == {"done"}


# --- leases ---


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with (
        CellStore(tmp_path).lock(),
        pytest.raises(UserError, match="another run is at work"),
        CellStore(tmp_path).lock(),
    ):
        pass


def test_a_cell_is_running_while_its_process_lives(tmp_path: Path) -> None:
    of = plan(["a"], [13])
    store = CellStore(tmp_path)
    attempt = store.begin(of[KERNEL])
    assert store.states(of)[KERNEL] == "running"
    lease = json.loads((attempt.work / "lease.json").read_text(encoding="utf-8"))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for change in ({"pid": dead.pid}, {"born": lease["born"] - 100}):
        (attempt.work / "lease.json").write_text(json.dumps(lease | change), encoding="utf-8")
        assert store.states(of)[KERNEL] == "missing"
    (attempt.work / "lease.json").write_text(json.dumps(lease | {"host": "far"}), encoding="utf-8")
    assert store.states(of)[KERNEL] == "running"
    os.utime(attempt.work / "lease.json", (0, time.time() - 1000))
    assert store.states(of)[KERNEL] == "missing"
    with store.lock():
        assert not attempt.work.exists()


def test_a_cell_of_which_only_half_is_there_is_missing(tmp_path: Path) -> None:
    of = plan(["a"], [13])
    attempt = CellStore(tmp_path).begin(of[KERNEL])
    (attempt.folder / "number.txt").write_text("1", encoding="utf-8")
    assert run(tmp_path, of, Work()).states[KERNEL] == "done"
    assert value(tmp_path, KERNEL) == 13


# --- status ---


def test_status_counts_and_foretells(tmp_path: Path) -> None:
    of = plan()
    run(tmp_path, of, Work(nap=0.02), chosen=of.choose(parse_only(["task=a"])))
    store = CellStore(tmp_path)
    states = store.states(of)
    timing = Timing(of, store)
    seconds, unknown = time_left(of, states, timing)
    assert unknown == 0
    assert 14 * 0.02 <= seconds < 14
    assert time_left(of, states, timing, 2)[0] == pytest.approx(seconds / 2)
    shown = status_table(of, states, of.cells)
    assert [str(column.header) for column in shown.columns] == ["method", "a", "b"]
    assert list(shown.columns[1].cells) == ["[green]6/6[/]", "[green]8/8[/]"]
    assert list(shown.columns[2].cells) == ["0/6", "0/8"]


def test_nothing_is_known_before_anything_is_measured(tmp_path: Path) -> None:
    of = plan()
    store = CellStore(tmp_path)
    assert time_left(of, store.states(of), Timing(of, store)) == (0, 28)
    assert time_left(of, store.states(of), Timing(of, store, lambda cell: 2.0)) == (0, 28)
    assert time_left(of, store.states(of), Timing(of, store, lambda cell: 2.0, 0.5)) == (28, 0)


def test_a_finished_cell_tells_what_others_cost(tmp_path: Path) -> None:
    of = plan(["a"], [13])
    timing = Timing(of, CellStore(tmp_path), lambda cell: 3.0 if cell.key == KERNEL else 1.0, 0.5)
    timing.learn(of[KERNEL], 6.0)
    assert timing.of(of[KERNEL]) == 6
    assert timing.of(of[BEST]) == 2  # the unit that was timed before no longer counts


def test_cells_running_elsewhere_share_the_time_left(tmp_path: Path) -> None:
    of = plan(["a"], [13])
    states = {**CellStore(tmp_path).states(of), KERNEL: "running", TRAIN: "running"}
    timing = Timing(of, CellStore(tmp_path), lambda cell: 2.0, 1.0)
    assert time_left(of, states, timing) == (7, 0)
    assert not tmp_path.joinpath("work").exists()  # looking writes nothing


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (3, "3.0 s"),
        (45, "45 s"),
        (600, "10 min"),
        (12000, "3 h 20 min"),
        (187200, "2 d 4 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# --- as processes ---


def start(out: Path, *args: object) -> subprocess.Popen[str]:
    """Start the study in a process and return once it is under way."""
    command = [sys.executable, fake_cells.__file__, out, *args]
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=fake_cells.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job starts with interrupts ignored, and its children with it.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


@pytest.mark.slow
def test_killed_at_twenty_random_moments_ends_with_the_same_table(tmp_path: Path) -> None:
    tasks = [f"t{number}" for number in range(20)]
    of, args = plan(tasks), ("--tasks", ",".join(tasks), "--nap", 0.008)
    rng = random.Random(4)
    killed = 0
    for _ in range(20):
        process = start(tmp_path / "killed", *args)
        time.sleep(rng.uniform(0.0, 0.25))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        process.communicate()
    assert killed == 20
    some = len(table(tmp_path / "killed", of))
    assert 0 < some < len(of)
    process = start(tmp_path / "killed", *args)
    assert process.communicate(timeout=120)[0] == "finished\n"
    run(tmp_path / "quiet", of, Work())
    assert table(tmp_path / "killed", of) == table(tmp_path / "quiet", of)
    assert list((tmp_path / "killed" / "work").iterdir()) == []


def test_workers_go_when_their_parent_is_killed(tmp_path: Path) -> None:
    of = plan(["a"], [13])
    process = start(tmp_path, "--tasks", "a", "--nap", 600, "--workers", 2)
    store = CellStore(tmp_path)
    deadline = time.monotonic() + 60
    while "running" not in store.states(of).values() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "running" in store.states(of).values()
    process.kill()
    process.communicate()
    while "running" in store.states(of).values() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(store.states(of).values()) == {"missing"}
    with store.lock():
        assert list((tmp_path / "work").iterdir()) == []


def test_ctrl_c_loses_only_the_running_cell(tmp_path: Path) -> None:
    of = plan(["a"], [13])
    process = start(tmp_path, "--tasks", "a", "--nap", 0.5)
    store = CellStore(tmp_path)
    while store.stored(KERNEL) is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == "interrupted\n"
    assert list((tmp_path / "work").iterdir()) == []
    states = CellStore(tmp_path).states(of)
    assert states[KERNEL] == "done"
    assert counts(states.values()) in ("1 done, 6 missing", "2 done, 5 missing")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"kind": "slurm"}, "executor 'slurm' is unknown: use local or ray"),
        ({"workers": 0}, "0 workers can do nothing"),
        ({"address": "here:1"}, "--address here:1 is for --executor ray"),
    ],
)
def test_bad_executors(how: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_executor(**how)


def test_dropped_files_go_with_the_cell_that_needed_them(tmp_path: Path) -> None:
    of = plan(["a"], [13])

    def work(cell: Cell, needs: Any, place: Place) -> Found:
        (place.folder / "large.bin").write_bytes(b"x")
        return Found([], tuple(folder / "large.bin" for folder in needs.values()))

    store = CellStore(tmp_path)
    prepare(of, store)
    run(tmp_path, of, work)  # type: ignore[arg-type]
    kept = [key for key in of.cells if (store.folder(key) / "large.bin").exists()]
    assert kept == [key for key in of.cells if "solve" in key or "best" in key]


def test_a_kill_before_a_cell_is_kept_leaves_nothing_to_drop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, large = plan(["a"], [13]), tmp_path / "large.bin"
    large.write_bytes(b"x")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Attempt, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, of, lambda *_: Found([], (large,)))
    assert not large.exists()
    assert set(run(tmp_path, of, lambda *_: Found([], (large,))).states.values()) == {"done"}


# --- going on within a cell ---


def going_on(cell: Cell, needs: Any, place: Place) -> Found:
    """Work that is interrupted at its first try of every cell."""
    assert place.unfinished is not None
    mark = place.unfinished / "half"
    if not mark.exists():
        mark.write_text(str(cell.settings["value"]), encoding="utf-8")
        raise KeyboardInterrupt
    return Found([{"value": float(mark.read_text(encoding="utf-8")), "cell": cell.key}])


def test_an_interrupted_cell_goes_on_from_what_it_left(tmp_path: Path) -> None:
    of = plan(["a"], [13])
    for _ in of:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, of, going_on)  # type: ignore[arg-type]
    assert set(run(tmp_path, of, going_on).states.values()) == {"done"}  # type: ignore[arg-type]
    assert value(tmp_path, KERNEL) == 13
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_what_is_left_of_another_version_is_not_gone_on_from(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, plan(["a"], [13]), going_on)  # type: ignore[arg-type]
    (left,) = (tmp_path / "unfinished").iterdir()
    (left / "half").write_text("999", encoding="utf-8")
    other = plan(["a"], [13], version=2)
    for _ in other:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, other, going_on)  # type: ignore[arg-type]
    run(tmp_path, other, going_on)  # type: ignore[arg-type]
    assert value(tmp_path, KERNEL) == 13


def test_who_finds_another_at_a_cell_computes_it_by_itself(tmp_path: Path) -> None:
    of = plan(["a"], [13])
    places: list[Place] = []

    def work(cell: Cell, needs: Any, place: Place) -> Found:
        places.append(place)
        return Found([{"value": 1.0, "cell": cell.key}])

    store = CellStore(tmp_path)
    with store.begin(of[KERNEL]).unfinished() as held:
        assert held is not None
        assert run_job(Job(tmp_path, of[KERNEL], work)).state == "done"  # type: ignore[arg-type]
        assert held.is_dir()
    (place,) = places
    assert place.unfinished is None


def failing(cell: Cell, needs: Any, place: Place) -> Found:
    """Work whose kernels fail, the first by a mistake of the user's."""
    assert place.unfinished is not None
    mark = place.unfinished / "half"
    begun = mark.exists()
    mark.write_text("tiles", encoding="utf-8")
    if cell.key == KERNEL:
        raise UserError("no such rank")
    if cell.method == "kernel-sgd" and not needs:
        raise (NoMemoryError if cell.data_seed == 21 else MemoryError)(f"begun {begun}")
    return Found([{"value": 1.0, "cell": cell.key}])


def test_a_mistake_leaves_nothing_to_go_on_from(tmp_path: Path) -> None:
    run(tmp_path, plan(["a"], [13]), failing)  # type: ignore[arg-type]
    assert list((tmp_path / "unfinished").iterdir()) == []


@pytest.mark.parametrize("seed", [13, 21])
def test_a_retry_goes_on_once_from_what_a_lack_of_memory_left(tmp_path: Path, seed: int) -> None:
    of = plan(["b"], [seed])
    begun: list[str] = []
    for _ in range(4):
        reasons = run(tmp_path, of, failing, retry_failed=True).failed  # type: ignore[arg-type]
        begun += reasons.values()
    found = [text.removeprefix("MemoryError: ") for text in begun]
    assert found == [f"begun {each}" for each in (False, True, False, True)]


def test_a_worker_that_must_not_compute_a_cell_leaves_what_is_there(tmp_path: Path) -> None:
    def other(cell: Cell, needs: Any, place: Place) -> Found:
        raise OtherWorkerError("another version")

    cell = plan(["a"], [13])[KERNEL]
    with pytest.raises(KeyboardInterrupt):
        run_job(Job(tmp_path, cell, going_on))  # type: ignore[arg-type]
    for _ in range(2):
        assert run_job(Job(tmp_path, cell, other)).state == "failed"  # type: ignore[arg-type]
    assert (CellStore(tmp_path).unfinished(KERNEL) / "half").exists()


def test_a_retry_goes_on_once_from_what_a_dead_process_left(tmp_path: Path) -> None:
    cell = plan(["a"], [13])[KERNEL]
    job = Job(tmp_path, cell, Work())
    with pytest.raises(KeyboardInterrupt):
        run_job(Job(tmp_path, cell, going_on))  # type: ignore[arg-type]
    left = CellStore(tmp_path).unfinished(KERNEL)
    (left / "factors-0.safetensors").write_bytes(b"gigabytes")
    assert lost(job, "its process died").state == "failed"
    assert ((left / "half").exists(), list(left.glob("factors*"))) == (True, [])
    assert lost(job, "its process died").state == "failed"
    assert not left.exists()


def test_the_seconds_of_a_cell_are_those_of_all_attempts(tmp_path: Path) -> None:
    def slow(cell: Cell, needs: Any, place: Place) -> Found:
        assert place.unfinished is not None
        time.sleep(0.2)
        return going_on(cell, needs, place)

    job = Job(tmp_path, plan(["a"], [13])[KERNEL], slow)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        run_job(job)
    run_job(job)
    stored = CellStore(tmp_path).stored(KERNEL)
    assert stored is not None
    assert 0.4 <= stored.seconds < 2

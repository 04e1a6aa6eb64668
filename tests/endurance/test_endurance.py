"""Nothing lost, wrong, silent, bare, blocked or left over, whatever happens to a command.

A run is killed before one file operation of each kind (what is done, from where in the program),
the next run in the same folder before one of the next kind, until it ends; and once before any.
``--endurance N`` tries every fault N times, on studies too, and quick commands are killed at N
operations of each kind, each time in a new folder: at all of them if N is as large as there are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.endurance.commands import Command, make_commands
from tests.endurance.conftest import TALLY
from tests.endurance.trials import (
    HOWS,
    Lab,
    Server,
    Trial,
    damage,
    fill_disk,
    kill_after,
    kill_at_each_kind,
    kill_before,
    kill_worker,
    kind_of,
    rival,
)

pytestmark = pytest.mark.slow
NAMES = (
    "kernel", "kernel signgd", "kernel adam", "kernel export", "features", "finetune", "figures",
    "analyze lora --verify", "analyze subspace --verify", "analyze behavior", "analyze prompting",
    "analyze learning-rate", "analyze width", "analyze fourteen-tasks",
    "analyze fourteen-tasks --workers",
)  # fmt: skip


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Command]:
    """The commands, with model and data."""
    return make_commands(tmp_path_factory.mktemp("endurance"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """What runs them."""
    found = Server()
    yield found
    found.stop()


def places(lab: Lab, count: int, rng: random.Random) -> list[int]:
    """``count`` file operations of a command, spread over all it has."""
    step = len(lab.operations) / count
    return [1 + int(step * (i + rng.random())) % len(lab.operations) for i in range(count)]


def each_kind(lab: Lab, count: int, rng: random.Random) -> list[int]:
    """At most ``count`` file operations of every kind."""
    kinds: dict[str, list[int]] = {}
    for number, operation in enumerate(lab.operations, 1):
        kinds.setdefault(kind_of(operation), []).append(number)
    chosen = (rng.sample(each, min(count, len(each))) for each in kinds.values())
    return sorted(number for each in chosen for number in each)


@pytest.mark.parametrize("name", NAMES)
def test_whatever_happens_the_same_command_ends_with_the_same_numbers(
    name: str,
    commands: dict[str, Command],
    server: Server,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    count, rng = request.config.getoption("endurance"), random.Random(name)
    if count == 1 and name.startswith("analyze"):
        pytest.skip("studies take minutes: --endurance 2 or more")
    lab = Lab.of(server, commands[name], tmp_path)
    is_quick = not name.startswith("analyze")
    choose = each_kind if is_quick and count > 1 else places
    once = choose(lab, count, rng)
    twice = list(zip(places(lab, count, rng), places(lab, count, rng), strict=True))
    trials: list[tuple[str, Callable[[], Trial]]] = [
        ("kill in a row", lambda: kill_at_each_kind(lab, count if is_quick else 1, rng)),
        *(("kill", lambda at=at: kill_before(lab, (at,))) for at in once),
        *(("kill twice", lambda at=at: kill_before(lab, at)) for at in twice[: count // 2]),
        *(("kill any time", lambda: kill_after(lab, rng.uniform(0, lab.seconds))) for _ in twice),
        *(("disk full", lambda at=at: fill_disk(lab, at)) for at in places(lab, count, rng)),
        *(("two writers", lambda: rival(lab, rng.uniform(0, lab.seconds))) for _ in twice),
    ]
    if commands[name].has_workers:
        trials += [("kill worker", lambda at=at: kill_worker(lab, at)) for at in once]
    for at in places(lab, count, rng):
        for how in HOWS if count > 4 else rng.sample(HOWS, 1):
            trials += [
                ("damage", lambda at=at, how=how: damage(lab, rng, at, how)),
                ("damage", lambda how=how: damage(lab, rng, None, how)),
            ]
    failed = []
    for fault, trial in trials:
        outcome, why, *times = trial()
        request.config.stash[TALLY][name, fault, outcome] += sum(times) or 1
        if outcome != "right":
            failed.append(f"{fault}: {outcome}: {why}")
            print(name, failed[-1], flush=True)  # hours may go on (-s)
    assert not failed, "\n".join(failed)


def test_commands_that_answer_write_nothing(
    commands: dict[str, Command], server: Server, tmp_path: Path
) -> None:
    asked, kernel = {"folder": str(tmp_path)}, str(tmp_path / "K.zarr")
    square = [each for each in commands["kernel"].line(tmp_path) if each not in ("--right", "test")]
    assert server.run({"args": square, **asked})[0].status == 0
    for line in ("agree K K", "solve K K", "tasks", "analyze lora --help"):
        words = [kernel if word == "K" else word for word in line.split()]
        (done,) = server.run({"args": words, **asked})
        assert (done.status, list(done.operations)) == (0, []), done.stderr

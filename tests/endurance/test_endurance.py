"""Nothing lost, wrong, silent, bare, blocked or left over, whatever happens to a command.

``--endurance N`` tries every fault N times on every command, studies too, instead of once on the
quick ones; N as large as a command has file operations kills it before each of them. Trials are the
same for the same N.
"""

from __future__ import annotations

import random
import time
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
    kill_before,
    rival,
)

pytestmark = pytest.mark.slow
NAMES = (
    "kernel", "kernel signgd", "kernel adam", "features", "finetune", "analyze lora",
    "analyze behavior", "analyze prompting", "analyze fourteen-tasks",
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
    step = lab.operations / count
    return [1 + int(step * (i + rng.random())) % lab.operations for i in range(count)]


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
    started = time.perf_counter()
    lab = Lab.of(server, commands[name], tmp_path)
    took = time.perf_counter() - started
    if count >= lab.operations:
        every = [(at,) for at in range(1, lab.operations + 1)]
    else:
        every = [(at,) for at in places(lab, count, rng)]
    twice = list(zip(places(lab, count, rng), places(lab, count, rng), strict=True))
    trials: list[tuple[str, Callable[[], Trial]]] = [
        *(("kill", lambda at=at: kill_before(lab, at)) for at in (*every, *twice[: count // 2])),
        *(("kill", lambda: kill_after(lab, rng.uniform(0, took))) for _ in range(count)),
        *(("disk full", lambda at=at: fill_disk(lab, at)) for at in places(lab, count, rng)),
        *(("two writers", lambda: rival(lab, rng.uniform(0, took))) for _ in range(count)),
    ]
    for at in places(lab, count, rng):
        for how in HOWS if count > 1 else rng.sample(HOWS, 1):
            trials += [
                ("damage", lambda at=at, how=how: damage(lab, rng, at, how)),
                ("damage", lambda how=how: damage(lab, rng, None, how)),
            ]
    failed = []
    for fault, trial in trials:
        outcome, why = trial()
        request.config.stash[TALLY][fault, outcome] += 1
        if outcome != "right":
            failed.append(f"{fault}: {outcome}: {why}")
    assert not failed, "\n".join(failed)

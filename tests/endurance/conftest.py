"""Prints what the trials came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from tests.endurance.trials import OUTCOMES

TALLY = pytest.StashKey[Counter[tuple[str, str, str]]]()
"""How often: of a command, a fault and an outcome."""


def pytest_configure(config: pytest.Config) -> None:
    """Begin at nothing."""
    config.stash[TALLY] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Set no limit of time where hours were asked for."""
    if config.getoption("endurance") > 1:
        for item in items:
            item.add_marker(pytest.mark.timeout(0))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print a line a fault, and how often each was tried on each command."""
    tally = config.stash.get(TALLY, Counter())
    if not tally:
        return
    commands, faults = (list(dict.fromkeys(key[i] for key in tally)) for i in (0, 1))

    def count(command: str | None, fault: str, outcome: str | None = None) -> int:
        wanted = (command, fault, outcome)
        alike = [all(w in (None, k) for w, k in zip(wanted, key, strict=True)) for key in tally]
        return sum(n for n, is_one in zip(tally.values(), alike, strict=True) if is_one)

    def line(first: str, cells: Iterable[object]) -> None:
        terminalreporter.write_line(" | ".join([f"{first:34}", *(f"{x!s:>9}" for x in cells)]))

    terminalreporter.section("endurance")
    line("", OUTCOMES)
    for fault in faults:
        line(fault, (count(None, fault, outcome) for outcome in OUTCOMES))
    terminalreporter.write_line("")
    line("", faults)
    for command in commands:
        line(command, (count(command, fault) for fault in faults))

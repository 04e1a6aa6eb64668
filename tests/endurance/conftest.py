"""Prints what the trials came to."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.endurance.trials import OUTCOMES

TALLY = pytest.StashKey[Counter[tuple[str, str]]]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin at nothing."""
    config.stash[TALLY] = Counter()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print a line a fault."""
    tally = config.stash.get(TALLY, Counter())
    if not tally:
        return
    terminalreporter.section("endurance")
    terminalreporter.write_line(f"{'':12}" + "".join(f"{name:>11}" for name in OUTCOMES))
    for fault in dict.fromkeys(fault for fault, _ in tally):
        counts = "".join(f"{tally[fault, name]:>11}" for name in OUTCOMES)
        terminalreporter.write_line(f"{fault:12}{counts}")

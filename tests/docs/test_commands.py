"""Every command that the documentation shows exists, with the options it uses."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from tests.support.pages import PAGES, ROOT, commands, name


def test_there_are_commands_to_check() -> None:
    assert commands(ROOT / "README.md")
    assert sum(len(commands(page)) for page in PAGES) >= 30


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=name)
def test_commands_have_these_options(page: Path) -> None:
    for words in commands(page):
        before = 2 if words[1:2] == ["estimate"] else 1  # what it estimates comes after it
        nested = words[before] == "analyze" or words[2:3] == ["show"]
        path = words[1 : before + (2 if nested else 1)]
        found = CliRunner().invoke(cli.cli, [*path, "--help"])
        assert found.exit_code == 0, words
        for option in (w for w in words if w.startswith("--")):
            assert option in found.output, (words, option)

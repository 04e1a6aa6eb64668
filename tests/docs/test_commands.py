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
        path = words[1:3] if words[1:2] == ["analyze"] or words[2:3] == ["show"] else words[1:2]
        found = CliRunner().invoke(cli.cli, [*path, "--help"])
        assert found.exit_code == 0, words
        for option in (w for w in words if w.startswith("--")):
            assert option in found.output, (words, option)

"""The reference lists the public names, all of them and no others, and every command."""

from __future__ import annotations

import re
import sys
from collections import Counter
from importlib import import_module
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

import cli
import subkern
from tests.support.pages import ROOT

NAMESPACES = {
    name: found
    for name in subkern.__all__
    if isinstance(found := getattr(subkern, name), ModuleType)
}


def listed(package: str) -> Counter[str]:
    """The names of a package that pages of the reference document, and how often."""
    pages = (ROOT / "docs" / "reference").rglob("*.md")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    blocks = re.findall(rf"\.\. public:: {re.escape(package)}\n\n((?:   \w+\n)+)", text)
    return Counter(" ".join(blocks).split())


def test_the_package() -> None:
    assert listed("subkern") == Counter(set(subkern.__all__) - NAMESPACES.keys())


@pytest.mark.parametrize("name", sorted(NAMESPACES))
def test_a_namespace(name: str) -> None:
    assert listed(f"subkern.{name}") == Counter(NAMESPACES[name].__all__)


def test_every_command() -> None:
    pytest.importorskip("sphinx")
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    try:
        directives = import_module("directives")
    finally:
        sys.path.pop(0)

    def paths(*path: str) -> list[str]:
        told = CliRunner().invoke(cli.cli, [*path, "--help"]).output.partition("\nCommands:\n")[2]
        names = re.findall(r"^  (\S+)", told, re.M)
        return [
            " ".join(("subkern", *path)),
            *(one for name in names for one in paths(*path, name)),
        ]

    found = directives._commands(click.Context(cli.cli, info_name="subkern"))
    assert sorted(context.command_path for context in found) == sorted(paths())
    assert len(paths()) > 12

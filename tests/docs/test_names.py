"""What the documentation and the sources name exists: modules, pages, make targets."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import click
import pytest

import cli
import subkern
from tests.support.pages import PAGES, ROOT, in_checkout, name

SOURCES = [
    path
    for place in ("subkern", "analyses", "benchmarks")
    for path in sorted((ROOT / place).rglob("*.py"))
]


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_dotted_names() -> None:
    lost = []
    for path in [*PAGES, *SOURCES]:
        text = in_checkout(path.read_text(encoding="utf-8"))
        named = set(re.findall(r"(?<![\w./-])(?:subkern|analyses)(?:\.[A-Za-z_]\w*)+", text))
        lost += [f"{name(path)}: {dotted}" for dotted in sorted(named) if not exists(dotted)]
    assert not lost


def test_pages() -> None:
    """Messages and comments name pages from the top: ``docs/reference/tasks.md``."""
    lost = []
    for path in [*PAGES, *SOURCES]:
        named = set(re.findall(r"(?<![\w/.])docs/[\w/-]+\.(?:md|py)", path.read_text("utf-8")))
        lost += [f"{name(path)}: {page}" for page in sorted(named) if not (ROOT / page).exists()]
    assert not lost


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets(page: Path) -> None:
    made = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = re.findall(r"(?:^|`)make ([a-z-]+(?: [a-z-]+)*)", page.read_text("utf-8"), re.M)
    assert not {target for targets in named for target in targets.split()} - made


def test_options_in_prose() -> None:
    """Every option that pages name is of a command, the benchmarks, the tests or pip."""
    others = {"--case", "--minutes", "--quick", "--index-url", "--no-deps", "--workers", "--seeds"}
    others |= {"--endurance", "--turns"}
    known = others | {option for context in contexts() for option in options(context)}
    lost = []
    for page in PAGES:
        if page.name != "CHANGELOG.md":
            named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", page.read_text("utf-8")))
            lost += [f"{name(page)}: {option}" for option in sorted(named - known)]
    assert not lost


def contexts() -> list[click.Context]:
    """Every command of the program, itself first."""
    found = [click.Context(cli.cli, info_name="subkern")]
    for context in found:
        if isinstance(context.command, click.Group):
            for each in context.command.list_commands(context):
                inner = context.command.get_command(context, each)
                assert inner is not None
                found.append(click.Context(inner, parent=context, info_name=each))
    return found


def options(context: click.Context) -> list[str]:
    """The names of a command's options."""
    parameters = context.command.get_params(context)
    return [name for each in parameters for name in (*each.opts, *each.secondary_opts)]


def test_the_architecture_names_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    (tree,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    for package in ("subkern", "analyses"):
        for place in (ROOT / package).iterdir():
            if place.is_dir() and any(place.glob("*.py")):
                assert f"{place.name}/" in tree, place
            elif place.suffix == ".py" and place.stem != "__init__":
                assert place.name in tree, place


def test_the_citation_is_of_this_version() -> None:
    cited = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.M)
    assert cited == [subkern.__version__]

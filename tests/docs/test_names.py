"""What the documentation and the sources name exists: modules, pages, make targets."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

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

"""The pages of the documentation, and the examples on them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
    ROOT / "figures" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]

_EXAMPLE = re.compile(r"(?:<!-- not run: (.+?) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


def name(page: Path) -> str:
    """What a page is called: its path in the repository."""
    return page.relative_to(ROOT).as_posix()


def examples(page: Path, language: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: code, and why it is not run, if a comment above it says so."""
    found = _EXAMPLE.findall(page.read_text(encoding="utf-8"))
    return [(code, why) for why, written, code in found if written == language]


def commands(page: Path) -> list[list[str]]:
    """Words of every command of subkern that a page shows, continued lines joined."""
    text = "\n".join(code for code, _ in examples(page, "sh")).replace("\\\n", " ")
    return [shlex.split(row, comments=True) for row in text.splitlines() if row[:7] == "subkern"]


def in_checkout(code: str) -> str:
    """Code as a checkout runs it: what is installed as ``subkern.analyses`` is a folder there."""
    return code.replace("subkern.analyses", "analyses")

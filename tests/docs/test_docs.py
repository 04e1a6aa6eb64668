"""The examples in README and docs run, and every command they show exists."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """Fenced code blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_readme_example_runs(minilm_mlm: Path, shared_data: Path) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    code = code.replace("roberta-base", str(minilm_mlm)).replace("path/to/k-shot", str(shared_data))
    code = code.replace('split="train")', 'split="train")[12:20]')
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert scope["full"].shape == (8, 2, 8, 2)  # type: ignore[attr-defined]
    assert 0 < scope["cka"](scope["full"], scope["lora"]) < 1  # type: ignore[operator]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_examples_compile_and_import(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.parse(code, page.name).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                scope: dict[str, object] = {}
                exec(ast.unparse(node), scope)
                assert len(scope) > 1  # more than builtins


def commands(page: Path) -> list[list[str]]:
    """Words of every command of subkern that a page shows, continued lines joined."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("subkern")]


def test_there_are_commands_to_check() -> None:
    assert len(commands(ROOT / "README.md")) >= 6
    assert sum(len(commands(page)) for page in PAGES) >= 30


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_have_these_options(page: Path) -> None:
    for words in commands(page):
        path = words[1:3] if words[1:2] == ["analyze"] or words[2:3] == ["show"] else words[1:2]
        found = CliRunner().invoke(cli.cli, [*path, "--help"])
        assert found.exit_code == 0, words
        shown = found.output
        for option in (w for w in words if w.startswith("--")):
            assert option in shown, (words, option)

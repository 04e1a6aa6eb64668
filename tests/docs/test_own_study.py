"""The example of a study of one's own runs, goes on, and computes only what is new."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tiny_study
from tests.support.pages import ROOT


def run(*arguments: object) -> list[str]:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "examples" / "own_study.py", *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def given(tmp_path: Path) -> tuple[Path, Path, Path, str]:
    tiny_study.model(tmp_path / "model")
    tiny_study.data(tmp_path / "data")
    return tmp_path / "model", tmp_path / "data", tmp_path / "out", "--shots=4"


def test_it_computes_what_is_missing(given: tuple[Path, Path, Path, str]) -> None:
    first = run(*given, "--seeds=13")
    assert first[0] == "5 of 5 cells computed"
    assert len(first) == 3
    again = run(*given, "--seeds=13,21")
    assert again[0] == "5 of 10 cells computed"
    assert again[1:3] == first[1:]

"""The example of a study of one's own runs, goes on, and computes only what is new."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.support import tiny_study
from tests.support.pages import ROOT, in_checkout

EXAMPLE = ROOT / "docs" / "examples" / "own_study.py"


def test_it_computes_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = tmp_path / EXAMPLE.name
    example.write_text(in_checkout(EXAMPLE.read_text(encoding="utf-8")), encoding="utf-8")
    model = tiny_study.model(tmp_path / "model")
    data = tiny_study.data(tmp_path / "data")

    def run(seeds: str) -> list[str]:
        told = (example, model, data, tmp_path / "out", "--shots=4", f"--seeds={seeds}")
        monkeypatch.setattr("sys.argv", [str(word) for word in told])
        runpy.run_path(str(example), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    first = run("13")
    assert first[0] == "5 of 5 cells computed"
    assert len(first) == 3
    again = run("13,21")
    assert again[0] == "5 of 10 cells computed"
    assert again[1:3] == first[1:]

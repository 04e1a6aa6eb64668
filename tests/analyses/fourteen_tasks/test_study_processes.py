"""Commands that train, and those that draw what was trained, as real processes on a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.support import tiny_study

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the options that name a tiny model and a tiny task."""
    folder = tmp_path_factory.mktemp("tiny")
    model, data = tiny_study.model(folder / "model"), tiny_study.data(folder / "data")
    return ["--model", str(model), "--data", str(data), "--task", "mr", "--shots", "4"]


def run(*args: object) -> subprocess.CompletedProcess[str]:
    """Run `subkern` of this checkout to the end."""
    words = [sys.executable, str(ROOT / "cli.py"), *map(str, args)]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=600)


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("lora", "--ranks", "1,2", "--adapter-seeds", 1), 3),
        (("subspace", "--dims", "4,8", "--kinds", "srht", "--ranks", 1, "--adapter-seeds", 1), 3),
    ],
)
def test_advice_is_proved(
    read: list[str], tmp_path: Path, words: tuple[object, ...], count: int
) -> None:
    out = tmp_path / "run"
    asked = ["analyze", *words, *read, "--out", out]
    training = ["--verify", "--verify-steps", 4, "--verify-batch-sizes", 4]
    training += ["--verify-learning-rates", "1e-2,1e-1"]
    done = run(*asked, *training)
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(out / "verification.parquet")
    assert table["configuration"].nunique() >= count
    assert (out / "figures" / "verification.png").is_file()
    again = run(*asked, *training)
    assert "up to date" in again.stdout, again.stderr
    assert run(*asked).returncode == 0  # the same without proof keeps it


def test_finetune_and_the_figures_of_a_study(read: list[str], tmp_path: Path) -> None:
    out = tmp_path / "one"
    words = ["finetune", *read, "--optimizer", "sgd", "--steps", 4, "--learning-rates", "1e-1"]
    done = run(*words, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    assert 0 <= json.loads(done.stdout)["best"]["scores"]["test"] <= 1
    assert (out / "best" / "shift.safetensors").is_file()
    study = tmp_path / "study"
    name = ["--model", read[1], "--data", read[3], "--tasks", "mr", "--shots", 4, "--seed", 13]
    small = ["--steps", 4, "--batch-sizes", 4, "--learning-rates", "finetune-sgd=0.1"]
    methods = ["--methods", "zero-shot,kernel-sgd,finetune-sgd"]
    done = run("analyze", "fourteen-tasks", *name, *small, *methods, "--out", study)
    assert done.returncode == 0, done.stderr
    (study / "report.html").unlink()
    drawn = run("figures", study)
    assert drawn.returncode == 0, drawn.stderr
    assert (study / "report.html").is_file()
    assert (study / "figures" / "kernel-vs-finetuning.pdf").is_file()
    assert (study / "tables" / "accuracy-prompt.tex").is_file()

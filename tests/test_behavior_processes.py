"""`subkern analyze behavior` as a real process on a real masked LM and the real mr."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from analyses.long_table import cells

ROOT = Path(__file__).resolve().parents[1]


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """`subkern analyze behavior` of this checkout, to the end."""
    return subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "analyze", "behavior", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
    )


@pytest.mark.slow
def test_a_real_model_is_predicted_by_its_kernel(
    minilm_mlm: Path, shared_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = [
        "--model", minilm_mlm, "--task", "mr", "--data", shared_data, "--dev-limit", 8,
        "--test-limit", 8, "--steps", 6, "--looks", 2, "--kernel-steps", 1, "--learning-rates",
        "1e-4,1e-3", "--solvers", "ridge", "--out", out,
    ]  # fmt: skip
    done = run(*words, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answer = json.loads(done.stdout)
    assert answer["behaviour"] in ("yes", "partly", "no", "undecided")
    errors = {each["learning_rate"]: each["error"] for each in answer["prediction_errors"]}
    assert errors[1e-4] < 0.15  # lazy at a small learning rate
    assert errors[1e-4] < errors[1e-3]
    table = pd.read_parquet(out / "results.parquet")
    start = cells(table, metric="features.relative_frobenius", step=0)["value"].item()
    later = cells(table, metric="features.relative_frobenius", step=6)["value"].item()
    assert start == 0 < later
    again = run(*words)
    assert "up to date" in again.stdout, again.stderr


def test_mistakes_are_one_line_and_leave_nothing(tmp_path: Path) -> None:
    given = ["--model", "nowhere", "--task", "mr", "--data", "demo", "--out", tmp_path / "run"]
    done = run(*given, "--optimizer", "lion")
    assert done.returncode == 2
    assert "optimizer 'lion' is unknown: use sgd, adam, signgd" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()

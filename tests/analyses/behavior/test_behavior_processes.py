"""`subkern analyze behavior` as a real process on a real masked LM and the real mr."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import transformers

from analyses.engine.long_table import cells

ROOT = Path(__file__).resolve().parents[3]


def command(*words: object) -> list[str]:
    """`subkern analyze behavior` of this checkout."""
    return [sys.executable, str(ROOT / "cli.py"), "analyze", "behavior", *map(str, words)]


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """The same, to the end."""
    return subprocess.run(
        command(*words),
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
        "2e-5,5e-4", "--solvers", "ridge", "--out", out,
    ]  # fmt: skip
    done = run(*words, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answer = json.loads(done.stdout)
    assert answer["behaviour"] in ("yes", "partly", "no", "undecided")
    errors = {each["learning_rate"]: each["error"] for each in answer["prediction_errors"]}
    assert errors[2e-5] < 0.01 < errors[5e-4] * 2 < 0.1  # lazy: 0.0007 and 0.009 were measured
    table = pd.read_parquet(out / "results.parquet")
    start = cells(table, metric="features.relative_frobenius", step=0)["value"].item()
    later = cells(table, metric="features.relative_frobenius", step=6)["value"].item()
    assert start == 0 < later
    again = run(*words)
    assert "up to date" in again.stdout, again.stderr


@pytest.fixture
def tiny_mlm(minilm_mlm: Path, tmp_path: Path) -> Path:
    """A random masked LM of 16 dimensions with a real tokenizer, as a local model directory."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    for file in minilm_mlm.iterdir():
        if "token" in file.name or file.name == "vocab.txt":
            shutil.copy(file, folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=json.loads((minilm_mlm / "config.json").read_text())["vocab_size"],
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_killed_study_ends_with_the_same_table(
    tiny_mlm: Path, shared_data: Path, tmp_path: Path
) -> None:
    words = [
        "--model", tiny_mlm, "--task", "mr", "--data", shared_data, "--dev-limit", 8,
        "--test-limit", 8, "--steps", 12, "--looks", 3, "--kernel-steps", 2, "--learning-rates",
        "1e-3,1e-2", "--dims", 4, "--solvers", "ridge",
    ]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run(*words, "--out", whole)
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(command(*words, "--out", killed), cwd=ROOT)
    while process.poll() is None and not list(killed.glob("checkpoint/*/run-all-*/result.json")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "results.parquet").exists(), "it ended before it was killed"
    again = run(*words, "--out", killed)
    assert again.returncode == 0, again.stderr
    tables = [pd.read_parquet(out / "results.parquet") for out in (whole, killed)]
    kept = [t[~t["metric"].str.startswith("cost.")].reset_index(drop=True) for t in tables]
    pd.testing.assert_frame_equal(*kept)


def test_mistakes_are_one_line_and_leave_nothing(tmp_path: Path) -> None:
    given = ["--model", "nowhere", "--task", "mr", "--data", "demo", "--out", tmp_path / "run"]
    done = run(*given, "--optimizer", "lion")
    assert done.returncode == 2
    assert "optimizer 'lion' is unknown: use sgd, adam, signgd" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()

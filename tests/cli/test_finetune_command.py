"""``subkern finetune`` and ``--head-init``: on a tiny random model, and once on a real one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import cli
import subkern.tasks.examples
from analyses.engine import heads
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.models.load import load_model as load_real_model
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.subspaces.base import HasCheckpoint
from subkern.subspaces.text import parse_subspace
from subkern.tasks.catalogue import get_task
from subkern.tasks.examples import Example
from subkern.training.finetune import Training, finetune
from subkern.training.linear_probe import linear_probe
from subkern.training.result import FineTuned
from tests.support import oracles
from tests.support.families import FAMILIES, random_examples

BY_NAME = {(f.name, f.kind): f for f in FAMILIES}
COUNTS = {"train": 8, "dev": 6, "test": 9}
LOADED: list[str] = []


def encode(examples: list[Example]) -> list[EncodedExample]:
    """Return random tokens for each example, the same at every call; the first is read."""
    found = []
    for example in examples:
        seed = sum(map(ord, example.id))
        drawn = random_examples(1, lengths=(4 + seed % 5,), seed=seed, read="first")[0]
        found.append(EncodedExample(example.id, example.label, drawn.input_ids, drawn.read))
    return found


def load_model(spec: str, *, head: str, **_: Any) -> LogitModel:
    """Return a random BERT of a few thousand parameters, float32."""
    LOADED.append(head)
    family = BY_NAME["bert", "encoder" if head == "linear" else "masked"]
    model = oracles.logit_model(family, 2, dtype=torch.float32)
    model.prompt = SimpleNamespace(description={}, encode_all=encode)  # type: ignore[assignment]
    model.description = {"name": spec, "head": head}
    return model


def load_examples(
    task: Any, source: Any, *, split: str, limit: int | None = None, **_: Any
) -> list[Example]:
    """Return examples whose texts do not matter."""
    return [Example(f"{split}-{i}", ("x",), i % 2) for i in range(limit or COUNTS[split])]


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "load_model", load_model)
    monkeypatch.setattr(subkern.tasks.examples, "load_examples", load_examples)
    LOADED.clear()


def invoke(*args: object) -> Result:
    return CliRunner().invoke(cli.cli, [str(a) for a in args], catch_exceptions=True)


def command(out: Path, *more: object) -> list[object]:
    return [
        "finetune", "--model", "tiny", "--task", "SST-2", "--subspace", "bias", "--steps", 4,
        "--eval-every", 2, "--batch-sizes", "3", "--learning-rates", "1e-4,1e-3,1e-2",
        "--optimizer", "sgd", "--out", out, *more,
    ]  # fmt: skip


tiny = pytest.mark.usefixtures("_tiny")


@tiny
def test_the_grid_is_shown_and_the_best_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    first = invoke(*command(out, "--json"))
    assert first.exit_code == 0, first.exception
    found = json.loads(first.stdout)
    assert [p["learning rate"] for p in found["points"]] == [1e-4, 1e-3, 1e-2]
    best = FineTuned.load(out / "best")
    assert found["best"]["scores"] == best.scores
    assert found["best"]["step"] == best.best_step
    data = {s: encode(load_examples(None, "", split=s)) for s in COUNTS}
    point = Training("sgd", found["best"]["learning_rate"], 3, 4, eval_every=2)
    alone = finetune(load_model("tiny", head="prompt"), data, subspace="bias", training=point)
    assert alone.scores == best.scores
    before = alone.start_logits["test"].argmax(1) == alone.labels["test"]
    assert found["best"]["scores_before"]["test"] == np.mean(before)
    edge = found["best"]["learning_rate"] != 1e-3
    assert (found["warning"] is not None) is edge
    assert ("of the grid: try" in first.stderr) is edge

    again = invoke(*command(out))
    assert again.exit_code == 0
    assert again.stdout.rstrip().endswith("runs is up to date")
    assert max(map(len, again.stdout.splitlines()[:-1])) <= 80
    assert f"step {best.best_step}; accuracy: train" in " ".join(again.stdout.split())
    fewer = invoke(*command(out, "--test-limit", 4))
    assert fewer.stdout.rstrip().endswith("runs is written")


@tiny
def test_diverging_points_are_rows(tmp_path: Path) -> None:
    result = invoke(*command(tmp_path / "runs", "--learning-rates", "1e-3,1e35"))
    assert result.exit_code == 0
    assert "diverged at" in " ".join(result.stdout.split())
    assert "1e+35" in result.stdout
    nothing = invoke(*command(tmp_path / "other", "--learning-rates", "1e35"))
    assert isinstance(nothing.exception, UserError)
    assert "all 1 points of the grid diverged" in str(nothing.exception)


@tiny
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--learning-rates", "0"], r"^learning rate 0\.0 is not a positive number$"),
        (["--batch-sizes", "0"], r"^batch_size is 0: it must be at least 1$"),
        (["--optimizer", "lion"], r"^unknown optimizer 'lion': use sgd or adam or signgd or adamw"),
        (["--loss", "hinge"], r"^loss 'hinge' is unknown"),
        (["--steps", "-3"], r"^steps is -3"),
        (["--subspace", "lora:q=1"], r"lora"),
        (["--head-init", "probe"], r"^--head-init probe starts a linear head: add --head linear$"),
    ],
)
def test_mistakes_are_refused_before_the_model_is_loaded(
    tmp_path: Path, more: list[str], message: str
) -> None:
    result = invoke(*command(tmp_path / "runs", *more))
    assert isinstance(result.exception, UserError)
    assert "\n" not in str(result.exception)
    with pytest.raises(UserError, match=message):
        raise result.exception
    assert LOADED == []
    assert not (tmp_path / "runs").exists()


@tiny
def test_rates_that_are_no_numbers_are_a_usage_error(tmp_path: Path) -> None:
    result = invoke(*command(tmp_path / "runs", "--learning-rates", "low,high"))
    assert result.exit_code == 2
    assert "'low,high' is not numbers separated by commas" in result.output


@tiny
def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    assert invoke(*command(out)).exit_code == 0
    result = invoke(*command(out, "--steps", 6))
    assert "training.steps: 6 asked for, 4 stored" in str(result.exception)
    assert "--overwrite" in str(result.exception)
    assert invoke(*command(out, "--steps", 6, "--overwrite")).exit_code == 0


@tiny
def test_heads_start_at_the_probe(tmp_path: Path) -> None:
    more = ("--head", "linear", "--head-init", "probe")
    assert invoke(*command(tmp_path / "runs", *more)).exit_code == 0
    data = {s: encode(load_examples(None, "", split=s)) for s in COUNTS}
    probe = linear_probe(load_model("tiny", head="linear"), data)
    run = FineTuned.load(tmp_path / "runs" / "best")
    np.testing.assert_allclose(run.start_logits["test"], probe.logits["test"], atol=1e-5)
    result = invoke(
        "kernel", "--model", "tiny", "--task", "SST-2", "--right", "test", *more,
        "--out", tmp_path / "K.zarr",
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    kernel = Kernel.load(tmp_path / "K.zarr")
    assert kernel.right_logits is not None
    np.testing.assert_allclose(kernel.right_logits, probe.logits["test"], atol=1e-5)
    assert kernel.provenance["model"]["head_init"]["kind"] == "probe"


def test_a_real_model_learns(tmp_path: Path, minilm_mlm: Path, shared_data: Path) -> None:
    """Film reviews: a few steps of LoRA lower the loss, and the adapter stands where they led."""
    out = tmp_path / "runs"
    result = invoke(
        "finetune", "--model", minilm_mlm, "--task", "mr", "--data", shared_data,
        "--subspace", "lora:r=4,targets=qv", "--learning-rates", "1e-2", "--steps", 8,
        "--eval-every", 4, "--test-limit", 16, "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    run = FineTuned.load(out / "best")
    first, last = run.logits["train"][0], run.logits["train"][-1]

    def loss(logits: np.ndarray) -> float:
        rows = torch.from_numpy(logits)
        return float(torch.nn.functional.cross_entropy(rows, torch.from_numpy(run.labels["train"])))

    assert loss(last) < loss(first) - 0.02
    model = load_real_model(minilm_mlm, task=get_task("mr"))
    subspace = parse_subspace("lora:r=4,targets=qv")
    assert isinstance(subspace, HasCheckpoint)
    there = subspace.at(out / "best" / "adapter.safetensors").attach(model).model
    where = {"shots": 16, "seed": 13}
    examples = subkern.tasks.examples.load_examples(
        get_task("mr"), shared_data, split="test", limit=16, **where
    )
    assert model.prompt is not None
    with torch.no_grad():
        logits = there(model.collate(model.prompt.encode_all(examples))).numpy()
    np.testing.assert_allclose(logits, run.best_logits["test"], atol=1e-3)
    assert sum(f.stat().st_size for f in out.rglob("*.safetensors")) < 2e6

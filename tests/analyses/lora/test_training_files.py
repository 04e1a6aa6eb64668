"""The advised configuration as files: PEFT reads one, Python runs the other."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file

from analyses.engine.run_folder import Results
from analyses.lora.config import Config
from analyses.lora.study import LoraStudy
from analyses.lora.training_files import ADAPTER, PEFT_TARGETS, SCRIPT, training_files
from subkern import get_task, load_examples, load_model
from subkern.models.logit_model import collate
from tests.support import tiny_folder

KINDS: Mapping[str, Mapping[str, Any]] = {
    "prompt": {"target_sets": ("qv", "mlp"), "rslora": True},
    "linear": {"head": "linear", "head_init": "probe", "template": None},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny")
    tiny_folder.masked_model(root / "model")
    tiny_folder.reviews(root / "data", test=16)
    return root


@pytest.fixture(scope="module", params=list(KINDS))
def done(place: Path, request: pytest.FixtureRequest) -> tuple[Path, Results]:
    """A finished study, and where it lies."""
    given = {"resamples": 10, "solvers": ("ridge",), "alpha": 4.0, "ranks": (1, 2)}
    config = Config(
        model=str(place / "model"), task="mr", data=str(place / "data"), shots=4,
        adapter_seeds=(0,), **{**given, **KINDS[request.param]},
    )  # fmt: skip
    out = place / request.param
    return out, LoraStudy().analyze(config, out, rates=True).results


def test_peft_reads_what_was_advised(done: tuple[Path, Results]) -> None:
    out, results = done
    config, best = results.config, LoraStudy().findings(results).best
    read = peft.LoraConfig.from_pretrained(out / "train")
    assert isinstance(read, peft.LoraConfig)
    assert (read.r, read.lora_alpha, read.use_rslora) == (best.rank, 4.0, config["rslora"])
    assert read.base_model_name_or_path == config["model"]
    task = get_task("mr")
    model = load_model(config["model"], task=task, head=config["head"])
    wrapped = peft.get_peft_model(model.module, read)
    adapted = {name for name, each in wrapped.named_modules() if hasattr(each, "lora_A")}
    assert sum(p.numel() for p in wrapped.parameters() if p.requires_grad) == best.trained - (
        model.readout.linear.weight.numel() + 2 if config["head"] == "linear" else 0
    )
    if best.targets != "all-linear":
        known = results.inputs[PEFT_TARGETS][best.targets]
        assert {name.removeprefix("base_model.model.") for name in adapted} == set(known)


def test_the_script_trains_it(
    done: tuple[Path, Results],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, results = done
    said = LoraStudy().answer(results)["learning_rates"]
    name = LoraStudy().findings(results).best.name
    (rate,) = (each["suggested"] for each in said["configurations"] if each["name"] == name)
    text = (out / SCRIPT).read_text()
    assert f'"--learning-rate", type=float, default={rate}' in text
    monkeypatch.setattr(sys, "argv", ["train.py", "--out", str(tmp_path), "--steps", "30"])
    before = torch.random.get_rng_state()
    ran = runpy.run_path(str(out / SCRIPT), run_name="__main__")
    torch.random.set_rng_state(before)
    losses = [each["loss"] for each in ran["trainer"].state.log_history if "loss" in each]
    assert float(losses[-1]) < float(losses[0])
    assert "test accuracy" in capsys.readouterr().out

    # What it saved, on the model as it was, gives the logits that the script ended with.
    config = results.config
    model = load_model(config["model"], task=get_task("mr"), head=config["head"])
    model.module = peft.PeftModel.from_pretrained(model.module, tmp_path)
    if config["head"] == "linear":
        model.readout.load_state_dict(load_file(tmp_path / "head.safetensors"))
    test = load_examples(get_task("mr"), config["data"], split="test", shots=4)
    with torch.no_grad():
        logits = model.eval()(collate(model.prompt.encode_all(test)))
    np.testing.assert_allclose(logits, ran["found"].predictions, atol=1e-5)


def test_a_folder_of_the_tasks_name_is_not_the_task(
    done: tuple[Path, Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, results = done
    (tmp_path / "mr").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "get_task('mr')" in training_files(results, LoraStudy().findings(results))[SCRIPT]


def test_a_finished_study_lacks_neither(done: tuple[Path, Results]) -> None:
    out, results = done
    config = Config.from_dict(results.config)
    assert LoraStudy().analyze(config, out, rates=True).up_to_date
    (out / ADAPTER).unlink()
    LoraStudy().analyze(config, out, rates=True)
    assert json.loads((out / ADAPTER).read_text())["peft_type"] == "LORA"
    assert f'href="{SCRIPT}"' in (out / "report.html").read_text()


def test_no_file_where_peft_has_no_name_for_what_is_trained(done: tuple[Path, Results]) -> None:
    out, results = done
    found = LoraStudy().findings(results)
    results.inputs[PEFT_TARGETS][found.best.targets] = None  # "all" trains other weights too
    assert training_files(results, found) == {}
    (out / "train" / "mine").mkdir()
    LoraStudy().draw(results, out)
    assert not (out / ADAPTER).exists()  # of the answer before
    assert not (out / SCRIPT).exists()
    assert (out / "train" / "mine").is_dir()
    (out / "train" / "mine").rmdir()

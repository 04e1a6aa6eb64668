"""Every command on data files of every kind, on a tiny model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from analyses.commands.group import cli
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.tasks.own_file import DEMO_FILES
from tests.support.byte_tokenizer import byte_folder
from tests.support.pages import ROOT


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(byte_folder(tmp_path_factory.mktemp("model")))


FITTING = ("finetune", "--steps", "1")
HEAD = {"demo:regression": ("--head", "linear")}
"""What a file cannot do without."""


def run(*words: str) -> Result:
    found = CliRunner().invoke(cli, words)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found


@pytest.mark.parametrize("data", DEMO_FILES)
def test_kernel_says_what_the_file_is_and_is_found_again(
    data: str, tiny: str, tmp_path: Path
) -> None:
    out = tmp_path / "k.zarr"
    words = ("kernel", "--model", tiny, "--data", data, "--left-limit", "3", "--right", "test")
    words += HEAD.get(data, ())
    first = run(*words, "--subspace", "lora:r=2,seed=0", "--out", str(out))
    assert first.stderr.startswith(f"{data}: 20 rows of ")
    kernel = Kernel.load(out)
    assert kernel.shape[:3:2] == (3, 4)
    assert (kernel.left_labels is not None) == (
        data in ("demo:labels", "demo:choices", "demo:regression")
    )
    assert "up to date" in run(*words, "--subspace", "lora:r=2,seed=0", "--out", str(out)).stdout


ANSWERED = ["demo:completion", "demo:preference", "demo:choices", "demo:regression"]


@pytest.mark.parametrize("data", ANSWERED)
def test_finetune_learns_and_says_its_score(data: str, tiny: str, tmp_path: Path) -> None:
    words = ("finetune", "--model", tiny, "--data", data, "--steps", "6", "--eval-every", "3")
    words += HEAD.get(data, ())
    told = run(*words, "--out", str(tmp_path / "f"), "--json").stdout
    found = json.loads(told)
    named = {"demo:completion": "log_likelihood", "demo:regression": "pearson"}
    metric = named.get(data, "accuracy")
    assert found["best"]["metric"] == metric
    if data == "demo:completion":
        assert found["best"]["scores"]["train"] > found["best"]["scores_before"]["train"]
    if data == "demo:preference":
        assert found["best"]["scores"]["train"] > 0.5


@pytest.mark.parametrize("data", ANSWERED)
def test_learning_rates_are_suggested(data: str, tiny: str) -> None:
    words = ("learning-rate", "--model", tiny, "--data", data, *HEAD.get(data, ()))
    (found,) = json.loads(run(*words, "--json").stdout)
    assert 1e-7 < found["suggested"] < 1


@pytest.mark.parametrize("data", ["demo:completion", "demo:regression"])
def test_features_have_their_kernel(data: str, tiny: str, tmp_path: Path) -> None:
    words = ("features", "--model", tiny, "--data", data, "--dim", "64", *HEAD.get(data, ()))
    told = run(*words, "--check", "6", "--out", str(tmp_path / "f.zarr"))
    assert "features [14, 1, 64]" in told.output


@pytest.mark.parametrize("data", sorted(DEMO_FILES.keys() - {"demo:messages"}))
def test_analyze_lora_judges_by_classifiers_or_by_one_step(
    data: str, tiny: str, tmp_path: Path
) -> None:
    words = ("analyze", "lora", "--model", tiny, "--data", data, "--ranks", "1,4")
    words += HEAD.get(data, ())
    told = run(*words, "--adapter-seeds", "2", "--out", str(tmp_path / "a"), "--json").stdout
    found = json.loads(told)
    page = (tmp_path / "a" / "report.html").read_text()
    steps = data in ("demo:completion", "demo:preference")
    real = data == "demo:regression"
    assert found["solver"] == ("one step" if steps else "ridge" if real else "logistic")
    if real:
        text = page.partition("<body")[2]
        assert "classifier" not in text, text[max(0, text.index("classifier") - 200) :][:400]
    assert ("test predictions" in page.lower()) != steps
    if steps:
        assert found["full_score"]["mean"] == 1
        assert found["zero_shot"]["mean"] == 0
    again = run(*words, "--adapter-seeds", "2", "--out", str(tmp_path / "a"))
    assert "up to date" in again.stdout
    (script,) = (tmp_path / "a").rglob("train.py")
    told = subprocess.run(
        [sys.executable, script, "--steps", "2", "--out", tmp_path / "adapter"],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert f"test {'loss' if steps else 'correlation' if real else 'accuracy'} " in told.stdout
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("analyze", "subspace", "--data", "demo:completion"), "analyze subspace judges by class"),
        (
            ("analyze", "lora", "--verify", "--data", "demo:completion"),
            "--verify compares",
        ),
        (("kernel", "--data", "demo:completion", "--head", "linear"), "is of kind completion"),
        (
            ("kernel", "--data", "demo:regression"),
            "demo:regression has real labels, which no words say: add --head linear",
        ),
        (("analyze", "lora", "--data", "demo:regression"), "real labels, which no words say"),
        (
            ("kernel", "--data", "demo:regression", "--head", "linear", "--export-lmk", "x.pt"),
            "--export-lmk writes class labels, which demo:regression has not",
        ),
        (
            ("kernel", "--data", "demo:regression", *HEAD["demo:regression"], "--logits", "binary"),
            "has real labels and one output: leave --logits binary out",
        ),
        (
            (
                *FITTING,
                "--data",
                "demo:regression",
                *HEAD["demo:regression"],
                "--loss",
                "cross_entropy",
            ),
            "loss 'cross_entropy' is not of real labels: use squared",
        ),
        (
            (*FITTING, "--data", "demo:completion", "--loss", "squared"),
            "loss 'squared' is not of completions: use likelihood",
        ),
        (
            (*FITTING, "--data", "demo:labels", "--loss", "likelihood"),
            "loss 'likelihood' is not of labels: use cross_entropy or squared",
        ),
        (
            (
                "analyze",
                "lora",
                "--data",
                "demo:regression",
                "--head",
                "linear",
                "--solvers",
                "logistic",
            ),
            "solver logistic tells classes apart and the labels are real numbers: use ridge",
        ),
        (
            ("analyze", "behavior", "--data", "demo:regression"),
            "analyze behavior judges by classifiers, and demo:regression holds real labels",
        ),
        (
            ("analyze", "lora", "--data", "demo:regression", "--head", "linear", "--verify"),
            "--verify compares predicted labels",
        ),
        (("kernel", "--data", "hub"), "there is no task: give --task, or a file"),
        (("kernel", "--data", "no.jsonl"), "cannot read no.jsonl"),
        (
            ("kernel", "--task", "SST-2", "--data", "demo", "--test", "0.1"),
            "--test is of a data",
        ),
        (
            ("kernel", "--task", "SST-2", "--data", "demo:labels"),
            "has the label 'normal mail'",
        ),
        (("kernel", "--task", "SST-2", "--data", "demo:choices"), "does not hold 1 text"),
        (("analyze", "prompting", "--data", "demo:completion"), "prompts of labels, which"),
        (("analyze", "prompting", "--data", "demo:regression"), "prompts of labels, which"),
        (("analyze", "width", "--data", "demo:labels"), "synthetic does not read --data demo:l"),
        (
            ("analyze", "lora", "--data", "demo:completion", "--train-limit", "1"),
            "the 1 training rows of seed 13 are one row",
        ),
    ],
)
def test_what_cannot_be_is_one_line(
    words: tuple[str, ...], said: str, tiny: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said) as error:
        run(*words, "--model", tiny, "--out", str(tmp_path / "x"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("data", ["demo:completion", "demo:preference", "demo:regression"])
def test_analyze_learning_rate_takes_answers(data: str, tiny: str, tmp_path: Path) -> None:
    words = ("analyze", "learning-rate", "--model", tiny, "--data", data, "--steps", "6")
    words += HEAD.get(data, ())
    more = ("--probe-steps", "3", "--factors", "1,2", "--subspace", "lora:r=2")
    told = run(*words, *more, "--out", str(tmp_path / "r"), "--json").stdout
    assert json.loads(told)["answer"]


def test_solve_and_agree_on_kernels_of_real_labels(tiny: str, tmp_path: Path) -> None:
    words = ("kernel", "--model", tiny, "--data", "demo:regression", "--head", "linear")
    places = {name: str(tmp_path / f"{name}.zarr") for name in ("train", "test", "dev", "lora")}
    for name in ("train", "test", "dev"):
        run(*words, "--right", name, "--out", places[name])
    run(*words, "--subspace", "lora:r=4,seed=0", "--out", places["lora"])
    told = run("solve", places["train"], places["test"], "--dev", places["dev"], "--json").stdout
    (found,) = json.loads(told)
    assert -1 <= found["eval pearson"] <= 1
    assert -1 <= found["eval spearman"] <= 1
    assert 0 < found["eval RMSE"] < 10
    rows = json.loads(run("agree", places["train"], places["lora"], "--json").stdout)
    assert "kernel_target_alignment" in {row["metric"] for row in rows}

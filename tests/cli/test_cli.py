"""The commands through click's runner: what they say, write and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import cli
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.kernels.lm_kernel_ft import import_lmk
from subkern.tasks.catalogue import TASKS
from tests.support.program import commands

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    runner = CliRunner()

    def invoke(*args: object) -> Result:
        return runner.invoke(cli.cli, [str(a) for a in args], catch_exceptions=True)

    return invoke


@pytest.fixture
def small(minilm_mlm: Path, shared_data: Path, tmp_path: Path) -> list[object]:
    """A kernel command that takes seconds: 4 x 4 real examples of SST-2."""
    return [
        "kernel", "--model", minilm_mlm, "--task", "SST-2", "--data", shared_data,
        "--left-limit", 4, "--right-limit", 4, "--out", tmp_path / "K.zarr",
    ]  # fmt: skip


def refusal(result: Result) -> str:
    """The one line of a refused command."""
    assert isinstance(result.exception, UserError), (result.output, result.exception)
    message = str(result.exception)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("command", [*commands(cli.cli)], ids=" ".join)
def test_help_of_every_command_fits_80_columns(run: Run, command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 80
    assert "Usage: " in result.output


def test_tasks_lists_all_14(run: Run) -> None:
    listed = json.loads(run("tasks", "--json").output)
    assert [row["task"] for row in listed] == list(TASKS)
    table = run("tasks").output
    assert all(name in table for name in TASKS)
    assert max(map(len, table.splitlines())) <= 80


def test_tasks_show_marks_the_mask(run: Run, minilm_mlm: Path, shared_data: Path) -> None:
    shown = run("tasks", "show", "SST-2", "--model", minilm_mlm, "--data", shared_data).output
    assert ">>[MASK]<<" in shown
    assert "it was" in shown
    placeholder = run("tasks", "show", "MNLI", "--model", minilm_mlm).output
    assert "this is the first text" in placeholder
    assert ">>[MASK]<<" in placeholder


def test_kernel_solve_agree_on_a_real_model(run: Run, small: list[object], tmp_path: Path) -> None:
    train, reference, lmk = (tmp_path / n for n in ("K.zarr", "R.zarr", "train_kernels_sst-2.pt"))
    wrote = run(*small, "--logits", "binary", "--export-lmk", lmk)
    assert wrote.exit_code == 0, wrote.output
    left = train.with_name(f".{train.name}.tiles")  # by a run that was killed once it had saved
    left.mkdir()
    (left / "tiling.json").write_text("{}")
    again = run(*small, "--logits", "binary", "--export-lmk", lmk)
    assert again.output.count("up to date") == 2, again.output
    assert not left.exists()  # no checkpoint is left behind
    small[-1] = reference
    assert run(*small, "--logits", "binary", "--engine", "reference").exit_code == 0
    ours, slow = Kernel.load(train), Kernel.load(reference)
    assert ours.allclose(slow, rtol=1e-5)
    assert np.array_equal(import_lmk(lmk).values, ours.values)
    table = json.loads(run("agree", reference, train, "--json").output)
    assert {r["metric"]: r["value"] for r in table}["cka"] == pytest.approx(1, abs=1e-6)
    solved = json.loads(run("solve", train, train, "--solver", "ridge", "--json").output)
    assert solved[0]["train accuracy"] == solved[0]["eval accuracy"]
    assert "eval accuracy" in run("solve", train, train, "--solver", "lstsq").output


def test_kernel_of_other_settings_is_not_replaced(run: Run, small: list[object]) -> None:
    assert run(*small).exit_code == 0
    before = Kernel.load(small[-1])  # type: ignore[arg-type]
    message = refusal(run(*small, "--tie", "untied"))
    assert 'tie: "untied" asked for, "model" stored' in message
    assert "--overwrite" in message
    assert Kernel.load(small[-1]) == before  # type: ignore[arg-type]
    assert run(*small, "--tie", "untied", "--overwrite").exit_code == 0
    assert Kernel.load(small[-1]).provenance["model"]["tie"] == "untied"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--task", "SST2"], ["unknown task 'SST2'", "SST-2"]),
        (["--data", "/no/such"], ["/no/such"]),
        (["--seed", 14], ["14", "13"]),
        (["--model", "/no/such"], ["/no/such", "demo:smollm2"]),
        (["--rule", "adamw"], ["rule 'adamw'", "sgd"]),
        (["--engine", "fast"], ["engine 'fast'", "reference"]),
        (["--subspace", "lora:r=500"], ["rank 500", "384"]),
        (["--subspace", "lora:r=x"], ["r='x'", "number"]),
        (["--subspace", "lora:targets=nope"], ["'nope'", "query"]),
        (["--subspace", "loro"], ["'loro'", "lora"]),
        (["--subspace", "params:zzz"], ["'zzz'", "names are like"]),
        (["--dtype", "float8"], ["dtype 'float8'", "bfloat16"]),
        (["--memory", "lots"], ["'lots'", "3GiB"]),
        (["--memory", "1KiB"], ["--memory", "two examples"]),
        (["--batch-size", 0], ["batch size 0"]),
        (["--device", "cuda:7"], ["cuda:7", "cpu"]),
        (["--device", "meta"], ["'meta'", "use cpu"]),
        (["--rule", "asymmetric_signgd", "--export-lmk", "."], ["exists"]),
        (["--subspace", "random:dim=8,seed=-1"], ["seed='-1'", "from 0"]),
        (["--subspace", "lora:targets=("], ["'('", "regular expression"]),
        (["--task", "MNLI", "--logits", "binary"], ["two classes", "--logits all"]),
    ],
    ids=lambda v: " ".join(map(str, v)) if isinstance(v, list) else None,
)
def test_bad_input_is_one_line_and_leaves_nothing(
    run: Run, small: list[object], options: list[object], words: list[str], tmp_path: Path
) -> None:
    message = refusal(run(*small, *options))
    assert all(word in message for word in words), message
    assert list(tmp_path.iterdir()) == []


def test_a_limit_below_one_is_named(run: Run, small: list[object]) -> None:
    result = run(*small, "--left-limit", 0)
    assert result.exit_code == 2
    assert "'--left-limit': 0 is not in the range x>=1" in result.output


def test_encoder_without_a_masked_head_is_refused(
    run: Run, small: list[object], minilm: str
) -> None:
    message = refusal(run(*small, "--model", minilm))
    assert "no weights for" in message
    assert "--head linear" in message


def test_masked_template_on_a_causal_model(run: Run, smollm2: str, tmp_path: Path) -> None:
    task = tmp_path / "task.toml"
    task.write_text(
        'name = "x"\nlabels = ["0", "1"]\nlabel_words = ["bad", "good"]\n'
        'template = "*cls**sent_0*_It_was*mask*.*sep+*"\n'
    )
    message = refusal(run("tasks", "show", task, "--model", smollm2))
    assert "causal" in message


def test_solve_refuses_kernels_that_do_not_belong_together(run: Run, tmp_path: Path) -> None:
    eye = np.eye(4)[:, None, :, None]
    Kernel(eye, list("abcd"), list("abcd"), [0, 1, 0, 1], [0, 1, 0, 1]).save(tmp_path / "A")
    Kernel(eye, list("abce"), list("wxyz"), [0, 1, 0, 1], [0, 1, 0, 1]).save(tmp_path / "B")
    assert "of different examples" in refusal(run("solve", tmp_path / "A", tmp_path / "B"))
    assert "no initial logits" in refusal(
        run("solve", tmp_path / "A", tmp_path / "A", "--f0-scales", "1")
    )
    assert "give --dev" in refusal(
        run("solve", tmp_path / "A", tmp_path / "A", "--f0-scales", "none,none")
    )
    assert "'nine'" in refusal(run("solve", tmp_path / "A", tmp_path / "A", "--solver", "nine"))

"""Every command as a real process on the real demo model, and what a killed one leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from subkern.errors import UserError
from subkern.features.features import Features
from subkern.kernels.kernel import Kernel

ROOT = Path(__file__).resolve().parents[3]


def command(*args: object) -> list[str]:
    """`subkern` of this checkout, whatever is installed."""
    return [sys.executable, str(ROOT / "cli.py"), *(str(a) for a in args)]


def run(*args: object) -> subprocess.CompletedProcess[str]:
    """Run to the end and return what it printed."""
    return subprocess.run(command(*args), capture_output=True, text=True, cwd=ROOT, timeout=600)


def test_mistake_is_one_line_and_status_2() -> None:
    for args in (["kernel"], ["bogus"], ["tasks", "show", "nope", "--model", "x"]):
        done = run(*args)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stdout == ""


@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_one_line_and_status_2(
    minilm_mlm: Path, shared_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    read = ["--model", minilm_mlm, "--task", "SST-2", "--data", shared_data, "--shots", 16]
    for some in (["kernel", "--left-limit", 2, "--right-limit", 2], ["features", "--limit", 2]):
        done = run(*some, *read, "--out", tmp_path / "file" / "K.zarr")
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert "file" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_every_command_on_the_demo_model(smollm2: str, movie_reviews: str, tmp_path: Path) -> None:
    shown = run("tasks", "show", "mr", "--model", smollm2, "--data", "demo")
    assert shown.returncode == 0, shown.stderr
    assert ">>:<<" in shown.stdout
    common = ["--model", smollm2, "--task", "mr", "--data", "demo", "--logits", "auto"]
    few = ["--left-limit", 18, "--right-limit", 18]
    outs = [tmp_path / name for name in ("full.zarr", "lora.zarr")]
    for out, extra in zip(outs, ([], ["--subspace", "lora:r=4"]), strict=True):
        done = run("kernel", *common, *few, *extra, "--out", out)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""  # quiet where stderr is no terminal
    agreed = json.loads(run("agree", *outs, "--json").stdout)
    cka = next(row["value"] for row in agreed if row["metric"] == "cka")
    assert 0.5 < cka < 1
    solved = json.loads(run("solve", outs[0], outs[0], "--json").stdout)[0]
    assert solved["train accuracy"] >= solved["zero-shot accuracy"]


@pytest.mark.slow  # `make demo` is the same at full size, and CI runs it
def test_analyze_lora_on_the_demo_model(smollm2: str, movie_reviews: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    args = [
        "analyze", "lora", "--model", smollm2, "--task", "mr", "--data", "demo", "--shots", 3,
        "--ranks", "1,4", "--adapter-seeds", 2, "--test-limit", 10, "--out", out,
    ]  # fmt: skip
    done = run(*args)
    assert done.returncode == 0, done.stderr
    assert "report: " in done.stdout
    said = [line for line in done.stdout.splitlines() if str(out) not in line]
    assert max(map(len, said)) <= 80
    names = {
        p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file() and p.name[0] != "."
    }
    assert {"report.html", "config.yaml", "environment.json"} <= names
    assert any(n.endswith(".parquet") for n in names)
    assert {Path(n).suffix for n in names if n.startswith("figures/")} == {".png", ".pdf"}
    before = (out / "report.html").read_bytes()
    again = run(*args)
    assert "up to date" in again.stdout
    assert (out / "report.html").read_bytes() == before
    other = run(*args, "--shots", 4)
    assert other.returncode == 2
    assert "shots" in other.stderr


@pytest.mark.slow
def test_analyze_subspace_on_the_demo_model(
    minilm: str, movie_reviews: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    args = [
        "analyze", "subspace", "--model", minilm, "--head", "linear", "--task", "mr",
        "--data", "demo", "--shots", 2,
        "--dims", "2,16", "--kinds", "srht", "--projection-seeds", 2, "--ranks", "1",
        "--adapter-seeds", 1, "--method", "norm", "--dev-limit", 2, "--test-limit", 4, "--out", out,
    ]  # fmt: skip
    done = run(*args)
    assert done.returncode == 0, done.stderr
    assert "random subspace" in done.stdout
    said = [line for line in done.stdout.splitlines() if str(out) not in line]
    assert max(map(len, said)) <= 80
    names = {
        p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file() and p.name[0] != "."
    }
    assert {"report.html", "config.yaml", "environment.json", "results.parquet"} <= names
    assert {Path(n).suffix for n in names if n.startswith("figures/")} == {".png", ".pdf"}
    before = (out / "report.html").read_bytes()
    assert "up to date" in run(*args).stdout
    assert (out / "report.html").read_bytes() == before
    other = run(*args, "--dims", "2,32")
    assert other.returncode == 2
    assert "dims" in other.stderr


def killed_once(args: list[str], finished: Callable[[], list[Path]]) -> dict[Path, int]:
    """Start a command, kill it with SIGKILL when two pieces are finished, and return these."""
    process = subprocess.Popen(args, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if len(finished()) >= 2:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL
    return {path: path.stat().st_mtime_ns for path in finished()}


@pytest.mark.slow
def test_analyze_prompting_on_a_real_model(
    minilm_mlm: Path, shared_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    args = [
        "analyze", "prompting", "--model", minilm_mlm, "--task", "mr", "--data", shared_data,
        "--prompt", "lm-bff", "--prompt", "swapped", "--no-linear", "--no-random",
        "--train-limit", 20, "--dev-limit", 8, "--test-limit", 16, "--steps", 4, "--eval-every",
        2, "--learning-rates", "2e-4", "--out", out,
    ]  # fmt: skip
    done = run(*args)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Fine-tuned, " in done.stdout
    said = [line for line in done.stdout.splitlines() if str(out) not in line]
    assert max(map(len, said)) <= 80
    names = {
        p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file() and p.name[0] != "."
    }
    assert {"report.html", "config.yaml", "environment.json", "results.parquet"} <= names
    assert {Path(n).stem for n in names if n.startswith("figures/")} == {
        "prompts", "trained", "ranking",
    }  # fmt: skip
    before = (out / "report.html").read_bytes()
    assert "up to date" in run(*args).stdout
    assert (out / "report.html").read_bytes() == before
    other = run(*args, "--steps", 5)
    assert other.returncode == 2
    assert "steps: 5 asked for, 4 stored" in other.stderr


@pytest.mark.slow
def test_killed_prompting_continues_from_its_finished_trials(tmp_path: Path) -> None:
    from analyses.prompting.study import PromptingStudy
    from tests.support import tiny_folder

    prompting = PromptingStudy()
    model = tiny_folder.masked_model(tmp_path / "model")
    data, killed = tiny_folder.reviews(tmp_path / "data"), tmp_path / "killed"
    args = [
        "analyze", "prompting", "--model", model, "--task", "mr", "--data", data, "--shots", 4,
        "--prompt", "lm-bff", "--prompt", "minimal", "--linear", "--random", "--steps", 10,
        "--learning-rates", "1e-2", "--json", "--out", killed,
    ]  # fmt: skip
    process = subprocess.Popen(
        command(*args), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    finished = killed / "checkpoint" / "trials" / "13"
    while process.poll() is None and not list(finished.glob("prompt-*.json")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert list(finished.glob("prompt-*.json"))
    done = run(*args)
    assert done.returncode == 0, done.stderr
    assert not (killed / "checkpoint").exists()
    whole = prompting.run(
        prompting.settings(
            model=str(model),
            task="mr",
            data=str(data),
            shots=4,
            prompts=("lm-bff", "minimal"),
            linear=True,
            random=True,
            steps=10,
            learning_rates=(1e-2,),
        )
    )
    trials = json.loads(done.stdout)["trials"]
    kinds = {(each["head"], each["weights"]) for each in trials}  # all of them fine-tuned
    assert {("prompt", "pretrained"), ("linear", "pretrained"), ("prompt", "random")} <= kinds
    for one, other in zip(trials, prompting.answer(whole)["trials"], strict=True):
        assert one["finetune_test"] == other["finetune_test"]
        assert one["kernel_test"] == other["kernel_test"]
        assert one["alignment"]["mean"] == pytest.approx(other["alignment"]["mean"], rel=1e-5)


@pytest.mark.parametrize(
    ("rule", "right", "pieces"),
    [
        pytest.param("sgd", 60, "right-*", marks=pytest.mark.slow),
        pytest.param("signgd", 30, "right-*", marks=pytest.mark.slow),
        pytest.param("asymmetric_signgd", 6, "parameters-*", marks=pytest.mark.slow),
    ],
)
def test_killed_kernel_continues_with_the_same_numbers(
    minilm_mlm: Path, shared_data: Path, tmp_path: Path, rule: str, right: int, pieces: str
) -> None:
    def kernel(out: Path) -> list[object]:
        return [
            "kernel", "--model", minilm_mlm, "--task", "SST-2", "--data", shared_data, "--right",
            "test", "--left-limit", 6, "--right-limit", right, "--memory", "64MiB", "--rule", rule,
            "--logits", "binary", "--out", out,
        ]  # fmt: skip

    whole, killed = tmp_path / "whole.zarr", tmp_path / "killed.zarr"
    assert run(*kernel(whole)).returncode == 0
    tiles = tmp_path / ".killed.zarr.tiles"
    left = killed_once(command(*kernel(killed)), lambda: list(tiles.glob(f"{pieces}.npz")))
    assert len(left) >= 2
    assert not killed.exists()
    done = run(*kernel(killed))
    assert done.returncode == 0, done.stderr
    assert not tiles.exists()
    again, once = Kernel.load(killed), Kernel.load(whole)
    assert np.array_equal(again.values, once.values)
    assert again.is_asymmetric == (rule == "asymmetric_signgd")
    if again.is_asymmetric:
        assert np.array_equal(again.reverse, once.reverse)


@pytest.mark.slow
def test_killed_features_continue_with_the_same_numbers(
    minilm_mlm: Path, shared_data: Path, tmp_path: Path
) -> None:
    def features(out: Path) -> list[object]:
        return [
            "features", "--model", minilm_mlm, "--task", "SST-2", "--data", shared_data, "--split",
            "test", "--limit", 60, "--dim", 64, "--kind", "count_sketch", "--memory", "64MiB",
            "--logits", "binary", "--out", out,
        ]  # fmt: skip

    whole, killed = tmp_path / "whole.zarr", tmp_path / "killed.zarr"
    assert run(*features(whole)).returncode == 0
    left = killed_once(command(*features(killed)), lambda: list(killed.glob("done/[0-9]*.sha256")))
    with pytest.raises(UserError, match="unfinished"):
        Features.load(killed)
    done = run(*features(killed))
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in left} == left  # none was done again
    assert np.array_equal(Features.load(killed).values[:], Features.load(whole).values[:])


@pytest.mark.parametrize("status", [1])
def test_interrupt_says_how_to_go_on(
    minilm_mlm: Path, shared_data: Path, tmp_path: Path, status: int
) -> None:
    args = [
        "kernel", "--model", minilm_mlm, "--task", "SST-2", "--data", shared_data,
        "--right", "test", "--memory", "64MiB", "--out", tmp_path / "K.zarr",
    ]  # fmt: skip
    # A shell's background job starts with interrupts ignored, and its children with it.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        command(*args), cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=heed
    )
    while process.poll() is None and not list(tmp_path.glob(".K.zarr.tiles/right-*.npz")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == status
    assert stderr.strip().splitlines()[-1].startswith("subkern: interrupted")

"""``subkern learning-rate`` and rates that ``finetune`` is not given: tiny, and once real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import cli
import subkern.tasks.examples
from analyses.engine import heads
from subkern.errors import UserError
from subkern.learning_rate import suggest
from tests.cli import test_finetune_command as tiny

LINES = ("full", "bias", "lora:r=1,alpha=1")


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "load_model", tiny.load_model)
    monkeypatch.setattr(subkern.tasks.examples, "load_examples", tiny.load_examples)
    tiny.LOADED.clear()


def invoke(*args: object) -> Result:
    words = [str(a) for a in args]
    return CliRunner(env={"COLUMNS": "80"}).invoke(cli.cli, words, catch_exceptions=True)


def command(*more: object) -> list[object]:
    words = [word for line in LINES for word in ("--subspace", line)]
    return ["learning-rate", "--model", "tiny", "--task", "SST-2", "--batch-size", 3, *words, *more]


def refusal(result: Result) -> str:
    assert isinstance(result.exception, UserError), (result.output, result.exception)
    assert "\n" not in str(result.exception)
    return str(result.exception)


on_tiny = pytest.mark.usefixtures("_tiny")


@on_tiny
def test_a_row_for_each_subspace_and_json_of_all() -> None:
    shown = invoke(*command())
    assert shown.exit_code == 0, shown.exception
    assert max(map(len, shown.stdout.splitlines())) <= 80
    more = ("--optimizer", "adamw", "--steps", 4, "--training-seed", 2, "--batches", 2)
    result = invoke(*command(*more, "--json"))
    found = json.loads(result.stdout)
    model = tiny.load_model("tiny", head="prompt")
    train = tiny.encode(tiny.load_examples(None, "", split="train"))
    for line, row in zip(LINES, found, strict=True):
        own = suggest(
            model, train, subspace=line, optimizer="adamw", batch_size=3, steps=4, seed=2, batches=2
        ).as_dict()
        assert {**row, "seconds": 0} == {**own, "seconds": 0}
    one = invoke(*command()[:7], "--batch-size", 8)
    assert "a batch holds all 8 examples" in one.stdout
    assert "grid" in one.stdout


@on_tiny
def test_what_has_no_rate_does_not_lose_the_others() -> None:
    more = ("--subspace", "params:pooler|seq_relationship|zzz", "--subspace", "norm")
    result = invoke(*command(*more, "--json"))
    assert "no parameter matches" in refusal(result)
    found = json.loads(result.stdout)
    assert [("error" in row, row["subspace"]) for row in found] == [
        *((False, line) for line in LINES), (True, more[1]), (False, "norm"),
    ]  # fmt: skip
    alone = invoke(*command()[:7], "--subspace", more[1])
    assert refusal(alone)
    assert alone.stdout == ""


@on_tiny
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--optimizer", "lion"], "unknown optimizer 'lion': use sgd or adam or signgd"),
        (["--batch-size", "0"], "batch size is 0: it must be at least 1"),
        (["--batches", "0"], "batches is 0: it must be at least 1"),
        (["--limit", "-2"], "limit is -2: it must be at least 1"),
        (["--subspace", "loro"], "unknown subspace 'loro'"),
        (["--subspace", "bias"], "--subspace 'bias' stands twice: give it once"),
        (["--loss", "hinge"], "loss 'hinge' is unknown"),
        (["--head-init", "probe"], "--head-init probe starts a linear head: add --head linear"),
        (["--training-seed", "-1"], "seed"),
    ],
)
def test_mistakes_are_refused_before_the_model_is_loaded(more: list[str], message: str) -> None:
    assert message in refusal(invoke(*command(*more)))
    assert tiny.LOADED == []


@on_tiny
@pytest.mark.parametrize("rates", [(), ("--learning-rates", "auto")])
def test_rates_that_are_not_given_are_suggested(tmp_path: Path, rates: tuple[str, ...]) -> None:
    out = tmp_path / "runs"
    words = [
        "finetune", "--model", "tiny", "--task", "SST-2", "--subspace", "bias", "--steps", 2,
        "--eval-every", 1, "--batch-sizes", "3,4", "--out", out, *rates,
    ]  # fmt: skip
    first = invoke(*words, "--json")
    assert first.exit_code == 0, first.exception
    found = json.loads(first.stdout)
    for each in found["suggestions"]:
        points = [p for p in found["points"] if p["batch size"] == each["batch_size"]]
        assert [p["learning rate"] for p in points] == each["grid"]
    train = tiny.encode(tiny.load_examples(None, "", split="train"))
    model = tiny.load_model("tiny", head="prompt")
    own = suggest(model, train, subspace="bias", batch_size=3, steps=2)
    assert found["suggestions"][0]["suggested"] == own.suggested
    again = invoke(*words)
    assert "runs is up to date" in again.stdout
    assert f"suggested for batches of 3: learning rate {own.suggested:g}" in again.stdout


def test_a_real_model(minilm_mlm: Path, shared_data: Path) -> None:
    """LoRA of rank 1 is far steeper after its first step, biases are not."""
    result = invoke(
        "learning-rate", "--model", minilm_mlm, "--task", "SST-2", "--data", shared_data,
        "--subspace", "bias", "--subspace", "lora:r=1,alpha=1,targets=qv", "--batches", 1,
        "--limit", 8, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    bias, lora = json.loads(result.stdout)
    assert 1e-4 < bias["suggested"] < 1e-2
    assert lora["warning"] is not None
    assert lora["ratio"] > 2 > bias["ratio"]

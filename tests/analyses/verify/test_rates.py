"""A learning rate for every configuration of a study: computed once, kept, shown."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import cli
from analyses.engine.run_folder import LEARNING_RATES, Results
from analyses.lora.study import LoraStudy
from analyses.verify.rates import Rates
from subkern.learning_rate import suggest
from tests.analyses.subspace.test_subspace_tiny import Tiny
from tests.analyses.verify.test_verify_tiny import config as tiny_config
from tests.support import fake_lora
from tests.support.fake_subspace import Undrawn, small


class Unseen(Undrawn):
    """A made-up study that draws nothing, and counts what it suggests."""

    def __init__(self, stop: int = 10**6) -> None:
        self.asked: list[Any] = []

        def suggesting(*given: Any, **asked: Any) -> Any:
            if len(self.asked) == stop:
                raise KeyboardInterrupt
            self.asked.append(asked)
            return fake_lora.suggest(*given, **asked)

        super().__init__(suggester=suggesting)

    def draw(self, results: Results, out: Path) -> Path:
        report = out / "report.html"
        report.write_text(self.page(results, {}))
        return report

    def _is_drawn(self, out: Path, results: Results) -> bool:
        return (out / "report.html").is_file()


ASKED = {"dims": (2, 16), "ranks": (1, 4), "methods": ("bias", "ia3"), "adapter_seeds": 2}
NAMES = ["full", "gaussian 2", "gaussian 16", "LoRA rank 1", "LoRA rank 4", "bias", "ia3"]


def test_rates_are_shown_and_kept(tmp_path: Path) -> None:
    """One draw of each configuration; what cannot be suggested is told and loses nothing."""
    study, settings = Unseen(), small(**ASKED)
    told: list[tuple[int, int]] = []
    done = study.analyze(settings, tmp_path, rates=lambda *each: told.append(each))
    assert told == [(i, len(NAMES)) for i in range(len(NAMES) + 1)]
    assert len(study.asked) == len(NAMES)
    assert {(each["optimizer"], each["batch_size"]) for each in study.asked} == {("adam", 8)}
    rates = Rates.of(done.results)
    assert rates is not None
    assert [each.name for each in rates.every] == NAMES
    assert [each.name for each in rates.falling] == ["LoRA rank 1"]
    assert [each.name for each in rates.missing] == ["ia3"]
    said = study.answer(done.results)
    (falls, none) = said["caveats"][-2:]
    assert falls == (
        "The kernel at the start does not describe training LoRA rank 1: the learning rate that it"
        " allows (adam, batches of 8) falls 7.5 times with the first step."
    )
    assert none == "No learning rate for ia3: a step in 'ia3' does not change the logits."
    (lora,) = (e for e in said["learning_rates"]["configurations"] if e["name"] == "LoRA rank 1")
    assert (lora["suggested"], lora["warning"]) == (1e-3, True)
    assert lora["ratio"] == pytest.approx(7.5)
    assert said["learning_rates"]["configurations"][-1]["suggested"] is None
    json.dumps(said, allow_nan=False)
    table = study.table(study.found(done.results))
    column = {tuple(row[:2]): row[-1] for row in table.rows}
    assert table.header[-1] == "rate"
    assert column["LoRA", "20"] == column["gaussian", "2"] == "1e\N{MINUS SIGN}3"
    assert [row[-1] for row in table.rows][-3:] == ["\N{EN DASH}", "1e\N{MINUS SIGN}3", ""]
    text = done.report.read_text()
    assert "Learning rates, suggested before training" in text
    assert "does not describe training LoRA rank 1" in text
    assert study.analyze(settings, tmp_path, rates=True).up_to_date
    plain = study.analyze(settings, tmp_path)
    assert plain.up_to_date
    assert Rates.of(plain.results) is not None
    assert len(study.asked) == len(NAMES)


def test_a_finished_run_gets_them_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    settings, study = small(**ASKED), Unseen()
    plain = study.analyze(settings, tmp_path)
    assert not study.asked
    assert Rates.of(plain.results) is None
    assert "learning_rates" not in study.answer(plain.results)
    assert study.table(study.found(plain.results)).header[-1] == "test accuracy"
    with pytest.raises(KeyboardInterrupt):
        Unseen(stop=3).analyze(settings, tmp_path, rates=True)
    assert not (tmp_path / "report.html").exists()  # it would lack the three
    rest = Unseen()
    done = rest.analyze(settings, tmp_path, rates=True)
    assert not done.up_to_date
    assert len(rest.asked) == len(NAMES) - 3
    rates = Rates.of(done.results)
    assert rates is not None
    assert [each.name for each in rates.every] == NAMES


def test_lora_names_them_by_target_set(tmp_path: Path) -> None:
    class Lora(LoraStudy):
        """The made-up LoRA study, drawing nothing."""

        def draw(self, results: Results, out: Path) -> Path:
            return out / "report.html"

    settings = fake_lora.config(target_sets=("qv", "mlp"), solvers=("ridge",), ranks=(1, 4))
    study = Lora()
    with fake_lora.made_up():
        results = study.analyze(settings, tmp_path, rates=True).results
    found = study.found(results)
    assert found.rates is not None
    assert [each.name for each in found.rates.falling] == ["qv, rank 1", "mlp, rank 1"]
    for table in (study.table(found), *study.tables(found)[0][:1]):
        rates = [row[-1] for row in table.rows]
        assert rates.count("1e\N{MINUS SIGN}3") == len(rates) - 1  # all but zero-shot


@pytest.mark.parametrize("study_name", ["lora", "subspace"])
def test_the_command_can_leave_them_out(
    tmp_path: Path, study_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["analyze", study_name, "--model", "made-up", "--task", "mr", "--data", "x"]
    words += ["--shots", "8", "--ranks", "1", "--solvers", "ridge", "--out", str(tmp_path)]
    if study_name == "subspace":
        monkeypatch.setattr("analyses.subspace.study.SubspaceStudy", Unseen)
        words += ["--dims", "2,16", "--kinds", "gaussian", "--method", "none"]
    for name in ("draw", "_is_drawn"):
        monkeypatch.setattr(LoraStudy, name, getattr(Unseen, name))
    with fake_lora.made_up():
        found = CliRunner().invoke(cli.cli, [*words, "--no-rates"])
        assert found.exit_code == 0, found.output
        assert not (tmp_path / "learning_rates.parquet").exists()
        found = CliRunner().invoke(cli.cli, words)
        assert found.exit_code == 0, found.output
        assert "does not describe training" in " ".join(found.output.split())
        assert "up to date" not in found.output
        lines = found.output.splitlines()
        assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80
        assert "up to date" in CliRunner().invoke(cli.cli, words).output


def test_they_are_those_of_the_library(tmp_path: Path) -> None:
    class Quiet(Tiny):
        """The tiny study, drawing nothing."""

        def draw(self, results: Results, out: Path) -> Path:
            return out / "report.html"

    study, settings = Quiet(), tiny_config().changed(ranks=(), methods=("bias",))
    results = study.analyze(settings, tmp_path, rates=True).results
    rates = Rates.of(results)
    assert rates is not None
    inputs = study.inputs(settings)
    model = study.load(settings, inputs)
    assert model.prompt is not None
    train = model.prompt.encode_all(inputs.splits[13]["train"])
    forms = ["full", *(f"random:kind=srht,dim={dim},seed=5" for dim in (4, 32)), "bias"]
    for each, form in zip(rates.every, forms, strict=True):
        found = suggest(model, train, subspace=form)
        assert each.suggested == found.suggested
        assert math.isclose(each.rate_at_start, found.rate_at_start)
    assert set(results.beside[LEARNING_RATES]["note"]) == {""}

"""What holds for every study: one run of each on a tiny real model, and all that is asked of it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from analyses.commands import analyze as analyze_command
from analyses.commands.group import main
from analyses.engine import inputs
from analyses.engine.settings import Settings
from analyses.studies import STUDIES
from analyses.study import Outcome, Study
from subkern.errors import UserError
from tests.support import tiny_folder
from tests.support.study_checks import (
    check_in_browser,
    check_redrawn,
    check_summary,
    check_up_to_date,
    check_written,
    page_of,
)

SMALL: dict[str, dict[str, Any]] = {
    "lora": {"ranks": [1, 2], "adapter_seeds": 2, "kernel_resamples": 0, "solvers": ["ridge"]},
    "subspace": {
        "dims": [2, 4], "kinds": ["srht"], "projection_seeds": 2, "ranks": [1],
        "adapter_seeds": 1, "methods": ["bias"], "solvers": ["ridge"],
    },
    "behavior": {
        "learning_rates": [1e-3], "steps": 2, "looks": 1, "kernel_steps": 1, "solvers": ["ridge"],
    },
    "learning-rate": {
        "subspaces": ["full", "lora:r=1"], "steps": 3, "probe_steps": 2, "factors": [1, 4],
        "optimizers": ["adam", "sgd"],
    },
    "width": {
        "widths": [16, 32, 48], "parametrizations": ["ntp"], "optimizers": ["adam"], "seeds": 1,
        "steps": 2, "factors": [1], "kernel": False,
    },
    "prompting": {"prompts": ["lm-bff", "swapped"], "random": False, "finetune": False},
}  # fmt: skip

WITHOUT_OPTION = {
    "pooling", "seed", "confidence", "resamples", "kernel_resamples", "targets", "rule", "tuning",
    "head", "projection", "solvers", "head_init", "tie", "template", "label_words", "device",
}  # fmt: skip
"""Settings that a file may hold and the command line does not offer, in one study or another."""


def test_who_proves_is_told_without_importing_it() -> None:
    assert {s for s in STUDIES if STUDIES[s].proves} == set(analyze_command.PROVEN)
    for name, study in STUDIES.items():
        assert study.settings.__module__ == f"analyses.{name.replace('-', '_')}.config"


class Ran(NamedTuple):
    """A finished run of a study."""

    study: Study[Any, Any]
    settings: Settings
    found: Outcome


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny model and a tiny `mr` in it."""
    root = tmp_path_factory.mktemp("tiny")
    tiny_folder.masked_model(root / "model")
    tiny_folder.reviews(root / "data")
    return root


def asked(tiny: Path, name: str) -> dict[str, Any]:
    """Return small settings of a study."""
    where = {"model": str(tiny / "model"), "task": "mr", "data": str(tiny / "data"), "shots": 4}
    return {**where, "resamples": 5, "test_limit": 6, **SMALL[name]}


@pytest.fixture(scope="module", params=sorted(STUDIES))
def ran(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: Any) -> Ran:
    """Return one finished run of each study."""
    study = STUDIES[request.param]()
    settings = study.settings.from_dict(asked(tiny, request.param))
    out = tmp_path_factory.mktemp(request.param) / "run"
    return Ran(study, settings, study.analyze(settings, out, command="subkern x"))


def invoke(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Run the program; return its exit status and what it printed."""
    monkeypatch.setattr(sys, "argv", ["subkern", *words])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capfd.readouterr()
    return int(end.value.code or 0), printed.out, printed.err


def test_it_leaves_all_of_its_files_and_nothing_else(ran: Ran) -> None:
    figures = ran.study.figures(ran.study.findings(ran.found.results))
    files = ran.study.files(ran.found.results)
    check_written(ran.found, figures, len(ran.found.results.kernels), files)


def test_it_is_found_done_and_writes_nothing(ran: Ran) -> None:
    other = type(ran.study)(loader=None)
    with pytest.MonkeyPatch.context() as patch:
        check_up_to_date(other.analyze, ran.settings, ran.found, patch)


def test_what_killed_runs_left_of_a_finished_one_is_removed(ran: Ran) -> None:
    root = ran.found.report.parent
    left = [
        root / "checkpoint" / "tiles",
        root / "kernels" / "13" / ".full.zarr.x1y2z3.tmp" / "new",
    ]
    had_kernels = left[1].parents[1].exists()
    for each in left:
        each.mkdir(parents=True)
    assert ran.study.analyze(ran.settings, root).up_to_date
    assert not any(each.parent.exists() for each in left)
    if not had_kernels:
        left[1].parents[1].rmdir(), left[1].parents[2].rmdir()


def test_a_lost_figure_is_drawn_from_the_saved_numbers(ran: Ran, tmp_path: Path) -> None:
    figure = next(iter(ran.study.figures(ran.study.findings(ran.found.results))))
    with pytest.MonkeyPatch.context() as patch:
        check_redrawn(ran.study.analyze, ran.settings, ran.found, figure, tmp_path / "c", patch)


def test_its_own_config_reproduces_it(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = ran.found.report.parent
    words = ["analyze", ran.study.name, "--config", str(out / "config.yaml"), "--out", str(out)]
    words += ["--no-rates"] if ran.study.proves else []  # as it was run
    status, printed, _ = invoke(words, monkeypatch, capfd)
    assert status == 0
    assert "up to date: nothing was computed" in printed


def test_json_is_the_findings_in_the_words_of_the_page(ran: Ran) -> None:
    answer = json.loads(json.dumps(ran.study.answer(ran.found.results), allow_nan=False))
    found = ran.study.findings(ran.found.results)
    assert answer["answer"] == ran.study.sentence(found)
    assert answer["caveats"] == ran.study.caveats(found)
    assert answer["answer"]
    assert {"report", "verification"}.isdisjoint(answer)
    assert len(answer) > 4


def test_the_summary_fits_a_terminal(ran: Ran) -> None:
    found = ran.study.findings(ran.found.results)
    check_summary(ran.study.summary(ran.found.results), ran.study.sentence(found))


def test_the_page_has_no_holes(ran: Ran) -> None:
    page = page_of(ran.study, ran.found.results)
    for hole in ("None", "nan", "Undefined", "{{", "{%"):
        assert hole not in page.replace("NaN", ""), hole
    assert "<script" not in page
    assert "http" not in page.split("<body>")[1]


def test_the_page_in_a_browser(ran: Ran, tmp_path: Path) -> None:
    images = len(ran.study.figures(ran.study.findings(ran.found.results)))
    check_in_browser(ran.found.report, tmp_path, images)


@pytest.mark.parametrize("name", sorted(STUDIES))
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shotz: 3", "unknown setting 'shotz': did you mean shots"),
        ("shots: ten", "shots holds 'ten': give whole numbers from 1"),
        ("shots: [1]", "shots holds [1]: give whole numbers from 1"),
        ("confidence: 1.5", "confidence is 1.5: give a share between 0 and 1"),
        ("dtype: float8", "dtype 'float8' is unknown: use float32, float64, bfloat16"),
        ("solvers: [guess]", "solvers 'guess' is unknown"),
        ("rule: 1", "rule holds 1: give text"),
        ("seed: one", "seed holds 'one': give a whole number"),
        ("- model", "holds no settings: write one 'name: value' a line"),
        ("model: [", "cannot read settings from"),
    ],
)
def test_bad_settings_are_one_line_and_write_nothing(
    name: str,
    text: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(inputs, "load_examples", None)  # before anything slow
    path, out = tmp_path / "settings.yaml", tmp_path / "out"
    path.write_text(text if text.startswith(("-", "model")) else f"model: m\ntask: mr\n{text}\n")
    words = ["analyze", name, "--config", str(path), "--out", str(out)]
    status, printed, error = invoke(words, monkeypatch, capfd)
    assert (status, printed) == (2, "")
    assert error.count("\n") == 1
    assert message in error
    assert not out.exists()


@pytest.mark.parametrize("name", sorted(STUDIES.keys() - {"width"}))  # its task needs no model
def test_what_must_be_named_is_said(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status, _, error = invoke(["analyze", name, "--out", str(tmp_path / "o")], monkeypatch, capfd)
    assert (status, error.count("\n")) == (2, 1)
    assert "--model and --task missing" in error


@pytest.mark.parametrize("name", sorted(STUDIES.keys() - {"width"}))  # it reads no weights
def test_settings_refused_by_the_model_leave_nothing(name: str, tiny: Path, tmp_path: Path) -> None:
    study = STUDIES[name]()

    def refuses(*_: Any, **__: Any) -> Any:
        raise UserError("no such weights")

    with pytest.raises(UserError, match="no such weights"):
        type(study)(loader=refuses).analyze(
            study.settings.from_dict(asked(tiny, name)), tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_a_run_of_other_settings_is_kept_unless_told(ran: Ran, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(ran.found.report.parent, out)
    with pytest.raises(UserError, match="resamples: 6 asked for, 5 stored"):
        ran.study.analyze(ran.settings.changed(resamples=6), out)
    record = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
    assert record["config"]["resamples"] == 5


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_setting_is_told_and_offered(name: str) -> None:
    settings = STUDIES[name].settings
    command = analyze_command.study_command(name)
    offered = {option.name for option in command.params}
    for each, field in settings.model_fields.items():
        if settings.extra(each)["option"] is None:
            assert each in WITHOUT_OPTION
            assert each not in offered
        else:
            assert field.description, each
            assert each in offered


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_help_fits_a_terminal_and_asks_the_question(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, printed, _ = invoke(["analyze", name, "--help"], monkeypatch, capfd)
    assert status == 0
    assert max(map(len, printed.splitlines())) <= 80
    assert "?" in " ".join(printed.split()[:40])
    assert analyze_command.QUESTIONS[name].split()[0] in printed

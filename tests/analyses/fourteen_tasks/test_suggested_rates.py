"""The fourteen-task study at learning rates that it suggests, on a tiny model and task."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from analyses.commands.fourteen_tasks import _settings
from analyses.fourteen_tasks import steps
from analyses.fourteen_tasks import study as fourteen_tasks
from analyses.fourteen_tasks.config import AUTO, PLACES, PRESETS, RATES, Config
from analyses.fourteen_tasks.estimate import costs
from analyses.fourteen_tasks.inputs import Context
from analyses.fourteen_tasks.plan import make_plan
from analyses.fourteen_tasks.study import Done
from analyses.fourteen_tasks.table import FINETUNING
from analyses.scheduler.work import Place
from cli import main
from subkern.errors import UserError
from subkern.learning_rate import NoSuggestion, suggest
from subkern.training.finetune import FineTuned
from tests.support import tiny_study

POINTS = tuple(f"train lr={place} b=4" for place in PLACES)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny model and the data of tiny tasks: mr has 8 examples of train."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_study.model(folder / "model")
    tiny_study.data(folder / "data")
    return folder


def config(place: Path, **changes: Any) -> Config:
    """Return settings of one fine-tuning method on one task, all rates suggested."""
    given: dict[str, Any] = {
        "model": str(place / "model"), "data": str(place / "data"), "tasks": ("mr",),
        "shots": (4,), "data_seeds": (13,), "methods": ("finetune-sgd",),
        "batch_sizes": (4,), "steps": 2, "eval_every": 1,
    }  # fmt: skip
    return Config(**{**given, **changes})


def analyze(asked: Config, out: Path, **how: Any) -> Done:
    """Run a study without its report."""
    return fourteen_tasks.analyze(asked, out, report=False, **how)


def computed(done: Done) -> list[str]:
    """Return the steps of the cells that a run finished."""
    return [key.rpartition("/")[2] for key in done.ran.computed]


def chosen(done: Done) -> dict[str, float]:
    """Return metric → value of what dev chose."""
    rows = done.table[done.table["method"].isin(FINETUNING)].dropna(subset="metric")
    return dict(zip(rows["metric"], rows["value"], strict=True))


# --- what is planned ---


def test_a_suggestion_for_each_batch_size_comes_before_its_three_points(place: Path) -> None:
    plan = {cell.step: cell for cell in make_plan(config(place, batch_sizes=(2, 4)))}
    points = [f"train lr={each} b={size}" for each in PLACES for size in (2, 4)]
    assert list(plan) == ["suggest b=2", "suggest b=4", *points, "best"]
    for point in points:
        (needed,) = plan[point].needs
        assert needed.endswith(f"/suggest b={point[-1]}")
    assert plan["best"].needs == ()
    assert [key.rpartition("/")[2] for key in plan["best"].after] == list(plan)[:-1]


def test_a_batch_holds_no_more_than_all_examples_and_is_suggested_for_once(place: Path) -> None:
    plan = make_plan(config(place, batch_sizes=(16, 4, 8)))
    assert [cell.step for cell in plan][:2] == ["suggest b=8", "suggest b=4"]
    assert len(plan) == 2 + 2 * 3 + 1
    assert {cell.settings["training"]["batch_size"] for cell in plan if cell.needs} == {4, 8}


def test_given_rates_plan_the_cells_that_they_always_did(place: Path) -> None:
    """Folders of before rates were suggested go on: keys, waits and what identifies a cell."""
    asked = config(place, batch_sizes=(2, 64), learning_rates={"finetune-sgd": (0.3, 1e-5)})
    *points, best = make_plan(asked)
    where = "mr/4-13/prompt/finetune-sgd/"
    assert [cell.key for cell in points] == [
        f"{where}train lr={rate} b={size}" for rate in ("1e-05", "0.3") for size in (2, 64)
    ]
    assert not any(cell.needs or cell.after for cell in points)
    training = {
        "optimizer": "sgd", "learning_rate": 0.3, "batch_size": 64, "epsilon": 1e-8, "steps": 2,
        "eval_every": 1, "loss": "cross_entropy", "seed": 0,
    }  # fmt: skip
    shared = {"task": "mr", "optimizer": "sgd", "subspace": "full"}
    assert points[-1].settings == {**shared, "training": training}
    assert set(points[-1].identity) == {
        "model", "task", "examples", "settings", "environment", "study"
    }  # fmt: skip
    assert (best.key, best.settings, best.needs) == (f"{where}best", shared, ())
    assert list(best.after) == [cell.key for cell in points]


def test_what_a_suggestion_costs_is_counted(place: Path) -> None:
    asked = config(place, steps=1000, eval_every=100)
    suggestion, point, *_ = make_plan(asked)
    cost = costs(asked)
    assert 0 < cost(suggestion) < cost(point) / 20


# --- what is trained ---


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("finetune-adam", {"epsilon": 1e-4, "seed": 3, "loss": "squared"}),
        ("finetune-sgd", {"heads": ("linear",)}),
        ("lora-adam", {"lora": ("lora:r=1",), "heads": ("linear",), "head_init": "random"}),
        ("random-adam", {"random": ("random:dim=20",)}),
    ],
)
def test_the_three_rates_are_those_of_suggest(
    place: Path, tmp_path: Path, method: str, changes: dict[str, Any]
) -> None:
    asked = config(place, methods=(method,), **changes)
    done = analyze(asked, tmp_path)
    assert done.ran.failed == {}
    first = next(iter(make_plan(asked)))
    context = Context(asked, first, {}, Place(tmp_path))
    optimizer, kind = FINETUNING[method]
    expected = suggest(
        context.model, context.encoded["train"], subspace=asked.subspaces(kind)[0],
        optimizer=optimizer, batch_size=4, steps=asked.steps, loss=asked.loss,
        epsilon=asked.epsilon, seed=asked.seed,
    )  # fmt: skip
    folder = tmp_path / "cells" / first.key
    kept = json.loads((folder / "suggested.json").read_text(encoding="utf-8"))
    assert {**kept, "seconds": 0} == {**expected.as_dict(), "seconds": 0}
    trained = [FineTuned.load(folder.parent / point / "run").training for point in POINTS]
    assert [each["learning_rate"] for each in trained] == list(expected.grid)
    found = chosen(done)
    assert found["grid edge"] == expected.grid.index(found["learning rate"]) - 1
    assert found["batch size"] == 4


def test_more_rates_and_sizes_later_train_only_what_is_new(place: Path, tmp_path: Path) -> None:
    first = analyze(config(place), tmp_path)
    assert computed(first) == ["suggest b=4", *POINTS, "best"]
    more = analyze(config(place, batch_sizes=(4, 2)), tmp_path)
    assert computed(more) == [
        "suggest b=2", *(point.replace("b=4", "b=2") for point in POINTS), "best"
    ]  # fmt: skip
    fixed = config(place, learning_rates={"finetune-sgd": (0.1,)})
    assert computed(analyze(fixed, tmp_path)) == ["train lr=0.1 b=4", "best"]
    again = analyze(config(place), tmp_path)
    assert computed(again) == ["best"]
    pd.testing.assert_frame_equal(*(done.table.drop(columns="seconds") for done in (first, again)))
    assert analyze(config(place), tmp_path).ran.computed == []


def test_a_killed_study_goes_on_at_the_rates_it_found(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = analyze(config(place), tmp_path / "whole")
    real = steps.finetune

    def killed(*given: Any, training: Any, **how: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "finetune", killed)
    with pytest.raises(KeyboardInterrupt):
        analyze(config(place), tmp_path / "killed")
    monkeypatch.setattr(steps, "finetune", real)
    monkeypatch.setattr(steps, "suggest", None)  # nothing is left to suggest
    resumed = analyze(config(place), tmp_path / "killed")
    assert computed(resumed) == [*POINTS, "best"]
    pd.testing.assert_frame_equal(
        *(done.table.drop(columns="seconds") for done in (whole, resumed))
    )


def test_a_damaged_suggestion_is_made_again(place: Path, tmp_path: Path) -> None:
    analyze(config(place), tmp_path)
    (path,) = tmp_path.rglob("suggested.json")
    path.write_text(path.read_text(encoding="utf-8").replace("grid", "grit"), encoding="utf-8")
    again = analyze(config(place), tmp_path)
    assert computed(again) == ["suggest b=4"]
    assert "grid" in json.loads(path.read_text(encoding="utf-8"))


def test_where_nothing_is_suggested_the_other_grids_go_on(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = suggest

    def failing(*given: Any, batch_size: int, **how: Any) -> Any:
        if batch_size in lost:
            raise NoSuggestion("a step in 'full' does not change the logits")
        return real(*given, batch_size=batch_size, **how)

    monkeypatch.setattr(steps, "suggest", failing)
    lost = {4}
    some = config(place, batch_sizes=(2, 4))
    done = analyze(some, tmp_path)
    ((key, reason),) = done.ran.failed.items()
    assert key.endswith("/suggest b=4")
    assert reason == "a step in 'full' does not change the logits"
    assert [done.ran.states[key.replace("suggest b=4", each)] for each in POINTS] == ["blocked"] * 3
    assert chosen(done)["batch size"] == 2
    lost = {2, 4}
    none = analyze(some, tmp_path / "none")
    assert [key.rpartition("/")[2] for key in none.ran.failed] == [
        "suggest b=2", "suggest b=4", "best",
    ]  # fmt: skip
    said = list(none.ran.failed.values())[-1]
    assert said.startswith("no learning rate could be suggested for any of the 6 points")
    assert "--learning-rates finetune-sgd=..." in said
    lost = set()
    retried = analyze(some, tmp_path, retry_failed=True)
    assert computed(retried) == ["suggest b=4", *POINTS, "best"]
    assert retried.ran.failed == {}


# --- settings ---


def test_what_is_not_named_is_suggested_and_all_are_kept_by_name(place: Path) -> None:
    asked = config(place, learning_rates={"finetune-sgd": (0.3, 0.1), "lora-adam": "auto"})
    assert asked.learning_rates == {**dict.fromkeys(FINETUNING, AUTO), "finetune-sgd": (0.1, 0.3)}
    kept = yaml.safe_load(yaml.safe_dump(asked.as_dict()))
    assert kept["learning_rates"]["lora-adam"] == "auto"
    assert Config.from_dict(kept) == asked
    every = dict.fromkeys(FINETUNING)
    for same in ("auto", {}, every):
        assert config(place, learning_rates=same) == config(place)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_keep_their_rates(preset: str) -> None:
    found = Config.from_dict(PRESETS[preset]).learning_rates
    assert found == {m: r[::2][:2] if preset == "quick" else r for m, r in RATES.items()}


@pytest.mark.parametrize(
    ("preset", "words", "expected"),
    [
        (None, (), {}),
        (None, ("lora-adam=1e-3,1e-4",), {"lora-adam": (1e-4, 1e-3)}),
        ("paper", ("lora-adam=auto",), {**RATES, "lora-adam": AUTO}),
        ("paper", ("auto", "lora-adam=0.1"), {"lora-adam": (0.1,)}),
    ],
)
def test_rates_on_the_command_line(
    preset: str | None, words: tuple[str, ...], expected: dict[str, Any]
) -> None:
    found = _settings(preset, None, words, {"model": "m"})
    assert found.learning_rates == {**dict.fromkeys(FINETUNING, AUTO), **expected}


def test_rates_of_a_file_and_of_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    for text, expected in (
        ("learning_rates: auto", AUTO),
        ("learning_rates: {finetune-sgd: 0.1}", (0.1,)),
    ):
        file.write_text(f"model: m\n{text}\n", encoding="utf-8")
        found = _settings(None, file, ("lora-adam=1",), {}).learning_rates
        assert (found["finetune-sgd"], found["lora-adam"]) == (expected, (1.0,))
    file.write_text("model: m\nlearning_rates: [1]\n", encoding="utf-8")
    with pytest.raises(UserError, match="learning_rates"):
        _settings(None, file, ("lora-adam=1",), {})


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("finetune-sgd=auto,1", "learning_rates of finetune-sgd holds 'auto': give a number"),
        ("kernel-sgd=auto", "learning_rates of 'kernel-sgd' is unknown"),
        ("automatic", "write METHOD=1e-3,1e-2 or METHOD=auto"),
    ],
)
def test_mistakes_are_one_line(
    place: Path,
    tmp_path: Path,
    word: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ["analyze", "fourteen-tasks", "--model", str(place / "model"), "--learning-rates", word]
    monkeypatch.setattr(sys, "argv", ["subkern", *line, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()

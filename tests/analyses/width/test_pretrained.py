"""``analyze width --pretrained``: models of several sizes, fine-tuned on one task."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses.commands.group import main
from analyses.engine.run_folder import Results
from analyses.scheduler.work import Place
from analyses.width import pretrained, training
from analyses.width.config import Config
from analyses.width.findings import findings
from analyses.width.pretrained import Pretrained
from analyses.width.study import WidthStudy
from analyses.width.table import TABLE
from subkern.dynamics import train_linearized
from subkern.errors import UserError
from subkern.storage.memory import parse_memory
from subkern.training.settings import Diverged
from tests.support.tiny_folder import masked_model, reviews

SMALL: dict[str, Any] = {
    "task": "mr", "shots": 4, "steps": 2, "train_batch_size": 4, "optimizers": ["adam"],
    "kernel_limit": 3, "dtype": "float64",
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three models, the last with a word more, and a tiny `mr`."""
    root = tmp_path_factory.mktemp("sizes")
    for width in (8, 16, 32):
        masked_model(root / f"w{width}", width=width)
    reviews(root / "data")
    return root


def config_of(tiny: Path, **more: Any) -> Config:
    """Return settings of the three models."""
    specs = [str(tiny / f"w{width}") for width in (8, 16, 32)]
    return Config(**{"pretrained": specs, "data": str(tiny / "data"), **SMALL, **more})


def test_three_sizes_are_fine_tuned(tiny: Path, tmp_path: Path) -> None:
    study, config = WidthStudy(), config_of(tiny)
    results = study.analyze(config, tmp_path / "run").results
    found = study.found(results)
    assert [model.name for model in found.models] == ["w8", "w16", "w32"]
    assert [model.width for model in found.models] == [8, 16, 32]
    assert [m.parameters for m in found.models] == sorted(m.parameters for m in found.models)
    (adam,) = found.tuned
    assert set(adam.exponents) == {"kernel.frobenius", "features", "error", "function"}
    for of in adam.values.values():
        assert all(value > 0 for value in of.values())
    answer = study.answer(results)
    assert answer["groups"] == []
    assert answer["pretrained"]["models"][0]["name"] == "w8"
    assert any("no exponents of width" in text for text in answer["caveats"])
    assert study.analyze(config, tmp_path / "run").up_to_date


def test_the_linearized_model_is_followed_by_gradients_held_or_not(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways give one prediction, of f itself: it starts where the model does."""
    config = config_of(tiny, optimizers="adam", kernel=False)
    used: list[int] = []

    def counted(*given: Any, **how: Any) -> Any:
        used.append(1)
        return train_linearized(*given, **how)

    monkeypatch.setattr(training, "train_linearized", counted)
    errors = []
    for room in (parse_memory, lambda _: 0.0):
        monkeypatch.setattr(training, "parse_memory", room)
        table = WidthStudy().run(config).table
        errors.append(table[table.metric == "error"].value.to_numpy())
    assert len(used) == 3
    np.testing.assert_allclose(*errors, rtol=1e-8)


def test_what_diverges_is_left_out_and_said(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = training.train_wide

    def diverges(wide: Any, *given: Any, **how: Any) -> Any:
        if wide.model.module.config.hidden_size == 16:
            raise Diverged(1, 1.0)
        return real(wide, *given, **how)

    monkeypatch.setattr(training, "train_wide", diverges)
    monkeypatch.setattr(WidthStudy, "draw", lambda _, __, out: out)
    study = WidthStudy()
    results = study.analyze(config_of(tiny, kernel=False), tmp_path / "run").results
    (adam,) = study.found(results).tuned
    assert (adam.diverged, adam.exponents, adam.trend) == (["w16"], {}, "unknown")
    assert any(
        "diverged at the suggested rate for w16" in t for t in study.caveats(study.found(results))
    )


def test_nothing_but_diverged_runs_is_drawn_too(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(*_: Any, **__: Any) -> Any:
        raise Diverged(1, 1.0)

    monkeypatch.setattr(training, "train_wide", diverges)
    study, config = WidthStudy(), config_of(tiny, kernel=False)
    found = study.found(study.analyze(config, tmp_path / "sizes").results)
    assert found.tuned[0].diverged == ["w8", "w16", "w32"]
    widths = Config(widths=(8, 16, 32), seeds=1, factors=(1, 2), optimizers="sgd", shots=2)
    found = study.found(study.analyze(widths, tmp_path / "widths").results)
    assert {group.verdict for group in found.groups} == {"unstable"}


@pytest.mark.parametrize(("power", "trend"), [(-0.5, "falls"), (0.5, "grows"), (0.0, "neither")])
def test_exponents_are_of_the_number_of_parameters(power: float, trend: str) -> None:
    noise = np.random.default_rng(0)
    rows = []
    for spec, size in (("a/x", 1e6), ("b/x", 4e6), ("c/y", 64e6)):
        for seed in (13, 21, 42):
            about: dict[str, Any] = {"model": spec, "width": 64, "optimizer": "sgd"}
            about["data_seed"] = seed
            value = size**power * np.exp(0.01 * noise.normal())
            rows += [
                TABLE.row(size, metric="parameters", **about),
                TABLE.row(1e-3, metric="suggested", **about),
                TABLE.row(0.1, metric="loss", factor=1.0, **about),
                TABLE.row(value, metric="kernel.frobenius", factor=1.0, **about),
            ]
    config = Config(pretrained=("c/y", "a/x", "b/x"), task="mr", optimizers="sgd")
    inputs = {"task": {"name": "mr", "metric": "accuracy"}}
    found = findings(Results("width", config.as_dict(), inputs, TABLE.tidy(rows)))
    assert [model.name for model in found.models] == ["a/x", "b/x", "y"]  # told apart
    (sgd,) = found.tuned
    assert sgd.exponents["kernel.frobenius"].value == pytest.approx(power, abs=0.02)
    assert sgd.trend.startswith(trend)


def test_a_cell_computed_elsewhere_is_the_same(tiny: Path, tmp_path: Path) -> None:
    config = config_of(tiny, optimizers="sgd", kernel=False)
    work = Pretrained(config, WidthStudy().inputs(config))
    cell = next(iter(work.cells()))
    there = pickle.loads(pickle.dumps(work))  # noqa: S301 (as processes send it)
    first, second = (
        [(r["metric"], r["value"]) for r in each(cell, {}, Place(tmp_path)).rows]
        for each in (work, there)
    )
    assert [r for r in first if r[0] != "seconds"] == [r for r in second if r[0] != "seconds"]


def test_a_tiny_rate_is_predicted_by_frozen_features(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predictions start where the model did: a hundredth of the rate, a hundredth of the error."""
    config = config_of(tiny, optimizers="sgd", kernel=False)
    errors = []
    for rate in (1e-4, 1e-6):
        monkeypatch.setattr(pretrained, "suggested", lambda *_, rate=rate: rate)
        table = WidthStudy().run(config).table
        errors.append(table[table.metric == "error"].value.to_numpy())
    np.testing.assert_allclose(errors[0] / errors[1], 100, rtol=0.1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pretrained", "W8,W16"], "w16 are fewer than three: no exponent can be fitted to them"),
        (["--pretrained", "W8,W16,W8"], "are fewer than three"),
        (["--pretrained", "W8,W16,W32"], "task synthetic is no text for pretrained models"),
        (
            ["--pretrained", "W8,W16,/none", "--task", "mr"],
            "model '/none' is no directory and not on the hub",
        ),
        (["--pretrained", "W8,W16,W32", "--task", "mr", "--family", "bert"], "family bert is not"),
        (["--pretrained", "W8,W16,W32", "--task", "mr", "--model", "W8"], "is not asked of pre"),
        (["--pretrained", "W8,W16,W32", "--task", "mr", "--head", "none"], "use prompt, linear"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    words: list[str],
    message: str,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    given = [word.replace("W", f"{tiny}/w") for word in words]
    asked = ["--data", str(tiny / "data"), "--shots", "4", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["subkern", "analyze", "width", *given, *asked])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capfd.readouterr()
    assert (end.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert message in printed.err
    assert not out.exists()


def test_a_model_that_cannot_read_the_task_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    broken = masked_model(tmp_path / "broken", width=8)
    config = json.loads((broken / "config.json").read_text(encoding="utf-8"))
    text = json.dumps({**config, "max_position_embeddings": 2})
    (broken / "config.json").write_text(text, encoding="utf-8")
    specs = [*config_of(tiny).pretrained[:2], str(broken)]
    with pytest.raises(UserError):
        WidthStudy().analyze(config_of(tiny, pretrained=specs), tmp_path / "out")
    assert not (tmp_path / "out").exists()

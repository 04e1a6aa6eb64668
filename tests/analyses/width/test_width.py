"""``analyze width``: exponents and verdicts from tables with known answers, and tiny real runs."""

from __future__ import annotations

import json
import math
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analyses.commands.group import main
from analyses.engine.run_folder import Results
from analyses.scheduler.work import OtherWorkerError, Place
from analyses.width import training, widths
from analyses.width.config import ACTIVATIONS, OPTIMIZERS, PARAMETRIZATIONS, SYNTHETIC, Config
from analyses.width.exponents import exponent
from analyses.width.findings import Findings, Group, findings, verdict
from analyses.width.reading import read_all
from analyses.width.study import WidthStudy
from analyses.width.synthetic import TOKENS, synthetic_inputs, tokens_of
from analyses.width.table import TABLE
from analyses.width.training import AT
from analyses.width.widths import Widths
from subkern.errors import UserError
from subkern.storage import provenance
from subkern.training.settings import Diverged
from subkern.width.exponents import OPTIMIZERS as KNOWN_OPTIMIZERS
from subkern.width.exponents import PARAMETRIZATIONS as KNOWN_PARAMETRIZATIONS
from subkern.width.families import transformers_of
from subkern.width.perceptron import ACTIVATIONS as KNOWN_ACTIVATIONS
from tests.support.tiny_folder import WORDS, masked_model, reviews

WIDTHS, SEEDS = (64, 128, 256), (0, 1, 2)
SMALL: dict[str, Any] = {
    "widths": [16, 32, 48], "steps": 2, "seeds": 1, "factors": [0.5, 1], "shots": 4,
    "kernel_limit": 3,
}  # fmt: skip


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing: it takes seconds, and these tests are of numbers."""
    monkeypatch.setattr(WidthStudy, "draw", lambda _, __, out: out)


def test_names_are_those_of_the_library() -> None:
    assert set(PARAMETRIZATIONS) == set(KNOWN_PARAMETRIZATIONS)
    assert OPTIMIZERS == KNOWN_OPTIMIZERS
    assert tuple(KNOWN_ACTIVATIONS) == ACTIVATIONS


# --- what numbers mean ---


def results_of(of: dict[str, Callable[[int], float]], parametrization: str = "ntp") -> Results:
    """Return results whose numbers go with width as given, with a little noise over seeds."""
    noise, rows = np.random.default_rng(0), []
    for width in WIDTHS:
        for seed in SEEDS:
            about: dict[str, Any] = {
                "data_seed": 13, "optimizer": "adam", "parametrization": parametrization,
                "width": width, "seed": seed,
            }  # fmt: skip
            for factor in (0.5, 1.0, 2.0):
                loss = of["loss"](width) * (1 + abs(math.log2(factor)))
                rows.append(TABLE.row(loss, metric="loss", factor=factor, **about))
            rows.append(TABLE.row(0.7, metric="loss.start", factor=AT, **about))
            for metric in set(of) - {"loss"}:
                layer = 2 if metric == "features" else None
                value = of[metric](width) * math.exp(0.01 * noise.normal())
                rows.append(TABLE.row(value, metric=metric, factor=AT, layer=layer, **about))
    rows.append(TABLE.row(1e-3, metric="suggested", data_seed=13, optimizer="adam"))
    config = Config(
        widths=WIDTHS, optimizers="adam", parametrizations=parametrization, factors=(0.5, 1, 2)
    )
    inputs = {"task": {"name": SYNTHETIC, "metric": "accuracy"}}
    return Results("width", config.as_dict(), inputs, TABLE.tidy(rows))


def found_of(parametrization: str = "ntp", **of: float) -> Findings:
    """Return the findings where each number is its exponent's power of the width."""
    powers = {"features": 0.0, "function.first": 0.0, "function": 0.0, "error": 0.0, **of}
    made: dict[str, Callable[[int], float]] = {
        name: lambda width, power=power: 0.1 * width**power  # type: ignore[misc]
        for name, power in powers.items()
    }
    return findings(results_of({"loss": lambda _: 0.3, **made}, parametrization))


@pytest.mark.parametrize(
    ("of", "wanted"),
    [
        ({"features": -0.5, "error": -0.5}, "kernel limit"),
        ({"features": -0.5, "error": -1.0}, "kernel limit"),
        ({}, "feature-learning limit"),
        ({"features": -0.5}, "undecided"),
        ({"features": -0.25, "error": -0.25}, "undecided"),
        ({"function.first": 1.0}, "unstable"),
        ({"function.first": -0.5, "features": -0.5, "error": -0.5}, "trivial"),
    ],
)
def test_exponents_are_recovered_and_judged(of: dict[str, float], wanted: str) -> None:
    (group,) = found_of(**of).groups
    for metric, fitted in group.exponents.items():
        assert fitted.low < of.get(metric, 0.0) + 0.01
        assert fitted.value == pytest.approx(of.get(metric, 0.0), abs=0.02)
    assert group.verdict == wanted


def test_theory_stands_beside_and_what_disagrees_is_said() -> None:
    found = found_of("ntp", features=-0.2, error=-0.5)
    assert {metric for _, metric, _ in found.disagreeing} >= {"features"}
    assert found.groups[0].exponents["features"].predicted == -0.5
    caveats = WidthStudy().caveats(found)
    assert any("theory's exponent of features, −0.5," in text for text in caveats)


def test_two_widths_give_no_exponent() -> None:
    rows = TABLE.tidy([TABLE.row(1.0, width=w, metric="error") for w in (8, 16, 8, 16)])
    assert exponent(rows, 0.95, 0.0) is None
    assert verdict({}, diverged=False) == "undecided"


def test_a_diverged_training_is_a_verdict_and_the_rest_goes_on() -> None:
    of = {name: (lambda _: 0.1) for name in ("features", "function.first", "function", "error")}
    loss = lambda width: math.nan if width == 256 else 0.3  # noqa: E731
    (group,) = findings(results_of({"loss": loss, **of})).groups
    assert (group.verdict, group.diverged) == ("unstable", [256])
    assert group.best(64) == 1.0
    assert math.isnan(group.best(256))
    assert group.stable(64) == 2.0  # 0.6 is below 0.7


# --- do learning rates carry over? ---

GRID = tuple(2.0**k for k in range(-4, 5))


def rates_of(best: Callable[[int, int], float], parametrization: str = "mup") -> Group:
    """Return findings where loss is a parabola over log factor, lowest at ``best(width, seed)``."""
    rows = [TABLE.row(1e-3, metric="suggested", data_seed=13, optimizer="adam")]
    for width in WIDTHS:
        for seed in SEEDS:
            about: dict[str, Any] = {
                "data_seed": 13, "optimizer": "adam", "parametrization": parametrization,
                "width": width, "seed": seed,
            }  # fmt: skip
            rows.append(TABLE.row(0.8, metric="loss.start", factor=AT, **about))
            for factor in GRID:
                loss = 0.1 * math.log2(factor / best(width, seed)) ** 2
                value = math.nan if loss > 2 else loss
                rows.append(TABLE.row(value, metric="loss", factor=factor, **about))
    config = Config(
        widths=WIDTHS, optimizers="adam", parametrizations=parametrization, factors=GRID
    )
    inputs = {"task": {"name": SYNTHETIC, "metric": "accuracy"}}
    (group,) = findings(Results("width", config.as_dict(), inputs, TABLE.tidy(rows))).groups
    return group


def test_a_rate_that_stays_carries_and_one_that_falls_does_not() -> None:
    stays = rates_of(lambda *_: 2.0)
    assert stays.carries == "carries"
    assert stays.rates["best"].value == pytest.approx(0, abs=1e-9)
    assert stays.rates["best"].predicted == 0
    falls = rates_of(lambda width, _: 4 * (64 / width) ** 2, "standard")
    assert falls.carries == "does not carry"
    assert falls.rates["best"].value == pytest.approx(-2)
    assert falls.moves is not None
    assert falls.moves[0] == pytest.approx(1 / 16)
    assert math.isnan(falls.rates["best"].predicted)
    assert falls.edges["best"] == []


def test_a_coarse_grid_is_part_of_the_interval() -> None:
    """All seeds agree, and still: the best rate is known to half a step of the grid."""
    fit = rates_of(lambda *_: 1.0).rates["best"]
    x = np.log(np.repeat(WIDTHS, len(SEEDS)))
    error = math.log(2) / math.sqrt(12) / math.sqrt(((x - x.mean()) ** 2).sum())
    assert fit.high == pytest.approx(error * stats.t.ppf(0.975, len(x) - 2))
    assert fit.low == -fit.high


def test_the_edge_of_the_grid_is_a_bound_and_no_best_rate() -> None:
    group = rates_of(lambda width, _: 1 / 16 if width == 256 else 1.0)
    assert group.edges["best"] == [256]
    assert "best" not in group.rates  # two widths are left
    assert (group.carries, group.moves) == ("unclear", None)
    assert group.rates.keys() <= {"stable"}


# --- what is computed ---


def test_the_synthetic_target_is_balanced_and_told_by_its_seed() -> None:
    config = Config(shots=6, data_seeds=(1, 2))
    inputs = synthetic_inputs(config)
    for splits in inputs.splits.values():
        for split in splits.values():
            assert [sum(e.label == label for e in split) for label in (0, 1)] == [6, 6]
            for example in split:
                first = sum(token < TOKENS // 2 for token in tokens_of(example))
                assert example.label == (first > len(tokens_of(example)) / 2)
    assert inputs.examples == synthetic_inputs(config).examples
    assert inputs.examples["1"]["digest"] != inputs.examples["2"]["digest"]
    fewer = synthetic_inputs(config.changed(train_limit=5)).splits[1]
    assert fewer["train"] == inputs.splits[1]["train"][:5]
    assert fewer["test"] == inputs.splits[1]["test"]


def test_a_tiny_run() -> None:
    table = WidthStudy().run(Config(optimizers="adam", dtype="float64", **SMALL)).table
    for parametrization in ("ntp", "mup"):
        for metric in ("error", "kernel.frobenius", "kernel.cka", "function", "function.first"):
            own = table[(table.metric == metric) & (table.parametrization == parametrization)]
            assert len(own) == 3
            assert own.value.gt(0).all(), metric
    distances = table[table.metric == "distance"]
    assert set(distances.width) == {16}  # 48 is not twice 32


def test_a_tiny_transformer() -> None:
    config = Config(
        family="gpt2", optimizers="adam", parametrizations="mup",
        **{**SMALL, "factors": [1], "steps": 1}, kernel=False,
    )  # fmt: skip
    table = WidthStudy().run(config).table
    assert table[table.metric == "error"].value.gt(0).all()
    assert set(table.layer.dropna()) == {1, 2, 3}  # embeddings, two blocks


@pytest.mark.parametrize("family", ["mlp", "bert", "llama", "config"])
def test_a_task_needs_a_tokenizer_and_no_weights(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = masked_model(tmp_path / "model")
    config = json.loads((tokenizer / "config.json").read_text(encoding="utf-8"))
    for name in ("config.json", "model.safetensors"):
        (tokenizer / name).unlink()
    if family == "config":
        family = str(tmp_path / "config.json")
        wide = {**config, "hidden_size": 8, "intermediate_size": 16}
        Path(family).write_text(json.dumps(wide), encoding="utf-8")
    built: list[Any] = []
    real = type(transformers_of("bert", 1)).build
    monkeypatch.setattr(
        "subkern.width.families.Transformers.build",
        lambda *given: built.append(real(*given)) or built[-1],
    )
    table = WidthStudy().run(
        Config(
            family=family, task="mr", data=str(reviews(tmp_path / "data")), model=str(tokenizer),
            optimizers="adam", parametrizations="ntp", **{**SMALL, "factors": [1], "steps": 1},
            kernel=False,
        )
    ).table  # fmt: skip
    assert table[table.metric == "error"].value.gt(0).all()
    rows = {model.module.get_input_embeddings().num_embeddings for model in built}
    assert not rows or max(rows) < len(WORDS)  # of tokens that occur, and padding


def test_texts_are_cut_and_positions_enough(tmp_path: Path) -> None:
    tokenizer = masked_model(tmp_path / "model")
    config = Config(
        family="gpt2", task="mr", data=str(reviews(tmp_path / "data")), model=str(tokenizer),
        shots=4, max_length=3,
    )  # fmt: skip
    reading = read_all(config, WidthStudy().inputs(config))
    (examples,) = reading.examples.values()
    family = reading.family(config)
    assert {len(e.input_ids) for e in examples} == {3}
    assert {e.read for e in examples} == {2}
    ids = {token for e in examples for token in e.input_ids}
    assert ids == set(range(1, len(ids) + 1))  # 0 pads
    model = family.build(32).module
    assert (model.config.n_positions, model.config.vocab_size) == (4, len(ids) + 1)


def test_a_tiny_rate_is_predicted_by_frozen_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is of second order: a hundredth of the rate leaves about a hundredth of it."""
    config = Config(optimizers="sgd", parametrizations="mup", dtype="float64", kernel=False,
                    **{**SMALL, "kernel_limit": 1})  # fmt: skip
    errors = []
    for rate in (1e-2, 1e-4):
        monkeypatch.setattr(widths, "suggested", lambda *_, rate=rate: rate)
        table = WidthStudy().run(config).table
        errors.append(table[table.metric == "error"].value.mean())
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.1)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("damaged", [False, True])
def test_an_interrupted_run_goes_on_to_the_same_numbers(
    damaged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(optimizers="sgd", parametrizations="ntp", kernel=False, **SMALL)
    whole = WidthStudy().analyze(config, tmp_path / "whole").results.table
    trained, real = [], training.train_wide

    def stops(*given: Any, **how: Any) -> Any:
        trained.append(1)
        if len(trained) == 4:  # in the second width
            raise KeyboardInterrupt
        return real(*given, **how)

    monkeypatch.setattr(training, "train_wide", stops)
    with pytest.raises(KeyboardInterrupt):
        WidthStudy().analyze(config, tmp_path / "run")
    (first,) = (tmp_path / "run" / "checkpoint").rglob("width*/cell.json")
    if damaged:
        first.write_bytes(first.read_bytes()[:-20])
    resumed = WidthStudy().analyze(config, tmp_path / "run").results.table
    assert len(trained) == 4 + 4 + 2 * damaged  # the first width was kept
    timed = ["seconds"]
    pd.testing.assert_frame_equal(
        *(each[~each.metric.isin(timed)].reset_index(drop=True) for each in (whole, resumed))
    )


def test_a_cell_computed_elsewhere_is_the_same(tmp_path: Path) -> None:
    """Other processes get the work and nothing else: it must travel whole."""
    config = Config(optimizers="signgd", parametrizations="mup", kernel=False, **SMALL)
    study = WidthStudy()
    inputs = study.inputs(config)
    work = Widths(config, read_all(config, inputs))
    first, second, *_ = work.cells()
    (tmp_path / first.key).mkdir(parents=True)
    (rate,) = work(first, {}, Place(tmp_path)).rows
    text = json.dumps({"rows": [{"value": rate["value"]}]})
    (tmp_path / first.key / "cell.json").write_text(text, encoding="utf-8")
    needs = {first.key: tmp_path / first.key}
    here, there = (
        each(second, needs, Place(tmp_path)).rows
        for each in (work, pickle.loads(pickle.dumps(work)))  # noqa: S301 (as processes send it)
    )
    assert [r["value"] for r in here if r["metric"] != "seconds"] == [
        r["value"] for r in there if r["metric"] != "seconds"
    ]


def test_a_worker_with_other_libraries_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(**SMALL)
    inputs = WidthStudy().inputs(config)
    work = Widths(config, read_all(config, inputs))
    cell = next(work.cells())
    here = provenance.environment()
    other = {**here, "versions": {**here["versions"], "torch": "99"}}
    monkeypatch.setattr(provenance, "environment", lambda: other)
    with pytest.raises(OtherWorkerError, match=r"versions\.torch: .* give all the same code and"):
        work(cell, {}, Place(tmp_path))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow  # processes import torch
def test_processes_find_the_same_numbers(tmp_path: Path) -> None:
    config = Config(optimizers="adam", parametrizations="ntp", kernel=False, **SMALL)
    tables = [
        WidthStudy().analyze(config.changed(workers=n), tmp_path / str(n)).results.table
        for n in (1, 2)
    ]
    here, there = (each[each.metric != "seconds"].reset_index(drop=True) for each in tables)
    pd.testing.assert_frame_equal(here, there)


@pytest.mark.usefixtures("undrawn")
def test_a_failed_cell_is_said_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(optimizers="sgd", parametrizations="ntp", kernel=False, **SMALL)
    real = training.train_wide

    def fails(wide: Any, *given: Any, **how: Any) -> Any:
        if wide.scale == 0.5:
            raise MemoryError("no room")
        return real(wide, *given, **how)

    monkeypatch.setattr(training, "train_wide", fails)
    with pytest.raises(UserError, match=r"1 of 3 cells failed, such as .*width 32 seed 0: Memory"):
        WidthStudy().analyze(config, tmp_path / "run")
    assert len(list((tmp_path / "run" / "checkpoint").rglob("width*/cell.json"))) == 2
    monkeypatch.undo()
    table = WidthStudy().analyze(config, tmp_path / "run").results.table
    assert set(table[table.metric == "error"].width) == {16, 32, 48}


@pytest.mark.usefixtures("undrawn")
def test_one_width_diverges_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = training.train_wide

    def diverges(wide: Any, *given: Any, **how: Any) -> Any:
        if (wide.parametrization, wide.scale) == ("mup", 0.5):
            raise Diverged(1, 1.0)
        return real(wide, *given, **how)

    monkeypatch.setattr(training, "train_wide", diverges)
    study = WidthStudy()
    config = Config(optimizers="sgd", kernel=False, **SMALL)
    found = study.found(study.analyze(config, tmp_path / "run").results)
    ntp, mup = found.groups
    assert (mup.verdict, mup.diverged) == ("unstable", [32])
    assert set(mup.values["error"]) == {16, 48}
    assert (ntp.diverged, set(ntp.values["error"])) == ([], {16, 32, 48})
    assert "error" in ntp.exponents


# --- what is asked ---


def test_a_preset_gives_way_to_what_is_given() -> None:
    quick = Config(preset="quick", shots=3)
    assert (quick.shots, quick.widths, quick.kernel) == (3, (32, 64, 128, 256), False)
    assert Config.from_dict(quick.as_dict()) == quick


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--widths", "64,128"], "widths 64, 128 are fewer than three: no exponent can be fitted"),
        (
            ["--family", "gpt2", "--widths", "64,72,80"],
            "width 72 is no multiple of the head size 16",
        ),
        (["--family", "gpt5"], "family 'gpt5' is unknown: use mlp, bert, gpt2, llama or the path"),
        (["--parametrizations", "mu"], "parametrizations 'mu' is unknown: use ntp, mup, standard"),
        (["--optimizers", "lion"], "optimizers 'lion' is unknown: use sgd, signgd, adam"),
        (["--factors", "0.5,2"], "leave out 1, the suggestion: add it"),
        (["--task", "mr", "--data", "demo", "--model", "/none"], "'/none'"),
        (["--task", "mr"], "task 'mr' is read by a tokenizer: give --model"),
        (["--data", "folder"], "task synthetic does not read --data folder: name a task"),
        (
            ["--pretrained", "a,b,c", "--task", "mr", "--widths", "32,64,96"],
            "--widths 32,64,96 is not asked of pretrained models: leave it out",
        ),
        (
            ["--pretrained", "a,b,c", "--task", "mr", "--depth", "3"],
            "--depth 3 is not asked of pretrained models",
        ),
        (["--preset", "slow"], "preset 'slow' is unknown: use full, quick"),
        (["--workers", "0"], "0 workers can do nothing: give --workers 1 or more"),
        (["--executor", "slurm"], "executor 'slurm' is unknown: use local or ray"),
        (["--address", "auto"], "--address auto is for --executor ray"),
        (["--max-length", "0"], "max_length holds 0"),
        (["--dtype", "bfloat16"], "dtype bfloat16 rounds small steps away"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["subkern", "analyze", "width", *words, "--out", str(out)])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capfd.readouterr()
    assert (end.value.code, printed.out) == (2, "")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert not out.exists()


def test_a_config_without_width_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}), encoding="utf-8")
    with pytest.raises(UserError, match="cannot be widened"):
        WidthStudy().analyze(Config(family=str(tmp_path)), tmp_path / "out")
    assert not (tmp_path / "out").exists()

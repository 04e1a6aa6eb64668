"""`analyze lora`: the study on a made-up model, its pooling, verdicts and words."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy import stats

import cli
from analyses import study
from analyses.engine import inputs
from analyses.engine.classifiers import Split, tune
from analyses.engine.long_table import cells
from analyses.engine.pooling import pool
from analyses.engine.run_folder import VERIFICATION, Results
from analyses.lora import compute as lora_compute
from analyses.lora import study as lora_study
from analyses.lora.compute import TABLE, row
from analyses.lora.config import Config
from analyses.lora.figures import FIGURES
from analyses.lora.findings import find
from analyses.lora.study import LoraStudy
from analyses.lora.train_kernels import contrast, effective_directions, heatmap, spectrum
from analyses.lora.training_files import ADAPTER, SCRIPT
from analyses.show import style
from analyses.show.study_numbers import at_chance, costs
from analyses.show.study_page import cost_table
from analyses.study import Outcome
from analyses.verify.train import row as verified_row
from analyses.verify.train import tidy
from subkern.agreement import METRICS, cka
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.solvers import make_solver
from subkern.tasks.examples import Example
from tests.support import fake_lora
from tests.support.fake_lora import config
from tests.support.study_checks import (
    check_goes_on,
    check_in_browser,
    check_leaves_nothing,
    check_redrawn,
    check_summary,
    check_up_to_date,
    check_written,
    untimed,
    with_f1,
)

lora = LoraStudy()


@pytest.fixture(scope="module", autouse=True)
def _made_up() -> Iterator[None]:
    """Put made-up examples, model and sweep in place of the real ones."""
    with fake_lora.made_up():
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures, which take seconds, where a test is not about them."""
    monkeypatch.setattr(lora, "figures", lambda _: {})


@pytest.fixture(scope="module")
def results() -> Results:
    return lora.run(config())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Return a study in its run directory; tests leave it as it is."""
    return lora.analyze(config(), tmp_path_factory.mktemp("run"), command="subkern x")


# --- computing ---------------------------------------------------------------------------------


def test_the_table_is_tidy_and_complete(results: Results) -> None:
    table = results.table
    assert {name: str(kind) for name, kind in table.dtypes.items()} == TABLE.columns
    key = [name for name in TABLE.columns if name not in ("value", "low", "high")]
    assert not table.duplicated(key).any()
    lora_rows = cells(table, kernel="lora", split="train", reference="full")
    assert set(lora_rows["metric"]) == set(METRICS)
    assert len(lora_rows) == len(METRICS) * 2 * 3
    scored = cells(table, split="test", metric="accuracy")
    assert len(scored) == 1 + 3 * (2 + 2 * 3)
    inside = table.dropna(subset=["low", "high"])
    assert len(inside) > 50
    assert (inside["low"] <= inside["value"]).all()
    assert (inside["value"] <= inside["high"]).all()


def test_the_numbers_are_those_of_the_library(results: Results) -> None:
    full, other = results.kernels["13/full"], results.kernels["13/lora-r4-s2"]
    train = list(full.left_ids)
    test = [each for each in full.right_ids if each.startswith("test")]
    here: dict[str, Any] = {"adapter_seed": 2, "rank": 4, "reference": "full"}
    value = cells(results.table, metric="cka", **here)["value"].item()
    assert value == cka(full.select(right=train), other.select(right=train))
    tuned = tune(
        full,
        Split(train, [each for each in full.right_ids if each.startswith("dev")], test),
        "ridge",
        "accuracy",
    )
    one, two = (
        make_solver("ridge", **tuned)
        .fit(kernel.select(right=train), f0=kernel.left_logits)
        .predict(kernel.select(right=test), f0=kernel.select(right=test).right_logits)
        for kernel in (full, other)
    )
    share = cells(results.table, metric="prediction_agreement", solver="ridge", **here)
    assert share["value"].item() == np.mean(one == two)
    truth = full.select(right=test).right_labels
    drop = cells(results.table, metric="drop", solver="ridge", **here)["value"].item()
    assert drop == pytest.approx(np.mean(one == truth) - np.mean(two == truth))


def test_agreement_grows_with_the_rank_and_full_agrees_with_itself(results: Results) -> None:
    same = cells(results.table, kernel="full", reference="full", metric="cka")["value"].item()
    assert same == pytest.approx(1)
    values = cells(results.table, kernel="lora", reference="targets", metric="cka")
    by_rank = values.groupby("rank")["value"].mean()
    assert by_rank[1] < by_rank[4] < 1


def test_multi_class_f1_and_own_tuning() -> None:
    trec = lora.run(config(task="trec", ranks=(2,), adapter_seeds=(5,), solvers=("ridge",)))
    assert trec.kernels["13/full"].num_logits == 6
    assert trec.inputs["logits"] == "all"
    mrpc = lora.run(config(task="MRPC", ranks=(2,), tuning="each", solvers=("ridge",)))
    assert set(cells(mrpc.table, kernel="zero-shot")["metric"]) == {"f1"}
    assert set(lora.plot(trec)) == set(lora.plot(mrpc)) == set(FIGURES)


def test_data_seeds_are_separate_studies(results: Results) -> None:
    seen: list[tuple[int, int]] = []
    both = lora.run(
        config(data_seeds=(13, 21), solvers=("ridge",)), lambda *done: seen.append(done)
    )
    assert len(seen) == 2
    assert {int(seed) for seed in both.table["data_seed"]} == {13, 21}
    assert find(both).best.agreement.over == "data seeds"
    assert find(results).best.agreement.over == "adapter seeds"
    assert find(results).full.over == "examples"


# --- the run directory -------------------------------------------------------------------------


def test_analyze_writes_everything(finished: Outcome) -> None:
    check_written(finished, FIGURES, 2 + 2 * 3, (ADAPTER, SCRIPT))


def test_the_same_command_finds_it_done(finished: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = config(device="cuda", batch_size=3)
    check_up_to_date(lora.analyze, asked, finished, monkeypatch)


def test_figures_are_redrawn_from_saved_results_alone(
    finished: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "copy"
    check_redrawn(lora.analyze, config(), finished, "kernels", out, monkeypatch)
    assert isinstance(lora.plot(Results.load(out))["spectra"], Figure)


@pytest.mark.usefixtures("undrawn")
def test_other_settings_are_refused_and_then_replaced(tmp_path: Path) -> None:
    lora.analyze(config(solvers=("ridge",)), tmp_path)
    other = config(solvers=("ridge",), ranks=(1, 2))
    with pytest.raises(UserError, match=r"ranks\[1\]: 2 asked for, 4 stored.*--overwrite"):
        lora.analyze(other, tmp_path)
    assert Results.load(tmp_path).config["ranks"] == [1, 4]
    assert lora.analyze(other, tmp_path, overwrite=True).results.config["ranks"] == [1, 2]


@pytest.mark.usefixtures("undrawn")
def test_another_tolerance_redraws_without_computing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = config(solvers=("ridge",), min_agreement=1.0, max_drop=0.0)
    assert not find(lora.analyze(strict, tmp_path).results).qualifies
    monkeypatch.setattr(study, "load_model", None)
    lax = config(solvers=("ridge",), min_agreement=0.0, max_drop=1.0)
    with pytest.raises(UserError, match="min_agreement"):
        lora.analyze(lax, tmp_path)
    outcome = lora.analyze(lax, tmp_path, overwrite=True)
    assert (find(outcome.results).best.rank, find(outcome.results).qualifies) == (1, True)
    assert "Take rank 1" in outcome.report.read_text()


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = (lora_compute, "sweep_targets")
    folder, table = check_goes_on(lora.analyze, config(), tmp_path, place, monkeypatch)
    assert folder == Path("checkpoint/seed-13")
    pd.testing.assert_frame_equal(untimed(table), untimed(lora.run(config()).table))


@pytest.mark.usefixtures("undrawn")
def test_bad_input_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, place = config(), (lora_compute, "sweep_targets")
    check_leaves_nothing(lora.analyze, asked, tmp_path / "run", place, monkeypatch)


@pytest.mark.usefixtures("undrawn")
def test_bad_input_does_not_cost_the_run_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise UserError("rank 64 exceeds a layer")

    lora.analyze(config(solvers=("ridge",)), tmp_path)
    monkeypatch.setattr(lora_study, "resolve_sets", refuse)
    with pytest.raises(UserError, match="rank 64"):
        lora.analyze(config(solvers=("ridge",), ranks=(64,)), tmp_path, overwrite=True)
    assert Results.load(tmp_path).config["ranks"] == [1, 4]


@pytest.mark.usefixtures("undrawn")
def test_a_disk_that_is_full_at_the_end_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing half-written is taken for results, and with room again the run ends as any other."""
    settings = config(solvers=("ridge",))

    def full(_: pd.DataFrame, path: Path, **__: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    (tmp_path / "settings.json").write_text(inputs.provenance.canonical_json(settings.as_dict()))
    out = tmp_path / "run"
    words = ["lora", "--config", str(tmp_path / "settings.json"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["subkern", "analyze", *words])
    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_parquet", full)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 1
    assert said.startswith("subkern: no space left for")
    assert said.endswith("what is finished is kept; make room and run the same command again")
    assert not list(out.glob("*.parquet"))
    found = lora.analyze(settings, out)
    fresh = lora.analyze(settings, tmp_path / "fresh")
    shown = ~found.results.table["metric"].str.startswith("cost.")
    pd.testing.assert_frame_equal(found.results.table[shown], fresh.results.table[shown])


@pytest.mark.usefixtures("undrawn")
def test_changed_examples_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lora.analyze(config(solvers=("ridge",)), tmp_path)

    def edited(*args: Any, **options: Any) -> list[Example]:
        return [*fake_lora.load_examples(*args, **options)[:-1], Example("new", ("other",), 0)]

    monkeypatch.setattr(inputs, "load_examples", edited)
    with pytest.raises(UserError, match=r"examples\.13\.digest"):
        lora.analyze(config(solvers=("ridge",)), tmp_path)


# --- settings ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_a_number_of_seeds_is_so_many() -> None:
    assert config(adapter_seeds=2).adapter_seeds == (0, 1)


def test_settings_survive_yaml(tmp_path: Path) -> None:
    settings = config(targets=["q_proj", "v_proj"], ranks=[4, 1], label_words=("bad", "good"))
    assert settings.ranks == (1, 4)
    (tmp_path / "config.yaml").write_text(inputs.provenance.canonical_json(settings.as_dict()))
    assert Config.from_file(tmp_path / "config.yaml") == settings
    lora.analyze(settings, tmp_path / "run")
    assert Config.from_file(tmp_path / "run" / "config.yaml") == settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 3}, "unknown setting 'rank': did you mean ranks"),
        ({"ranks": (0,)}, "ranks holds 0"),
        ({"ranks": ()}, "ranks is empty"),
        ({"solvers": ("lstm",)}, "solvers 'lstm' is unknown: use logistic, ridge, svc"),
        ({"tie": "loose"}, "tie 'loose' is unknown"),
        ({"confidence": 95}, "confidence is 95"),
        ({"min_agreement": 1.5}, "min_agreement is 1.5"),
        ({"alpha": 0}, "alpha is 0"),
        ({"adapter_seeds": 0}, "adapter_seeds is 0"),
        ({"kernel_resamples": -1}, "kernel_resamples is -1"),
        ({"task": "mrr"}, "mr"),
        ({"label_words": ["a", "b", "c"]}, "3 label words .* for the 2 labels of mr"),
        ({"train_limit": 1}, "all have one label"),
    ],
)
def test_wrong_settings_get_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        lora.run(Config.from_dict({"model": "made-up", "task": "mr"} | changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["a: [", "- 1", "task: mr"])
def test_a_wrong_settings_file_gets_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        Config.from_file(tmp_path / "c.yaml")
    assert "\n" not in str(error.value)


# --- pooling and the verdict -------------------------------------------------------------------


def seeds_table(values: Sequence[tuple[int, int, float]]) -> pd.DataFrame:
    return TABLE.tidy(
        row(value, (value - 0.1, value + 0.1), data_seed=data, adapter_seed=seed)
        for data, seed, value in values
    )


def test_one_run_keeps_its_own_interval() -> None:
    found = pool(seeds_table([(13, 0, 0.5)]))
    assert (found.mean, found.low, found.high, found.over) == (0.5, 0.4, 0.6, "examples")


@pytest.mark.parametrize(
    ("values", "means", "over"),
    [
        ([(13, 0, 0.1), (13, 1, 0.2), (13, 2, 0.6)], [0.1, 0.2, 0.6], "adapter seeds"),
        ([(13, 0, 0.1), (13, 1, 0.3), (21, 0, 0.5), (21, 1, 0.5)], [0.2, 0.5], "data seeds"),
    ],
)
def test_intervals_over_seeds_are_student_s(
    values: list[tuple[int, int, float]], means: list[float], over: str
) -> None:
    found = pool(seeds_table(values), 0.9)
    low, high = stats.ttest_1samp(means, 0).confidence_interval(0.9)
    assert found.over == over
    assert [found.mean, found.low, found.high] == pytest.approx([np.mean(means), low, high])


def test_pooling_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rows"):
        pool(TABLE.tidy([]))


def test_a_row_knows_its_columns() -> None:
    with pytest.raises(TypeError, match="sead"):
        row(1.0, sead=3)


def judged(outcomes: dict[int, tuple[float, float]], *given: Any, **changes: Any) -> Results:
    """Return results of one target set in which rank r loses and agrees so much."""
    told = {("all-linear", rank): (10 * rank, *each) for rank, each in outcomes.items()}
    return fake_lora.judged(told, *given, **changes)


BAD, GOOD = (0.1, 0.8), (0.01, 0.97)


@pytest.mark.parametrize(
    ("outcomes", "rank", "closest"),
    [
        ({1: BAD, 2: GOOD, 4: GOOD}, 2, 2),
        ({1: (0.02, 0.95)}, 1, 1),  # exactly at both tolerances
        ({1: (-0.3, 0.95), 2: GOOD}, 1, 1),  # better than full is not worse than full
        ({1: (0.03, 0.99), 2: (0.0, 0.94)}, None, 1),
        ({1: BAD, 2: (0.05, 0.9), 4: (0.06, 0.85)}, None, 2),
    ],
)
def test_the_smallest_rank_within_both_tolerances(
    outcomes: dict[int, tuple[float, float]], rank: int | None, closest: int
) -> None:
    found = find(judged(outcomes))
    assert (found.best.rank if found.qualifies else None, found.best.rank) == (rank, closest)


def test_json_is_the_answer(results: Results) -> None:
    found = json.loads(json.dumps(lora.answer(results), allow_nan=False))
    advised = find(results)
    assert found["answer"] == lora.sentence(advised)
    assert found["caveats"] == lora.caveats(advised)
    assert found["closest"] == {"targets": "all-linear", "rank": advised.best.rank}
    assert found["recommended"] == (found["closest"] if advised.qualifies else None)
    scored = {each["rank"]: each["score"]["mean"] for each in found["configurations"]}
    assert scored == {each.rank: each.score.mean for each in advised.own.line}
    assert found["solver"] == "logistic"
    assert found["full_score"]["mean"] == advised.full.mean
    assert found["zero_shot"]["mean"] == advised.zero_shot.mean
    assert "verification" not in found


def test_nineteen_of_twenty_are_95_percent() -> None:
    assert find(judged({1: (0.1 + 0.2 - 0.3 + 0.02, 1 - 1 / 20)})).qualifies


def test_the_sentence_says_what_and_why() -> None:
    good = lora.sentence(find(judged({1: BAD, 2: GOOD}))).replace("\N{NO-BREAK SPACE}", " ")
    assert good.startswith("Take rank 2 on all-linear, the cheapest within tolerance of full")
    assert "it trains 20 parameters (2.00 %)" in good
    assert "79.0 % against 80.0 % (1.0 points lower; at most 2.0 lower allowed)" in good
    assert "97.0 % of the 1000 test predictions equal" in good
    none = lora.sentence(find(judged({1: BAD, 2: (0.05, 0.97)})))
    assert none.startswith("No rank (1, 2) on all-linear is within tolerance")
    assert "Closest is rank 2" in none
    assert "It fails on the score." in none


def causes(results: Results) -> set[str]:
    """Return the caveats that hold, each of which is said in one sentence."""
    caveats = find(results).caveats
    held = {
        name: value for name, value in vars(caveats).items() if value not in (None, False, (), {})
    }
    said = lora.caveats(find(results))
    assert len(said) == len(held) - (bool(caveats.close_drop) and bool(caveats.close_agreement))
    return set(held)


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        (judged({1: GOOD}, 0.6, 0.6), "nothing_learned"),
        (judged({1: GOOD, 2: BAD}), "relapses"),
        (judged({1: GOOD}, zero=0.515), "at_chance"),
        (judged({1: GOOD}, max_drop=0.011), "few_tests"),
        (judged({1: GOOD}, adapted=(0.03, 0.96)), "adapted"),
        (judged({1: GOOD}, head="linear", head_init="probe"), "probe"),
    ],
)
def test_caveats(found: Results, cause: str) -> None:
    assert causes(found) == {cause, "one_seed"}


def test_no_caveat_without_a_cause() -> None:
    assert causes(judged({1: GOOD, 2: GOOD})) == {"one_seed"}
    assert causes(judged({1: GOOD, 2: GOOD}, adapter_seeds=(0, 1))) == set()


def test_nobody_is_told_to_avoid_lora_where_label_words_mean_nothing() -> None:
    """Of 1,000 tests one standard error at 0.5 is 1.6 points."""
    assert find(judged({1: BAD}, zero=0.52)).caveats.at_chance is None
    found = find(judged({1: BAD}, zero=0.515))
    assert found.caveats.at_chance is not None
    assert (found.caveats.at_chance.level, found.qualifies) == (0.5, False)
    assert "That is no advice against LoRA" in lora.sentence(found)
    assert "no advice against" not in lora.sentence(find(judged({1: GOOD}, zero=0.5)))
    assert find(judged({1: BAD}, zero=0.0)).caveats.at_chance is not None


def test_always_the_same_label_is_chance_too(results: Results) -> None:
    """Labels of the tests stand in the kernel: where one makes up most, that is the level."""
    kernel = results.kernels["13/full"]
    labels = np.where(np.arange(len(kernel.right_ids)) % 4 == 0, 1, 0)
    kernels = {"13/full": replace_labels(kernel, labels)}
    table = results.table.copy()
    zero = (table["kernel"] == "zero-shot") & (table["metric"] == "accuracy")
    table.loc[zero, "value"] = 0.7
    found = at_chance(replace(results, kernels=kernels, table=table))
    assert found is not None
    assert found.level == 0.75


def replace_labels(kernel: Kernel, labels: np.ndarray) -> Kernel:
    return Kernel(
        kernel.values, kernel.left_ids, kernel.right_ids, kernel.left_labels, labels,
        kernel.provenance, kernel.left_logits, kernel.right_logits,
    )  # fmt: skip


def test_what_kernels_would_name_by_the_yardstick() -> None:
    """Rank 2 gives 90 % of the labels: not enough for 95 %, but for what full gives itself."""
    plain = judged({1: BAD, 2: (0.01, 0.90)})
    assert find(plain).by_yardstick is None
    for own, named in ((0.92, (True, 2)), (0.93, (False, 2))):
        rows = [
            verified_row(own, metric="repeat_agreement", configuration="full", data_seed=13),
            verified_row(0.8, metric="trained", configuration="full", data_seed=13),
            verified_row(0.8, metric="repeat_trained", configuration="full", data_seed=13),
        ]
        found = find(replace(plain, beside={VERIFICATION: tidy(rows)}))
        assert found.by_yardstick is not None
        assert (found.by_yardstick.qualifies, found.by_yardstick.best.rank) == named
        assert found.differs_by_yardstick == named[0]
        said = any("the kernels would take rank 2" in text for text in lora.caveats(found))
        assert said == named[0]
        assert lora.as_json(found)["by_yardstick"] == (
            {"targets": "all-linear", "rank": 2} if named[0] else None
        )


def test_every_higher_rank_that_fails_is_named() -> None:
    found = find(judged({1: GOOD, 2: BAD, 4: BAD, 8: GOOD}))
    assert found.caveats.relapses == (2, 4)
    assert any("though higher: rank 2 and rank 4." in text for text in lora.caveats(found))


def test_the_error_of_f1_is_not_that_of_a_share() -> None:
    """At 0.8 of 1,000 examples that would be 1.3 points."""
    found = judged({1: GOOD}, max_drop=0.011)
    small, large = (find(with_f1(found, half)).caveats.few_tests for half in (0.01, 0.05))
    assert small is None
    assert large == pytest.approx(0.05 / stats.norm.ppf(0.975))


def test_a_close_call_is_called_one() -> None:
    found = judged({1: GOOD})
    wide = found.table.copy()
    wide.loc[wide["metric"] == "drop", "high"] = 0.05
    wide.loc[wide["metric"] == "prediction_agreement", "high"] = 1.2
    assert causes(replace(found, table=wide)) == {"close_drop", "one_seed"}
    wide.loc[wide["metric"] == "prediction_agreement", "low"] = 0.9
    assert causes(replace(found, table=wide)) == {"close_drop", "close_agreement", "one_seed"}
    close = find(replace(found, table=wide)).caveats.close_agreement
    assert close is not None
    assert (close.low, close.high) == (0.9, 1.0)  # a share ends there


# --- what is drawn and said --------------------------------------------------------------------


@pytest.mark.parametrize(
    "color",
    [
        *(stroke.color for stroke in style.strokes(6)),
        *style.rank_colors(9),
        style.INK,
        style.MUTED,
    ],
)
def test_lines_and_labels_are_dark_enough_on_white(color: str) -> None:
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)
    )
    assert 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05) >= 3  # WCAG 2, graphics


def blocks(strength: float) -> Kernel:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 6)
    features = np.concatenate(
        [strength * (2.0 * labels - 1)[:, None], rng.normal(size=(12, 40))], 1
    )
    ids = [f"e{i}" for i in range(12)]
    return Kernel((features @ features.T)[:, None, :, None], ids, ids, labels, labels)


def test_the_heatmap_is_centered_and_free_of_scale_and_shift() -> None:
    kernel = blocks(2.0)
    shifted = Kernel(7.0 * kernel.values + 1e3, kernel.left_ids, kernel.left_ids)
    values = heatmap(kernel)
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-12)
    assert np.trace(values) / 12 == pytest.approx(1)
    np.testing.assert_allclose(heatmap(shifted), values, atol=1e-9)


def test_contrast_tells_blocks_from_none() -> None:
    assert contrast(blocks(0.0)) == pytest.approx(0, abs=0.5)
    assert contrast(blocks(4.0)) > 2


def test_the_spectrum_is_a_distribution_without_the_centered_away_direction() -> None:
    shares = spectrum(blocks(1.0))
    assert len(shares) == 11
    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares) <= 0).all()
    assert 1 < effective_directions(shares) < 11


def test_what_is_shown_of_the_kernels_is_of_full_and_of_a_few_ranks() -> None:
    found = find(lora.run(config(ranks=(1, 2, 3, 4, 8), solvers=("ridge",)))).shapes
    titles = [each.title.removeprefix("LoRA ") for each in found.sorted]
    assert titles == ["full fine-tuning", "rank 1", "rank 3", "rank 8"]
    assert len(found.spectra) == 6
    assert [each.title for each in found.told] == ["full fine-tuning", "LoRA rank 1", "LoRA rank 8"]
    assert found.told[0].largest == found.spectra[0].spectrum[0]


@pytest.mark.parametrize("ranks", [(1, 4), (4,)])
def test_the_summary_fits_80_columns(results: Results, ranks: tuple[int, ...]) -> None:
    shown = results if len(ranks) == 2 else lora.run(config(ranks=ranks, solvers=("ridge",)))
    assert "zero-shot" in check_summary(lora.summary(shown), lora.sentence(find(shown)))


def test_the_real_report_in_a_browser(finished: Outcome, tmp_path: Path) -> None:
    check_in_browser(finished.report, tmp_path / "profile", images=4)


def test_the_page_says_what_was_found(results: Results) -> None:
    """The golden words: every number of a caption, and what every part of the page is about."""
    found = find(results)
    page = lora.page(results, dict.fromkeys(FIGURES, b""))
    text = " ".join(page.replace("\N{NO-BREAK SPACE}", " ").split())
    for said in (
        "<title>LoRA rank for made-up on mr</title>",
        "Which LoRA rank can learn mr, from 8 examples a label,",
        lora.sentence(found).replace("\N{NO-BREAK SPACE}", " "),
        "95 % intervals (Student's t over 3 adapter seeds, on one data split)",
        "From rank 1 to 4, CKA with full fine-tuning rises from",
        "Kernels of the 16 training examples sorted by label (terrible, great)",
        "Eigenvalue spectra",
        "Trained parameters",
        "Computing the kernels",
    ):
        assert said.replace("'", "&#39;") in text.replace("'", "&#39;"), said
    judge = found.own.judge
    ends = [judge.scores[1], judge.scores[4], judge.full]
    first, last, full = (f"{100 * each.mean:.1f} %" for each in ends)
    assert f"logistic {first} to {last} ({full})" in text
    assert f"it is {100 * found.zero_shot.mean:.1f} % (dashed)" in text
    assert f"{100 * judge.same[1].mean:.1f} % to {100 * judge.same[4].mean:.1f} %" in text
    assert text.count("<figcaption>") == 4
    assert 'alt=""' not in text
    assert "pareto" not in text


def test_the_tables_hold_every_rank_and_metric(results: Results) -> None:
    tables, cost = lora.tables(find(results))
    assert [len(table.rows) for table in tables] == [5, 4, len(METRICS), len(METRICS)]
    assert [len(table.rows) for table in cost] == [3, 7]


def test_the_report_leaves_out_what_an_asymmetric_kernel_has_not(results: Results) -> None:
    spectral = results.table["metric"].str.startswith("spectral_epsilon").to_numpy(dtype=bool)
    assert spectral.any()
    tables, _ = lora.tables(find(replace(results, table=results.table[~spectral])))
    kept = len(METRICS) - sum(name.startswith("spectral_epsilon") for name in METRICS)
    assert [len(table.rows) for table in tables[2:]] == [kept, kept]


def test_the_report_says_how_many_entries_counted_as_zero(results: Results) -> None:
    assert "zero" not in str(cost_table(costs(results)))
    recorded = {"rule": "signgd", "recorded": {"zeroed_entries": 1234}}
    noted = Kernel(np.eye(2)[:, None, :, None], ["a", "b"], ["a", "b"], provenance=recorded)
    kernels = {**results.kernels, "13/full": noted}
    found = cost_table(costs(replace(results, kernels=kernels)), "So.")
    assert found.rows[-1] == ["entries counted as zero", "1\N{NARROW NO-BREAK SPACE}234"]
    assert found.note.startswith("So. Entries counted as zero")

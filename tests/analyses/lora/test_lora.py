"""`analyze lora`: the study on a made-up model, its pooling, verdicts and words."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
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
from analyses.engine.run_folder import Results
from analyses.lora import study as lora_study
from analyses.lora.captions import captions, contrast, effective_directions
from analyses.lora.config import Config
from analyses.lora.figures import heatmap, spectrum
from analyses.lora.json_answer import as_json
from analyses.lora.numbers import full_score, same_predictions, scores, zero_shot
from analyses.lora.report import page, summary
from analyses.lora.study import LoraStudy
from analyses.lora.table import COLUMNS, row, tidy
from analyses.lora.text import caveats, sentence
from analyses.lora.verdict import recommend
from analyses.show import style
from analyses.show.study_page import cost_table
from subkern.agreement import METRICS, cka
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.solvers import make_solver
from subkern.tasks.catalogue import Task
from subkern.tasks.examples import Example
from tests.support import fake_lora
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

QUICK: dict[str, Any] = {"resamples": 20, "kernel_resamples": 3}


def load_examples(
    task: Task, source: str, *, split: str, shots: int, seed: int, limit: int | None
) -> list[Example]:
    """Stand in for `subkern.tasks.examples.load_examples`."""
    count = {"train": shots * len(task.labels), "dev": 20, "test": 60}[split]
    return [
        Example(f"{split}-{i}", (f"text {i} of {seed}",), i % len(task.labels))
        for i in range(limit or count)
    ]


@pytest.fixture(scope="module", autouse=True)
def _made_up() -> Iterator[None]:
    """Put made-up examples, model and sweep in place of the real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "load_model", fake_lora.load_model)
        patch.setattr(lora_study, "sweep_targets", fake_lora.sweep_targets)
        patch.setattr(lora_study, "resolve_sets", lambda *_: None)
        patch.setattr(lora_study, "resolve", fake_lora.resolve)
        patch.setattr(inputs, "load_examples", load_examples)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures, which take seconds, where a test is not about them."""
    monkeypatch.setattr(lora, "figures", lambda _: {})


def config(**changes: Any) -> Config:
    return Config(
        **{"model": "made-up", "task": "mr", "data": "x", "ranks": (1, 4), "shots": 8, **QUICK}
        | changes
    )


@pytest.fixture(scope="module")
def results() -> Results:
    return lora.run(config())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> lora.Outcome:
    """Return a study in its run directory; tests leave it as it is."""
    return lora.analyze(config(), tmp_path_factory.mktemp("run"), command="subkern x")


# --- computing ---------------------------------------------------------------------------------


def test_the_table_is_tidy_and_complete(results: Results) -> None:
    table = results.table
    assert {name: str(kind) for name, kind in table.dtypes.items()} == COLUMNS
    key = [name for name in COLUMNS if name not in ("value", "low", "high")]
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
    assert set(lora.plot(trec)) == set(lora.plot(mrpc)) == set(captions(trec))


def test_data_seeds_are_separate_studies(results: Results) -> None:
    seen: list[tuple[int, int]] = []
    both = lora.run(
        config(data_seeds=(13, 21), solvers=("ridge",)), lambda *done: seen.append(done)
    )
    assert len(seen) == 2
    assert {int(seed) for seed in both.table["data_seed"]} == {13, 21}
    assert same_predictions(both, "ridge")[1].over == "data seeds"
    assert same_predictions(results, "ridge")[1].over == "adapter seeds"
    assert full_score(results, "ridge").over == "examples"


# --- the run directory -------------------------------------------------------------------------


def test_analyze_writes_everything(finished: lora.Outcome) -> None:
    check_written(finished, captions(finished.results), kernels=2 + 2 * 3)


def test_the_same_command_finds_it_done(
    finished: lora.Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(device="cuda", batch_size=3)
    check_up_to_date(lora.analyze, asked, finished, monkeypatch)


def test_figures_are_redrawn_from_saved_results_alone(
    finished: lora.Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert recommend(lora.analyze(strict, tmp_path).results).rank is None
    monkeypatch.setattr(study, "load_model", None)
    lax = config(solvers=("ridge",), min_agreement=0.0, max_drop=1.0)
    with pytest.raises(UserError, match="min_agreement"):
        lora.analyze(lax, tmp_path)
    outcome = lora.analyze(lax, tmp_path, overwrite=True)
    assert recommend(outcome.results).rank == 1
    assert "Take rank 1" in outcome.report.read_text()


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = (lora_study, "sweep_targets")
    folder, table = check_goes_on(lora.analyze, config(), tmp_path, place, monkeypatch)
    assert folder == Path("checkpoint/seed-13")
    pd.testing.assert_frame_equal(untimed(table), untimed(lora.run(config()).table))


@pytest.mark.usefixtures("undrawn")
def test_bad_input_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, place = config(), (lora_study, "sweep_targets")
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
        return [*load_examples(*args, **options)[:-1], Example("new", ("other",), 0)]

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
        ({"adapter_seeds": 0}, "adapter_seeds is empty"),
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
    return tidy(
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
        pool(tidy([]))


def test_a_row_knows_its_columns() -> None:
    with pytest.raises(TypeError, match="sead"):
        row(1.0, sead=3)


def judged(
    outcomes: dict[int, tuple[float, float]],
    full: float = 0.8,
    zero: float = 0.6,
    adapted: tuple[float, float] = (0.0, 1.0),
    **changes: Any,
) -> Results:
    """Return results in which rank r scores full - drop and agrees so much: r -> (drop, share)."""
    settings = config(ranks=tuple(outcomes), solvers=("ridge",), adapter_seeds=(0,), **changes)
    test: dict[str, Any] = {"data_seed": 13, "split": "test"}
    targets: dict[str, Any] = {**test, "solver": "ridge", "reference": "full"}
    rows = [
        row(zero, kernel="zero-shot", metric="accuracy", **test),
        row(0.97, kernel="targets", reference="full", split="train", metric="cka"),
        row(adapted[0], kernel="targets", metric="drop", **targets),
        row(adapted[1], kernel="targets", metric="prediction_agreement", **targets),
        row(full, kernel="full", solver="ridge", metric="accuracy", **test),
    ]
    for rank, (drop, share) in outcomes.items():
        about = {**test, "kernel": "lora", "solver": "ridge", "rank": rank, "adapter_seed": 0}
        rows += [
            row(full - drop, metric="accuracy", **about),
            row(drop, (drop, drop), metric="drop", reference="full", **about),
            row(share, (share, share), metric="prediction_agreement", reference="full", **about),
        ]
    inputs = {
        "task": {"name": "mr", "metric": "accuracy"},
        "examples": {"13": {"train": 32, "dev": 32, "test": 1000}},
    }
    return Results("lora", settings.as_dict(), inputs, tidy(rows))


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
    found = recommend(judged(outcomes))
    assert (found.rank, found.closest, found.chosen.rank) == (rank, closest, closest)


def test_json_is_the_answer(results: Results) -> None:
    found = json.loads(json.dumps(as_json(results), allow_nan=False))
    advised = recommend(results)
    assert found["answer"] == lora.sentence(results)
    assert found["closest"] == {"targets": "all-linear", "rank": advised.closest}
    assert found["recommended"] == (found["closest"] if advised.rank else None)
    scored = {each["rank"]: each["score"]["mean"] for each in found["configurations"]}
    assert scored == {v.rank: v.score.mean for v in advised.verdicts}
    assert "verification" not in found


def test_nineteen_of_twenty_are_95_percent() -> None:
    assert recommend(judged({1: (0.1 + 0.2 - 0.3 + 0.02, 1 - 1 / 20)})).rank == 1


def test_the_sentence_says_what_and_why() -> None:
    good = sentence(judged({1: BAD, 2: GOOD})).replace("\N{NO-BREAK SPACE}", " ")
    assert good.startswith("Take rank 2, the smallest rank within tolerance of full fine-tuning")
    assert "79.0 % against 80.0 % (1.0 points lower; at most 2.0 lower allowed)" in good
    assert "97.0 % of the 1000 test predictions equal" in good
    none = sentence(judged({1: BAD, 2: (0.05, 0.97)}))
    assert none.startswith("No rank from 1 to 2 is within tolerance")
    assert "Rank 2 is closest" in none
    assert "It fails on the score." in none


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (judged({1: GOOD}, full=0.6, zero=0.6), "does not improve on zero-shot"),
        (judged({1: GOOD, 2: BAD}), "Rank 2, though higher, is not within tolerance"),
        (judged({1: GOOD, 2: BAD, 4: BAD}), "Ranks 2 and 4, though higher, are not"),
        (judged({1: GOOD}, max_drop=0.011), "standard error"),
        (judged({1: GOOD}, adapted=(0.03, 0.96)), "itself not within tolerance"),
        (judged({1: GOOD}), "One adapter seed and one data seed"),
    ],
)
def test_caveats(found: Results, said: str) -> None:
    assert any(said in text for text in caveats(found))


def test_the_error_of_f1_is_not_that_of_a_share() -> None:
    """At 0.8 of 1,000 examples that would be 1.3 points."""
    found = judged({1: GOOD}, max_drop=0.011)
    few = [[s for s in caveats(with_f1(found, half)) if "are few" in s] for half in (0.01, 0.05)]
    assert not few[0]
    assert "one standard error of the full kernel's F1 is 2.6 points" in few[1][0]


def test_no_caveat_without_a_cause() -> None:
    only_one = caveats(judged({1: GOOD, 2: GOOD}))
    assert len(only_one) == 1  # that of one seed


def test_a_close_call_is_called_one() -> None:
    found = judged({1: GOOD})
    wide = found.table.copy()
    wide.loc[wide["metric"] == "drop", "high"] = 0.05
    assert not any("close call" in text for text in caveats(found))
    assert any(
        "close call" in text for text in caveats(Results("lora", found.config, found.inputs, wide))
    )


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


def test_direct_labels_never_overlap() -> None:
    with style.figure_style():
        figure, axes = plt.subplots(figsize=(4.8, 2))
    axes.set_ylim(0, 1)
    style.settle(figure)
    wanted = [(1.0, y, f"{y}\nsecond line" if y == 0.5 else str(y), "k") for y in (0, 0.49, 0.5, 1)]
    style.direct_labels(axes, wanted)
    figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    plt.close(figure)
    assert len(boxes) == 4
    assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))
    assert boxes[-1].y1 <= axes.bbox.y1 + 1


def blocks(strength: float) -> Kernel:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 6)
    features = np.concatenate(
        [strength * (2.0 * labels - 1)[:, None], rng.normal(size=(12, 40))], 1
    )
    ids = [f"e{i}" for i in range(12)]
    return Kernel((features @ features.T)[:, None, :, None], ids, ids, labels, labels)


def test_the_heatmap_is_centred_and_free_of_scale_and_shift() -> None:
    kernel = blocks(2.0)
    shifted = Kernel(7.0 * kernel.values + 1e3, kernel.left_ids, kernel.left_ids)
    values = heatmap(kernel)
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-12)
    assert np.trace(values) / 12 == pytest.approx(1)
    np.testing.assert_allclose(heatmap(shifted), values, atol=1e-9)


def test_contrast_tells_blocks_from_none() -> None:
    assert contrast(blocks(0.0)) == pytest.approx(0, abs=0.5)
    assert contrast(blocks(4.0)) > 2


def test_the_spectrum_is_a_distribution_without_the_centred_away_direction() -> None:
    shares = spectrum(blocks(1.0))
    assert len(shares) == 11
    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares) <= 0).all()
    assert 1 < effective_directions(blocks(1.0)) < 11


def test_captions_hold_the_numbers_they_show(results: Results) -> None:
    found = {name: caption.text for name, caption in captions(results).items()}
    solver = results.config["solvers"][0]
    for value in (full_score(results, solver), scores(results, solver)[4], zero_shot(results)):
        assert f"{100 * value.mean:.1f}" in found["accuracy"]
    assert f"{100 * same_predictions(results, solver)[1].mean:.1f}" in found["agreement"]
    assert "16 training examples sorted by label (terrible, great)" in found["kernels"]
    assert all(caption.alt for caption in captions(results).values())


@pytest.mark.parametrize("ranks", [(1, 4), (4,)])
def test_the_summary_fits_80_columns(results: Results, ranks: tuple[int, ...]) -> None:
    shown = results if len(ranks) == 2 else lora.run(config(ranks=ranks, solvers=("ridge",)))
    assert "zero-shot" in check_summary(summary(shown), sentence(shown))


def test_the_real_report_in_a_browser(finished: lora.Outcome, tmp_path: Path) -> None:
    check_in_browser(finished.report, tmp_path / "profile", images=4)


def test_the_report_answers_before_it_explains(results: Results) -> None:
    found = page(results, {})
    assert found.answer == sentence(results)
    assert found.settings["ranks"] == "1, 4"
    assert [len(table.rows) for table in found.tables] == [5, 4, len(METRICS), len(METRICS)]


def test_the_report_leaves_out_what_an_asymmetric_kernel_has_not(results: Results) -> None:
    spectral = results.table["metric"].str.startswith("spectral_epsilon").to_numpy(dtype=bool)
    assert spectral.any()
    found = page(replace(results, table=results.table[~spectral]), {})
    kept = len(METRICS) - sum(name.startswith("spectral_epsilon") for name in METRICS)
    assert [len(table.rows) for table in found.tables][2:] == [kept, kept]


def test_the_report_says_how_many_entries_counted_as_zero(results: Results) -> None:
    assert "zero" not in str(cost_table(results))
    recorded = {"rule": "signgd", "recorded": {"zeroed_entries": 1234}}
    noted = Kernel(np.eye(2)[:, None, :, None], ["a", "b"], ["a", "b"], provenance=recorded)
    found = cost_table(replace(results, kernels={**results.kernels, "13/full": noted}), "So.")
    assert found.rows[-1] == ["entries counted as zero", "1\N{NARROW NO-BREAK SPACE}234"]
    assert found.note.startswith("So. Entries counted as zero")

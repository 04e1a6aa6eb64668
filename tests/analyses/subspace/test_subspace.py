"""`analyze subspace`: the study on a made-up model, its theory, its answer and its words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

import cli
from analyses import study
from analyses.engine import inputs
from analyses.engine.long_table import cells
from analyses.engine.run_folder import Results
from analyses.engine.settings import ASYMMETRIC_CLASSIFIERS
from analyses.subspace import distortion
from analyses.subspace import kernels as subspace_kernels
from analyses.subspace.captions import captions
from analyses.subspace.cautions import caveats
from analyses.subspace.config import Config
from analyses.subspace.dimension import crossing, needed
from analyses.subspace.figures import short
from analyses.subspace.json_answer import as_json
from analyses.subspace.measure import AGREEMENT
from analyses.subspace.numbers import (
    agreement,
    families,
    full_score,
    kinds,
    lora,
    same_predictions,
    scores,
)
from analyses.subspace.report import page, summary
from analyses.subspace.study import SubspaceStudy
from analyses.subspace.table import COLUMNS, row, tidy
from analyses.subspace.text import dimensions, preserved, sentence, theory
from analyses.subspace.verdict import as_dimension, calibrate, fewest, front
from subkern.agreement import cka
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.projections.theory import jl_bound, variance
from subkern.tasks.catalogue import Task
from subkern.tasks.examples import Example
from tests.support import fake_lora, fake_subspace
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

subspace = SubspaceStudy()

DIMS = (2, 16, 128)


def load_examples(
    task: Task, source: str, *, split: str, shots: int, seed: int, limit: int | None
) -> list[Example]:
    """Stand in for `subkern.tasks.examples.load_examples`."""
    count = {"train": shots * len(task.labels), "dev": 12, "test": 40}[split]
    return [
        Example(f"{split}-{seed}-{i}", (f"text {i}",), i % len(task.labels))
        for i in range(limit or count)
    ]


@pytest.fixture(scope="module", autouse=True)
def _made_up() -> Iterator[None]:
    """Put made-up examples, model and kernels in place of the real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "load_model", fake_lora.load_model)
        patch.setattr(inputs, "load_examples", load_examples)
        patch.setattr(subspace_kernels, "sweep_layers", lambda *_: None)
        for name in ("sweep_dimensions", "sweep_lora", "compute_kernel", "count_parameters"):
            patch.setattr(subspace_kernels, name, getattr(fake_subspace, name))
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures, which take seconds, where a test is not about them."""
    monkeypatch.setattr(subspace, "figures", lambda _: {})


def config(**changes: Any) -> Config:
    settings: dict[str, Any] = {
        "model": "made-up", "task": "mr", "data": "x", "shots": 8, "dims": DIMS,
        "kinds": ("gaussian", "rademacher"), "ranks": (1, 4), "solvers": ("ridge", "svc"),
        "resamples": 50, "max_dense": 1000,
    }  # fmt: skip
    return Config.from_dict(settings | changes)


def small(**changes: Any) -> Config:
    """Return settings of a study that takes a second."""
    few: dict[str, Any] = {
        "kinds": ("gaussian",), "projection_seeds": 2, "adapter_seeds": 1, "ranks": (1,),
        "solvers": ("ridge",), "methods": ("bias",),
    }  # fmt: skip
    return config(**few | changes)


@pytest.fixture(scope="module")
def results() -> Results:
    return subspace.run(config())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> subspace.Outcome:
    """Return a study in its run directory; tests leave it as it is."""
    return subspace.analyze(config(), tmp_path_factory.mktemp("run"), command="subkern x")


# --- computing ---------------------------------------------------------------------------------


def test_its_time_is_that_of_all_runs_of_its_kernels(results: Results) -> None:
    took = results.table[results.table["metric"] == "cost.seconds"]["value"]
    methods = results.table[results.table["metric"].str.fullmatch(r"cost\..*\.seconds")]["value"]
    assert took.item() >= methods.sum() >= 1000


def test_the_table_is_tidy_and_complete(results: Results) -> None:
    table = results.table
    assert {name: str(kind) for name, kind in table.dtypes.items()} == COLUMNS
    key = [name for name in COLUMNS if name not in ("value", "low", "high")]
    assert not table.duplicated(key).any()
    draws = len(DIMS) * 5 * 2
    random = cells(table, kernel="random", metric="cka")
    assert len(random) == draws
    assert set(cells(table, kernel="lora")["metric"]) == {
        *AGREEMENT, "accuracy", "prediction_agreement",
    }  # fmt: skip
    scored = cells(table, split="test", metric="accuracy")
    assert len(scored) == 2 + 2 * (1 + draws + 2 * 3 + 2)
    assert results.inputs["methods"] == {"bias": 50, "ia3": 30}
    assert list(results.inputs["left_out"]) == ["norm"]


def test_the_numbers_are_those_of_the_library(results: Results) -> None:
    full, bias = results.kernels["13/full"], results.kernels["13/method-bias"]
    train = list(full.left_ids)
    value = cells(results.table, metric="cka", method="bias")["value"].item()
    assert value == cka(full.select(right=train), bias.select(right=train))
    assert set(results.kernels) == {
        "13/full", "13/method-bias", "13/method-ia3",
        *(f"13/lora-rank%20{rank}-s{seed}" for rank in (1, 4) for seed in range(3)),
    }  # fmt: skip


def test_agreement_grows_with_the_dimension(results: Results) -> None:
    for family in [*kinds(results), *lora(results)]:
        values = [value.mean for value in agreement(results, family).values()]
        assert values == sorted(values)
        assert values[-1] < 1


def test_multi_class_f1_and_own_tuning() -> None:
    trec = subspace.run(small(task="trec", ranks=(), methods=()))
    assert trec.kernels["13/full"].num_logits == 6
    assert [family.name for family in families(trec)] == ["gaussian"]
    mrpc = subspace.run(small(task="MRPC", tuning="each"))
    assert set(cells(mrpc.table, kernel="constant")["metric"]) == {"f1"}
    for found in (trec, mrpc):
        assert set(subspace.plot(found)) == set(captions(found))
        assert page(found, {}).answer


def test_the_error_of_f1_is_not_that_of_a_share(results: Results) -> None:
    """At 0.8 of 40 examples that would be 6.3 points, of a margin of 8."""
    table = results.table.copy()
    full = (table["kernel"] == "full") & (table["metric"] == "accuracy")
    table.loc[full, "value"] = 0.8
    scored = replace(results, table=table)
    few = [
        [text for text in caveats(found) if "test examples are few" in text]
        for found in (scored, with_f1(scored, 0.01), with_f1(scored, 0.196))
    ]
    assert "one standard error of the full kernel's accuracy is 6.3 points" in few[0][0]
    assert not few[1]
    assert "one standard error of the full kernel's F1 is 10.0 points" in few[2][0]


def test_several_data_seeds_are_the_units_of_the_intervals() -> None:
    both = subspace.run(small(data_seeds=(13, 21)))
    gaussian = kinds(both)[0]
    assert scores(both, gaussian)[2].over == "data seeds"
    assert needed(both, gaussian).first == 2
    assert not any("One data split" in text for text in caveats(both))


def test_a_sign_rule_measures_no_distortions() -> None:
    signs = subspace.run(small(rule="signgd"))
    assert not signs.table["metric"].str.contains("distortion").any()
    assert set(subspace.plot(signs)) == {"preservation", "dimension"} == set(captions(signs))
    assert calibrate(signs, kinds(signs)[0]) is None
    assert any("Distortions were not measured" in text for text in caveats(signs))
    assert "variance formula" not in sentence(signs)


# --- the run directory -------------------------------------------------------------------------


def test_analyze_writes_everything(finished: subspace.Outcome) -> None:
    check_written(finished, captions(finished.results), kernels=1 + 2 * 3 + 2)


def test_the_same_command_finds_it_done(
    finished: subspace.Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(device="cuda", batch_size=3)
    check_up_to_date(subspace.analyze, asked, finished, monkeypatch)


def test_figures_are_redrawn_from_saved_results_alone(
    finished: subspace.Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "copy"
    check_redrawn(subspace.analyze, config(), finished, "dimension", out, monkeypatch)
    assert isinstance(subspace.plot(Results.load(out))["distortion"], Figure)


@pytest.mark.usefixtures("undrawn")
def test_another_share_redraws_without_computing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subspace.analyze(small(), tmp_path)
    monkeypatch.setattr(study, "load_model", None)
    with pytest.raises(UserError, match="share"):
        subspace.analyze(small(share=0.5), tmp_path)
    outcome = subspace.analyze(small(share=0.5), tmp_path, overwrite=True)
    assert "50 % of the full" in outcome.report.read_text().replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.usefixtures("undrawn")
def test_other_settings_are_refused_and_then_replaced(tmp_path: Path) -> None:
    subspace.analyze(small(), tmp_path)
    with pytest.raises(UserError, match=r"dims: \[2,64\] asked for, .*--overwrite"):
        subspace.analyze(small(dims=(2, 64)), tmp_path)
    with pytest.raises(UserError, match="no parameter matches"):
        subspace.analyze(small(methods=("norm",)), tmp_path, overwrite=True)
    assert Results.load(tmp_path).config["dims"] == list(DIMS)
    replaced = subspace.analyze(small(dims=(2, 64)), tmp_path, overwrite=True)
    assert replaced.results.config["dims"] == [2, 64]


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = (subspace_kernels, "compute_kernel")
    folder, table = check_goes_on(subspace.analyze, small(), tmp_path, place, monkeypatch)
    assert folder == Path("checkpoint/seed-13/method-0")
    pd.testing.assert_frame_equal(untimed(table), untimed(subspace.run(small()).table))


@pytest.mark.usefixtures("undrawn")
def test_bad_input_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, place = small(), (subspace_kernels, "compute_kernel")
    check_leaves_nothing(subspace.analyze, asked, tmp_path / "run", place, monkeypatch)


# --- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": (2, 4)}, "unknown setting 'dim': did you mean dims"),
        ({"dims": (4,)}, "dims holds 4 only"),
        ({"dims": (0, 4)}, "dims holds 0"),
        ({"dims": (2, 601)}, "dims holds 601, the model has 600 parameters"),
        ({"kinds": ("gauss",)}, "kinds 'gauss' is unknown: use srht"),
        ({"max_dense": 8}, "kind gaussian is tried up to max_dense, 8"),
        ({"kinds": ()}, "kinds is empty"),
        ({"projection_seeds": 0}, "projection_seeds is empty"),
        ({"methods": ("biases",)}, "unknown subspace 'biases'"),
        ({"methods": ("norm",)}, "no parameter matches"),
        ({"rule": "adamw"}, "unknown rule 'adamw'"),
        ({"rule": "asymmetric_signgd", "solvers": ("svc",)}, "svc needs a symmetric kernel"),
        ({"share": 0}, "share is 0"),
        ({"min_cka": 1.5}, "min_cka is 1.5"),
        ({"task": "mrr"}, "mr"),
    ],
)
def test_wrong_settings_get_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        subspace.run(config(**changes))
    assert "\n" not in str(error.value)


def test_asymmetric_rules_bring_their_own_classifiers() -> None:
    asked = Config(model="m", task="mr", rule="asymmetric_signgd")
    assert asked.solvers == ASYMMETRIC_CLASSIFIERS


@pytest.mark.usefixtures("undrawn")
def test_settings_survive_yaml(tmp_path: Path) -> None:
    settings = small(targets=["q_proj", "v_proj"], dims=[16, 2], methods=["bias", "vera:r=4"])
    assert settings.dims == (2, 16)
    subspace.analyze(settings, tmp_path)
    assert Config.from_file(tmp_path / "config.yaml") == settings


# --- the dimension needed ----------------------------------------------------------------------


def scored(*runs: list[float], full: float = 0.8, zero: float = 0.5, **changes: Any) -> Results:
    """Return results in which random subspaces of 2, 16 and 128 dimensions score so, by draw."""
    settings = config(
        kinds=("gaussian",), ranks=(), methods=(), solvers=("ridge",),
        projection_seeds=len(runs), **changes,
    )  # fmt: skip
    test: dict[str, Any] = {"data_seed": 13, "split": "test", "metric": "accuracy"}
    rows = [
        row(zero, kernel="zero-shot", **test),
        row(0.5, kernel="constant", **test),
        row(full, kernel="full", method="full", parameters=600, solver="ridge", **test),
    ]
    for seed, values in enumerate(runs):
        for dim, value in zip(DIMS, values, strict=True):
            cell = {"kernel": "random", "method": "gaussian", "parameters": dim, "seed": seed}
            rows.append(row(value, **cell, solver="ridge", **test))
    inputs = {
        "task": {"name": "mr", "metric": "accuracy"},
        "examples": {"13": {"train": 32, "dev": 32, "test": 1000}},
        "methods": {},
        "left_out": {},
    }
    return Results("subspace", settings.as_dict(), inputs, tidy(rows))


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ([0.5, 0.72, 0.8], 16.0),  # exactly at 90 % of 0.8
        ([0.5, 0.67, 0.77], 2.0**5.5),  # half way between 16 and 128 on the log axis
        ([0.75, 0.5, 0.8], 2.0),
        ([0.5, 0.6, 0.7], inf),
    ],
)
def test_the_dimension_is_where_the_mean_first_reaches_the_target(
    values: list[float], size: float
) -> None:
    found = scored(values, values)
    answer = needed(found, kinds(found)[0])
    assert answer.target == pytest.approx(0.72)
    assert answer.size == pytest.approx(size)
    assert (answer.low, answer.high) == pytest.approx((size, size))  # two equal draws
    assert answer.found == (size < inf)


def test_the_gain_is_over_the_better_way_without_training() -> None:
    found = scored([0.5, 0.74, 0.8], zero=0.6)
    gain = needed(found, kinds(found)[0], "gain")
    assert gain.target == pytest.approx(0.6 + 0.9 * 0.2)
    assert 16 < gain.size < 128
    assert isnan(gain.low)  # one draw
    useless = scored([0.5, 0.74, 0.8], zero=0.8)
    assert isnan(needed(useless, kinds(useless)[0], "gain").size)
    assert any("does not improve on no training" in text for text in caveats(useless))
    assert "gains nothing over no training" in dimensions(useless)


def test_the_interval_holds_what_resampled_draws_give() -> None:
    draws = [[0.5, 0.66, 0.8], [0.5, 0.70, 0.8], [0.5, 0.76, 0.8], [0.5, 0.73, 0.8]]
    found = scored(*draws)
    answer = needed(found, kinds(found)[0])
    single = [needed(scored(draw), kinds(found)[0]).size for draw in draws]
    assert min(single) <= answer.low < answer.size < answer.high <= max(single)


def test_a_relapse_is_told() -> None:
    found = scored([0.75, 0.5, 0.8])
    assert needed(found, kinds(found)[0]).relapses == (16,)
    assert any("At 16 dimensions the mean score is below" in text for text in caveats(found))


def test_a_target_within_reach_of_no_training_is_told() -> None:
    found = scored([0.75, 0.76, 0.8], zero=0.73)
    assert any("No training at all reaches" in text for text in caveats(found))


def test_a_level_is_crossed_between_neighbours() -> None:
    sizes = np.array([2, 8])
    assert crossing(sizes, np.array([0.0, 1.0]), 0.5) == 2.0
    assert crossing(sizes, np.array([0.6, 1.0]), 0.5) == 1.0
    assert crossing(sizes, np.array([0.0, 0.4]), 0.5) == 4.0  # 1 beyond log2 of the last


# --- what is preserved -------------------------------------------------------------------------


def test_the_thriftiest_method_comes_first(results: Results) -> None:
    found = fewest(results)
    assert [each.size for each in found] == sorted(each.size for each in found)
    least = min(
        (size, family.name)
        for family in families(results)
        for size, value in agreement(results, family).items()
        if value.mean >= 0.9
    )
    assert found[0].size <= least[0]
    assert found[0].family.name in preserved(results)
    assert "not reached by" in preserved(results)  # bias: 50 of 600 features


def test_no_smaller_method_agrees_better_than_the_front(results: Results) -> None:
    points = [
        (size, value.mean)
        for family in families(results)
        for size, value in agreement(results, family).items()
    ]
    kept = [(size, agreement(results, family)[size].mean) for family, size in front(results)]
    assert kept == sorted(kept)
    for size, value in kept:
        assert not any(s <= size and v > value for s, v in points)


def test_a_method_is_worth_as_many_random_dimensions(results: Results) -> None:
    curve = agreement(results, kinds(results)[0])
    assert as_dimension(results, curve[16].mean) == pytest.approx(16)
    assert as_dimension(results, 0.9999) == inf
    assert as_dimension(results, nan) == inf


def test_dense_kinds_stop_at_their_own_dimension() -> None:
    found = subspace.run(small(kinds=("srht", "gaussian"), max_dense=16))
    srht, gaussian = kinds(found)
    assert list(agreement(found, srht)) == list(DIMS)
    assert list(agreement(found, gaussian)) == [2, 16]
    assert needed(found, gaussian).last == 16
    assert any("gaussian projections were tried up to 16" in text for text in caveats(found))
    assert set(subspace.plot(found)) == set(captions(found))
    ranges = [calibrate(found, kind) for kind in (srht, gaussian)]
    assert ranges[0] is not None
    assert ranges[1] is not None
    assert (ranges[0].low, ranges[0].high) != (ranges[1].low, ranges[1].high)  # each its own


# --- theory ------------------------------------------------------------------------------------


def random_kernel(rows: np.ndarray, maps: np.ndarray) -> Kernel:
    """Return the kernel of gradients ``rows [n, c, p]`` under ``maps [p, d]``."""
    found = rows @ maps
    ids = [f"e{i}" for i in range(len(rows))]
    return Kernel(np.einsum("iap,jbp->iajb", found, found), ids, ids)


@pytest.fixture(scope="module")
def gradients() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(6, 2, 50)) + 0.5 * rng.normal(size=50)


@pytest.mark.parametrize("centred", [False, True])
def test_distortions_are_what_they_are_called(gradients: np.ndarray, centred: bool) -> None:
    maps = np.random.default_rng(1).normal(size=(50, 8)) / 8**0.5
    pairs = distortion.pairs(random_kernel(gradients, np.eye(50)), centred=centred)
    found = distortion.distortions(pairs, [random_kernel(gradients, maps)], 8)
    rows = gradients - gradients.mean(0) if centred else gradients
    flat = rows.reshape(12, 50)
    expected = [
        ((u @ maps) @ (v @ maps) - u @ v) / np.linalg.norm(u) / np.linalg.norm(v)
        for i, u in enumerate(flat)
        for v in flat[i:]
    ]
    np.testing.assert_allclose(found.errors, [expected], atol=1e-12)
    formula = [
        variance("gaussian", u @ u, v @ v, u @ v, 8) ** 0.5 / np.linalg.norm(u) / np.linalg.norm(v)
        for i, u in enumerate(flat)
        for v in flat[i:]
    ]
    np.testing.assert_allclose(found.sigma, formula)


def test_gradients_of_no_length_have_no_distortion(gradients: np.ndarray) -> None:
    silent = gradients.copy()
    silent[2] = 0.0
    pairs = distortion.pairs(random_kernel(silent, np.eye(50)))
    assert len(pairs.products) == 10 * 11 / 2
    assert (pairs.norms > 0).all()


def test_the_bound_is_the_one_of_the_library(gradients: np.ndarray) -> None:
    pairs = distortion.pairs(random_kernel(gradients, np.eye(50)))
    found = distortion.distortions(pairs, [random_kernel(gradients, np.eye(50))], 500)
    assert jl_bound(found.epsilon, 500) == pytest.approx(0.05)
    assert np.isnan(distortion.distortions(pairs, [], 100).epsilon)


def test_the_formula_holds_where_it_should_and_fails_where_it_should(
    gradients: np.ndarray,
) -> None:
    dims, draws = (4, 32), 40
    pairs = distortion.pairs(random_kernel(gradients, np.eye(50)))
    low, high = distortion.expected_ratio(pairs, dims, draws, 0.999)
    rng = np.random.default_rng(2)

    def ratio(scale: float) -> float:
        squares = []
        for dim in dims:
            maps = [scale * rng.normal(size=(50, dim)) / dim**0.5 for _ in range(draws)]
            kernels = [random_kernel(gradients, each) for each in maps]
            squares.append(np.mean(distortion.distortions(pairs, kernels, dim).ratios ** 2))
        return float(np.mean(squares)) ** 0.5

    assert low < 1 < high
    assert high - low < 0.6
    assert low < ratio(1.0) < high
    assert not low < ratio(1.6) < high  # a projection with a wrong scale


def test_nearly_parallel_gradients_share_their_distortion(gradients: np.ndarray) -> None:
    constant = gradients + 100.0
    rng = np.random.default_rng(3)
    draws = [rng.normal(size=(50, 8)) / 8**0.5 for _ in range(6)]

    def shared(*, centred: bool) -> float:
        pairs = distortion.pairs(random_kernel(constant, np.eye(50)), centred=centred)
        kernels = [random_kernel(constant, maps) for maps in draws]
        return distortion.distortions(pairs, kernels, 8).shared

    assert shared(centred=False) > 0.99
    assert shared(centred=True) < 0.5


def test_the_answer_says_whether_theory_holds(results: Results) -> None:
    for kind in kinds(results):
        for centred in (False, True):
            found = calibrate(results, kind, centred=centred)
            assert found is not None
            assert found.holds
            assert found.inside_bound > 0.95
            assert found.slack > 1
    assert theory(results) == (
        "The variance formula holds for every kind of projection, raw and centred."
    )
    table = results.table.copy()
    wrong = (table["metric"] == "centred_distortion.ratio") & (table["method"] == "rademacher")
    table.loc[wrong, "value"] = 2.5
    said = theory(Results("subspace", results.config, results.inputs, table))
    assert "holds for gaussian; it is off for rademacher (centred 2.50" in said
    table.loc[table["metric"].str.endswith("distortion.ratio"), "value"] *= 9
    said = theory(Results("subspace", results.config, results.inputs, table))
    assert "off for every kind" in said


# --- what is drawn and said --------------------------------------------------------------------


def test_captions_hold_the_numbers_they_show(results: Results) -> None:
    found = {name: caption.text for name, caption in captions(results).items()}
    gaussian = kinds(results)[0]
    assert f"{100 * full_score(results).mean:.1f}" in found["dimension"]
    assert f"{100 * scores(results, gaussian)[128].mean:.1f}" in found["dimension"]
    assert f"{agreement(results, gaussian)[128].mean:.2f} with 128" in found["preservation"]
    assert f"{100 * same_predictions(results, gaussian)[128].mean:.0f}" in found["preservation"]
    raw = calibrate(results, gaussian)
    assert raw is not None
    assert f"{raw.ratio:.2f}" in found["distortion"]
    assert all(caption.alt for caption in captions(results).values())


def test_the_distortion_caption_gives_the_bound_where_there_is_one(results: Results) -> None:
    table = results.table.copy()
    epsilon = (table["metric"] == "centred_distortion.epsilon").to_numpy(dtype=bool)
    assert epsilon.any()
    for value, said in ((nan, "bounds nothing at so few. The"), (0.25, "at 95 % is ±0.250. The")):
        table.loc[epsilon, "value"] = value
        shown = captions(replace(results, table=table))["distortion"]
        assert said in shown.text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("value", "text"), [(2, "2"), (4096, "4096"), (1e5, "100k"), (1e7, "10M"), (1e9, "1G")]
)
def test_numbers_on_an_axis_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_the_summary_fits_80_columns(results: Results) -> None:
    check_summary(summary(results), sentence(results))


def test_the_report_answers_before_it_explains(results: Results) -> None:
    found = page(results, {})
    assert found.answer == sentence(results)
    assert found.settings["dims"] == "2, 16, 128"
    sizes = [len(table.rows) for table in found.tables]
    assert sizes == [3, 5, 2 + 2 + 3 + 2, len(AGREEMENT), 4, 3, 3]


def test_the_real_report_in_a_browser(finished: subspace.Outcome, tmp_path: Path) -> None:
    check_in_browser(finished.report, tmp_path / "profile", images=3)


def test_json_is_the_answer(results: Results) -> None:
    found = json.loads(json.dumps(as_json(results), allow_nan=False))
    assert found["answer"] == sentence(results)
    assert {each["method"] for each in found["needed"]} == {"gaussian", "rademacher", "LoRA"}
    assert len(found["methods"]) == 2 * 3 + 2 + 2
    assert [each["holds"] for each in found["distortion"]] == [True] * 4


# --- the command -------------------------------------------------------------------------------


def command(*arguments: object) -> Any:
    """Run ``subkern analyze subspace`` on the made-up model."""
    fixed = ["--model", "made-up", "--task", "mr", "--data", "x", "--shots", 8, "--dims", "2,16"]
    few = ["--kinds", "gaussian", "--projection-seeds", 2, "--solvers", "ridge"]
    words = ["analyze", "subspace", *fixed, *few, *arguments]
    return CliRunner().invoke(cli.cli, [str(word) for word in words])


@pytest.mark.usefixtures("undrawn")
def test_the_command_answers_and_then_is_up_to_date(tmp_path: Path) -> None:
    options = ["--ranks", "none", "--method", "bias", "--method", "vera:r=4", "--out", tmp_path]
    first = command(*options)
    assert first.exit_code == 0, first.output
    assert "random subspaces" in first.output
    assert "up to date" not in first.output
    again = command(*options)
    assert "up to date: nothing was computed" in again.output
    assert max(map(len, again.output.splitlines()[:-1])) <= 80
    answer = json.loads(command(*options, "--json").output)
    assert {each["method"] for each in answer["methods"]} == {"gaussian", "bias", "vera:r=4"}
    assert answer["report"].endswith("report.html")
    stored = Results.load(tmp_path)
    assert stored.config["methods"] == ["bias", "vera:r=4"]
    assert stored.command.startswith("subkern")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "loro"], ["loro", "lora"]),
        (["--kinds", "gauss"], ["gauss", "srht"]),
        (["--rule", "adamw"], ["adamw", "signgd"]),
        (["--solvers", "lstm"], ["lstm", "ridge"]),
    ],
)
def test_bad_options_get_one_line(tmp_path: Path, options: list[str], words: list[str]) -> None:
    result = command(*options, "--out", tmp_path / "run")
    assert isinstance(result.exception, UserError), result.output
    message = str(result.exception)
    assert "\n" not in message
    assert all(word in message for word in words)
    assert not (tmp_path / "run").exists()


def test_no_model_gets_one_line(tmp_path: Path) -> None:
    words = ["analyze", "subspace", "--task", "mr", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(cli.cli, words)
    assert isinstance(result.exception, UserError)
    assert "--model missing" in str(result.exception)

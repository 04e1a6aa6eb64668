"""`analyze subspace`: the study on a made-up model, its theory, its answer and its words."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from math import inf, isnan, nan
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

import cli
from analyses.engine.long_table import cells
from analyses.engine.run_folder import Results
from analyses.engine.settings import ASYMMETRIC_CLASSIFIERS
from analyses.show.page import words
from analyses.study import Outcome
from analyses.subspace import distortion, page
from analyses.subspace import study as subspace_study
from analyses.subspace.compute import AGREEMENT, COLUMNS, row, tidy
from analyses.subspace.config import Config
from analyses.subspace.figures import short
from analyses.subspace.findings import Findings, Needed, crossing, read
from analyses.subspace.study import SubspaceStudy
from subkern.agreement import cka
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.projections.theory import jl_bound, variance
from tests.support.fake_subspace import DIMS, ENGINE, MadeUp, Undrawn, config, small
from tests.support.study_checks import (
    check_in_browser,
    check_summary,
    check_written,
    untimed,
    with_f1,
)

subspace, undrawn = MadeUp(), Undrawn()


def unloadable(*_: Any, **__: Any) -> NoReturn:
    """Stand in for what must not be called."""
    raise AssertionError("a model is loaded")


@pytest.fixture(scope="module")
def results() -> Results:
    return subspace.run(config())


@pytest.fixture(scope="module")
def found(results: Results) -> Findings:
    return read(results)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
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


def test_agreement_grows_with_the_dimension(found: Findings) -> None:
    for family in [*found.kinds, *found.lora]:
        values = [value.mean for value in family.cka.values()]
        assert values == sorted(values)
        assert values[-1] < 1


def test_multi_class_f1_and_own_tuning() -> None:
    trec = subspace.run(small(task="trec", ranks=(), methods=()))
    assert trec.kernels["13/full"].num_logits == 6
    assert [family.name for family in read(trec).families] == ["gaussian"]
    mrpc = subspace.run(small(task="MRPC", tuning="each"))
    assert set(cells(mrpc.table, kernel="constant")["metric"]) == {"f1"}
    assert read(mrpc).tunes_each
    for each in (trec, mrpc):
        assert len(subspace.plot(each)) == 3
        assert subspace.page(each, {})


def test_the_error_of_f1_is_not_that_of_a_share(results: Results) -> None:
    """At 0.8 of 40 examples that would be 6.3 points, of a margin of 8."""
    table = results.table.copy()
    full = (table["kernel"] == "full") & (table["metric"] == "accuracy")
    table.loc[full, "value"] = 0.8
    scored = replace(results, table=table)
    few = [read(each).few_tests for each in (scored, with_f1(scored, 0.01), with_f1(scored, 0.196))]
    assert few[0] is not None
    assert few[0].error == pytest.approx(0.063, abs=5e-4)
    assert few[1] is None
    assert few[2] is not None
    assert few[2].error == pytest.approx(0.1, abs=5e-4)


def test_several_data_seeds_are_the_units_of_the_intervals() -> None:
    both = read(subspace.run(small(data_seeds=(13, 21))))
    assert both.first.scores[2].over == "data seeds"
    assert both.needed.first == 2
    assert both.has_splits
    assert not any("One data split" in text for text in subspace.caveats(both))


def test_a_sign_rule_measures_no_distortions() -> None:
    signs = subspace.run(small(rule="signgd"))
    assert not signs.table["metric"].str.contains("distortion").any()
    told = read(signs)
    assert set(subspace.figures(told)) == {"preservation", "dimension"}
    assert not told.measured
    assert told.foreign_rule == "signgd"
    assert any("Distortions were not measured" in text for text in subspace.caveats(told))
    assert "variance formula" not in subspace.sentence(told)
    assert len(subspace.tables(told)[0]) == 4
    assert subspace.page(signs, {})


# --- the run directory -------------------------------------------------------------------------


def test_analyze_writes_everything(finished: Outcome) -> None:
    check_written(finished, subspace.figures(read(finished.results)), kernels=1 + 2 * 3 + 2)


def test_the_same_command_finds_it_done(finished: Outcome) -> None:
    """It neither loads a model nor writes."""
    out = finished.report.parent
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = MadeUp(loader=unloadable).analyze(config(device="cuda", batch_size=3), out)
    assert again.up_to_date
    assert {path: path.stat().st_mtime_ns for path in written} == written
    pd.testing.assert_frame_equal(again.results.table, finished.results.table)


def test_figures_are_redrawn_from_saved_results_alone(finished: Outcome, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished.report.parent, tmp_path / "copy"))
    lost = out / "figures" / "dimension.png"
    lost.unlink()
    assert MadeUp(loader=unloadable).analyze(config(), out).up_to_date
    assert lost.read_bytes() == (finished.report.parent / "figures" / lost.name).read_bytes()
    assert isinstance(subspace.plot(Results.load(out))["distortion"], Figure)


def test_another_share_redraws_without_computing(tmp_path: Path) -> None:
    undrawn.analyze(small(), tmp_path)
    again = Undrawn(loader=unloadable)
    with pytest.raises(UserError, match="share"):
        again.analyze(small(share=0.5), tmp_path)
    outcome = again.analyze(small(share=0.5), tmp_path, overwrite=True)
    assert read(outcome.results).config.share == 0.5
    assert "50\N{NO-BREAK SPACE}% of the full" in outcome.report.read_text()


def test_other_settings_are_refused_and_then_replaced(tmp_path: Path) -> None:
    undrawn.analyze(small(), tmp_path)
    with pytest.raises(UserError, match=r"dims: \[2,64\] asked for, .*--overwrite"):
        undrawn.analyze(small(dims=(2, 64)), tmp_path)
    with pytest.raises(UserError, match="no parameter matches"):
        undrawn.analyze(small(methods=("norm",)), tmp_path, overwrite=True)
    assert Results.load(tmp_path).config["dims"] == list(DIMS)
    replaced = undrawn.analyze(small(dims=(2, 64)), tmp_path, overwrite=True)
    assert replaced.results.config["dims"] == [2, 64]


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    folders: list[Path] = []

    def interrupted(*_: Any, options: Any, **__: Any) -> NoReturn:
        options.checkpoint.mkdir(parents=True)
        folders.append(options.checkpoint)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Undrawn(engine=replace(ENGINE, compute_kernel=interrupted)).analyze(small(), tmp_path)
    resumed = undrawn.analyze(small(), tmp_path)
    assert not resumed.up_to_date
    assert not (tmp_path / "checkpoint").exists()
    assert folders == [tmp_path / "checkpoint/seed-13/method-0"]
    whole = subspace.run(small())
    pd.testing.assert_frame_equal(untimed(resumed.results.table), untimed(whole.table))


def test_bad_input_leaves_nothing(tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise UserError("rank 64 exceeds a layer")

    with pytest.raises(UserError, match="rank 64"):
        Undrawn(engine=replace(ENGINE, compute_kernel=refuse)).analyze(small(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


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
        ({"projection_seeds": 0}, "projection_seeds is 0"),
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


def test_settings_survive_yaml(tmp_path: Path) -> None:
    settings = small(targets=["q_proj", "v_proj"], dims=[16, 2], methods=["bias", "vera:r=4"])
    assert settings.dims == (2, 16)
    undrawn.analyze(settings, tmp_path)
    assert Config.from_file(tmp_path / "config.yaml") == settings


# --- the dimension needed ----------------------------------------------------------------------


def told(*runs: list[float], full: float = 0.8, zero: float = 0.5, **changes: Any) -> Findings:
    """Return what is found where random subspaces of 2, 16 and 128 dimensions score so, by draw."""
    settings = config(
        kinds=("gaussian",), ranks=(), methods=(), solvers=("ridge",),
        projection_seeds=len(runs), **changes,
    )  # fmt: skip
    test: dict[str, Any] = {"data_seed": 13, "split": "test", "metric": "accuracy"}
    whole: dict[str, Any] = {"data_seed": 13, "kernel": "full", "method": "full", "parameters": 600}
    rows = [
        row(zero, kernel="zero-shot", **test),
        row(0.5, kernel="constant", **test),
        row(full, **whole | test, solver="ridge"),
        row(600, **whole, metric="trainable_parameters"),
    ]
    for seed, values in enumerate(runs):
        for dim, value, same in zip(DIMS, values, (0.6, 0.9, 0.96), strict=True):
            cell = {"kernel": "random", "method": "gaussian", "parameters": dim, "seed": seed}
            rows.append(row(value, **cell, solver="ridge", **test))
            about = {**cell, "data_seed": 13}
            rows.append(row(same - 0.05, **about, split="train", metric="cka"))
            equal = {"split": "test", "metric": "prediction_agreement", "solver": "ridge"}
            rows.append(row(same, **about, **equal))
    inputs = {
        "task": {"name": "mr", "metric": "accuracy"},
        "examples": {"13": {"train": 32, "dev": 32, "test": 1000}},
        "methods": {},
        "left_out": {},
    }
    return read(Results("subspace", settings.as_dict(), inputs, tidy(rows)))


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
    answer = told(values, values).needed
    assert answer.target == pytest.approx(0.72)
    assert answer.size == pytest.approx(size)
    assert (answer.low, answer.high) == pytest.approx((size, size))  # two equal draws
    assert answer.found == (size < inf)
    assert answer.at_once == (size == 2)


def test_the_gain_is_over_the_better_way_without_training() -> None:
    gain = told([0.5, 0.74, 0.8], zero=0.6).gain
    assert gain.target == pytest.approx(0.6 + 0.9 * 0.2)
    assert 16 < gain.size < 128
    assert isnan(gain.low)  # one draw
    assert not gain.has_interval
    useless = told([0.5, 0.74, 0.8], zero=0.8)
    assert not useless.gain.makes_sense
    assert useless.learned_nothing
    assert not useless.is_free
    assert "gains nothing over no training" in subspace.sentence(useless)


def test_the_interval_holds_what_resampled_draws_give() -> None:
    draws = [[0.5, 0.66, 0.8], [0.5, 0.70, 0.8], [0.5, 0.76, 0.8], [0.5, 0.73, 0.8]]
    answer = told(*draws).needed
    single = [told(draw).needed.size for draw in draws]
    assert min(single) <= answer.low < answer.size < answer.high <= max(single)
    assert answer.is_plausible(answer.low)
    assert not answer.is_plausible(inf)


def test_a_relapse_is_told() -> None:
    found = told([0.75, 0.5, 0.8])
    assert found.needed.relapses == (16,)
    assert any("At 16 dimensions the mean" in text for text in subspace.caveats(found))


def test_a_target_within_reach_of_no_training_is_told() -> None:
    found = told([0.75, 0.76, 0.8], zero=0.73)
    assert found.is_free
    assert any("No training at all reaches 73.0" in text for text in subspace.caveats(found))


def test_a_level_is_crossed_between_neighbours() -> None:
    sizes = np.array([2, 8])
    assert crossing(sizes, np.array([0.0, 1.0]), 0.5) == 2.0
    assert crossing(sizes, np.array([0.6, 1.0]), 0.5) == 1.0
    assert crossing(sizes, np.array([0.0, 0.4]), 0.5) == 4.0  # 1 beyond log2 of the last


@pytest.mark.parametrize(
    ("size", "low", "high", "text"),
    [
        (180.0, 120.0, 260.0, "180 (120 to 260)"),
        (2.0, 2.0, 64.0, "2 or fewer (2 or fewer to 64)"),
        (inf, 700.0, inf, "more than 999 (700 to more than 999)"),
        (inf, inf, inf, "more than 999 (more than 999)"),
        (40.0, nan, nan, "40"),
        (nan, nan, nan, "–"),
    ],
)
def test_a_dimension_is_written_with_its_interval(
    size: float, low: float, high: float, text: str
) -> None:
    assert Needed(0.7, size, low, high, 2, 999, 0.1).text == text


# --- what is preserved -------------------------------------------------------------------------


def test_the_thriftiest_method_comes_first(found: Findings) -> None:
    families = found.thriftiest
    sizes = [each.kernel_at.size for each in families]
    assert sizes == sorted(sizes)
    least = min(
        (size, family.name)
        for family in found.families
        for size, value in family.cka.items()
        if value.mean >= 0.9
    )
    assert sizes[0] <= least[0]
    assert found.preserving[0] is families[0]
    assert "bias" in [each.name for each in found.not_preserving]  # 50 of 600 features
    assert [each.kernel for each in found.preserving].count("random") == 1
    said = " ".join(words(SubspaceStudy().template, "preserved", found))
    assert f"trained parameter {families[0].name} preserves the kernel best" in said
    assert "in a random subspace (rademacher); not reached by ia3 (30) and bias (50)." in said


def test_no_smaller_method_agrees_better_than_the_front(found: Findings) -> None:
    points = [(size, value.mean) for family in found.families for size, value in family.cka.items()]
    kept = [(size, family.cka[size].mean) for family, size in found.front]
    assert kept == sorted(kept)
    for size, value in kept:
        assert not any(s <= size and v > value for s, v in points)


def test_a_method_is_worth_as_many_random_dimensions(found: Findings) -> None:
    assert found.as_dimension(found.first.cka[16].mean) == pytest.approx(16)
    assert found.as_dimension(0.9999) == inf
    assert found.as_dimension(nan) == inf


def test_dense_kinds_stop_at_their_own_dimension() -> None:
    both = subspace.run(small(kinds=("srht", "gaussian"), max_dense=16))
    found = read(both)
    srht, gaussian = found.kinds
    assert srht.sizes == DIMS
    assert gaussian.sizes == (2, 16)
    assert gaussian.needed["score", "ridge"].last == 16
    assert (found.fewer, found.most) == ([gaussian], 128)
    assert any("gaussian projections were tried up to 16" in t for t in subspace.caveats(found))
    assert len(subspace.plot(both)) == 3
    one, other = (kind.distortions[0].calibration for kind in found.kinds)
    assert (one.low, one.high) != (other.low, other.high)  # each its own


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


@pytest.mark.parametrize("centered", [False, True])
def test_distortions_are_what_they_are_called(gradients: np.ndarray, centered: bool) -> None:
    maps = np.random.default_rng(1).normal(size=(50, 8)) / 8**0.5
    pairs = distortion.pairs(random_kernel(gradients, np.eye(50)), centered=centered)
    found = distortion.distortions(pairs, [random_kernel(gradients, maps)], 8)
    rows = gradients - gradients.mean(0) if centered else gradients
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

    def shared(*, centered: bool) -> float:
        pairs = distortion.pairs(random_kernel(constant, np.eye(50)), centered=centered)
        kernels = [random_kernel(constant, maps) for maps in draws]
        return distortion.distortions(pairs, kernels, 8).shared

    assert shared(centered=False) > 0.99
    assert shared(centered=True) < 0.5


def test_the_answer_says_whether_theory_holds(results: Results, found: Findings) -> None:
    for kind in found.kinds:
        assert [each.form for each in kind.distortions] == ["raw", "centered"]
        for each in kind.distortions:
            assert each.calibration.holds
            assert each.calibration.inside_bound > 0.95
            assert each.calibration.slack > 1

    def said(table: pd.DataFrame) -> tuple[Findings, str]:
        wrong = read(replace(results, table=table))
        return wrong, " ".join(words(SubspaceStudy().template, "theory", wrong))

    assert not found.off
    assert "holds for every kind" in said(results.table)[1]
    table = results.table.copy()
    wrong = (table["metric"] == "centred_distortion.ratio") & (table["method"] == "rademacher")
    table.loc[wrong, "value"] = 2.5
    one, text = said(table)
    assert [kind.name for kind in one.off] == ["rademacher"]
    assert [each.form for each in one.off[0].failing] == ["centered"]
    assert "holds for gaussian; it is off for rademacher (centered 2.50" in text
    table.loc[table["metric"].str.endswith("distortion.ratio"), "value"] *= 9
    every, text = said(table)
    assert not every.holding
    assert "off for every kind" in text


# --- what is drawn and said --------------------------------------------------------------------


def test_the_page_of_made_up_numbers() -> None:
    """The golden page: every sentence that the numbers below decide."""
    draws = [[0.55, 0.66, 0.8], [0.5, 0.70, 0.8], [0.5, 0.76, 0.79], [0.5, 0.73, 0.8]]
    found = told(*draws, zero=0.6)
    assert subspace.sentence(found).replace("\N{NO-BREAK SPACE}", " ") == (
        "By the ridge classifier in gaussian random subspaces, 90 % of the full kernel's test"
        " accuracy (72.0 % of 80.0 %) takes 19 dimensions (interval 12 to 35); 90 % of its gain"
        " over no training (60.0 %) takes 83 dimensions (interval 67 to 93). Per trained parameter"
        " a random subspace (gaussian) preserves the kernel best: a CKA of 0.90 with the full one"
        " takes 91 parameters."
    )
    assert subspace.caveats(found) == [
        "One data split: intervals are over 4 draws of the subspace and hold for this split."
        " Bootstraps of so few draws come out somewhat narrow."
    ]
    pictures = {"preservation": b"1", "dimension": b"2"}
    html = re.sub(
        r"<style>.*?</style>|<[^>]+>", " ", subspace.page(found.results, pictures), flags=re.S
    )
    text = " ".join(html.replace("&#39;", "'").split())
    for said in (
        "Subspaces for made-up on mr",
        "In how few dimensions does mr, from 8 examples a label, look to made-up as full"
        " fine-tuning sees it, and which way",
        "Dimensions for 90 % of full's accuracy 19",
        "Dimensions for 90 % of full's gain 83",
        "Test accuracy, full kernel 80.0 %",
        "Parameters for CKA 0.90, gaussian 91",
        "Parameters of full fine-tuning 600",
        "solved on the 32 training examples",
        "for the full kernel, then used for all",
        "Bands and brackets are 95 % intervals (Student's t over 4 draws of a subspace, on one data"
        " split)",
        "gaussian 0.55 with 2 to 0.91 with 128 parameters (60 % to 96 % equal predictions). No"
        " smaller method tried agrees better than gaussian at",
        "gaussian 51.2 % in 2 dimensions to 79.8 % in 128. The full kernel has 80.0 %, zero-shot"
        " 60.0 %, the best constant answer 50.0 %.",
        "full kernel's score (gaussian 19 (12 to 35)) and of its gain over no training (gaussian 83"
        " (67 to 93))",
    ):
        assert said in text, said


def test_the_distortion_caption_gives_the_bound_where_there_is_one(results: Results) -> None:
    table = results.table.copy()
    epsilon = (table["metric"] == "centred_distortion.epsilon").to_numpy(dtype=bool)
    assert epsilon.any()
    for value, said in ((nan, "bounds nothing at so few. The"), (0.25, "at 95 % is ±0.250. The")):
        table.loc[epsilon, "value"] = value
        each = replace(results, table=table)
        assert read(each).first.distortions[1].is_bounded == (not isnan(value))
        assert said in subspace.page(each, {"distortion": b"png"})


@pytest.mark.parametrize(
    ("value", "text"), [(2, "2"), (4096, "4096"), (1e5, "100k"), (1e7, "10M"), (1e9, "1G")]
)
def test_numbers_on_an_axis_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_the_summary_fits_80_columns(results: Results, found: Findings) -> None:
    check_summary(subspace.summary(results), subspace.sentence(found))


def test_the_tables_hold_all_families(found: Findings) -> None:
    tables, cost = subspace.tables(found)
    sizes = [len(table.rows) for table in tables]
    assert sizes == [3, 5, 2 + 2 + 3 + 2, len(AGREEMENT), 4, 3, 3]
    assert len(cost) == 1
    assert len(page.methods_table(found).rows[0]) == 7


def test_the_real_report_in_a_browser(finished: Outcome, tmp_path: Path) -> None:
    check_in_browser(finished.report, tmp_path / "profile", images=3)


def test_json_is_the_answer(results: Results, found: Findings) -> None:
    answer = json.loads(json.dumps(subspace.answer(results), allow_nan=False))
    assert answer["answer"] == subspace.sentence(found)
    assert {each["method"] for each in answer["needed"]} == {"gaussian", "rademacher", "LoRA"}
    assert answer["needed"][0]["target"] == found.needed.target
    assert (answer["needed"][0]["size"] is None) == (found.needed.size == inf)
    assert len(answer["methods"]) == 2 * 3 + 2 + 2
    assert [each["holds"] for each in answer["distortion"]] == [True] * 4
    assert [each["centred"] for each in answer["distortion"]] == [False, True] * 2


# --- the command -------------------------------------------------------------------------------


@pytest.fixture
def _made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command find the made-up study."""
    monkeypatch.setattr(subspace_study, "SubspaceStudy", Undrawn)


def command(*arguments: object) -> Any:
    """Run ``subkern analyze subspace`` on the made-up model."""
    fixed = ["--model", "made-up", "--task", "mr", "--data", "x", "--shots", 8, "--dims", "2,16"]
    few = ["--kinds", "gaussian", "--projection-seeds", 2, "--solvers", "ridge"]
    words = ["analyze", "subspace", *fixed, *few, *arguments]
    return CliRunner().invoke(cli.cli, [str(word) for word in words])


@pytest.mark.usefixtures("_made_up")
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


@pytest.mark.usefixtures("_made_up")
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

"""`analyze lora` over several target sets: best rank and targets for a budget, and its front."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import cli
from analyses import study
from analyses.engine import inputs
from analyses.engine.long_table import cells
from analyses.engine.run_folder import Results
from analyses.engine.settings import solvers_for
from analyses.lora import pareto as lora_pareto
from analyses.lora import study as lora_study
from analyses.lora.budget import parse_budget
from analyses.lora.config import Config
from analyses.lora.figures import FIGURES, spectrum
from analyses.lora.grid import MEASURES, configurations, front, recommend_configuration
from analyses.lora.json_answer import as_json
from analyses.lora.numbers import kernel_agreement, trained, zero_shot
from analyses.lora.study import LoraStudy
from analyses.lora.table import row, tidy
from analyses.lora.targets import from_texts, is_grid, names, only
from analyses.lora.verdict import recommend
from subkern import load_examples, load_model, solvers, sweep_targets
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.kernels.sweeps.lora import resolve_sets
from subkern.subspaces.lora_targets import NAMED, resolve
from tests.analyses.lora.test_lora import _made_up, config, undrawn  # noqa: F401  (fixtures)
from tests.support.browser import Browser
from tests.support.study_checks import check_in_browser, check_summary

lora = LoraStudy()

REAL = [
    (study, "load_model", load_model),
    (lora_study, "sweep_targets", sweep_targets),
    (lora_study, "resolve_sets", resolve_sets),
    (lora_study, "resolve", resolve),
    (inputs, "load_examples", load_examples),
]
SETS = ("qv", "mlp", r".*\.1\..*")


@pytest.fixture(scope="module")
def results() -> Results:
    return lora.run(config(target_sets=SETS, solvers=("ridge", "logistic")))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> lora.Outcome:
    """Return a study in its run directory; tests leave it as it is."""
    asked = config(target_sets=SETS, solvers=("ridge",), budget="5%")
    return lora.analyze(asked, tmp_path_factory.mktemp("run"), command="subkern x")


# --- settings ----------------------------------------------------------------------------------


def test_what_the_command_line_is_given() -> None:
    assert from_texts(["q_proj,v_proj"]) == {"targets": ("q_proj", "v_proj"), "target_sets": ()}
    assert from_texts(["grid"])["target_sets"] == NAMED
    assert from_texts("grid")["target_sets"] == NAMED
    assert from_texts(["mlp", "q_proj,v_proj", "mlp"])["target_sets"] == ("mlp", "q_proj,v_proj")
    both = config(target_sets=["mlp", "q_proj,v_proj"])
    assert both.sets == {"mlp": "mlp", "q_proj,v_proj": ("q_proj", "v_proj")}
    assert config(target_sets=["mlp"]) == config(targets="mlp")
    assert config(targets=("a", "b")).sets == {"a,b": ("a", "b")}


def test_options_of_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Config] = []

    def stop(_self: Any, settings: Config, *_: Any, **__: Any) -> None:
        seen.append(settings)
        raise UserError("enough")

    monkeypatch.setattr("analyses.study.Study.analyze", stop)  # what the command calls
    stored = tmp_path / "c.yaml"
    stored.write_text(json.dumps({"model": "m", "task": "mr", "target_sets": ["qv", "mlp"]}))
    base = ["analyze", "lora", "--config", str(stored), "--out", str(tmp_path / "o")]
    for more in ([], ["--targets", "all"], ["--targets", "grid", "--budget", "1%"]):
        CliRunner().invoke(cli.cli, [*base, *more])
    assert [list(settings.sets) for settings in seen] == [["qv", "mlp"], ["all"], list(NAMED)]
    assert [settings.budget for settings in seen] == [None, None, "1%"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_sets": [*"abcdefg"]}, "7 target sets are too many: compare at most 6"),
        ({"budget": "lots"}, "budget 'lots' is no number of parameters"),
        ({"budget": "0"}, "budget '0' is no number"),
        ({"budget": "101%"}, "budget '101%'"),
        ({"rule": "adamw"}, "unknown rule 'adamw': use sgd"),
    ],
)
def test_wrong_settings_get_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        config(**changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "most"), [("1%", 60), ("0.5 %", 30), ("250", 250), ("2.5k", 2500), ("1e6", 1e6)]
)
def test_budgets(text: str, most: float) -> None:
    assert parse_budget(text).of(6000) == pytest.approx(most)


def test_the_judge_of_an_asymmetric_rule_learns_from_its_kernels() -> None:
    assert solvers_for("sgd") == solvers_for("signgd") == ("logistic", "ridge", "svc")
    able = solvers_for("asymmetric_signgd")
    assert able[0] == "asym"
    assert config(solvers=("svr", "lstsq")).solvers == ("svr", "lstsq")
    assert not any(solvers.SOLVERS[name].requires_symmetric for name in able)
    assert config(rule="asymmetric_signgd").solvers == able
    with pytest.raises(UserError, match="solver ridge needs a symmetric kernel"):
        config(rule="asymmetric_signgd", solvers=("ridge",))
    found = outcome({("qv", 1): (10, *GOOD)}, rule="asymmetric_signgd", solvers=able[:1])
    assert any("are not symmetric" in text for text in lora.caveats(found))


def test_the_spectrum_of_an_asymmetric_kernel_is_of_singular_values() -> None:
    gradients, ids = np.random.default_rng(0).normal(size=(6, 20)), list("abcdef")
    values = (np.sign(gradients) @ gradients.T)[:, None, :, None]
    kernel = Kernel(values, ids, ids, asymmetric=True)
    centre = np.eye(6) - 1 / 6
    wanted = np.linalg.svd(centre @ values[:, 0, :, 0] @ centre, compute_uv=False)[:5]
    np.testing.assert_allclose(spectrum(kernel), wanted / wanted.sum(), rtol=1e-10)


# --- one study, seen a target set at a time ----------------------------------------------------


def test_a_set_of_a_grid_is_the_study_of_it_alone(results: Results) -> None:
    alone = lora.run(config(targets="mlp", solvers=("ridge", "logistic")))
    view = only(results, "mlp")
    rows = alone.table[~alone.table["metric"].str.startswith("cost.")]
    here = view.table[~view.table["metric"].str.startswith("cost.")]
    key = [name for name in rows if name not in ("value", "low", "high")]
    mine, theirs = (t.set_index(key).sort_index() for t in (here, rows))
    assert mine.index.equals(theirs.index)
    np.testing.assert_array_equal(mine["value"], theirs["value"])
    assert not is_grid(view)
    assert recommend(view) == recommend(alone)
    assert set(view.kernels) == set(alone.kernels)
    assert all(view.kernels[name] == alone.kernels[name] for name in alone.kernels)


def test_kernels_are_kept_under_names_that_are_file_names(results: Results) -> None:
    assert names(results) == list(SETS)
    assert {name.partition("-")[0] for name in results.kernels} == {
        "13/full", "13/qv", "13/mlp", "13/set3",
    }  # fmt: skip
    assert len(results.kernels) == 1 + 3 * (1 + 2 * 3)


def test_the_table_has_every_set(results: Results) -> None:
    assert set(results.table["targets"].dropna()) == set(SETS)
    whole = cells(results.table, kernel="full", metric="trainable_parameters")
    assert whole["targets"].isna().all()
    sizes = [each.trained for each in configurations(results)]
    assert sizes == [trained(only(results, each), r) for each in SETS for r in (1, 4)]


# --- the answer --------------------------------------------------------------------------------

BAD, NEAR, GOOD = (0.1, 0.8), (0.03, 0.97), (0.01, 0.97)
Outcomes = Mapping[tuple[str, int], tuple[float, float, float]]


def outcome(outcomes: Outcomes, **changes: Any) -> Results:
    """Return results: (targets, rank) -> (trained of 1000, drop, share of equal predictions)."""
    sets, ranks = (tuple(dict.fromkeys(each)) for each in zip(*outcomes, strict=True))
    given = {"solvers": ("ridge",), "adapter_seeds": (0,), **changes}
    rule = given.pop("rule", "sgd")
    settings = config(target_sets=sets, ranks=ranks, **{**given, "solvers": ("ridge",)}).as_dict()
    if len(sets) == 1:
        settings["target_sets"] = list(sets)
    settings |= {"rule": rule, "solvers": list(given["solvers"])}
    solver = settings["solvers"][0]
    test: dict[str, Any] = {"data_seed": 13, "split": "test"}
    scored: dict[str, Any] = {**test, "solver": solver}
    rows = [
        row(0.6, kernel="zero-shot", metric="accuracy", **test),
        row(0.8, kernel="full", metric="accuracy", **scored),
        row(1000, data_seed=13, kernel="full", metric="trainable_parameters"),
    ]
    for name in sets:
        about: dict[str, Any] = {"kernel": "targets", "targets": name, "reference": "full"}
        rows += [
            row(0.97, data_seed=13, split="train", metric="cka", **about),
            row(0.0, metric="drop", **about, **scored),
            row(1.0, metric="prediction_agreement", **about, **scored),
        ]
    for (name, rank), (size, drop, share) in outcomes.items():
        cell: dict[str, Any] = {"kernel": "lora", "targets": name, "rank": rank}
        run: dict[str, Any] = {**cell, "adapter_seed": 0}
        compared: dict[str, Any] = {**run, **scored, "reference": "full"}
        rows += [
            row(size, data_seed=13, metric="trainable_parameters", **cell),
            row(0.8 - drop, metric="accuracy", **run, **scored),
            row(drop, (drop, drop), metric="drop", **compared),
            row(share, (share, share), metric="prediction_agreement", **compared),
            row(share, data_seed=13, split="train", metric="cka", reference="full", **run),
        ]
    inputs = {
        "task": {"name": "mr", "metric": "accuracy"},
        "examples": {"13": {"train": 32, "dev": 32, "test": 1000}},
        "target_sets": {"qv": {"note": "all three of them"}} if "qv" in sets else {},
    }
    return Results("lora", settings, inputs, tidy(rows))


EIGHT: Outcomes = {
    ("qv", 1): (10, *BAD), ("qv", 2): (20, *NEAR), ("qv", 4): (40, *GOOD),
    ("mlp", 1): (30, *GOOD), ("mlp", 2): (60, *BAD), ("mlp", 4): (120, *GOOD),
}  # fmt: skip


@pytest.mark.parametrize(
    ("budget", "best", "qualifies", "beyond"),
    [
        (None, ("mlp", 1), True, None),  # the cheapest within tolerance, not the smallest set
        ("5%", ("mlp", 1), True, None),
        ("3%", ("mlp", 1), True, None),  # exactly the budget
        ("25", ("qv", 2), False, ("mlp", 1)),  # the closest that is affordable
        ("15", ("qv", 1), False, ("mlp", 1)),
        ("0.1%", ("qv", 1), False, ("mlp", 1)),  # nothing is: the cheapest
    ],
)
def test_the_cheapest_within_tolerance_and_budget(
    budget: str | None, best: tuple[str, int], qualifies: bool, beyond: tuple[str, int] | None
) -> None:
    found = recommend_configuration(outcome(EIGHT, budget=budget))
    assert (found.best.targets, found.best.rank) == best
    assert found.qualifies is qualifies
    assert (found.beyond and (found.beyond.targets, found.beyond.rank)) == beyond
    view = found.view(outcome(EIGHT, budget=budget))
    assert recommend(view).chosen.rank == found.best.rank


def said(results: Results) -> str:
    return lora.sentence(results).replace("\N{NO-BREAK SPACE}", " ")


def test_the_sentence_says_what_and_why() -> None:
    free = said(outcome(EIGHT))
    assert free.startswith("Take rank 1 on mlp, the cheapest within tolerance of full fine-tuning:")
    assert "it trains 30 parameters (3.00 %), test accuracy 79.0 % against 80.0 %" in free
    tight = said(outcome(EIGHT, budget="25"))
    assert tight.startswith(
        "No rank of qv and mlp that fits into 25 parameters is within tolerance"
    )
    assert "Rank 2 on qv is closest" in tight
    assert "It fails on the score. The cheapest within tolerance, rank 1 on mlp, trains 30" in tight
    assert said(outcome(EIGHT, budget="0.1%")).startswith(
        "Nothing fits into 0.1 % of the parameters"
    )
    within = said(outcome(EIGHT, budget="5%"))
    assert "within tolerance of full fine-tuning and 5 % of the parameters:" in within


def test_caveats_name_rivals_notes_and_relapses() -> None:
    found = " ".join(lora.caveats(outcome({**EIGHT, ("qv", 2): (35, *GOOD)})))
    assert "Rank 2 on qv (35 parameters) is within tolerance too, at nearly the same cost" in found
    assert "Targets qv: all three of them." in found
    assert "Rank 2, though higher, is not within tolerance" in found
    assert "within tolerance too" not in " ".join(lora.caveats(outcome(EIGHT)))


def test_the_front_holds_what_nothing_as_cheap_equals() -> None:
    every = configurations(
        outcome({("a", 1): (10, 0.2, 0.9), ("b", 1): (10, 0.1, 0.9), ("a", 2): (20, 0.1, 0.95),
               ("b", 2): (30, 0.3, 0.99), ("a", 4): (40, 0.0, 0.99), ("b", 4): (60, 0.3, 0.5)})
    )  # fmt: skip
    by_score, by_same = (
        [(e.targets, e.rank) for e in front(every, measure)] for measure in MEASURES[:2]
    )
    assert by_score == [("b", 1), ("a", 4)]
    assert by_same == [("a", 1), ("a", 2), ("b", 2)]
    for measure in MEASURES:
        line = front(every, measure)
        for each in every:
            assert each in line or any(
                other.trained <= each.trained
                and other.value(measure).mean >= each.value(measure).mean
                for other in line
            )


# --- what is written ---------------------------------------------------------------------------


def test_json_names_targets_and_rank(results: Results) -> None:
    found = json.loads(json.dumps(as_json(results), allow_nan=False))
    best = recommend_configuration(results)
    assert found["closest"] == {"targets": best.best.targets, "rank": best.best.rank}
    assert found["recommended"] == (found["closest"] if best.qualifies else None)
    named = {(each["targets"], each["rank"]) for each in found["configurations"]}
    assert named == {(each.targets, each.rank) for each in best.every}


def test_a_grid_run_directory(finished: lora.Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    out = finished.report.parent
    drawn = {path.name for path in (out / "figures").iterdir()}
    assert drawn == {f"{n}.{kind}" for n in ("pareto", *FIGURES) for kind in ("png", "pdf")}
    monkeypatch.setattr(study, "load_model", None)
    again = config(target_sets=SETS, solvers=("ridge",), budget="5%")
    assert lora.analyze(again, out).up_to_date
    with pytest.raises(UserError, match="budget"):
        lora.analyze(config(target_sets=SETS, solvers=("ridge",), budget="9%"), out)
    with pytest.raises(UserError, match="target_sets"):
        lora.analyze(config(target_sets=SETS[:2], solvers=("ridge",), budget="5%"), out)


@pytest.mark.slow
def test_a_real_run_of_the_grid(minilm_mlm: Path, shared_data: Path, tmp_path: Path) -> None:
    asked = Config(
        model=str(minilm_mlm), task="mr", data=str(shared_data), target_sets=("grid",),
        ranks=(1, 2), adapter_seeds=(0,), train_limit=18, dev_limit=4, test_limit=6,
        solvers=("ridge",), resamples=2, kernel_resamples=0,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for place, name, real in REAL:
            patch.setattr(place, name, real)
        found = lora.analyze(asked, tmp_path / "run").results
    size = {(e.targets, e.rank): e.trained for e in configurations(found)}
    assert len(size) == 10
    assert size["all-linear", 2] == 2 * size["all-linear", 1]
    assert size["attention", 1] + size["mlp", 1] < size["all-linear", 1] < size["all", 1]
    assert size["qv", 1] * 2 == size["attention", 1]  # of query, key, value and output: all square
    by_set = {name: kernel_agreement(only(found, name), "cka")[2].mean for name in NAMED}
    assert all(0 < value < 1 for value in by_set.values())
    assert set(found.table["targets"].dropna()) == set(NAMED)


@pytest.mark.usefixtures("undrawn")
def test_another_budget_redraws_without_computing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"target_sets": SETS[:2], "solvers": ("ridge",)}
    lora.analyze(config(**asked), tmp_path)
    monkeypatch.setattr(study, "load_model", None)
    found = lora.analyze(config(**asked, budget="2"), tmp_path, overwrite=True)
    assert recommend_configuration(found.results).limit == 2
    assert "within 2 parameters" in found.report.read_text()


def test_the_report_leads_with_rank_and_targets(results: Results) -> None:
    found = lora.page(results, {})
    assert found.answer == lora.sentence(results)
    assert "rank and targets" in found.title
    best = recommend_configuration(results).best
    assert f"rank {best.rank} on {best.targets}" in found.facts.values()
    first = found.tables[0]
    assert len(first.rows) == 3 * 2 + 2
    (marked,) = first.marked
    assert first.rows[marked][0] == f"{best.targets}, rank {best.rank}"
    assert [list(t.header) for t in found.tables[1:3]] == [["targets", "rank 1", "rank 4"]] * 2
    assert found.settings["target_sets"] == ", ".join(SETS)


def test_the_summary_fits_80_columns(results: Results) -> None:
    check_summary(lora.summary(results), lora.sentence(results))


def test_the_caption_holds_the_numbers_it_shows(results: Results) -> None:
    found = lora_pareto.caption(results)
    first = front(configurations(results), "score")[0]
    assert f"{first.targets} rank {first.rank} ({100 * first.verdict.score.mean:.1f}" in found.text
    assert found.alt


def test_the_figure_shows_every_configuration_and_its_reference(results: Results) -> None:
    figure = lora_pareto.pareto(results)
    every = configurations(results)
    for axes, measure in zip(figure.axes, MEASURES, strict=True):
        shown = {
            (float(x), round(float(y), 9))
            for line in axes.lines
            if line.get_marker() not in ("None", None)
            for x, y in line.get_xydata()  # type: ignore[union-attr]
        }
        assert {(e.trained, round(e.value(measure).mean, 9)) for e in every} == shown
        assert axes.get_xscale() == "log"
    levels = [line.get_ydata()[0] for line in figure.axes[0].lines]  # type: ignore[index]
    assert zero_shot(results).mean in levels
    used = [(s.get_color(), s.get_marker(), s.get_linestyle()) for s in figure.axes[0].lines[:3]]
    assert len({marker for _, marker, _ in used}) == len({color for color, _, _ in used}) == 3


def test_a_budget_of_one_target_set() -> None:
    one = lora.run(config(ranks=(1, 4), solvers=("ridge",), budget="4%"))
    assert is_grid(one)
    assert recommend_configuration(one).best.rank == 1
    assert kernel_agreement(only(one, "all-linear"), "cka").keys() == {1, 4}
    assert "pareto" in lora.plot(one)


def test_the_grid_report_in_a_browser(finished: lora.Outcome, tmp_path: Path) -> None:
    best = recommend_configuration(finished.results).best

    def leads_with_the_front(browser: Browser) -> None:
        assert browser.evaluate("document.querySelector('figure').id") == "pareto"
        shown = browser.evaluate("document.querySelector('.answer').innerText")
        assert f"rank {best.rank} on {best.targets}" in shown.lower()

    check_in_browser(finished.report, tmp_path / "profile", 5, leads_with_the_front)

"""`analyze lora` over several target sets: best rank and targets for a budget, and its front."""

from __future__ import annotations

import json
from dataclasses import replace
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
from analyses.lora import compute as lora_compute
from analyses.lora import study as lora_study
from analyses.lora.config import Budget, Config, from_texts
from analyses.lora.figures import FIGURES
from analyses.lora.findings import find
from analyses.lora.pareto import pareto
from analyses.lora.study import LoraStudy
from analyses.lora.train_kernels import spectrum
from analyses.study import Outcome
from subkern import load_examples, load_model, solvers, sweep_targets
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.kernels.sweeps.lora import resolve_sets
from subkern.subspaces.lora_targets import NAMED, resolve
from tests.analyses.lora.test_lora import _made_up, undrawn  # noqa: F401  (fixtures)
from tests.support.browser import Browser
from tests.support.fake_lora import Outcomes, config, judged
from tests.support.folders import names
from tests.support.study_checks import check_in_browser, check_summary

lora = LoraStudy()

REAL = [
    (study, "load_model", load_model),
    (lora_compute, "sweep_targets", sweep_targets),
    (lora_study, "resolve_sets", resolve_sets),
    (lora_study, "resolve", resolve),
    (inputs, "load_examples", load_examples),
]
SETS = ("qv", "mlp", r".*\.1\..*")


@pytest.fixture(scope="module")
def results() -> Results:
    return lora.run(config(target_sets=SETS, solvers=("ridge", "logistic")))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
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
    assert Budget.parse(text).of(6000) == pytest.approx(most)


def test_the_judge_of_an_asymmetric_rule_learns_from_its_kernels() -> None:
    assert solvers_for("sgd") == solvers_for("signgd") == ("logistic", "ridge", "svc")
    able = solvers_for("asymmetric_signgd")
    assert able[0] == "asym"
    assert config(solvers=("svr", "lstsq")).solvers == ("svr", "lstsq")
    assert not any(solvers.SOLVERS[name].requires_symmetric for name in able)
    assert config(rule="asymmetric_signgd").solvers == able
    with pytest.raises(UserError, match="solver ridge needs a symmetric kernel"):
        config(rule="asymmetric_signgd", solvers=("ridge",))
    found = find(judged({("qv", 1): (10, *GOOD)}, rule="asymmetric_signgd", solvers=able[:1]))
    assert found.caveats.unusual_judge
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
    """Its numbers, its kernels and all that is found of it; one set is a grid with one row."""
    alone = lora.run(config(targets="mlp", solvers=("ridge", "logistic")))
    of_it = (results.table["targets"] == "mlp").fillna(value=False) | results.table[
        "targets"
    ].isna()
    here, there = (
        t[~t["metric"].str.startswith("cost.")] for t in (results.table[of_it], alone.table)
    )
    key = [name for name in there if name not in ("value", "low", "high")]
    mine, theirs = (t.set_index(key).sort_index() for t in (here, there))
    assert mine.index.equals(theirs.index)
    np.testing.assert_array_equal(mine["value"], theirs["value"])
    for name in alone.kernels:
        seed, _, what = name.partition("/")
        kept = name if what == "full" else f"{seed}/mlp-{what}"
        assert results.kernels[kept] == alone.kernels[name]
    found = [each for each in find(results).answer.every if each.targets == "mlp"]
    for one, other in zip(found, find(alone).answer.every, strict=True):
        assert replace(one, name=other.name) == other


def test_kernels_are_kept_under_names_that_are_file_names(results: Results) -> None:
    assert list(find(results).answer.by_targets) == list(SETS)
    assert {name.partition("-")[0] for name in results.kernels} == {
        "13/full", "13/qv", "13/mlp", "13/set3",
    }  # fmt: skip
    assert len(results.kernels) == 1 + 3 * (1 + 2 * 3)


def test_the_table_has_every_set(results: Results) -> None:
    assert set(results.table["targets"].dropna()) == set(SETS)
    whole = cells(results.table, kernel="full", metric="trainable_parameters")
    assert whole["targets"].isna().all()
    sizes = cells(results.table, kernel="lora", metric="trainable_parameters")
    for each in find(results).answer.every:
        [size] = cells(sizes, targets=each.targets, rank=each.rank)["value"]
        assert each.trained == size
        assert each.share == size / whole["value"].item()


# --- the answer --------------------------------------------------------------------------------

BAD, NEAR, GOOD = (0.1, 0.8), (0.03, 0.97), (0.01, 0.97)

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
    found = find(judged(EIGHT, budget=budget))
    assert (found.best.targets, found.best.rank) == best
    assert found.qualifies is qualifies
    past = found.answer.beyond
    assert (past and (past.targets, past.rank)) == beyond
    assert found.own.targets == best[0]
    assert best[1] in found.own.ranks
    assert all(each.affordable for each in found.own.line) or len(found.own.line) == 1


def said(results: Results) -> str:
    return lora.sentence(find(results)).replace("\N{NO-BREAK SPACE}", " ")


def test_the_sentence_says_what_and_why() -> None:
    free = said(judged(EIGHT))
    assert free.startswith("Take rank 1 on mlp, the cheapest within tolerance of full fine-tuning:")
    assert "it trains 30 parameters (3.00 %), test accuracy 79.0 % against 80.0 %" in free
    tight = said(judged(EIGHT, budget="25"))
    assert tight.startswith(
        "No rank (1, 2, 4) on qv and mlp that fits into 25 parameters is within tolerance"
    )
    assert "Closest is rank 2 on qv" in tight
    assert "It fails on the score. The cheapest within tolerance, rank 1 on mlp, trains 30" in tight
    assert said(judged(EIGHT, budget="0.1%")).startswith(
        "Nothing fits into 0.1 % of the parameters. The cheapest is rank 1 on qv:"
    )
    within = said(judged(EIGHT, budget="5%"))
    assert "within tolerance of full fine-tuning and 5 % of the parameters:" in within


def test_caveats_name_rivals_notes_and_relapses() -> None:
    found = find(judged({**EIGHT, ("qv", 2): (35, *GOOD)}))
    assert [(each.targets, each.rank) for each in found.caveats.rivals] == [("qv", 2)]
    assert found.caveats.notes == {"qv": "all three of them"}
    assert found.caveats.relapses == (2,)
    text = " ".join(lora.caveats(found))
    assert "Within tolerance too, at nearly the same cost: rank 2 on qv (35 parameters)." in text
    assert "Targets qv: all three of them." in text
    assert find(judged(EIGHT)).caveats.rivals == ()


def test_another_classifier_s_answer_is_told_where_it_differs() -> None:
    two = judged(EIGHT, solvers=("ridge", "svc"))
    assert find(two).caveats.others == ()
    table = two.table.copy()
    of_svc = (table["solver"] == "svc") & (table["metric"] == "prediction_agreement")
    table.loc[of_svc.fillna(value=False), "value"] = 0.5
    found = find(replace(two, table=table))
    assert [each.qualifies for each in found.caveats.others] == [False]
    assert any("nothing within tolerance (svc)" in text for text in lora.caveats(found))


def test_the_front_holds_what_nothing_as_cheap_equals() -> None:
    found = find(
        judged({("a", 1): (10, 0.2, 0.9), ("b", 1): (10, 0.1, 0.9), ("a", 2): (20, 0.1, 0.95),
                ("b", 2): (30, 0.3, 0.99), ("a", 4): (40, 0.0, 0.99), ("b", 4): (60, 0.3, 0.5)})
    )  # fmt: skip
    by_score, by_same = (
        [(e.targets, e.rank) for e in found.fronts[measure].line]
        for measure in ("score", "agreement")
    )
    assert by_score == [("b", 1), ("a", 4)]
    assert by_same == [("a", 1), ("a", 2), ("b", 2)]
    for measure, front in found.fronts.items():
        for each in found.answer.every:
            assert each in front.line or any(
                other.trained <= each.trained
                and getattr(other, measure).mean >= getattr(each, measure).mean
                for other in front.line
            )


# --- what is written ---------------------------------------------------------------------------


def test_json_names_targets_and_rank(results: Results) -> None:
    found = json.loads(json.dumps(lora.answer(results), allow_nan=False))
    told = find(results)
    assert found["closest"] == {"targets": told.best.targets, "rank": told.best.rank}
    assert found["recommended"] == (found["closest"] if told.qualifies else None)
    named = {(each["targets"], each["rank"]) for each in found["configurations"]}
    assert named == {(each.targets, each.rank) for each in told.answer.every}


def test_a_grid_run_directory(finished: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    out = finished.report.parent
    assert names(out / "figures") == {
        f"{n}.{kind}" for n in ("pareto", *FIGURES) for kind in ("png", "pdf")
    }
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
    every = find(found).answer.every
    size = {(e.targets, e.rank): e.trained for e in every}
    assert len(size) == 10
    assert size["all-linear", 2] == 2 * size["all-linear", 1]
    assert size["attention", 1] + size["mlp", 1] < size["all-linear", 1] < size["all", 1]
    assert size["qv", 1] * 2 == size["attention", 1]  # of query, key, value and output: all square
    assert all(0 < each.cka.mean < 1 for each in every if each.rank == 2)
    assert set(found.table["targets"].dropna()) == set(NAMED)


@pytest.mark.usefixtures("undrawn")
def test_another_budget_redraws_without_computing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"target_sets": SETS[:2], "solvers": ("ridge",)}
    lora.analyze(config(**asked), tmp_path)
    monkeypatch.setattr(study, "load_model", None)
    found = lora.analyze(config(**asked, budget="2"), tmp_path, overwrite=True)
    assert find(found.results).limit == 2
    assert "within 2 parameters" in found.report.read_text()


def test_the_report_leads_with_rank_and_targets(results: Results) -> None:
    found = find(results)
    page = lora.page(results, {"pareto": b"", **dict.fromkeys(FIGURES, b"")})
    assert "<title>LoRA rank and targets for made-up on mr</title>" in page
    assert page.index(found.best.called) < page.index("How to read this page")
    assert page.index('id="pareto"') < page.index('id="agreement"')
    assert f"by rank: targets {found.best.targets}</h3>" in page
    cheapest = found.fronts["score"].line[0]
    share = f"{100 * cheapest.score.mean:.1f}"
    assert f"{cheapest.targets} rank {cheapest.rank} ({share}" in page
    tables, cost = lora.tables(found)
    first = tables[0]
    assert len(first.rows) == 3 * 2 + 2
    (marked,) = first.marked
    assert first.rows[marked][0] == f"{found.best.targets}, rank {found.best.rank}"
    assert [list(t.header) for t in tables[1:3]] == [["targets", "rank 1", "rank 4"]] * 2
    assert len(tables) == 8
    assert len(cost[0].rows) == 3 * 2 + 1
    assert ", ".join(SETS) in page


def test_the_summary_fits_80_columns(results: Results) -> None:
    shown = check_summary(lora.summary(results), lora.sentence(find(results)))
    assert all(name in shown for name in SETS)


def test_the_figure_shows_every_configuration_and_its_reference(results: Results) -> None:
    found = find(results)
    figure = pareto(found)
    for axes, measure in zip(figure.axes, ("score", "agreement", "cka"), strict=True):
        shown = {
            (float(x), round(float(y), 9))
            for line in axes.lines
            if line.get_marker() not in ("None", None)
            for x, y in line.get_xydata()  # type: ignore[union-attr]
        }
        every = found.answer.every
        assert {(e.trained, round(getattr(e, measure).mean, 9)) for e in every} == shown
        assert axes.get_xscale() == "log"
    levels = [line.get_ydata()[0] for line in figure.axes[0].lines]  # type: ignore[index]
    assert found.zero_shot.mean in levels
    used = [(s.get_color(), s.get_marker(), s.get_linestyle()) for s in figure.axes[0].lines[:3]]
    assert len({marker for _, marker, _ in used}) == len({color for color, _, _ in used}) == 3


def test_a_budget_of_one_target_set() -> None:
    one = lora.run(config(ranks=(1, 4), solvers=("ridge",), budget="4%"))
    found = find(one)
    assert found.compares
    assert found.best.rank == 1
    assert found.own.ranks == (1,)
    assert [each.rank for each in found.answer.every] == [1, 4]
    assert "pareto" in lora.plot(one)


def test_the_grid_report_in_a_browser(finished: Outcome, tmp_path: Path) -> None:
    best = find(finished.results).best

    def leads_with_the_front(browser: Browser) -> None:
        assert browser.evaluate("document.querySelector('figure').id") == "pareto"
        shown = browser.evaluate("document.querySelector('.answer').innerText")
        assert f"rank {best.rank} on {best.targets}" in shown.lower()

    check_in_browser(finished.report, tmp_path / "profile", 5, leads_with_the_front)

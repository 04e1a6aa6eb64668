"""Proof of the recommendation: predictions that are kept, fine-tuning beside them, what is said."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from scipy import stats

import cli
from analyses import study
from analyses.engine.long_table import cells
from analyses.engine.predictions import Key, Prediction, lookup, to_table
from analyses.engine.run_folder import PREDICTIONS, VERIFICATION, Results
from analyses.lora import compute as lora_compute
from analyses.lora.study import LoraStudy
from analyses.show.page import Page
from analyses.subspace.study import SubspaceStudy
from analyses.verify import figure as verify_figure
from analyses.verify import report as verify_report
from analyses.verify import train as verify_train
from analyses.verify.advice import FULL, Advice
from analyses.verify.numbers import (
    ASKED,
    cheapest,
    costs,
    failed,
    is_verified,
    names,
    proof,
    ranking,
    value,
)
from analyses.verify.table import COLUMNS, row, tidy
from analyses.verify.text import caption, caveats, sentence, verdict
from analyses.verify.train import logit_correlation
from analyses.verify.trial import RATES, Trial
from subkern.errors import UserError
from subkern.solvers import labels_from_scores
from subkern.training.grid_search import AllDiverged
from subkern.training.settings import Training
from tests.analyses.lora.test_lora import _made_up, config  # noqa: F401  (fixtures)
from tests.support.fake_lora import f0
from tests.support.study_checks import check_in_browser, check_summary, with_f1

lora = LoraStudy()
subspace = SubspaceStudy()

QUICK = Trial(steps=4, learning_rates=(1e-4, 1e-3, 1e-2))


def trained_logits(examples: Any, rank: int) -> np.ndarray:
    """Return logits [m, 1] that are the better the higher the rank."""
    labels = np.array([2 * each.label - 1 for each in examples])
    return f0(examples, 1) + 0.4 * math.log2(2 * rank) * labels[:, None]


class FakeSearch:
    """Stands in for `subkern.training.grid_search.search`, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Path] = []
        self.trainings: list[Training] = []
        self.diverges: set[int] = set()
        self.stop_at = 10**6

    def __call__(
        self, model: Any, splits: Mapping[str, Any], *, subspace: Any, out: Path, **asked: Any
    ) -> Any:
        if len(self.asked) == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(out)
        self.trainings.append(asked["training"])
        asked["progress"](4, 12)
        rank = getattr(subspace, "r", 16)
        if rank in self.diverges:
            raise AllDiverged("all 3 points of the grid diverged: lower rates than 0.0001?")
        test = splits["test"]
        best = SimpleNamespace(
            training={"learning_rate": 1e-3, "batch_size": 8},
            best_step=4,
            best_logits={"test": trained_logits(test, rank)},
            start_logits={"test": f0(test, 1)},
            labels={"test": np.array([each.label for each in test])},
        )
        return SimpleNamespace(best=best, table=pd.DataFrame({"seconds": [2.0, np.nan, 1.0]}))


@pytest.fixture(autouse=True)
def search(monkeypatch: pytest.MonkeyPatch) -> FakeSearch:
    """Put made-up fine-tuning in place of the real one."""
    fake = FakeSearch()
    monkeypatch.setattr(verify_train, "search", fake)
    return fake


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out figure and report, which take seconds, where a test is not about them."""
    monkeypatch.setattr(study.Study, "draw", lambda _self, _, out: out / "report.html")


@pytest.fixture(scope="module")
def results() -> Results:
    return lora.run(config(solvers=("ridge", "svc")))


# --- what is kept of the predictions ------------------------------------------------------------


def test_predictions_are_the_judges(results: Results) -> None:
    kept = lookup(results.beside[PREDICTIONS])
    assert set(kept) == {
        Key(13, FULL),
        *(Key(13, f"rank {rank}", seed) for rank in (1, 4) for seed in (0, 1, 2)),
    }
    full = results.kernels["13/full"]
    test = [each for each in full.right_ids if each.startswith("test")]
    truth = full.select(right=test).right_labels
    rows = cells(results.table, metric="accuracy", solver="ridge", split="test")
    for key, found in kept.items():
        assert list(found.examples) == test
        about = {"kernel": "full"} if key.draw is None else {"rank": int(key.configuration[-1])}
        score = cells(rows, **about, adapter_seed=key.draw)
        score = score[score["kernel"] != "targets"]["value"].item()
        assert np.mean(labels_from_scores(found.logits) == truth) == score


def test_predictions_survive_the_table() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 2))
    given = [
        Prediction(Key(13, "rank 1", 0), ["a", "b", "c"], logits, logits - 1),
        Prediction(Key(13, FULL), ["a", "b", "c"], -logits, logits),
        Prediction(Key(21, FULL), ["d"], logits[:1], logits[1:2]),
    ]
    found = lookup(to_table(given))
    assert list(found) == [each.key for each in given]
    for each in given:
        assert list(found[each.key].examples) == list(each.examples)
        np.testing.assert_array_equal(found[each.key].logits, each.logits)
        np.testing.assert_array_equal(found[each.key].changes, each.changes)
    assert lookup(to_table([])) == {}


def test_a_subspace_study_keeps_the_kind_that_answers() -> None:
    from tests.analyses.subspace.test_subspace import _made_up as made_up
    from tests.analyses.subspace.test_subspace import small

    patched: Iterator[None] = made_up.__wrapped__()  # type: ignore[attr-defined]
    next(patched)
    try:
        found = subspace.run(small(kinds=("gaussian", "rademacher"), projection_seeds=1))
    finally:
        next(patched, None)
    kept = {key.configuration for key in lookup(found.beside[PREDICTIONS])}
    assert kept == {FULL, "gaussian 2", "gaussian 16", "gaussian 128", "LoRA rank 1", "bias"}
    trial = Trial(draws=5)
    tried = subspace.candidates(small(projection_seeds=1), found, trial)
    assert {each.name for each in tried} == kept
    assert subspace.advice(found).name in kept


# --- one pair of logits -------------------------------------------------------------------------


def test_logit_correlation_is_pearson_s() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 50, 1))
    assert logit_correlation(one, other) == pytest.approx(
        stats.pearsonr(one.ravel(), other.ravel()).statistic
    )
    assert logit_correlation(one, 3 * one - 2) == pytest.approx(1)
    assert math.isnan(logit_correlation(one, np.zeros((50, 1))))


def test_what_the_logits_of_an_example_share_does_not_count() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(2, 20, 3))
    shifted = other + rng.normal(size=(20, 1)) * 100
    assert logit_correlation(one, shifted) == pytest.approx(logit_correlation(one, other))


# --- settings -----------------------------------------------------------------------------------


def test_rates_come_with_the_optimizer() -> None:
    assert Trial().rates == RATES["adam"]
    assert Trial(optimizer="sgd").rates == RATES["sgd"]
    assert Trial(learning_rates=(1e-2, 1e-3)).rates == (1e-3, 1e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "lion"}, "verify-optimizer 'lion' is unknown: use adam, signgd, sgd"),
        ({"learning_rates": ()}, "verify-learning_rates is empty"),
        ({"learning_rates": (0.0, 1e-3)}, "verify-learning_rates holds 0.0"),
        ({"steps": 0}, "verify-steps holds 0"),
        ({"draws": -1}, "verify-draws holds -1"),
    ],
)
def test_wrong_settings_get_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Trial(**changes)
    assert "\n" not in str(error.value)


def test_adam_s_epsilon_is_that_of_the_kernels() -> None:
    adam, sgd = Trial(), Trial(optimizer="sgd")
    assert adam.training("adam:eps=1e-6").epsilon == 1e-6
    assert adam.training("asymmetric_adam:eps=1e-4").epsilon == 1e-4
    for rule in ("sgd", "signgd:zero_tolerance=0"):
        assert adam.training(rule).epsilon == 1e-8
        assert "epsilon" not in adam.describe(rule)
    assert adam.describe("adam:eps=1e-6")["epsilon"] == 1e-6
    assert "epsilon" not in sgd.describe("adam:eps=1e-6")  # it reads none


# --- numbers ------------------------------------------------------------------------------------


def verified(
    scores: Mapping[str, tuple[float, ...]],
    predicted: Mapping[str, float] | None = None,
    *,
    cost: float = 10.0,
    edge: bool = False,
    optimizer: str = "sgd",
    diverged: tuple[str, ...] = (),
    same: float | None = 0.97,
) -> Results:
    """Return results in which configurations score so in each data seed, once trained."""
    rows = []
    seeds = range(len(next(iter(scores.values()))))
    for size, (name, values) in enumerate(scores.items(), start=1):
        about: dict[str, Any] = {
            "configuration": name, "family": "LoRA", "label": name, "parameters": 10 * size,
            "draw": None if name == FULL else 0,
        }  # fmt: skip
        for seed, score in enumerate(values):
            cell = {**about, "data_seed": seed}
            if name in diverged:
                rows.append(row(1.0, metric="diverged", **cell))
                continue
            guess = score if predicted is None else predicted[name]
            numbers = {
                "trained": score, "predicted": guess, "start": 0.5, "seconds": 50.0,
                "edge": float(edge), "prediction_agreement": 0.9, "logit_correlation": 0.8,
                "change_correlation": 0.7, "learning_rate": 1e-3, "best_step": 20.0,
            }  # fmt: skip
            if same is not None:
                numbers["full_agreement"] = 1.0 if name == FULL else same
            rows += [row(number, metric=metric, **cell) for metric, number in numbers.items()]
    table = tidy(rows)
    trial = Trial(optimizer=optimizer)
    table.attrs[ASKED] = {"trial": trial.as_dict()}
    from analyses.lora.compute import TABLE as LONG

    spent = [LONG.row(cost, data_seed=seed, metric="cost.seconds") for seed in seeds]
    settings = config(data_seeds=tuple(seeds), solvers=("ridge",))
    inputs = {
        "task": {"name": "mr", "metric": "accuracy"},
        "examples": {str(seed): {"train": 32, "dev": 32, "test": 1000} for seed in seeds},
    }
    return Results(
        "lora", settings.as_dict(), inputs, LONG.tidy(spent), beside={VERIFICATION: table}
    )


FIVE = {
    "rank 1": (0.70, 0.71),
    "rank 2": (0.78, 0.70),
    "rank 4": (0.79, 0.80),
    "rank 8": (0.80, 0.80),
    FULL: (0.80, 0.79),
}


@pytest.mark.parametrize(
    ("name", "of_best", "of_full"),
    [("rank 1", 0, 0), ("rank 2", 1, 1), ("rank 4", 2, 2), ("rank 8", 2, 2)],
)
def test_how_often_the_advice_held(name: str, of_best: int, of_full: int) -> None:
    found = proof(verified(FIVE), Advice(name, drop=0.02))
    assert found is not None
    assert (found.of_best, found.of_full, found.runs) == (of_best, of_full, 2)
    assert found.right == of_full
    # Rank 4 is within tolerance of full in both runs, whatever was said to be closest.
    denied = proof(verified(FIVE), Advice(name, qualifies=False, drop=0.02))
    assert denied is not None
    assert denied.right == 0
    assert found.best == "rank 8"
    assert found.blind == pytest.approx(5 / 8)  # rank 2 once, 4 and 8 twice of four ranks × two


@pytest.mark.parametrize(
    ("same", "qualifies", "said"),
    [
        (0.97, True, "Right about full fine-tuning: the advised rank 4"),
        (0.90, True, "Wrong about full fine-tuning: the advised rank 4 scores within tolerance of"),
        (0.90, False, "Right about full fine-tuning: as the kernels said, no configuration"),
        (None, True, "Whether the kernels were right about full fine-tuning is not known: its"),
    ],
)
def test_tolerance_is_of_predictions_too(same: float | None, qualifies: bool, said: str) -> None:
    """Scores are within tolerance in both runs; labels are, are not, or were not kept."""
    found = verified(FIVE, same=same)
    advice = Advice("rank 4", qualifies=qualifies, drop=0.02, agreement=0.95)
    proved = proof(found, advice)
    assert proved is not None
    assert proved.of_full == 2
    assert verdict(found, advice).startswith(said)
    labels = (
        f"It gives {100 * (same or 0):.1f}\u00a0% of the test examples full fine-tuning's label"
    )
    assert (labels in sentence(found, advice)) == (same is not None)
    assert (cheapest(found, advice) is None) == (same == 0.90)
    answer = verify_report.as_json(found, advice)["configurations"][0]
    assert np.isnan(answer["full_agreement"]) == (same is None)


def test_draws_of_different_seeds_make_runs_together() -> None:
    rows = []
    for name, draws in (("rank 1", (3, 4)), ("srht 8", (7, 9)), ("bias", (None,)), (FULL, (None,))):
        for draw in draws:
            cell: dict[str, Any] = {"configuration": name, "draw": draw, "data_seed": 0}
            score = 0.5 if draw in (4, 7) else 0.8
            rows.append(row(score, metric="trained", parameters=1, **cell))
    found = proof(
        replace(verified(FIVE), beside={VERIFICATION: tidy(rows)}), Advice("rank 1", drop=0.02)
    )
    assert found is not None
    assert (found.runs, found.of_best, found.of_full) == (2, 1, 1)
    assert found.blind == pytest.approx(4 / 6)


def test_only_what_could_have_been_advised_is_a_rival() -> None:
    cheap = Advice("rank 1", drop=0.02, rivals=["rank 1"])
    found = proof(verified(FIVE), cheap)
    assert found is not None
    assert (found.best, found.of_best, found.of_full) == ("rank 1", 2, 0)


def test_a_tolerance_may_be_a_share() -> None:
    assert Advice("x", share=0.9).within(0.72, 0.8)
    assert not Advice("x", share=0.9).within(0.71, 0.8)
    assert Advice("x", drop=0.05).within(0.95, 1.0)


def test_the_cheapest_in_hindsight() -> None:
    assert cheapest(verified(FIVE), Advice("rank 8", drop=0.02)) == "rank 4"
    assert cheapest(verified(FIVE), Advice("rank 8", drop=0.0)) == "rank 4"
    low = verified({"rank 1": (0.5,), FULL: (0.9,)})
    assert cheapest(low, Advice("rank 1", drop=0.02)) is None
    assert any(
        "no configuration trained" in text for text in caveats(low, Advice("rank 1", drop=0))
    )


def test_the_order_is_spearman_s_with_an_interval() -> None:
    rng = np.random.default_rng(0)
    scores = {f"rank {i}": (float(s),) for i, s in enumerate(rng.random(12))} | {FULL: (0.9,)}
    guesses = {name: s[0] + 0.3 * rng.random() for name, s in scores.items()}
    found = ranking(verified(scores, guesses))
    ranks = [name for name in scores if name != FULL]
    wanted = stats.spearmanr([guesses[n] for n in ranks], [scores[n][0] for n in ranks]).statistic
    assert found.rho == pytest.approx(wanted)
    assert found.low < found.rho < found.high <= 1
    assert found.count == 12
    exact = ranking(verified(FIVE))
    assert (exact.rho, exact.low, exact.high) == (1, 1, 1)
    alike = ranking(verified(FIVE, dict.fromkeys(FIVE, 0.7)))
    assert math.isnan(alike.rho)


def test_means_that_differ_in_rounding_alone_have_no_order() -> None:
    """0.1 and 0.2 have not quite the mean of 0.15 and 0.15."""
    pairs = ((0.1, 0.2), (0.15, 0.15), (0.2, 0.1), (0.05, 0.25))
    scores = {FULL: (0.9, 0.9), **{f"rank {r}": pair for r, pair in enumerate(pairs, 1)}}
    assert len({sum(pair) / 2 for pair in pairs}) > 1
    guesses = {name: 0.1 * i for i, name in enumerate(scores)}
    assert math.isnan(ranking(verified(scores, guesses)).rho)


def test_an_order_within_the_noise_is_not_claimed() -> None:
    """Of 1,000 test examples two standard errors at 0.8 are 2.5 points."""
    apart = {FULL: (0.9,), **{f"rank {r}": (0.7 + 0.02 * r,) for r in (1, 2, 4, 8)}}
    near = {FULL: (0.9,), **{f"rank {r}": (0.8 + 0.001 * r,) for r in (1, 2, 4, 8)}}
    said = [sentence(verified(scores), Advice("rank 1", drop=0.02)) for scores in (apart, near)]
    assert "the kernels order them as training does." in said[0]
    assert "as if the kernels ordered them as training does; but" in said[1]
    assert "no order is shown" in said[1]


def test_the_order_by_f1_is_judged_by_its_own_error() -> None:
    """F1 has no binomial error: the interval of the trained scores decides."""
    found = verified({FULL: (0.9,), **{f"rank {r}": (0.7 + 0.02 * r,) for r in (1, 2, 4, 8)}})

    def said(half: float) -> str:
        scored = with_f1(found, half)
        table = found.beside[VERIFICATION]
        bars = table.assign(low=table["value"] - half, high=table["value"] + half)
        bars.attrs = table.attrs
        with_bars = replace(scored, beside={VERIFICATION: bars})
        return sentence(with_bars, Advice("rank 1", drop=0.02))

    assert "the kernels order them as training does." in said(0.1)
    assert "less than two standard errors of one (20.4): no order is shown" in said(0.2)
    assert "how far chance moves a score is not known: no order is shown" in said(math.nan)


def test_costs_are_of_all_data_seeds() -> None:
    found = costs(verified(FIVE, cost=10.0))
    assert (found.predicting, found.trying, found.runs) == (20.0, 500.0, 10)
    said = sentence(verified(FIVE), Advice("rank 4", drop=0.02))
    assert "Predicting took 20 s, trying everything 8 min 20 s, 25 times as long." in said


@pytest.mark.usefixtures("undrawn")
def test_the_time_of_what_diverged_is_said_not_to_count(out: Path, search: FakeSearch) -> None:
    """One point of every grid diverges here, and all three of rank 2."""
    search.diverges = {2}
    found = lora.verify(asked(), out, QUICK).results
    spent = costs(found)
    assert (spent.trying, spent.runs, spent.lost) == (12.0, 5, 4 + 3)
    note = "not counting 7 fine-tunings that diverged: it took longer"
    assert note in sentence(found, lora.advice(lora.findings(found)))
    assert note in lora_page(found)
    assert "not counting" not in sentence(verified(FIVE), Advice("rank 4", drop=0.02))


@pytest.mark.parametrize("trained", [["rank 4", FULL], [FULL]])
def test_the_page_answers_with_the_verdict_and_shows_scores_large(trained: list[str]) -> None:
    found = verified({name: FIVE[name] for name in ["rank 1", *trained]})
    page = verify_report.with_proof(
        Page("title", "question", "Take rank 4.", facts={"rank": "4"}),
        found,
        Advice("rank 4", drop=0.02),
        None,
    )
    assert page.answer.startswith("Take rank 4. Put to the proof by fine-tuning: ")
    assert page.answer.endswith(verdict(found, Advice("rank 4", drop=0.02)))
    assert list(page.facts) == ["rank", *(f"Fine-tuned accuracy, {name}" for name in trained)]
    assert all(len(each) < 12 for each in page.facts.values())


def lora_page(found: Results) -> str:
    """Return the text of the tables of cost."""
    page = lora._drawing(found.config).page_of(found, {})
    return " ".join(table.note for table in page.cost)


# --- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "drop", "said"),
    [
        (
            "rank 4",
            0.02,
            "Right about full fine-tuning: the advised rank 4 trained within tolerance of it. The"
            " choice among the configurations held in 2 of 2 runs.",
        ),
        (
            "rank 2",
            0.02,
            "Right about full fine-tuning in 1 of 2 runs. Its choice among the configurations did"
            " not help: a blind one does as well.",
        ),
        ("rank 1", 0.02, "Wrong about full fine-tuning: the advised rank 1 trained below"),
        ("rank 1", 0.5, "Which configuration to take did not matter"),
    ],
)
def test_the_verdict_is_plain(name: str, drop: float, said: str) -> None:
    assert said in verdict(verified(FIVE), Advice(name, drop=drop))


def test_it_is_said_whether_score_or_predictions_missed() -> None:
    """Rank 1 scores below tolerance in both runs, rank 2 in one, rank 4 in none."""
    found, said = verified(FIVE, same=0.5), {}
    for name in ("rank 1", "rank 2", "rank 4"):
        said[name] = verdict(found, Advice(name, drop=0.02, agreement=0.95))
        assert said[name].startswith(f"Wrong about full fine-tuning: the advised {name} ")
    assert "rank 1 trained below the tolerance of it. " in said["rank 1"]
    assert "below the tolerance of it, or to predictions that differ more" in said["rank 2"]
    assert "rank 4 scores within tolerance of it, but their predictions differ" in said["rank 4"]


@pytest.mark.parametrize(("first", "together"), [("1000", True), ("1", False)])
def test_a_long_label_makes_room_for_the_next_mark(first: str, together: bool) -> None:
    """Labels of one cluster are written right of its last mark, one above the other."""
    marks = [(0.84, 0.86, first, "orange"), (0.87, 0.86, "full", "blue")]
    assert (len(verify_figure._clusters(marks, 0.52)) == 1) == together
    assert len(verify_figure._clusters([marks[0], (0.87, 0.91, "full", "blue")], 0.52)) == 2


def test_what_was_only_closest_is_called_so() -> None:
    said = sentence(verified(FIVE), Advice("rank 4", qualifies=False, drop=0.02))
    assert "rank 4, which missed the tolerance by kernels and was called closest," in said
    assert "the advised rank 4" in sentence(verified(FIVE), Advice("rank 4", drop=0.02))


def test_better_than_blind_but_not_always() -> None:
    found = verified({"rank 1": (0.5, 0.5, 0.5), "rank 2": (0.8, 0.8, 0.6), FULL: (0.8,) * 3})
    assert "held more often than a blind one, not always" in verdict(
        verified({"a": (0.5,) * 3, "b": (0.5,) * 3, "c": (0.8, 0.8, 0.4), FULL: (0.8,) * 3}),
        Advice("c", drop=0.02),
    )
    said = verdict(found, Advice("rank 2", drop=0.02))
    assert said == (
        "Right about full fine-tuning in 2 of 3 runs. The choice among the configurations held in 3"
        " of 3 runs."
    )


def test_right_that_nothing_is_like_full_fine_tuning() -> None:
    """All ranks train alike, below full: nothing about the choice, but the warning was right."""
    found = verified({"rank 1": (0.79,), "rank 8": (0.79,), FULL: (0.86,)})
    denied = Advice("rank 8", qualifies=False, drop=0.02)
    assert verdict(found, denied) == (
        "Right about full fine-tuning: as the kernels said, no configuration trained within"
        " tolerance of it. Which configuration to take did not matter: every one trained within"
        " tolerance of the best of them."
    )
    assert verdict(found, replace(denied, qualifies=True)).startswith("Wrong about full")
    equal = verified({"rank 1": (0.87,), "rank 8": (0.79,), FULL: (0.86,)})
    assert "no configuration is within tolerance of it, and one trained so" in verdict(
        equal, denied
    )


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (verified(FIVE, edge=True), "an end of the grid for all configurations"),
        (verified(FIVE, optimizer="adam"), "kernels are of the rule sgd, training used adam"),
        (verified({**FIVE, FULL: (0.4, 0.5)}), "does not improve on no training"),
        (verified(FIVE, diverged=("rank 2",)), "diverged for rank 2: left out"),
        (verified({n: s[:1] for n, s in FIVE.items()}), "One data seed and one draw"),
        (verified(FIVE), "cheapest within tolerance of full fine-tuning was rank 4, not rank 8"),
    ],
)
def test_caveats(found: Results, said: str) -> None:
    assert any(said in text for text in caveats(found, Advice("rank 8", drop=0.02)))


def test_no_caveat_without_a_cause() -> None:
    assert caveats(verified(FIVE), Advice("rank 4", drop=0.02)) == []


def test_what_diverged_is_left_out_and_nothing_is_proved_of_it() -> None:
    found = verified(FIVE, diverged=("rank 2",))
    assert failed(found) == ["rank 2"]
    assert "rank 2" not in names(found)
    advice = Advice("rank 2", drop=0.02)
    assert proof(found, advice) is None
    assert "nothing is proved" in sentence(found, advice)
    assert "could not be tested" in verdict(found, advice)
    check_summary(verify_report.summary(found, advice), sentence(found, advice))


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (("rank 8",), "Rank 8 could not be trained: nothing is proved."),
        ((FULL,), "Full fine-tuning could not be trained: nothing is proved."),
        (("rank 8", FULL), "Rank 8 and full fine-tuning could not be trained: nothing is proved."),
        (tuple(FIVE), "nothing could be compared"),
    ],
)
def test_what_could_not_be_trained_is_named(lost: tuple[str, ...], said: str) -> None:
    found, advice = verified(FIVE, diverged=lost), Advice("rank 8", drop=0.02)
    assert said in sentence(found, advice)
    assert "could not be tested" in verdict(found, advice)
    noted = caveats(found, advice)
    assert any("training diverged for" in text for text in noted)
    assert any("In hindsight" in text for text in noted) == (FULL not in lost)
    json.dumps(verify_report.as_json(found, advice))


@pytest.mark.parametrize("edge", [True, False])
def test_a_best_rate_at_the_end_of_its_grid_is_marked_in_the_tables(edge: bool) -> None:
    found, advice = verified(FIVE, edge=edge), Advice("rank 4", drop=0.02)
    text = check_summary(verify_report.summary(found, advice), sentence(found, advice))
    assert text.count("%†") == (len(FIVE) if edge else 0)
    assert ("† The best learning rate is at an end" in " ".join(text.split())) == edge
    table = verify_report._configurations(found, advice)
    assert all((line[3].endswith("†")) == edge for line in table.rows)
    assert ("† The best" in table.note) == edge


def test_the_caption_holds_the_numbers_it_shows() -> None:
    found = verified(FIVE, dict.fromkeys(FIVE, 0.75))
    said = caption(found, Advice("rank 4", drop=0.02))
    assert "4 of 5 lie above it" not in said.text
    above = sum(value(found, name, "trained").mean > 0.75 for name in names(found))
    assert f"{above} of 5 lie above it" in said.text
    assert "rank 8 75.0 % predicted, 80.0 % trained" in said.alt.replace("\N{NO-BREAK SPACE}", " ")


# --- the run directory --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished study without figures of its own; tests copy it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lora, "figures", lambda _: {})
        folder = tmp_path_factory.mktemp("study") / "run"
        lora.analyze(asked(), folder, command="subkern x")
    return folder


@pytest.fixture
def out(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the finished study; no kernel can be computed any more."""
    monkeypatch.setattr(lora, "figures", lambda _: {})
    monkeypatch.setattr(lora_compute, "sweep_targets", None)
    return Path(shutil.copytree(finished, tmp_path / "run"))


def asked() -> lora.settings:
    return config(solvers=("ridge",), ranks=(1, 2, 4, 8))


def test_verifying_a_finished_run_computes_only_the_training(
    out: Path, search: FakeSearch, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    found = lora.verify(
        asked(), out, QUICK, progress=lambda *done: seen.append(done), command="subkern x"
    )
    assert not found.up_to_date
    assert len(search.asked) == 5
    assert all(folder.is_relative_to(out / "verification") for folder in search.asked)
    assert seen[-1] == (60, 60)
    table = found.results.beside[VERIFICATION]
    assert {name: str(kind) for name, kind in table.dtypes.items()} == COLUMNS
    assert names(found.results) == [FULL, "rank 1", "rank 2", "rank 4", "rank 8"]
    trained = [value(found.results, f"rank {rank}", "trained").mean for rank in (1, 2, 4, 8)]
    assert trained == sorted(trained)
    assert trained[0] < trained[-1]
    assert costs(found.results).trying == 15.0
    text = found.report.read_text()
    assert "Put to the proof" in text
    assert 'id="verification"' in text
    assert (out / "figures" / "verification.pdf").is_file()
    assert isinstance(lora.plot(Results.load(out))[VERIFICATION], Figure)
    check_in_browser(found.report, tmp_path / "profile", images=1)


def test_a_verified_run_is_up_to_date(
    out: Path, search: FakeSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lora.verify(asked(), out, QUICK)
    monkeypatch.setattr(study, "load_model", None)
    again = lora.verify(asked(), out, QUICK)
    assert again.up_to_date
    pd.testing.assert_frame_equal(
        again.results.beside[VERIFICATION], first.results.beside[VERIFICATION]
    )
    plain = lora.analyze(asked(), out)
    assert plain.up_to_date
    assert is_verified(plain.results)
    (out / "figures" / "verification.png").unlink()
    assert lora.analyze(asked(), out).up_to_date
    assert (out / "figures" / "verification.png").is_file()
    assert len(search.asked) == 5


def test_another_tolerance_judges_the_same_training(out: Path, search: FakeSearch) -> None:
    lora.verify(asked(), out, QUICK)
    lax = config(solvers=("ridge",), ranks=(1, 2, 4, 8), max_drop=1.0, min_agreement=0.0)
    found = lora.analyze(lax, out, overwrite=True)
    assert lora.advice(lora.findings(found.results)).name == "rank 1"
    assert "Which configuration to take did not matter" in found.report.read_text()
    assert len(search.asked) == 5


def test_other_training_is_done_beside(out: Path, search: FakeSearch) -> None:
    lora.verify(asked(), out, QUICK)
    other = lora.verify(asked(), out, Trial(steps=9, draws=2))
    assert not other.up_to_date
    assert len(search.asked) == 5 + 9
    assert not {*search.asked[:5]} & {*search.asked[5:]}
    assert proof(other.results, lora.advice(lora.findings(other.results))).runs == 2  # type: ignore[union-attr]


def test_an_interrupted_verification_keeps_the_study(out: Path, search: FakeSearch) -> None:
    search.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        lora.verify(asked(), out, QUICK)
    assert lora.analyze(asked(), out).up_to_date
    assert not is_verified(Results.load(out))
    search.stop_at = 100
    assert is_verified(lora.verify(asked(), out, QUICK).results)
    assert search.asked[:3] == search.asked[3:6]  # the same folders, where searches go on


def test_a_diverging_configuration_does_not_stop_the_others(out: Path, search: FakeSearch) -> None:
    search.diverges = {2}
    found = lora.verify(asked(), out, QUICK).results
    assert failed(found) == ["rank 2"]
    assert len(names(found)) == 4


def test_where_all_diverge_nothing_is_compared_until_lower_rates_train(
    out: Path, search: FakeSearch
) -> None:
    lora.verify(asked(), out, QUICK)
    search.diverges = {1, 2, 4, 8, 16}
    high = Trial(steps=4, learning_rates=(1.0, 10.0))
    found = lora.verify(asked(), out, high)
    assert names(found.results) == []
    assert "nothing could be compared" in found.report.read_text()
    assert not list((out / "figures").glob("verification.*"))  # that of the first verification
    answer = sentence(found.results, lora.advice(lora.findings(found.results)))
    printed = verify_report.summary(
        found.results, lora.advice(lora.findings(found.results))
    ).renderables
    assert [str(text).split(":")[0] for text in printed[:2]] == [answer.split(":")[0], "Note"]
    assert lora.verify(asked(), out, high).up_to_date
    found.report.unlink()
    assert lora.analyze(asked(), out).up_to_date  # drawn again
    search.diverges = set()
    found = lora.verify(asked(), out, Trial(steps=4, learning_rates=(0.1, 1.0, 10.0)))
    assert len(names(found.results)) == 5
    assert (out / "figures" / "verification.png").is_file()
    assert len(set(search.asked)) == 5  # the same folders, where grids grow


def test_a_verification_killed_before_it_is_drawn_is_drawn_later(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora.verify(asked(), out, QUICK)
    longer = Trial(steps=9, learning_rates=(1e-3,))
    with monkeypatch.context() as patch:

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(study.Study, "draw", killed)
        with pytest.raises(KeyboardInterrupt):
            lora.verify(asked(), out, longer)
    found = lora.verify(asked(), out, longer)
    assert found.up_to_date
    assert "9 steps" in found.report.read_text()


def test_training_has_the_kernels_epsilon(
    tmp_path: Path, search: FakeSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "figures", lambda _: {})
    adam = config(solvers=("ridge",), ranks=(1,), rule="adam:eps=1e-6")
    lora.analyze(adam, tmp_path)
    found = lora.verify(adam, tmp_path, QUICK)
    assert {each.epsilon for each in search.trainings} == {1e-6}
    assert "verify epsilon" in found.report.read_text()
    assert lora.verify(adam, tmp_path, QUICK).up_to_date


@pytest.mark.usefixtures("undrawn")
def test_more_draws_go_where_the_first_ones_are(out: Path, search: FakeSearch) -> None:
    lora.verify(asked(), out, QUICK)
    first = set(search.asked)
    lora.verify(asked(), out, QUICK.changed(draws=2))
    assert first < set(search.asked)
    assert len(set(search.asked)) == 5 + 4


def test_an_unfinished_study_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unfinished: run its analysis first"):
        lora.verify(asked(), tmp_path / "none", QUICK)


def test_a_run_without_predictions_says_how_to_get_them(out: Path) -> None:
    (out / "predictions.parquet").unlink()
    with pytest.raises(UserError, match="lacks its predictions: --overwrite"):
        lora.verify(asked(), out, QUICK)


def test_other_mistakes_are_not_taken_for_divergence(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise UserError("rank 64 exceeds a layer")

    monkeypatch.setattr(verify_train, "search", refuse)
    with pytest.raises(UserError, match="rank 64"):
        lora.verify(asked(), out, QUICK)


def test_several_target_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "figures", lambda _: {})
    grid = config(target_sets=("qv", "mlp"), solvers=("ridge",), ranks=(1, 4), budget="8%")
    lora.analyze(grid, tmp_path)
    found = lora.verify(grid, tmp_path, QUICK).results
    assert names(found) == [FULL, "qv, rank 1", "qv, rank 4", "mlp, rank 1", "mlp, rank 4"]
    advice = lora.advice(lora.findings(found))
    assert advice.name in names(found)
    assert advice.rivals is not None
    assert advice.name in advice.rivals
    assert set(found.beside[VERIFICATION]["family"].unique()) == {"full fine-tuning", "qv", "mlp"}


# --- the command --------------------------------------------------------------------------------


def test_the_command_proves_and_then_is_up_to_date(
    tmp_path: Path, search: FakeSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "figures", lambda _: {})
    words = ["analyze", "lora", "--model", "made-up", "--task", "mr", "--data", "x", "--shots", "8"]
    words += ["--ranks", "1,4", "--out", str(tmp_path)]
    plain = CliRunner().invoke(cli.cli, words)
    assert plain.exit_code == 0, plain.output
    assert not search.asked
    proving = [*words, "--verify", "--verify-steps", "5", "--verify-learning-rates", "1e-3,1e-2"]
    first = CliRunner().invoke(cli.cli, proving)
    assert first.exit_code == 0, first.output
    assert "Put to the proof" in first.output
    assert "up to date" not in first.output
    assert max(map(len, first.output.splitlines()[:-1])) <= 80
    again = CliRunner().invoke(cli.cli, proving)
    assert "up to date: nothing was computed" in again.output
    assert len(search.asked) == 3
    plain = CliRunner().invoke(cli.cli, words)
    assert "Put to the proof" in plain.output
    trial = Results.load(tmp_path).beside[VERIFICATION].attrs[ASKED]["trial"]
    assert (trial["steps"], trial["learning_rates"]) == (5, [1e-3, 1e-2])


@pytest.mark.parametrize("study_name", ["lora", "subspace"])
def test_bad_options_get_one_line(tmp_path: Path, study_name: str) -> None:
    words = ["analyze", study_name, "--model", "m", "--task", "mr", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(cli.cli, [*words, "--verify", "--verify-optimizer", "lion"])
    assert isinstance(result.exception, UserError)
    assert "use adam, signgd, sgd" in str(result.exception)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--verify-steps", "-3"), "--verify-steps -3 is of the verification: add --verify"),
        (
            ("--verify", "--adapter-seeds", "2", "--verify-draws", "5"),
            "verify-draws 5 is more than the 2 of adapter-seeds: give at most as many",
        ),
    ],
)
@pytest.mark.parametrize("study_name", ["lora", "subspace"])
def test_options_of_a_verification_are_not_dropped(
    tmp_path: Path, study_name: str, words: tuple[str, ...], message: str
) -> None:
    asked = ["analyze", study_name, "--model", "m", "--task", "mr", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(cli.cli, [*asked, *words])
    assert str(result.exception) == message
    assert not (tmp_path / "run").exists()


def test_json_is_the_answer() -> None:
    found = verified(FIVE)
    advice = Advice("rank 4", drop=0.02)
    answer = json.loads(json.dumps(verify_report.as_json(found, advice)))
    assert answer["answer"] == sentence(found, advice)
    assert answer["proof"]["of_best"] == 2
    assert [each["name"] for each in answer["configurations"]] == list(FIVE)

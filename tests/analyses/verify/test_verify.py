"""Proof of the recommendation: predictions that are kept, fine-tuning beside them, what is said."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from scipy import stats

import cli
from analyses.engine.long_table import cells
from analyses.engine.predictions import Key, Prediction, lookup, to_table
from analyses.engine.run_folder import PREDICTIONS, VERIFICATION, Results
from analyses.lora.study import LoraStudy
from analyses.subspace import compute as subspace_compute
from analyses.subspace import study as subspace_study
from analyses.verify import page
from analyses.verify.findings import ASKED, Findings, is_verified, judge
from analyses.verify.train import COLUMNS, logit_correlation, row, tidy
from analyses.verify.trial import FULL, RATES, Advice, Trial
from subkern.errors import UserError
from subkern.solvers import labels_from_scores
from subkern.training.grid_search import AllDiverged
from subkern.training.settings import Training
from tests.support import fake_lora
from tests.support.fake_lora import f0
from tests.support.fake_subspace import Undrawn, config, small
from tests.support.study_checks import check_in_browser, check_summary, with_f1

QUICK = Trial(steps=4, learning_rates=(1e-4, 1e-3, 1e-2), repeats=0)


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
        trained = trained_logits(test, rank)
        trained[: 3 * asked["training"].seed] *= -1  # of another order of examples
        best = SimpleNamespace(
            training={"learning_rate": 1e-3, "batch_size": 8},
            best_step=4,
            best_logits={"test": trained},
            start_logits={"test": f0(test, 1)},
            labels={"test": np.array([each.label for each in test])},
        )
        return SimpleNamespace(best=best, table=pd.DataFrame({"seconds": [2.0, np.nan, 1.0]}))


class Proved(Undrawn):
    """A made-up study that draws nothing at all."""

    def draw(self, results: Results, out: Path) -> Path:
        return out / "report.html"


@pytest.fixture
def search() -> FakeSearch:
    """Return made-up fine-tuning."""
    return FakeSearch()


@pytest.fixture(scope="module")
def results() -> Results:
    return Undrawn().run(config(kinds=("gaussian", "rademacher"), projection_seeds=1))


def asked(**changes: Any) -> Any:
    """Return settings of a study of seven configurations."""
    few = {"projection_seeds": 2, "adapter_seeds": 3, "ranks": (1, 2, 4, 8), "methods": ()}
    return small(**{"dims": (2, 16), **few, **changes})


# --- what is kept of the predictions ------------------------------------------------------------


def test_predictions_are_the_judges(results: Results) -> None:
    """Of random subspaces only the kind that answers is kept."""
    kept = lookup(results.beside[PREDICTIONS])
    assert set(kept) == {
        *(Key(13, name) for name in (FULL, "bias", "ia3")),
        *(Key(13, f"gaussian {dim}", 0) for dim in (2, 16, 128)),
        *(Key(13, f"LoRA rank {rank}", seed) for rank in (1, 4) for seed in (0, 1, 2)),
    }
    full = results.kernels["13/full"]
    test = [each for each in full.right_ids if each.startswith("test")]
    truth = full.select(right=test).right_labels
    rows = cells(results.table, metric="accuracy", solver="ridge", split="test")
    for key, found in kept.items():
        assert list(found.examples) == test
        name, _, size = key.configuration.rpartition(" ")
        method = {"LoRA rank": f"rank {size}"}.get(name, name or size)
        about = {"method": method, "seed": key.draw}
        about |= {"parameters": int(size)} if name == "gaussian" else {}
        score = cells(rows, **about)["value"].item()
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


def test_what_is_tried_is_what_was_kept(results: Results) -> None:
    study = Undrawn()
    settings = config(kinds=("gaussian", "rademacher"), projection_seeds=1)
    kept = {key.configuration for key in lookup(results.beside[PREDICTIONS])}
    tried = study.candidates(settings, results, Trial(draws=1))
    assert {each.name for each in tried} == kept
    assert study.advice(study.findings(results)).name in kept
    sizes = {each.name: each.parameters for each in tried}
    assert (sizes[FULL], sizes["gaussian 16"], sizes["LoRA rank 4"], sizes["bias"]) == (
        600, 16, 80, 50,
    )  # fmt: skip


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
    for auto in (Trial(), Trial(learning_rates="auto"), Trial.from_dict(Trial().as_dict())):
        assert auto.is_auto
        assert auto.rates == RATES["adam"]  # to fall back on
    assert Trial().as_dict()["learning_rates"] == "auto"
    assert not QUICK.is_auto
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
        ({"repeats": -1}, "verify-repeats holds -1: give 0 or a whole number above it"),
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
    unsuggested: tuple[str, ...] | None = None,
    own: tuple[float, ...] = (),
    step: Mapping[str, float] | None = None,
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
            if unsuggested is not None:
                numbers["suggested"] = float(name not in unsuggested)
            if same is not None:
                numbers["full_agreement"] = 1.0 if name == FULL else same
            if own and name == FULL:  # repeated, with 3 points less
                numbers |= {"repeat_trained": score - 0.03, "repeat_agreement": own[seed]}
            if step is not None:
                numbers["after_step"] = step[name]
            for metric, number in numbers.items():
                guessed = step is not None and metric in ("predicted", "after_step")
                reach = (number - 0.02, number + 0.02) if guessed else (math.nan, math.nan)
                rows.append(row(number, reach, metric=metric, **cell))
    table = tidy(rows)
    rates = RATES[optimizer] if unsuggested is None else None
    trial = Trial(optimizer=optimizer, learning_rates=rates)
    table.attrs[ASKED] = {"trial": trial.as_dict()}
    spent = [subspace_compute.row(cost, data_seed=seed, metric="cost.seconds") for seed in seeds]
    settings = config(data_seeds=tuple(seeds), solvers=("ridge",))
    inputs = {
        "task": {"name": "mr", "metric": "accuracy"},
        "examples": {str(seed): {"train": 32, "dev": 32, "test": 1000} for seed in seeds},
    }
    long = subspace_compute.tidy(spent)
    return Results("subspace", settings.as_dict(), inputs, long, beside={VERIFICATION: table})


FIVE = {
    "rank 1": (0.70, 0.71),
    "rank 2": (0.78, 0.70),
    "rank 4": (0.79, 0.80),
    "rank 8": (0.80, 0.80),
    FULL: (0.80, 0.79),
}


def of(name: str, drop: float = 0.02, scores: Mapping[str, Any] = FIVE, **about: Any) -> Findings:
    """Return what became of advice to take this configuration."""
    return judge(verified(scores, **about), Advice(name, drop=drop))


@pytest.mark.parametrize(
    ("name", "of_best", "of_full", "about_full", "choice"),
    [
        ("rank 1", 0, 0, "wrong", "blind"),
        ("rank 2", 1, 1, "partly", "blind"),
        ("rank 4", 2, 2, "right", "held"),
        ("rank 8", 2, 2, "right", "held"),
    ],
)
def test_how_often_the_advice_held(
    name: str, of_best: int, of_full: int, about_full: str, choice: str
) -> None:
    found = of(name).proof
    assert found is not None
    assert (found.of_best, found.of_full, found.runs) == (of_best, of_full, 2)
    assert (found.right, found.about_full, found.choice) == (of_full, about_full, choice)
    # Rank 4 is within tolerance of full in both runs, whatever was said to be closest.
    denied = judge(verified(FIVE), Advice(name, qualifies=False, drop=0.02)).proof
    assert denied is not None
    assert (denied.right, denied.about_full) == (0, "wrong")
    assert found.best == "rank 8"
    assert found.blind == pytest.approx(5 / 8)  # rank 2 once, 4 and 8 twice of four ranks × two


@pytest.mark.parametrize(
    ("same", "qualifies", "about_full"),
    [(0.97, True, "right"), (0.9, True, "wrong"), (0.9, False, "right"), (None, True, "unknown")],
)
def test_tolerance_is_of_predictions_too(
    same: float | None, qualifies: bool, about_full: str
) -> None:
    """Scores are within tolerance in both runs; labels are, are not, or were not kept."""
    advice = Advice("rank 4", qualifies=qualifies, drop=0.02, agreement=0.95)
    found = judge(verified(FIVE, same=same), advice)
    assert found.proof is not None
    assert found.proof.of_full == 2
    assert (found.proof.about_full, found.proof.missed_by) == (about_full, "predictions")
    labels = (
        f"It gives {100 * (same or 0):.1f}\u00a0% of the test examples full fine-tuning's label"
    )
    assert found.labels_kept == (same is not None) == (labels in page.say(found, "answer"))
    assert (found.cheapest is None) == (same == 0.90)
    answer = page.as_json(found)["configurations"][0]
    assert np.isnan(answer["full_agreement"]) == (same is None)


@pytest.mark.parametrize(
    ("same", "own", "about_full"),
    [(0.9, 0.92, "right"), (0.9, 0.9201, "wrong"), (0.99, 1.0, "right"), (0.97, 1.0, "wrong")],
)
def test_full_fine_tuning_is_the_yardstick_of_predictions(
    same: float, own: float, about_full: str
) -> None:
    """They may be as much less alike than two full fine-tunings are as a score may be lower."""
    advice = Advice("rank 4", drop=0.02, agreement=0.95)
    found = judge(verified(FIVE, same=same, own=(own, own)), advice)
    assert found.proof is not None
    assert found.proof.about_full == about_full
    assert (found.cheapest is None) == (about_full == "wrong")
    assert found.least_agreement == pytest.approx(own - 0.02)
    said, caveats = page.say(found, "answer"), " ".join(page.caveats(found))
    assert "what full fine-tuning gives itself less the 2.0 points" in said
    assert "was not measured" not in said + caveats
    unmeasured = judge(verified(FIVE, same=same), advice)
    assert unmeasured.least_agreement == 0.95
    assert "full fine-tuning gives itself was not measured" in page.say(unmeasured, "answer")
    assert "was chosen" in " ".join(page.caveats(unmeasured))


def test_each_data_seed_has_its_own_yardstick() -> None:
    advice = Advice("rank 4", drop=0.02, agreement=0.95)
    found = judge(verified(FIVE, same=0.9, own=(0.9, 0.96)), advice)
    assert found.yardstick is not None
    assert found.yardstick.agreement == pytest.approx(0.93)
    assert (found.yardstick.of_seed(0), found.yardstick.of_seed(7)) == (
        0.9,
        found.yardstick.agreement,
    )
    assert found.proof is not None
    assert found.proof.right == 1


def test_scores_that_full_fine_tuning_itself_does_not_keep_are_said_to_be_loose() -> None:
    """Repeated, it scores 3 points less: what lies within that is no order either."""
    near = {FULL: (0.85,), **{f"rank {r}": (0.8 + 0.0035 * r,) for r in (1, 2, 4, 8)}}
    plain = of("rank 1", scores=near)
    assert (plain.evidence, plain.is_loose) == ("alike", False)
    wide = {FULL: (0.85,), **{f"rank {r}": (0.8 + 0.004 * r,) for r in (1, 2, 4, 8)}}
    assert of("rank 1", scores=wide).evidence == "same"
    found = of("rank 1", scores=wide, own=(0.9,))
    assert found.yardstick is not None
    assert found.yardstick.difference == pytest.approx(0.03)
    assert (found.evidence, found.is_loose) == ("alike", True)
    assert "two full fine-tunings that differ in the order of examples (3.0)" in page.say(
        found, "answer"
    )
    assert "this shows nothing about the kernels" in page.say(found, "verdict")
    for block in ("verdict", "answer"):
        assert "partly luck" in page.say(found, block)
        assert "partly luck" not in page.say(plain, block)


def test_how_well_training_was_foretold() -> None:
    scores = {"rank 1": 0.70, "rank 2": 0.74, "rank 4": 0.78, "rank 8": 0.82, FULL: 0.84}
    start = {"rank 1": 0.75, "rank 2": 0.75, "rank 4": 0.75, "rank 8": 0.70, FULL: 0.9}
    step = {"rank 1": 0.71, "rank 2": 0.73, "rank 4": 0.78, "rank 8": 0.82, FULL: 0.8}
    results = verified({name: (score,) for name, score in scores.items()}, start, step=step)
    advice = Advice("rank 4", drop=0.02, usual="rank 2")
    found = judge(results, advice)
    first, after = found.predictors
    assert (first.kernels, first.first, after.kernels, after.first) == (
        "start", "rank 1", "step", "rank 8",
    )  # fmt: skip
    assert first.error == pytest.approx(math.sqrt(np.mean(np.square([0.05, 0.01, -0.03, -0.12]))))
    assert after.error == pytest.approx(0.01 / math.sqrt(2))
    assert (first.covered, first.told, after.covered, after.told) == (1, 4, 4, 4)  # ± 2 points
    assert (first.reach, after.reach) == (pytest.approx(0.02), pytest.approx(0.02))
    assert (first.lost, after.lost) == (pytest.approx(0.12), 0)
    assert after.ranking.rho == 1
    assert first.ranking.rho < 0
    assert found.usual is not None
    assert (found.usual.lost, found.usual.behind) == (pytest.approx(0.08), pytest.approx(0.04))
    said = page.say(found, "answer")
    assert "and 1 of 4 trained ones lie in the 95\u00a0% interval" in said
    assert "Of kernels after the first step the rank correlation is 1.00" in said
    assert "comes to 74.0\u00a0%, 8.0 points below the best and 4.0 below the advised." in said
    table = page.predictors_table(found)
    assert [row[-2:] for row in table.rows] == [
        ["rank 1", "12.0"], ["rank 8", "0.0"], ["rank 4", "4.0"], ["rank 2", "8.0"],
    ]  # fmt: skip
    text = check_summary(page.summary(found), said)
    assert "How well training was foretold" in text
    answer = json.loads(json.dumps(page.as_json(found)))
    assert [each["kernels"] for each in answer["predictors"]] == ["start", "step"]
    assert answer["configurations"][3]["after_step"] == 0.82
    assert len(judge(verified(FIVE), advice).predictors) == 1


def test_draws_of_different_seeds_make_runs_together() -> None:
    rows = []
    for name, draws in (("rank 1", (3, 4)), ("srht 8", (7, 9)), ("bias", (None,)), (FULL, (None,))):
        for draw in draws:
            cell: dict[str, Any] = {"configuration": name, "draw": draw, "data_seed": 0}
            score = 0.5 if draw in (4, 7) else 0.8
            rows.append(row(score, metric="trained", parameters=1, **cell))
    table = tidy(rows)
    table.attrs[ASKED] = {"trial": QUICK.as_dict()}
    some = replace(verified(FIVE), beside={VERIFICATION: table})
    found = judge(some, Advice("rank 1", drop=0.02)).proof
    assert found is not None
    assert (found.runs, found.of_best, found.of_full) == (2, 1, 1)
    assert found.blind == pytest.approx(4 / 6)


def test_only_what_could_have_been_advised_is_a_rival() -> None:
    found = judge(verified(FIVE), Advice("rank 1", drop=0.02, rivals=["rank 1"])).proof
    assert found is not None
    assert (found.best, found.of_best, found.of_full) == ("rank 1", 2, 0)


def test_a_tolerance_may_be_a_share() -> None:
    assert Advice("x", share=0.9).within(0.72, 0.8)
    assert not Advice("x", share=0.9).within(0.71, 0.8)
    assert Advice("x", drop=0.05).within(0.95, 1.0)
    found = judge(verified(FIVE), Advice("rank 4", share=0.9))
    assert "Its score is at least 90\u00a0% of that of the best" in page.say(found, "answer")
    assert "Its score is at most 2.0 points below that of" in page.say(of("rank 4"), "answer")


def test_the_cheapest_in_hindsight() -> None:
    assert of("rank 8").cheapest == "rank 4"
    assert of("rank 8").hindsight == "other"
    assert of("rank 8", drop=0.0).cheapest == "rank 4"
    assert of("rank 4").hindsight == ""
    low = of("rank 1", scores={"rank 1": (0.5,), FULL: (0.9,)})
    assert (low.cheapest, low.hindsight) == (None, "none")


def test_the_order_is_spearman_s_with_an_interval() -> None:
    rng = np.random.default_rng(0)
    scores = {f"rank {i}": (float(s),) for i, s in enumerate(rng.random(12))} | {FULL: (0.9,)}
    guesses = {name: s[0] + 0.3 * rng.random() for name, s in scores.items()}
    found = of("rank 1", scores=scores, predicted=guesses).ranking
    ranks = [name for name in scores if name != FULL]
    wanted = stats.spearmanr([guesses[n] for n in ranks], [scores[n][0] for n in ranks]).statistic
    assert found.rho == pytest.approx(wanted)
    assert found.low < found.rho < found.high <= 1
    assert found.count == 12
    exact = of("rank 1").ranking
    assert (exact.rho, exact.low, exact.high) == (1, 1, 1)
    alike = of("rank 1", predicted=dict.fromkeys(FIVE, 0.7)).ranking
    assert math.isnan(alike.rho)
    assert alike.order == "none"


def test_means_that_differ_in_rounding_alone_have_no_order() -> None:
    """0.1 and 0.2 have not quite the mean of 0.15 and 0.15."""
    pairs = ((0.1, 0.2), (0.15, 0.15), (0.2, 0.1), (0.05, 0.25))
    scores = {FULL: (0.9, 0.9), **{f"rank {r}": pair for r, pair in enumerate(pairs, 1)}}
    assert len({sum(pair) / 2 for pair in pairs}) > 1
    guesses = {name: 0.1 * i for i, name in enumerate(scores)}
    assert math.isnan(of("rank 1", scores=scores, predicted=guesses).ranking.rho)


def test_an_order_within_the_noise_is_not_claimed() -> None:
    """Of 1,000 test examples two standard errors at 0.8 are 2.5 points."""
    apart = {FULL: (0.9,), **{f"rank {r}": (0.7 + 0.02 * r,) for r in (1, 2, 4, 8)}}
    near = {FULL: (0.9,), **{f"rank {r}": (0.8 + 0.001 * r,) for r in (1, 2, 4, 8)}}
    found = [of("rank 1", scores=scores) for scores in (apart, near)]
    assert [each.ranking.order for each in found] == ["same", "same"]
    assert [each.ranking.doubt for each in found] == ["", "noise"]
    said = [page.say(each, "answer") for each in found]
    assert "the kernels order them as training does." in said[0]
    assert "as if the kernels ordered them as training does; but" in said[1]
    assert "no order is shown" in said[1]


def test_the_order_by_f1_is_judged_by_its_own_error() -> None:
    """F1 has no binomial error: the interval of the trained scores decides."""
    some = verified({FULL: (0.9,), **{f"rank {r}": (0.7 + 0.02 * r,) for r in (1, 2, 4, 8)}})

    def doubt(half: float) -> str:
        table = some.beside[VERIFICATION]
        bars = table.assign(low=table["value"] - half, high=table["value"] + half)
        bars.attrs = table.attrs
        with_bars = replace(with_f1(some, half), beside={VERIFICATION: bars})
        return judge(with_bars, Advice("rank 1", drop=0.02)).ranking.doubt

    assert doubt(0.1) == ""
    assert doubt(0.2) == "noise"
    assert doubt(math.nan) == "unknown noise"


def test_costs_are_of_all_data_seeds() -> None:
    found = of("rank 4", cost=10.0)
    assert (found.cost.predicting, found.cost.trying, found.cost.runs) == (20.0, 500.0, 10)
    assert found.cost.factor == 25
    said = page.say(found, "answer")
    assert "Predicting took 20 s, trying everything 8 min 20 s, 25.0 times as long." in said


def test_the_time_of_what_diverged_is_said_not_to_count(out: Path, search: FakeSearch) -> None:
    """One point of every grid diverges here, and all three of rank 2."""
    search.diverges = {2}
    study = Proved(trainer=search)
    results = study.verify(asked(), out, QUICK).results
    found = judge(results, study.advice(study.findings(results)))
    assert (found.cost.trying, found.cost.runs, found.cost.lost) == (18.0, 7, 6 + 3)
    note = "(not counting fine-tunings that diverged, 9 in all: it took longer)"
    assert note in page.say(found, "answer")
    assert note in page.shown(found).cost[0].note
    assert not page.say(of("rank 4"), "uncounted")


@pytest.mark.parametrize("trained", [["rank 4", FULL], [FULL]])
def test_scores_are_shown_large_as_far_as_they_were_trained(trained: list[str]) -> None:
    found = of("rank 4", scores={name: FIVE[name] for name in ["rank 1", *trained]})
    shown = page.shown(found)
    assert shown.verdict == page.say(found, "verdict")
    assert list(shown.facts) == [f"Fine-tuned accuracy, {name}" for name in trained]
    assert all(len(each) < 12 for each in shown.facts.values())


# --- words --------------------------------------------------------------------------------------


def test_the_golden_words() -> None:
    """Every word of a proof, of the numbers above."""
    found = of("rank 2", predicted={**dict.fromkeys(FIVE, 0.75), "rank 8": 0.8}, edge=True)
    shown, space = page.shown(found), "\N{NO-BREAK SPACE}"
    assert shown.verdict == (
        "Right about full fine-tuning in 1 of 2 runs. Its choice among the configurations did not"
        " help: a blind one does as well."
    )
    assert shown.reading.replace(space, " ") == (
        f"{shown.verdict} Fine-tuned, the advised rank 2 reaches a test accuracy of 74.0 %, the"
        " best of the configurations (rank 8) 80.0 %, full fine-tuning 79.5 %. Its score is at most"
        " 2.0 points below that of the best of them in 1 of 2 runs, and that of full fine-tuning in"
        " 1; a configuration taken blindly is within that of the best in 62 % of cases. Spearman's"
        " rank correlation of predicted and trained scores over 4 configurations is 0.77 (0.77 to"
        " 1.00): the kernels order them as training does. Predicted scores are 3.2 points off (root"
        " mean square), and 1 of 4 trained ones lie in the 95 % interval of the predicted one"
        " (on average ±0.0)."
        " Predicting took 20 s, trying everything 8 min 20 s, 25.0 times as long."
    )
    assert shown.caveats == [
        "The best learning rate is at an end of the grid for all configurations: these might train"
        " better with a wider one (--verify-learning-rates).",
        "In hindsight the cheapest within tolerance of full fine-tuning was rank 4, not rank 2.",
    ]
    assert shown.caption is not None
    assert shown.caption.text.startswith(
        "Test accuracy of each configuration, as its kernel predicted it and after fine-tuning"
        " (sgd, 100 steps of batch size 8, learning rates 0.0001, 0.001, 0.01, 0.1, chosen on"
        " dev). On the diagonal both agree; 2 of 5 lie above it, training being 0.7 points better"
        " on average. Ringed: the advice (rank 2)."
    )
    assert "rank 8 80.0 % predicted, 80.0 % trained" in shown.caption.alt.replace(space, " ")
    assert shown.settings["verify learning rates"] == "0.0001, 0.001, 0.01, 0.1"


def test_rates_suggested_for_each_are_told() -> None:
    """Fixed ones are tried, and said to be, where none can be suggested."""
    all_suggested = page.shown(of("rank 4", unsuggested=(), edge=True))
    assert all_suggested.settings["verify learning rates"] == "auto"
    assert all_suggested.caption is not None
    assert "three learning rates suggested for each, chosen" in all_suggested.caption.text
    assert "at an end of its grid for all" in all_suggested.caveats[0]
    (note, *_) = page.shown(of("rank 4", unsuggested=("rank 1",))).caveats
    assert note == (
        "No learning rate could be suggested for rank 1: 1e−4, 1e−3, 1e−2, 1e−1 were tried."
    )


def test_it_is_said_whether_score_or_predictions_missed() -> None:
    """Rank 1 scores below tolerance in both runs, rank 2 in one, rank 4 in none."""
    results, missed = verified(FIVE, same=0.5), {}
    for name in ("rank 1", "rank 2", "rank 4"):
        found = judge(results, Advice(name, drop=0.02, agreement=0.95))
        assert found.proof is not None
        assert found.proof.about_full == "wrong"
        missed[found.proof.missed_by] = page.say(found, "verdict")
    assert "rank 1 trained below the tolerance of it. " in missed["score"]
    assert "below the tolerance of it, or to predictions that differ more" in missed["either"]
    assert "rank 4 scores within tolerance of it, but their predictions" in missed["predictions"]


def test_what_was_only_closest_is_called_so() -> None:
    closest = judge(verified(FIVE), Advice("rank 4", qualifies=False, drop=0.02))
    said = page.say(closest, "answer")
    assert "rank 4, which missed the tolerance by kernels and was called closest, reaches" in said
    assert "the advised rank 4 reaches" in page.say(of("rank 4"), "answer")


def test_better_than_blind_but_not_always() -> None:
    some = {"a": (0.5,) * 3, "b": (0.5,) * 3, "c": (0.8, 0.8, 0.4), FULL: (0.8,) * 3}
    better = of("c", scores=some).proof
    assert better is not None
    assert better.choice == "better"
    always = {"rank 1": (0.5, 0.5, 0.5), "rank 2": (0.8, 0.8, 0.6), FULL: (0.8,) * 3}
    held = of("rank 2", scores=always).proof
    assert held is not None
    assert (held.about_full, held.right, held.choice) == ("partly", 2, "held")
    lax = of("rank 1", drop=0.5).proof
    assert lax is not None
    assert lax.choice == "indifferent"


def test_right_that_nothing_is_like_full_fine_tuning() -> None:
    """All ranks train alike, below full: nothing about the choice, but the warning was right."""
    results = verified({"rank 1": (0.79,), "rank 8": (0.79,), FULL: (0.86,)})
    denied = Advice("rank 8", qualifies=False, drop=0.02)
    assert page.say(judge(results, denied), "verdict") == (
        "Right about full fine-tuning: as the kernels said, no configuration trained within"
        " tolerance of it. Which configuration to take did not matter: every one trained within"
        " tolerance of the best of them. Of 2 configurations no order can be shown."
    )
    wrong = judge(results, replace(denied, qualifies=True)).proof
    assert wrong is not None
    assert wrong.about_full == "wrong"
    equal = verified({"rank 1": (0.87,), "rank 8": (0.79,), FULL: (0.86,)})
    assert "no configuration is within tolerance of it, and one trained so" in page.say(
        judge(equal, denied), "verdict"
    )


@pytest.mark.parametrize(
    ("found", "named", "said"),
    [
        (of("rank 8", edge=True), "all_on_edge", "an end of the grid for all configurations"),
        (of("rank 8", optimizer="adam"), "foreign_rule", "of the rule sgd, training used adam"),
        (
            of("rank 8", scores={**FIVE, FULL: (0.4, 0.5)}),
            "learned_nothing",
            "does not improve on no training",
        ),
        (of("rank 8", diverged=("rank 2",)), "lost", "diverged for rank 2: left out"),
        (
            of("rank 8", scores={n: s[:1] for n, s in FIVE.items()}),
            "single_run",
            "One data seed and one draw",
        ),
        (of("rank 8", drop=0.01), "few_tests", "1000 test examples: one standard error of a score"),
        (
            of("rank 8"),
            "hindsight",
            "cheapest within tolerance of full fine-tuning was rank 4, not rank 8",
        ),
    ],
)
def test_caveats(found: Findings, named: str, said: str) -> None:
    assert getattr(found, named)
    assert any(said in text for text in page.caveats(found))


def test_no_caveat_without_a_cause() -> None:
    assert page.caveats(of("rank 4")) == []


def test_what_diverged_is_left_out_and_nothing_is_proved_of_it() -> None:
    found = of("rank 2", diverged=("rank 2",))
    assert found.diverged == ["rank 2"]
    assert found.advised is None
    assert found.proof is None
    assert "nothing is proved" in page.say(found, "answer")
    assert "could not be tested" in page.say(found, "verdict")
    check_summary(page.summary(found), page.say(found, "answer"))


@pytest.mark.parametrize(
    ("lost", "missing", "said"),
    [
        (("rank 8",), ["rank 8"], "Rank 8 could not be trained: nothing is proved."),
        ((FULL,), ["full fine-tuning"], "Full fine-tuning could not be trained: nothing is"),
        (
            ("rank 8", FULL),
            ["rank 8", "full fine-tuning"],
            "Rank 8 and full fine-tuning could not be trained: nothing is proved.",
        ),
        (tuple(FIVE), ["rank 8", "full fine-tuning"], "nothing could be compared"),
    ],
)
def test_what_could_not_be_trained_is_named(
    lost: tuple[str, ...], missing: list[str], said: str
) -> None:
    found = of("rank 8", diverged=lost)
    assert found.missing == missing
    assert said in page.say(found, "answer")
    assert "could not be tested" in page.say(found, "verdict")
    assert any("training diverged for" in text for text in page.caveats(found))
    assert bool(found.hindsight) == (FULL not in lost)
    json.dumps(page.as_json(found))


@pytest.mark.parametrize("edge", [True, False])
def test_a_best_rate_at_the_end_of_its_grid_is_marked_in_the_tables(edge: bool) -> None:
    found = of("rank 4", edge=edge)
    text = check_summary(page.summary(found), page.say(found, "answer"))
    assert text.count("%†") == (len(FIVE) if edge else 0)
    assert ("† The best learning rate is at an end" in " ".join(text.split())) == edge
    table = page.configurations_table(found)
    assert all((line[3].endswith("†")) == edge for line in table.rows)
    assert ("† The best" in table.note) == edge
    assert table.marked == [2]


def test_json_is_the_answer() -> None:
    found = of("rank 4")
    answer = json.loads(json.dumps(page.as_json(found)))
    assert answer["answer"] == page.say(found, "answer")
    assert answer["proof"]["of_best"] == 2
    assert set(answer["proof"]) == {
        *("advised", "best", "of_best", "of_full", "right", "runs", "blind"),
    }
    assert [each["name"] for each in answer["configurations"]] == list(FIVE)


# --- the run directory --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished study without figures of its own; tests copy it."""
    folder = tmp_path_factory.mktemp("study") / "run"
    Undrawn().analyze(asked(), folder, command="subkern x")
    return folder


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished study."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def study(search: FakeSearch) -> Undrawn:
    """Return the study; it cannot compute kernels any more."""
    nothing = dict.fromkeys(("sweep_dimensions", "sweep_lora", "compute_kernel"))
    return Undrawn(trainer=search, engine=SimpleNamespace(**nothing))


NAMES = [FULL, "gaussian 2", "gaussian 16", *(f"LoRA rank {rank}" for rank in (1, 2, 4, 8))]


def judged(study: Undrawn, results: Results) -> Findings:
    """Return what became of the study's own advice."""
    return judge(results, study.advice(study.findings(results)))


def test_verifying_a_finished_run_computes_only_the_training(
    out: Path, search: FakeSearch, study: Undrawn, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    proved = study.verify(
        asked(), out, QUICK, progress=lambda *done: seen.append(done), command="subkern x"
    )
    assert not proved.up_to_date
    assert len(search.asked) == 7
    assert all(folder.is_relative_to(out / "verification") for folder in search.asked)
    assert seen[-1] == (84, 84)
    table = proved.results.beside[VERIFICATION]
    assert {name: str(kind) for name, kind in table.dtypes.items()} == COLUMNS
    found = judged(study, proved.results)
    assert [each.name for each in found.configurations] == NAMES
    trained = [each.trained.mean for each in found.configurations[3:]]
    assert trained == sorted(trained)
    assert trained[0] < trained[-1]
    assert found.cost.trying == 21.0
    text = proved.report.read_text()
    assert "Put to the proof by fine-tuning: " + page.say(found, "verdict") in text
    assert 'id="verification"' in text
    assert (out / "figures" / "verification.pdf").is_file()
    assert isinstance(study.plot(Results.load(out))[VERIFICATION], Figure)
    check_in_browser(proved.report, tmp_path / "profile", images=1)


def test_a_verified_run_is_up_to_date(out: Path, search: FakeSearch, study: Undrawn) -> None:
    def unloadable(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a model is loaded")

    first = study.verify(asked(), out, QUICK)
    study.loader = unloadable
    again = study.verify(asked(), out, QUICK)
    assert again.up_to_date
    pd.testing.assert_frame_equal(
        again.results.beside[VERIFICATION], first.results.beside[VERIFICATION]
    )
    plain = study.analyze(asked(), out)
    assert plain.up_to_date
    assert is_verified(plain.results)
    (out / "figures" / "verification.png").unlink()
    assert study.analyze(asked(), out).up_to_date
    assert (out / "figures" / "verification.png").is_file()
    assert len(search.asked) == 7


def test_another_tolerance_judges_the_same_training(
    out: Path, search: FakeSearch, study: Undrawn
) -> None:
    study.verify(asked(), out, QUICK)
    results = study.analyze(asked(share=0.01), out, overwrite=True).results
    found = judged(study, results)
    assert found.advice.name == "gaussian 2"
    assert found.proof is not None
    assert found.proof.choice == "indifferent"
    assert "Which configuration to take did not matter" in (out / "report.html").read_text()
    assert len(search.asked) == 7


def test_other_training_is_done_beside(out: Path, search: FakeSearch) -> None:
    study = Proved(trainer=search)
    study.verify(asked(), out, QUICK)
    other = study.verify(asked(), out, Trial(steps=9, draws=2, repeats=0))
    assert not other.up_to_date
    assert len(search.asked) == 7 + 13
    assert not {*search.asked[:7]} & {*search.asked[7:]}
    found = judged(study, other.results).proof
    assert found is not None
    assert found.runs == 2


def test_an_interrupted_verification_keeps_the_study(out: Path, search: FakeSearch) -> None:
    study = Proved(trainer=search)
    search.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        study.verify(asked(), out, QUICK)
    assert Undrawn().analyze(asked(), out).up_to_date
    assert not is_verified(Results.load(out))
    search.stop_at = 100
    assert is_verified(study.verify(asked(), out, QUICK).results)
    assert search.asked[:3] == search.asked[3:6]  # the same folders, where searches go on


def test_a_diverging_configuration_does_not_stop_the_others(out: Path, search: FakeSearch) -> None:
    search.diverges = {2}
    study = Proved(trainer=search)
    found = judged(study, study.verify(asked(), out, QUICK).results)
    assert found.diverged == ["LoRA rank 2"]
    assert len(found.configurations) == 6


def test_where_all_diverge_nothing_is_compared_until_lower_rates_train(
    out: Path, search: FakeSearch, study: Undrawn
) -> None:
    study.verify(asked(), out, QUICK)
    search.diverges = {1, 2, 4, 8, 16}
    high = Trial(steps=4, learning_rates=(1.0, 10.0), repeats=0)
    proved = study.verify(asked(), out, high)
    found = judged(study, proved.results)
    assert not found.is_compared
    assert "nothing could be compared" in proved.report.read_text()
    assert not list((out / "figures").glob("verification.*"))  # that of the first verification
    answer = page.say(found, "answer")
    printed = page.summary(found).renderables
    assert [str(text).split(":")[0] for text in printed[:2]] == [answer.split(":")[0], "Note"]
    assert study.verify(asked(), out, high).up_to_date
    proved.report.unlink()
    assert study.analyze(asked(), out).up_to_date  # drawn again
    search.diverges = set()
    lower = Trial(steps=4, learning_rates=(0.1, 1.0, 10.0), repeats=0)
    found = judged(study, study.verify(asked(), out, lower).results)
    assert len(found.configurations) == 7
    assert (out / "figures" / "verification.png").is_file()
    assert len(set(search.asked)) == 7  # the same folders, where grids grow


def test_a_verification_killed_before_it_is_drawn_is_drawn_later(
    out: Path, search: FakeSearch, study: Undrawn
) -> None:
    class Killed(Undrawn):
        def draw(self, results: Results, out: Path) -> NoReturn:
            raise KeyboardInterrupt

    study.verify(asked(), out, QUICK)
    longer = Trial(steps=9, learning_rates=(1e-3,))
    with pytest.raises(KeyboardInterrupt):
        Killed(trainer=search).verify(asked(), out, longer)
    proved = study.verify(asked(), out, longer)
    assert proved.up_to_date
    assert "9 steps" in proved.report.read_text()


def test_training_has_the_kernels_epsilon(tmp_path: Path, search: FakeSearch) -> None:
    study = Undrawn(trainer=search)
    adam = small(dims=(2, 16), rule="adam:eps=1e-6")
    study.analyze(adam, tmp_path)
    proved = study.verify(adam, tmp_path, QUICK)
    assert {each.epsilon for each in search.trainings} == {1e-6}
    assert "verify epsilon" in proved.report.read_text()
    assert study.verify(adam, tmp_path, QUICK).up_to_date


def test_full_fine_tuning_is_repeated_with_nothing_changed_but_the_order(
    out: Path, search: FakeSearch
) -> None:
    study = Proved(trainer=search)
    study.verify(asked(), out, QUICK)
    seen: list[tuple[int, int]] = []
    proved = study.verify(
        asked(), out, QUICK.changed(repeats=2), progress=lambda *done: seen.append(done)
    )
    assert seen[-1] == (12 * 9, 12 * 9)
    new = search.asked[7:]
    assert [path.name for path in new[:3]] == ["full", "full-repeat-1", "full-repeat-2"]
    assert {path.name for path in new[3:]} == {path.name for path in search.asked[1:7]}
    first, *others = search.trainings[7:10]
    assert [replace(each, seed=0) for each in others] == [first, first]
    assert [each.seed for each in others] == [1, 2]
    found = judged(study, proved.results)
    assert found.yardstick is not None
    assert found.yardstick.agreement == pytest.approx(1 - (3 + 6 + 3) / 3 / 40)
    assert (found.yardstick.repeats, found.yardstick.lost, found.yardstick.seconds) == (2, 0, 6.0)
    assert found.cost.trying == 21.0
    assert "repeating full fine-tuning (2)" in [r[0] for r in page.cost_table(found).rows]
    assert study.verify(asked(), out, QUICK.changed(repeats=2)).up_to_date


def test_more_draws_go_where_the_first_ones_are(out: Path, search: FakeSearch) -> None:
    study = Proved(trainer=search)
    study.verify(asked(), out, QUICK)
    first = set(search.asked)
    study.verify(asked(), out, QUICK.changed(draws=2))
    assert first < set(search.asked)
    assert len(set(search.asked)) == 7 + 6


def test_an_unfinished_study_cannot_be_verified(tmp_path: Path, study: Undrawn) -> None:
    with pytest.raises(UserError, match="unfinished: run its analysis first"):
        study.verify(asked(), tmp_path / "none", QUICK)


def test_a_run_without_predictions_says_how_to_get_them(out: Path, study: Undrawn) -> None:
    (out / "predictions.parquet").unlink()
    with pytest.raises(UserError, match="lacks its predictions: --overwrite"):
        study.verify(asked(), out, QUICK)


def test_other_mistakes_are_not_taken_for_divergence(out: Path) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise UserError("rank 64 exceeds a layer")

    with pytest.raises(UserError, match="rank 64"):
        Undrawn(trainer=refuse).verify(asked(), out, QUICK)


def test_several_target_sets(tmp_path: Path, search: FakeSearch) -> None:
    class Lora(LoraStudy):
        """The made-up LoRA study, drawing nothing."""

        def draw(self, results: Results, out: Path) -> Path:
            return out / "report.html"

    grid = fake_lora.config(
        target_sets=("qv", "mlp"), solvers=("ridge",), ranks=(1, 4), budget="8%"
    )
    study = Lora(trainer=search)
    with fake_lora.made_up():
        study.analyze(grid, tmp_path)
        results = study.verify(grid, tmp_path, QUICK).results
    advice = study.advice(study.findings(results))
    names = [each.name for each in judge(results, advice).configurations]
    assert names == [FULL, "qv, rank 1", "qv, rank 4", "mlp, rank 1", "mlp, rank 4"]
    assert advice.rivals is not None
    assert advice.name in advice.rivals
    families = set(results.beside[VERIFICATION]["family"].unique())
    assert families == {"full fine-tuning", "qv", "mlp"}


# --- the command --------------------------------------------------------------------------------


def test_the_command_proves_and_then_is_up_to_date(
    tmp_path: Path, search: FakeSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Here(Undrawn):
        """The study, trained by the made-up search."""

        def __init__(self) -> None:
            super().__init__(trainer=search)

    monkeypatch.setattr(subspace_study, "SubspaceStudy", Here)
    words = ["analyze", "subspace", "--model", "made-up", "--task", "mr", "--data", "x"]
    words += ["--shots", "8", "--dims", "2,16", "--kinds", "gaussian", "--projection-seeds", "2"]
    words += ["--ranks", "1,4", "--method", "none", "--out", str(tmp_path)]
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
    assert len(search.asked) == 5 + 1  # full fine-tuning twice
    plain = CliRunner().invoke(cli.cli, words)
    assert "Put to the proof" in plain.output
    answer = json.loads(CliRunner().invoke(cli.cli, [*words, "--json"]).output)
    assert answer["verification"]["trial"]["steps"] == 5
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
        (("--verify-after-step",), "--verify-after-step is of the verification: add --verify"),
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

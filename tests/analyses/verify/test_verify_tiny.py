"""Proof of the recommendation with real fine-tuning: a tiny random model, and a small real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pandas as pd
import pytest

from analyses.engine import parts
from analyses.engine.classifiers import Split, predicted_logits, tune
from analyses.engine.long_table import cells
from analyses.engine.run_folder import VERIFICATION, Results
from analyses.lora.study import LoraStudy
from analyses.show.study_numbers import zero_shot
from analyses.subspace.config import Config
from analyses.subspace.study import SubspaceStudy
from analyses.verify import after_step, page
from analyses.verify.findings import Findings, judge
from analyses.verify.trial import RATES, Trial
from subkern.kernels.compute import compute_kernel
from subkern.learning_rate import NoSuggestion, grid, suggest
from subkern.learning_rate.grid import stored_suggestions
from subkern.learning_rate.measure import first_step
from subkern.storage.files import read_json
from subkern.subspaces.movable import MovableModel
from subkern.subspaces.text import as_subspace
from subkern.training.grid_search import TrainingGrid, search
from subkern.training.settings import Training
from tests.analyses.subspace.test_subspace_tiny import Tiny
from tests.support import tiny_folder

TRIAL = Trial(optimizer="sgd", learning_rates=(0.03, 0.1), batch_sizes=(3,), steps=6, repeats=0)
FORM = "random:kind=srht,dim=32,seed=5"


class Undrawn(Tiny):
    """The tiny study without figures of its own."""

    def figures(self, findings: Any) -> Any:
        return {}


class Unseen(Undrawn):
    """And without a report."""

    def draw(self, results: Results, out: Path) -> Path:
        return out / "report.html"


subspace, unseen = Undrawn(), Unseen()


def config() -> Config:
    return Config(
        model="tiny", task="MNLI", data="x", dims=(4, 32), kinds=("srht",), projection_seeds=(5,),
        ranks=(2,), adapter_seeds=(3,), methods=("bias",), solvers=("ridge",), resamples=5,
    )  # fmt: skip


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return a finished study without figures of its own."""
    unseen.analyze(config(), tmp_path)
    return tmp_path


def names(results: Results) -> list[str]:
    return [each.name for each in judged(results).configurations]


def judged(results: Results) -> Findings:
    return judge(results, subspace.advice(subspace.findings(results)))


def of_one(results: Results, name: str, metric: str) -> float:
    table = results.beside[VERIFICATION]
    return float(cells(table, configuration=name, metric=metric)["value"].item())


@pytest.mark.filterwarnings("ignore::subkern.training.grid_search.GridEdgeWarning")
@pytest.mark.slow
def test_the_numbers_are_those_of_the_library(out: Path) -> None:
    found = subspace.verify(config(), out, TRIAL).results
    assert names(found) == ["full", "srht 4", "srht 32", "LoRA rank 2", "bias"]
    inputs = subspace.inputs(config())
    model = subspace.load(config(), inputs)
    encoded = parts.encode(model, inputs.splits[13])
    for name, form in (("srht 32", "random:kind=srht,dim=32,seed=5"), ("bias", "bias")):
        best = search(
            model,
            encoded,
            subspace=form,
            grid=TrainingGrid((0.03, 0.1), (3,)),
            training=Training(optimizer="sgd", steps=6, eval_every=1),
        ).best
        assert of_one(found, name, "trained") == best.scores["test"]
        assert of_one(found, name, "learning_rate") == best.training["learning_rate"]
        labels = best.labels["test"]
        start = np.mean(best.start_logits["test"].argmax(1) == labels)
        assert of_one(found, name, "start") == start
    answer = subspace.answer(found)["verification"]
    assert [each["name"] for each in answer["configurations"]] == names(found)


@pytest.mark.slow
def test_what_is_trained_is_not_trained_again(out: Path) -> None:
    searches: list[Path] = []

    def stopping(*given: Any, **asked: Any) -> Any:
        if len(searches) == 3:
            raise KeyboardInterrupt
        searches.append(asked["out"])
        return search(*given, **asked)

    with pytest.raises(KeyboardInterrupt):
        Unseen(trainer=stopping).verify(config(), out, TRIAL)
    written = {path: path.stat().st_mtime_ns for path in out.rglob("best/trajectory.npz")}
    assert len(written) == 3
    found = subspace.verify(config(), out, TRIAL).results
    assert {path: path.stat().st_mtime_ns for path in written} == written
    fresh = subspace.verify(config(), out, TRIAL.changed(steps=7)).results
    again = subspace.verify(config(), out, TRIAL).results
    timed = found.beside[VERIFICATION]["metric"] == "seconds"
    pd.testing.assert_frame_equal(
        found.beside[VERIFICATION][~timed], again.beside[VERIFICATION][~timed]
    )
    assert not fresh.beside[VERIFICATION].equals(found.beside[VERIFICATION])


@pytest.mark.slow
def test_draws_and_rates_that_come_later_train_only_what_is_new(out: Path) -> None:
    verified = out / VERIFICATION

    def trained() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in verified.rglob("points/*/trajectory.npz")}

    several = config().changed(projection_seeds=(5, 6), adapter_seeds=(3, 4))
    unseen.analyze(several, out, overwrite=True)
    few = TRIAL.changed(steps=2)
    unseen.verify(several, out, few)
    first = trained()
    assert len(first) == 2 * 5
    unseen.verify(several, out, few.changed(draws=2))
    second = trained()
    assert first.items() < second.items()
    draws = {path.parents[2].name for path in second.keys() - first.keys()}
    assert draws == {"srht%204-s6", "srht%2032-s6", "LoRA%20rank%202-s4"}
    wider = few.changed(learning_rates=(0.03, 0.1, 0.2), batch_sizes=(3, 6))
    found = unseen.verify(several, out, wider).results
    third = trained()
    assert second.items() < third.items()
    assert len(third) - len(second) == 4 * 5
    assert len(names(found)) == 5


def test_small_steps_do_as_the_kernel_says(out: Path) -> None:
    """In the lazy regime the change of the logits is the kernel classifier's, up to its stop."""
    trial = Trial(optimizer="sgd", learning_rates=(0.01,), batch_sizes=(6,), steps=20, repeats=0)
    found = unseen.verify(config(), out, trial).results
    for name in ("full", "bias"):
        assert of_one(found, name, "change_correlation") > 0.7, name


@pytest.mark.filterwarnings("ignore::subkern.training.grid_search.GridEdgeWarning")
def test_each_configuration_has_rates_of_its_own(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept with its trainings, so that a second time nothing is suggested or trained."""
    asked: list[Any] = []

    def suggesting(model: Any, examples: Any, *, subspace: Any, **how: Any) -> Any:
        asked.append(subspace)
        if subspace == as_subspace("bias"):
            raise NoSuggestion("a step in 'bias' does not change the logits")
        return suggest(model, examples, subspace=subspace, **how)

    monkeypatch.setattr(grid, "suggest", suggesting)
    auto = Trial(steps=1, batch_sizes=(3,), repeats=0)
    found = unseen.verify(config(), out, auto).results
    assert len(asked) == 5
    for path in out.rglob(grid.SUGGESTED):
        points = stored_suggestions(path.parent)[3]["grid"]
        name = unquote(path.parent.name).removesuffix("-s5").removesuffix("-s3")
        rate = of_one(found, name, "learning_rate")
        assert rate in points
        assert of_one(found, name, "edge") == (rate != sorted(points)[1])
        assert of_one(found, name, "suggested") == 1
        assert len([*path.parent.glob("points/*")]) == 3
    assert len([*out.rglob(grid.SUGGESTED)]) == 4
    assert of_one(found, "bias", "suggested") == 0
    assert of_one(found, "bias", "learning_rate") in RATES["adam"]
    assert judged(found).unsuggested == ["bias"]
    assert unseen.verify(config(), out, auto).up_to_date
    (out / "verification.parquet").unlink()
    again = unseen.verify(config(), out, auto).results
    assert asked[5:] == [as_subspace("bias")]
    timed = found.beside[VERIFICATION]["metric"] == "seconds"
    pd.testing.assert_frame_equal(
        found.beside[VERIFICATION][~timed], again.beside[VERIFICATION][~timed]
    )


@pytest.mark.filterwarnings("ignore::subkern.training.grid_search.GridEdgeWarning")
def test_kernels_after_the_first_step_predict_too(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the library does by hand; kept one by one, and mended where a file is damaged."""
    trial = TRIAL.changed(steps=1, learning_rates=(0.1,), after_step=True)
    made: list[Any] = []

    def counting(*given: Any, **how: Any) -> Any:
        made.append(how["subspace"])
        return compute_kernel(*given, **how)

    monkeypatch.setattr(after_step, "compute_kernel", counting)
    seen: list[tuple[int, int]] = []
    found = unseen.verify(config(), out, trial, progress=lambda *done: seen.append(done)).results
    assert len(made) == 5
    assert seen[-1][0] == seen[-1][1]
    judged_now = judged(found)
    assert [each.kernels for each in judged_now.predictors] == ["start", "step"]
    assert judged_now.cost.stepping > 0
    assert "kernels after one step" in [r[0] for r in page.cost_table(judged_now).rows]
    for name, given in (("full", None), ("LoRA rank 2", "full"), ("srht 32", "full")):
        wanted, labels = by_hand(name, given)
        assert of_one(found, name, "after_step") == np.mean(wanted.argmax(1) == labels), name
        place = next(out.rglob(f"after-step/{quote(name)}*/predicted.json"))
        np.testing.assert_allclose(read_json(place)["logits"], wanted, rtol=1e-6, atol=1e-9)
    assert unseen.verify(config(), out, trial).up_to_date
    place.write_text("{}")
    unseen.analyze(config(), out, overwrite=True)  # a damaged run is told, and mended
    made.clear()
    again = unseen.verify(config(), out, trial).results
    assert len(made) == 1
    assert of_one(again, "srht 32", "after_step") == of_one(found, "srht 32", "after_step")
    assert not list(out.rglob("tiles-*"))


def by_hand(name: str, tuned_on: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return what ridge says of the tests on the kernel after SGD's first step, and the labels."""
    inputs = subspace.inputs(config())
    model = subspace.load(config(), inputs)
    encoded = parts.encode(model, inputs.splits[13])
    split = Split(**{part: [each.id for each in found] for part, found in encoded.items()})
    every = [each for part in ("train", "dev", "test") for each in encoded[part]]

    def kernel(form: str) -> Any:
        moved = MovableModel(model, as_subspace(form))
        moved.move(
            first_step(model, encoded["train"], subspace=form, optimizer="sgd", batch_size=3)
        )
        there = as_subspace(form).at(moved.tensors())  # type: ignore[attr-defined]
        return compute_kernel(model, encoded["train"], every, subspace=there)

    forms = {"full": "full", "LoRA rank 2": "lora:r=2,seed=3", "srht 32": FORM}
    settings = tune(kernel(forms[tuned_on or name]), split, "ridge", "accuracy")
    labels = np.array([each.label for each in encoded["test"]])
    return predicted_logits(kernel(forms[name]), split, "ridge", settings), labels


def test_training_starts_at_the_probe_of_its_data_seed(tmp_path: Path) -> None:
    tiny_folder.masked_model(tmp_path / "model")
    for seed in (13, 21):
        tiny_folder.reviews(tmp_path / "data", seed=seed)
    asked = Config(
        model=str(tmp_path / "model"), task="mr", data=str(tmp_path / "data"), shots=4,
        head="linear", head_init="probe", data_seeds=(13, 21), ranks=(), methods=("none",),
        dims=(2, 4), kinds=("srht",), projection_seeds=1, solvers=("ridge",), resamples=5,
        test_limit=6,
    )  # fmt: skip
    started: list[np.ndarray] = []

    def keeping(*given: Any, **options: Any) -> Any:
        found = search(*given, **options)
        started.append(found.best.start_logits["test"])
        return found

    class Real(SubspaceStudy):
        """The study as it is, drawing nothing."""

        def draw(self, results: Results, out: Path) -> Path:
            return out / "report.html"

    real = Real(trainer=keeping)
    real.analyze(asked, tmp_path / "run")
    trial = Trial(optimizer="sgd", learning_rates=(1e-3,), steps=1, repeats=0)
    found = real.verify(asked, tmp_path / "run", trial).results
    assert len(started) == 2 * 3
    for seed, logits in zip((13, 13, 13, 21, 21, 21), started, strict=True):
        kernel = found.kernels[f"{seed}/full"]
        assert kernel.right_logits is not None
        np.testing.assert_allclose(logits, kernel.right_logits[-len(logits) :], atol=1e-5)


@pytest.mark.slow
def test_a_real_model_is_verified(minilm_mlm: Path, shared_data: Path, tmp_path: Path) -> None:
    lora = LoraStudy()
    asked = lora.settings(
        model=str(minilm_mlm), task="mr", data=str(shared_data), targets="qv", ranks=(1, 4),
        adapter_seeds=(0,), train_limit=20, dev_limit=20, test_limit=24, solvers=("ridge",),
        resamples=10, kernel_resamples=0,
    )  # fmt: skip
    lora.analyze(asked, tmp_path)
    trial = Trial(learning_rates=(3e-4,), batch_sizes=(8,), steps=4)
    found = lora.verify(asked, tmp_path, trial).results
    judged = judge(found, lora.advice(lora.findings(found)))
    assert [each.name for each in judged.configurations] == ["full", "rank 1", "rank 4"]
    assert judged.proof is not None
    for each in judged.configurations:
        assert each.start.mean == zero_shot(found).mean
        assert 0.25 < each.trained.mean < 1
        assert -1 < each.logit_correlation < 1
    text = (tmp_path / "report.html").read_text()
    assert "Put to the proof" in text
    assert "Predicting against trying" in text

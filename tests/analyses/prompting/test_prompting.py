"""`analyze prompting`: kernels of a tiny model with several prompts, made-up fine-tuning, words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import count, product
from math import isnan, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import cli
from analyses import study
from analyses.engine import parts
from analyses.engine.long_table import cells
from analyses.engine.run_folder import Results
from analyses.prompting import measure as prompting_measure
from analyses.prompting import training as prompting_training
from analyses.prompting.config import Config
from analyses.prompting.findings import Prediction, Trial
from analyses.prompting.study import PromptingStudy
from analyses.prompting.table import TABLE
from subkern.agreement import kernel_target_alignment
from subkern.errors import UserError
from subkern.kernels import request
from subkern.kernels.compute import compute_kernel
from subkern.learning_rate import NoSuggestion, suggest
from subkern.models.load import load_model
from subkern.prompts.choose import built_in
from subkern.tasks.catalogue import get_task
from subkern.tasks.examples import load_examples
from subkern.training.grid_search import AllDiverged
from tests.support import fake_finetune, tiny_folder
from tests.support.browser import Browser
from tests.support.folders import names
from tests.support.study_checks import (
    captions,
    check_in_browser,
    check_leaves_nothing,
    check_redrawn,
    check_summary,
    check_up_to_date,
    check_written,
    facts,
    page_of,
)

prompting = PromptingStudy()


def sentence(results: Results) -> str:
    return prompting.sentence(prompting.findings(results))


def caveats(results: Results) -> list[str]:
    return prompting.caveats(prompting.findings(results))


def trials(results: Results) -> list[Trial]:
    return list(prompting.findings(results).trials)


def prompts(results: Results) -> list[Trial]:
    return [trial for trial in trials(results) if trial.number is not None]


def predictions(results: Results) -> list[Prediction]:
    checked = prompting.findings(results).checked
    return [] if checked is None else list(checked.predictions)


NAMES = ("lm-bff", "minimal", "cat/dog", "swapped")
MR = get_task("mr")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny model and a tiny `mr` in it."""
    root = tmp_path_factory.mktemp("tiny")
    tiny_folder.masked_model(root / "model")
    tiny_folder.reviews(root / "data")
    tiny_folder.reviews(root / "data", seed=21)
    return root


@pytest.fixture(scope="module", autouse=True)
def _made_up() -> Iterator[None]:
    """Put made-up fine-tuning in place of the real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompting_training, "search", fake_finetune.search)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures, which take seconds, where a test is not about them."""
    monkeypatch.setattr(prompting, "figures", lambda _: {})


def config(tiny: Path, **changes: Any) -> Config:
    settings: dict[str, Any] = {
        "model": str(tiny / "model"), "task": "mr", "data": str(tiny / "data"), "shots": 4,
        "prompts": NAMES, "resamples": 20,
    }  # fmt: skip
    return Config.from_dict(settings | changes)


def small(tiny: Path, **changes: Any) -> Config:
    """Return settings of a study that takes a second."""
    few: dict[str, Any] = {"prompts": NAMES[:2], "linear": False, "random": False, "test_limit": 6}
    return config(tiny, **few | changes)


@pytest.fixture(scope="module")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> prompting.Outcome:
    """Return a study in its run directory; tests leave it as it is."""
    return prompting.analyze(config(tiny), tmp_path_factory.mktemp("run"), command="subkern x")


@pytest.fixture(scope="module")
def results(finished: prompting.Outcome) -> Results:
    return finished.results


# --- computing ---------------------------------------------------------------------------------


def test_the_table_is_tidy_and_complete(results: Results) -> None:
    table = results.table
    assert {name: str(kind) for name, kind in table.dtypes.items()} == TABLE.columns
    key = [name for name in TABLE.columns if name not in ("value", "low", "high", "note")]
    assert not table.duplicated(key).any()
    assert [trial.label for trial in trials(results)] == [
        *NAMES, "linear head", "lm-bff, random weights", "linear head, random weights",
    ]  # fmt: skip
    for trial in trials(results):
        start = "probe" if trial.head == "linear" else "zero-shot"
        for method in (start, "kernel", "finetune"):
            for split in ("dev", "test"):
                found = trial.score(method, split)
                assert found is not None
                assert 0 <= found.low <= found.mean <= found.high <= 1
        assert trial.start() == trial.score(start)
    assert prompting.findings(results).constant.mean == 0.5
    assert len(results.kernels) == 7


def test_the_numbers_are_those_of_the_library(tiny: Path, results: Results) -> None:
    prompt = next(p for p in built_in(MR, "masked") if p.name == "swapped")
    model = load_model(str(tiny / "model"), task=prompt.task(MR, "masked"), logits="auto")
    assert model.prompt is not None
    splits = {
        name: model.prompt.encode_all(
            load_examples(MR, tiny / "data", split=name, shots=4, seed=13)
        )
        for name in ("train", "dev", "test")
    }
    kernel = compute_kernel(model, splits["train"], [e for s in splits.values() for e in s])
    assert np.array_equal(results.kernels["13/prompt-swapped"].values, kernel.values)
    train = kernel.select(right=[e.id for e in splits["train"]])
    swapped = next(trial for trial in trials(results) if trial.prompt == "swapped")
    aligned = swapped.alignment
    assert aligned is not None
    assert aligned.mean == kernel_target_alignment(train)
    # Swapped words are the same kernel of the opposite logit: what it learns is the same.
    own = results.kernels["13/prompt-lm-bff"]
    assert own.allclose(kernel)
    assert own.right_logits is not None
    assert np.allclose(own.right_logits, -results.kernels["13/prompt-swapped"].right_logits)


def test_random_weights_have_another_kernel(results: Results) -> None:
    one, other = (
        results.kernels[f"13/{name}"] for name in ("prompt-lm-bff", "random-prompt-lm-bff")
    )
    assert one.provenance["weights"] != other.provenance["weights"]
    assert other.provenance["model"]["weights"] == "random"
    assert not one.allclose(other, rtol=1e-2)


@pytest.mark.parametrize("start", ["probe", "random"])
def test_a_linear_head_starts_at_each_seeds_probe_unless_told_otherwise(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    trained: list[Any] = []

    def search(model: Any, *args: Any, **options: Any) -> Any:
        trained.append(model.description)
        return fake_finetune.search(model, *args, **options)

    monkeypatch.setattr(prompting_training, "search", search)
    asked: dict[str, Any] = {} if start == "probe" else {"head_init": start}
    changes: dict[str, Any] = {"prompts": NAMES[:1], "data_seeds": (13, 21), "random": True}
    found = prompting.run(small(tiny, linear=True, **changes, **asked))
    assert found.config["head_init"] == start
    starts = {
        name: kernel.provenance["model"].get("head_init") for name, kernel in found.kernels.items()
    }
    probed = {name for name, each in starts.items() if each is not None}
    linear = {name for name in starts if name.endswith("linear")}
    assert len(linear) == 4
    assert probed == (linear if start == "probe" else set())
    assert [each.get("head_init") is not None for each in trained].count(True) == len(probed)
    if start == "probe":
        assert starts["13/linear"]["examples"] != starts["21/linear"]["examples"]
    head = next(trial for trial in trials(found) if trial.label == "linear head")
    method, other = ("probe", "zero-shot") if start == "probe" else ("zero-shot", "probe")
    assert head.score(method) is not None
    assert head.score(other) is None
    said = "at the linear probe of the training examples" if start == "probe" else "at random"
    assert f"The linear head starts {said}" in captions(prompting, found)["heads"]
    labels = [each.get_text() for each in prompting.plot(found)["heads"].legends[0].texts]
    assert ("linear probe" in labels) == (start == "probe")


def test_fine_tuning_gets_the_settings(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def search(model: Any, splits: Any, **options: Any) -> Any:
        seen.append({"words": model.prompt.label_words, "splits": set(splits), **options})
        return fake_finetune.search(model, splits, **options)

    monkeypatch.setattr(prompting_training, "search", search)
    changes: dict[str, Any] = {
        "optimizer": "sgd", "loss": "squared", "steps": 7, "eval_every": 3, "seed": 5,
        "learning_rates": (0.3, 0.1), "batch_sizes": (2, 4), "subspace": "bias",
    }  # fmt: skip
    found = prompting.run(small(tiny, prompts=("cat/dog",), **changes))
    (one,) = seen
    assert one["words"] == ("cat", "dog")
    assert one["splits"] == {"train", "dev", "test"}
    training = one["training"]
    assert (training.optimizer, training.loss) == ("sgd", "squared")
    assert (training.steps, training.eval_every, training.seed) == (7, 3, 5)
    assert tuple(one["grid"].learning_rates) == (0.1, 0.3)
    assert tuple(one["grid"].batch_sizes) == (2, 4)
    assert one["subspace"].describe() == found.kernels["13/prompt-cat%2Fdog"].provenance["subspace"]
    rate = cells(found.table, metric="learning_rate")
    assert rate["value"].item() == 0.3
    assert "largest of the grid" in rate["note"].item()
    assert any("edge of the grid" in text for text in caveats(found))
    assert any("One prompt only" in text for text in caveats(found))


@pytest.mark.usefixtures("undrawn")
def test_rates_are_suggested_for_each_prompt(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []

    def search(model: Any, splits: Any, *, grid: Any, training: Any, **options: Any) -> Any:
        if model.prompt.label_words == ("cat", "dog"):
            raise NoSuggestion("nothing moves the logits")
        rates = grid(None).rates(8)
        asked = {"optimizer": training.optimizer, "batch_size": 8, "epsilon": training.epsilon}
        asked["steps"] = training.steps
        assert list(rates) == list(suggest(model, splits["train"], subspace="bias", **asked).grid)
        seen.append(rates)
        return fake_finetune.search(model, splits, grid=grid, training=training, **options)

    monkeypatch.setattr(prompting_training, "search", search)
    settings = small(tiny, prompts=NAMES[:3], subspace="bias", learning_rates="auto")
    assert settings == small(tiny, prompts=NAMES[:3], subspace="bias")
    found = prompting.run(settings)
    assert len({tuple(rates) for rates in seen}) == 2
    assert [trial.prompt for trial in prompting.findings(found).lost] == ["cat/dog"]
    assert "nothing moves the logits" in set(found.table["note"].dropna())
    assert "learning rates suggested for each prompt" in page_of(prompting, found)


def test_without_fine_tuning(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompting_training, "search", None)
    found = prompting.run(small(tiny, finetune=False, random=True))
    assert "nothing was fine-tuned" in sentence(found)
    assert set(prompting.plot(found)) == {"prompts", "heads"} == set(captions(prompting, found))
    assert predictions(found) == []
    assert prompting.answer(found)["best_finetuned"] is None


def test_diverged_training_is_left_out_and_told(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(model: Any, splits: Any, **options: Any) -> Any:
        if model.prompt.label_words == ("cat", "dog"):
            raise AllDiverged("all 3 points of the grid diverged")
        return fake_finetune.search(model, splits, **options)

    monkeypatch.setattr(prompting_training, "search", search)
    found = prompting.run(small(tiny, prompts=NAMES[:3]))
    assert [trial.prompt for trial in prompting.findings(found).lost] == ["cat/dog"]
    assert {each.correlation.count for each in predictions(found)} == {2}
    text = " ".join(caveats(found))
    assert "Prompt cat/dog is not compared, its training failed" in text
    assert "With 2 prompts a rank correlation says little" in text
    assert set(prompting.plot(found)) == set(captions(prompting, found))


@pytest.mark.usefixtures("undrawn")
def test_what_the_user_can_put_right_is_not_failed_training(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(model: Any, splits: Any, *, out: Path, **options: Any) -> Any:
        out.mkdir(parents=True)
        (out / "checkpoint").write_bytes(b"hours of work")
        raise UserError("the disk is full")

    monkeypatch.setattr(prompting_training, "search", search)
    with pytest.raises(UserError, match="the disk is full"):
        prompting.analyze(small(tiny), tmp_path / "run")
    assert (tmp_path / "run/checkpoint/training/13/prompt-lm-bff/checkpoint").exists()


@pytest.mark.parametrize(
    ("rule", "epsilon"),
    [("adam:eps=1e-4", 1e-4), ("asymmetric_adam:eps=1e-3", 1e-3), ("signgd", 1e-8)],
)
def test_training_has_the_epsilon_of_the_rule(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, rule: str, epsilon: float
) -> None:
    seen: list[float] = []

    def search(*args: Any, training: Any, **options: Any) -> Any:
        seen.append(training.epsilon)
        return fake_finetune.search(*args, training=training, **options)

    monkeypatch.setattr(prompting_training, "search", search)
    prompting.run(small(tiny, prompts=NAMES[:1], rule=rule))
    assert seen == [epsilon]


def test_two_data_seeds(tiny: Path) -> None:
    found = prompting.run(small(tiny, data_seeds=(13, 21)))
    assert set(found.table["data_seed"].dropna()) == {13, 21}
    first = trials(found)[0].score("kernel")
    assert first is not None
    assert first.over == "data seeds"
    assert not any("One data split" in text for text in caveats(found))


def test_asymmetric_rules_bring_their_own_classifier(tiny: Path) -> None:
    found = prompting.run(small(tiny, rule="asymmetric_signgd", finetune=False))
    assert found.config["solvers"] == ["asym"]
    assert trials(found)[0].score("kernel") is not None


# --- prompts that do not fit -------------------------------------------------------------------


def test_a_prompt_that_does_not_fit_is_skipped(tiny: Path) -> None:
    found = prompting.run(small(tiny, task="subj", data=str(subj(tiny)), prompts=None))
    assert set(found.inputs["skipped"]) >= {"lm-bff", "opinion/fact"}
    note = cells(found.table, method="skipped", prompt="opinion/fact")["note"].item()
    assert "label word 'opinion' of task subj" in note
    assert [trial.prompt for trial in trials(found)] == ["cat/dog"]
    assert any(text.startswith("Prompt lm-bff was left out: label word") for text in caveats(found))
    tables = {table.title: table for table in prompting.tables(prompting.findings(found))[0]}
    notes = {cells[0]: cells[-1] for cells in tables["Prompts"].rows}
    assert notes["opinion/fact"].startswith("left out: label word 'opinion'")
    assert notes["cat/dog"] == ""


def subj(tiny: Path) -> Path:
    """Return data of `subj`, whose own label words the tiny model does not know."""
    root = tiny / "subj-data"
    if not root.exists():
        shutil.copytree(tiny / "data" / "mr", root / "subj")
    return root


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ("minimum",)}, "no prompt 'minimum' for this model: did you mean 'minimal'"),
        ({"prompts": ()}, "there is no prompt: name one"),
        ({"label_words": ("no", "way")}, "prompt 'yours' does not fit: label word 'no'"),
        ({"label_words": ("a", "b", "c")}, "3 label_words"),
        ({"template": "*cls**sent_0*.*sep+*"}, "'yours' does not fit: template .* has 0 masks"),
        ({"prompt_file": "/no/such.toml"}, "no prompt file"),
        ({"optimizer": "adamw"}, "optimizer 'adamw' is unknown: use adam, sgd, signgd"),
        ({"loss": "l2"}, "loss 'l2' is unknown"),
        ({"learning_rates": (0.0,)}, "learning_rates holds 0.0"),
        ({"learning_rates": ()}, "learning_rates is empty"),
        ({"batch_sizes": (0,)}, "batch_sizes holds 0"),
        ({"steps": 0}, "steps holds 0"),
        ({"subspace": "loro"}, "unknown subspace 'loro'"),
        ({"rule": "adamw"}, "unknown rule 'adamw'"),
        ({"rule": "asymmetric_signgd", "solvers": ("svc",)}, "svc needs a symmetric kernel"),
        ({"head_init": "probe"}, "probe starts a linear head: leave out --no-linear"),
        ({"prompt": "x"}, "unknown setting 'prompt': did you mean prompts"),
    ],
)
def test_wrong_settings_get_one_line(
    tiny: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        prompting.analyze(small(tiny, **changes), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_users_prompts(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("prompts: [{name: warm, label_words: [cold, warm]}]")
    found = prompting.run(
        small(tiny, prompts=(), prompt_file=path, template="*cls**mask*:*+sent_0**sep+*")
    )
    assert [trial.prompt for trial in trials(found)] == ["warm", "yours"]
    assert found.inputs["prompts"]["yours"] == {
        "template": "*cls**mask*:*+sent_0**sep+*", "label_words": ["terrible", "great"],
    }  # fmt: skip
    assert found.inputs["prompts"]["warm"]["template"] == MR.template


# --- the run directory -------------------------------------------------------------------------


def test_analyze_writes_everything(finished: prompting.Outcome) -> None:
    check_written(finished, captions(prompting, finished.results), kernels=7)


def test_the_same_command_finds_it_done(
    tiny: Path, finished: prompting.Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(tiny, device="cuda", batch_size=3)
    check_up_to_date(prompting.analyze, asked, finished, monkeypatch)
    with pytest.raises(UserError, match=r"steps: 20 asked for, 200 stored.*--overwrite"):
        prompting.analyze(config(tiny, steps=20), finished.report.parent)


def test_figures_are_redrawn_from_saved_results_alone(
    tiny: Path, finished: prompting.Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "copy"
    check_redrawn(prompting.analyze, config(tiny), finished, "trained", out, monkeypatch)


@pytest.mark.usefixtures("undrawn")
def test_bad_input_leaves_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = (prompting_measure, "compute_kernel")
    check_leaves_nothing(prompting.analyze, small(tiny), tmp_path / "run", place, monkeypatch)


@pytest.mark.usefixtures("undrawn")
def test_a_changed_prompt_file_is_another_study(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("prompts: [{name: warm, label_words: [cold, warm]}]")
    settings = small(tiny, prompts=(), prompt_file=path, finetune=False)
    prompting.analyze(settings, tmp_path / "run")
    path.write_text("prompts: [{name: warm, label_words: [dull, fresh]}]")
    with pytest.raises(UserError, match="prompt_file"):
        prompting.analyze(settings, tmp_path / "run")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("where", ["kernel", "training", "between"])
def test_an_interrupted_run_goes_on(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    settings = small(tiny)
    whole = prompting.run(settings).table

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    done: list[str] = []
    computed, searched = prompting_measure.compute_kernel, prompting_training.search

    def compute(model: Any, *args: Any, **options: Any) -> Any:
        done.append(f"kernel {model.description['prompt']['template']}")
        if where == "kernel" and len(done) == 2:
            stop()
        return computed(model, *args, **options)

    def search(*args: Any, **options: Any) -> Any:
        if where == "training":
            stop()
        return searched(*args, **options)

    monkeypatch.setattr(prompting_measure, "compute_kernel", compute)
    monkeypatch.setattr(prompting_training, "search", search)
    if where == "between":
        progress = iter([lambda *_: None, stop])
        with pytest.raises(KeyboardInterrupt):
            prompting.analyze(settings, tmp_path, progress=lambda *a: next(progress)(*a))
    else:
        with pytest.raises(KeyboardInterrupt):
            prompting.analyze(settings, tmp_path)
    assert (
        names(tmp_path / "checkpoint" / "trials" / "13")
        == {
            "kernel": {"prompt-lm-bff.json"},
            "training": set(),
            "between": {"prompt-lm-bff.json", "prompt-minimal.json"},
        }[where]
    )
    assert not list(tmp_path.glob("checkpoint/training/13/*/weights"))
    done.clear()
    monkeypatch.setattr(prompting_training, "search", searched)
    monkeypatch.setattr(prompting_measure, "compute_kernel", computed)
    recomputed: list[int] = []

    def count(*args: Any, **options: Any) -> Any:
        recomputed.append(1)
        return computed(*args, **options)

    monkeypatch.setattr(prompting_measure, "compute_kernel", count)
    resumed = prompting.analyze(settings, tmp_path)
    assert len(recomputed) == {"kernel": 1, "training": 1, "between": 0}[where]
    assert not (tmp_path / "checkpoint").exists()
    timed = resumed.results.table["metric"] == "seconds"
    pd.testing.assert_frame_equal(
        resumed.results.table[~timed.fillna(value=False)],
        whole[~(whole["metric"] == "seconds").fillna(value=False)],
    )


@pytest.mark.usefixtures("undrawn")
def test_a_resumed_run_tells_what_all_sessions_took(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = prompting_training.search

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    ticks = count(0, 1000)
    monkeypatch.setattr(request, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    monkeypatch.setattr(prompting_training, "search", stop)
    settings = small(tiny, prompts=NAMES[:1])
    with pytest.raises(KeyboardInterrupt):
        prompting.analyze(settings, tmp_path)
    monkeypatch.setattr(prompting_training, "search", searched)
    found = prompting.analyze(settings, tmp_path).results
    assert 1000 < prompting.findings(found).seconds["kernel"] < 1100
    assert (
        prompting.findings(found).seconds["finetune"] == 5.0
    )  # of two points, as the search has them


def test_a_kernel_of_another_model_is_not_taken(tiny: Path, tmp_path: Path) -> None:
    settings = small(tiny, finetune=False, prompts=("lm-bff",))
    task = built_in(MR, "masked")[0].task(MR, "masked")
    pretrained, random = (
        load_model(str(tiny / "model"), task=task, logits="auto", weights=weights)
        for weights in ("pretrained", "random")
    )
    kernels: dict[str, Any] = {}
    place = study.Workplace(kernels)
    encoded = parts.encode(
        pretrained,
        {
            split: load_examples(MR, tiny / "data", split=split, shots=4, seed=13)
            for split in ("train", "dev", "test")
        },
    )
    first = prompting_measure.kernel_of(random, encoded, settings, place, "13/x")
    assert prompting_measure.kernel_of(random, encoded, settings, place, "13/x") is first
    other = prompting_measure.kernel_of(pretrained, encoded, settings, place, "13/x")
    assert not other.allclose(first, rtol=1e-2)
    assert kernels["13/x"] is other


# --- what is said of it ------------------------------------------------------------------------


SEEDS = (13, 21, 42)


def scored(kernel: Any, tuned: Any, *, align: Any = None, **changes: Any) -> Results:
    """Return results in which prompts a, b, c, ... score so on dev and, fine-tuned, on test.

    A row of numbers a prompt are those of several data seeds; NaN: training diverged.
    """
    kernel, tuned, align = (
        np.array(each, dtype=float).reshape(len(kernel), -1)
        for each in (kernel, tuned, kernel if align is None else align)
    )
    names = [chr(ord("a") + i) for i in range(len(kernel))]
    asked: dict[str, Any] = {"linear": False, "random": False, "resamples": 50, "optimizer": "sgd"}
    seeds = SEEDS[: kernel.shape[1]]
    settings = Config(model="m", task="mr", data_seeds=seeds, **asked | changes)
    rows = [
        TABLE.row(0.5, (0.5, 0.5), data_seed=s, method="constant", split="test", metric="accuracy")
        for s in seeds
    ]
    for (i, name), (j, seed) in product(enumerate(names), enumerate(seeds)):
        cell: dict[str, Any] = {
            "data_seed": seed, "prompt": name, "head": "prompt", "weights": "pretrained",
        }  # fmt: skip
        score = {**cell, "metric": "accuracy"}
        for split in ("dev", "test"):
            known = (kernel[i, j], (kernel[i, j], kernel[i, j]))
            rows.append(TABLE.row(*known, **score, method="kernel", solver="logistic", split=split))
            rows.append(TABLE.row(0.5, (0.5, 0.5), **score, method="zero-shot", split=split))
            known = (tuned[i, j], (tuned[i, j], tuned[i, j]))
            rows.append(TABLE.row(*known, **score, method="finetune", split=split))
        cell |= {"method": "kernel", "split": "train", "metric": "kernel_target_alignment"}
        rows.append(TABLE.row(align[i, j], **cell))
    inputs = {
        "task": {"name": "mr", "metric": "accuracy"},
        "examples": {"13": {"train": 32, "dev": 32, "test": 400}},
        "arms": [{"prompt": n, "head": "prompt", "weights": "pretrained"} for n in names],
        "prompts": {n: {"template": "t", "label_words": ["x", "y"]} for n in names},
        "skipped": {},
    }
    return Results("prompting", settings.as_dict(), inputs, TABLE.tidy(rows))


def test_a_kernel_that_is_right() -> None:
    found = scored([0.5, 0.6, 0.7, 0.8], [0.6, 0.7, 0.8, 0.9])
    kernel = predictions(found)[0]
    assert (kernel.correlation.value, kernel.choice, kernel.regret) == (1, {"d": (13,)}, 0)
    assert prompting.findings(found).checked.chance == pytest.approx(
        {"a prompt at random": 0.15, "always a": 0.3}
    )
    text = sentence(found)
    assert "Fine-tuned, d is best (90.0\N{NO-BREAK SPACE}% test accuracy)" in text
    assert "the kernel puts d first, which costs 0.0 points" in text
    assert "rank correlation of 1.00 (1.00 to 1.00)" in text
    assert "the zero-shot score ties on all" in text
    assert [trial.prompt for trial in prompting.findings(found).ranked] == ["d", "c", "b", "a"]
    assert not any("holds 0" in note for note in caveats(found))


def test_a_kernel_that_is_wrong() -> None:
    found = scored([0.8, 0.8, 0.6, 0.5], [0.6, 0.7, 0.8, 0.9], align=[1.0, 2.0, 3.0, 4.0])
    kernel, alignment = predictions(found)[:2]
    assert kernel.correlation.value < 0
    assert (list(kernel.choice), kernel.regret) == (["a", "b"], pytest.approx(0.25))
    assert (list(alignment.choice), alignment.regret) == (["d"], 0)
    assert "puts a and b first, which costs 25.0 points" in sentence(found)
    assert any("holds 0" in note for note in caveats(found))


def test_the_regret_told_is_that_of_the_choice_told() -> None:
    # On average over data seeds c scores best on dev; on no seed is it the kernel's choice.
    found = scored(
        [[0.9, 0.5, 0.9], [0.5, 0.9, 0.5], [0.8, 0.8, 0.8]],
        [[0.6, 0.7, 0.6], [0.7, 0.6, 0.7], [0.8, 0.8, 0.8]],
    )
    kernel = predictions(found)[0]
    assert kernel.choice == {"a": (13, 42), "b": (21,)}
    assert kernel.regret == pytest.approx(0.2)
    text = sentence(found)
    assert "Fine-tuned, c is best on average (80.0\N{NO-BREAK SPACE}% test accuracy)." in text
    assert (
        "the kernel puts a (2 of 3 data seeds) and b (1 of 3 data seeds) first, which costs 20.0"
        " points on average against each seed's best prompt"
    ) in text
    shown = facts(prompting, found)
    assert shown["The kernel's choice"] == "a (2 of 3 data seeds) and b (1 of 3 data seeds)"
    assert shown["Points lost by the kernel's choice, mean of data seeds"] == "20.0"
    answer = prompting.answer(found)
    assert answer["kernel_choice"] == ["a", "b"]
    assert answer["kernel_choice_seeds"] == {"a": [13, 42], "b": [21]}
    assert answer["kernel_choice_regret"] == pytest.approx(0.2)


def test_one_choice_on_all_data_seeds_needs_no_counts() -> None:
    found = scored([[0.9, 0.8], [0.5, 0.6]], [[0.6, 0.7], [0.7, 0.6]])
    assert "the kernel puts a first, which costs 5.0 points on average" in sentence(found)


def test_a_prompt_that_diverged_on_a_data_seed_is_neither_best_nor_chosen() -> None:
    # a is first on dev, and best over the one seed on which it trained
    found = scored([[0.9, 0.9], [0.8, 0.8], [0.6, 0.6]], [[0.95, nan], [0.7, 0.7], [0.8, 0.8]])
    assert [trial.prompt for trial in prompting.findings(found).lost] == ["a"]
    text = sentence(found)
    assert "Fine-tuned, c is best of the 2 prompts that trained on average" in text
    assert "the kernel puts b first, which costs 10.0 points" in text
    assert facts(prompting, found)["Best fine-tuned"] == "c"
    assert prompting.answer(found)["best_finetuned"] == ["c"]
    assert [trial.prompt for trial in prompting.findings(found).ranked] == ["c", "b", "a"]


def test_without_fine_tuning_the_score_told_is_that_of_the_choice_told() -> None:
    found = scored([[0.9, 0.5], [0.5, 0.7], [0.8, 0.6]], [[0.5, 0.5]] * 3, finetune=False)
    text = sentence(found)
    assert "puts a (1 of 2 data seeds) and b (1 of 2 data seeds) first (80.0" in text
    assert "% test accuracy on average); nothing was fine-tuned" in text


def test_kernels_of_another_rule_than_the_optimizers_are_told() -> None:
    said = "The kernels are of the rule sgd, training used adam"
    asked: dict[str, Any] = {"optimizer": "adam"}
    scores: Any = ([0.5, 0.6], [0.6, 0.7])
    assert any(said in note and "--rule adam" in note for note in caveats(scored(*scores, **asked)))
    for changes in ({"optimizer": "sgd"}, asked | {"finetune": False}):
        assert not any("training used" in note for note in caveats(scored(*scores, **changes)))
    adam = scored(*scores, **asked, rule="adam:eps=1e-6")
    assert not any("training used" in note for note in caveats(adam))


def test_prompts_that_train_alike_are_noise() -> None:
    found = scored([0.5, 0.6, 0.7, 0.8], [0.80, 0.81, 0.82, 0.83])
    assert any("their order is mostly noise" in note for note in caveats(found))


def test_prompts_that_tie_have_no_order() -> None:
    assert "There is no order to predict" in sentence(scored([0.5, 0.6], [0.7, 0.7]))


def test_f1_is_called_so() -> None:
    found = scored([0.5, 0.6], [0.6, 0.7])
    found.inputs["task"]["metric"] = "f1"  # type: ignore[index]
    table = found.table.replace({"metric": {"accuracy": "f1"}})
    assert "points of F1" in sentence(Results("prompting", found.config, found.inputs, table))


def test_summary_fits_a_terminal(results: Results) -> None:
    text = check_summary(prompting.summary(results), sentence(results))
    assert all(name in text for name in NAMES)


def test_captions_name_every_figure(results: Results) -> None:
    drawn = prompting.plot(results)
    assert (
        set(drawn)
        == set(captions(prompting, results))
        == {"prompts", "trained", "ranking", "heads"}
    )
    for caption in captions(prompting, results).values():
        assert "nan" not in caption


def test_the_answer_as_json(results: Results) -> None:
    found = prompting.answer(results)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert {each["predictor"] for each in found["predictors"]} == {
        "kernel, dev", "kernel alignment, train", "zero-shot, dev", "kernel, test",
    }  # fmt: skip
    assert [each["prompt"] for each in found["trials"]][:4] == list(NAMES)
    assert found["trials"][0]["label_words"] == ["terrible", "great"]


def test_the_report_in_a_browser(finished: prompting.Outcome, tmp_path: Path) -> None:
    def more(browser: Browser) -> None:
        headings = "[...document.querySelectorAll('h3')].map(e => e.textContent)"
        assert "Telling the better prompt before training" in browser.evaluate(headings)

    check_in_browser(finished.report, tmp_path / "profile", 4, more)


# --- the command -------------------------------------------------------------------------------


def test_the_command(tiny: Path, tmp_path: Path) -> None:
    args = [
        "analyze", "prompting", "--model", tiny / "model", "--task", "mr", "--data",
        tiny / "data", "--shots", 4, "--prompt", "minimal", "--prompt", "swapped", "--no-linear",
        "--no-random", "--learning-rates", "1e-3,1e-2", "--out", tmp_path / "run", "--json",
    ]  # fmt: skip
    found = CliRunner().invoke(cli.cli, [str(arg) for arg in args])
    assert found.exit_code == 0, found.output
    answer = json.loads(found.stdout)
    assert [each["prompt"] for each in answer["trials"]] == ["minimal", "swapped"]
    assert Path(answer["report"]).is_file()
    again = CliRunner().invoke(cli.cli, [str(arg) for arg in args[:-1]])
    assert "up to date" in again.stdout
    assert Config.from_file(tmp_path / "run" / "config.yaml").learning_rates == (1e-3, 1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "none", "--prompt", "minimal"], "--prompt none and"),
        (["--learning-rates", "fast"], "'fast' is not numbers"),
    ],
)
def test_wrong_options(options: list[str], message: str, tmp_path: Path) -> None:
    args = ["analyze", "prompting", "--model", "m", "--task", "mr", "--out", str(tmp_path / "r")]
    found = CliRunner().invoke(cli.cli, [*args, *options])
    assert message in str(found.exception) + found.output
    assert not (tmp_path / "r").exists()


def test_progress_counts_trials(tiny: Path) -> None:
    seen: list[tuple[int, int]] = []
    prompting.run(small(tiny, finetune=False), progress=lambda *each: seen.append(each))
    assert seen == [(1, 2), (2, 2)]


def test_unknown_columns_are_refused() -> None:
    with pytest.raises(TypeError, match="rank"):
        TABLE.row(1.0, rank=3)
    assert isnan(TABLE.tidy([TABLE.row(nan)])["value"].item())


def test_trials_without_a_place_keep_nothing(tiny: Path, tmp_path: Path) -> None:
    found = prompting.run(small(tiny), checkpoint=tmp_path)
    assert not list(tmp_path.glob("training/*/*/weights"))
    assert len(list(tmp_path.glob("trials/13/*.json"))) == len(prompts(found)) == 2

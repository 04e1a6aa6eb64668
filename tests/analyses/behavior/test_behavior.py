"""`analyze behavior` with real kernels and real training: a tiny random model in float64."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import cli
from analyses import study
from analyses.behavior import runs as behavior_runs
from analyses.behavior.compute import TABLE
from analyses.behavior.config import Config
from analyses.behavior.figures import FIGURES
from analyses.behavior.findings import Findings, Inside, Looked, Trained, findings, runs_of
from analyses.behavior.study import BehaviorStudy
from analyses.engine import inputs
from analyses.engine.long_table import cells
from analyses.engine.run_folder import Results
from analyses.show.numbers import rate
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.learning_rate import suggest
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.tasks.examples import Example
from tests.support import oracles
from tests.support.families import FAMILIES, random_examples
from tests.support.folders import names
from tests.support.study_checks import check_summary, page_of, with_f1

behavior = BehaviorStudy()


def caveats(results: Results) -> list[str]:
    return behavior.caveats(findings(results))


def inside(results: Results) -> Inside:
    found = findings(results).inside
    assert found is not None
    return found


def looked(results: Results) -> list[Looked]:
    found = findings(results).inside
    return [] if found is None else list(found.runs)


def chosen(found: Findings) -> Trained:
    """Return the one run that was looked into."""
    (run,) = (run for run in found.runs if run.chosen)
    return run


def cell(run: Looked) -> dict[str, Any]:
    """Return the columns that name a run."""
    return {
        "data_seed": run.data_seed, "subspace": run.subspace, "learning_rate": run.learning_rate,
    }  # fmt: skip


GPT2 = next(f for f in FAMILIES if (f.name, f.kind) == ("gpt2", "causal"))
COUNTS = {"train": 6, "dev": 6, "test": 9}


def encode(examples: list[Example]) -> list[EncodedExample]:
    """Return random tokens for each example; the label's own token among them, so it is learnt."""
    found = []
    for example in examples:
        seed = sum(map(ord, example.id))
        ids = [*random_examples(1, lengths=(4,), seed=seed)[0].input_ids, 20 + example.label]
        found.append(EncodedExample(example.id, example.label, tuple(ids), 4))
    return found


def load_model(spec: str, *, logits: str = "all", **_: Any) -> LogitModel:
    """Return a random GPT-2 of a few thousand parameters."""
    model = oracles.logit_model(GPT2, 1 if logits == "binary" else 3)
    prompt = SimpleNamespace(
        description={"template": "x"}, label_words=("a", "b", "c"), encode_all=encode
    )
    model.prompt = prompt  # type: ignore[assignment]
    return model


def load_examples(task: Any, source: str, *, split: str, **_: Any) -> list[Example]:
    """Return examples whose texts do not matter."""
    count = len(task.labels)
    return [Example(f"{split}-{i}", ("x",), i % count) for i in range(COUNTS[split])]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the tiny model and its examples in place of real ones."""
    monkeypatch.setattr(study, "load_model", load_model)
    monkeypatch.setattr(inputs, "load_examples", load_examples)


def config(**changes: Any) -> Config:
    settings: dict[str, Any] = {
        "model": "tiny", "task": "MNLI", "data": "x", "steps": 6, "looks": 3, "kernel_steps": 2,
        "train_batch_size": 3, "solvers": ("ridge",), "resamples": 20,
    }  # fmt: skip
    return Config.from_dict(settings | changes)


@pytest.fixture(scope="module")
def results() -> Results:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "load_model", load_model)
        patch.setattr(inputs, "load_examples", load_examples)
        return behavior.run(config(dims=(8,)))


def test_every_part_is_there(results: Results) -> None:
    (run,) = looked(results)
    assert run.subspace == "full"
    assert run.parameters == sum(p.numel() for p in load_model("x").parameters())
    seen = inside(results).evidence
    assert all(math.isfinite(value) for value in vars(seen).values())
    assert seen.cka < 1
    assert behavior.words("reasons", findings(results))
    assert set(behavior.plot(results)) == {"linearization", "features", "trajectories", "errors"}


def xy(line: Any) -> tuple[list[float], list[float]]:
    """Return what a line was drawn from."""
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def test_trajectories_are_drawn_from_the_logits_of_the_table(results: Results) -> None:
    """Real, dotted from the kernel, dashed where f_lin was trained; then all at the last step."""
    steps, ends = inside(results).few, inside(results).ends
    figure = FIGURES["trajectories"](findings(results))
    top, bottom = figure.axes
    drawn = [xy(line) for line in top.lines]
    followed = [name for name, real in steps.real.items() if (steps.steps, real.tolist()) in drawn]
    assert len(followed) == 6
    assert set(followed) <= set(steps.predicted)
    kinds = [kind for kind in (steps.predicted, steps.linearized) if kind]
    for kind in kinds:
        for name in followed:
            assert (steps.steps, kind[name].tolist()) in drawn
    assert len(drawn) == (1 + len(kinds)) * len(followed) + 1  # and the line at 0
    clouds = [
        tuple(side.tolist() for side in np.asarray(each.get_offsets()).T)
        for each in bottom.collections
    ]
    kinds = [kind for kind in (ends.predicted, ends.linearized) if kind]
    for kind, (x, y) in zip(kinds, clouds, strict=True):
        assert x == [ends.real[name][-1] - ends.real[name][0] for name in kind]
        assert y == [values[-1] - values[0] for values in kind.values()]
        assert len(x) == COUNTS["test"]


def test_labels_differ_by_marker_not_by_colour_alone(results: Results) -> None:
    top = FIGURES["trajectories"](findings(results)).axes[0]
    looks: dict[Any, set[str]] = {}
    for line in top.lines:
        if line.get_marker() not in ("None", ""):
            looks.setdefault(line.get_marker(), set()).add(str(line.get_color()))
    assert len(looks) == 3
    assert all(len(colors) == 1 for colors in looks.values())


def test_errors_are_drawn_over_steps_rates_and_widths(results: Results) -> None:
    found = findings(results)
    by_step, by_rate, by_width = FIGURES["errors"](found).axes
    over_steps, over_rates, over_widths = (
        [xy(line) for line in axes.lines] for axes in (by_step, by_rate, by_width)
    )
    ends = {
        name: {r.learning_rate: r.end_error for r in found.of(13, name) if r.diverged is None}
        for name in found.sizes
    }
    shared = set.intersection(*(set(each) for each in ends.values()))
    assert shared
    for run in found.of(13, "full"):
        if run.error:
            assert (list(run.error), list(run.error.values())) in over_steps
    for each in ends.values():
        assert (list(each), list(each.values())) in over_rates
    widths = sorted(found.sizes, key=found.sizes.__getitem__)
    for rate_ in shared:
        points = [ends[name][rate_] for name in widths]
        assert ([found.sizes[name] for name in widths], points) in over_widths


def test_there_is_no_panel_of_widths_where_one_was_trained(results: Results) -> None:
    alone = replace(results, table=results.table[results.table["subspace"] == "full"])
    assert len(FIGURES["errors"](findings(alone)).axes) == 2


def test_features_are_unchanged_at_step_0_and_change_later(results: Results) -> None:
    found = inside(results).features[13]
    assert "relative_frobenius_centred_scaled" in found
    assert next(iter(found["cka"])) == 0
    assert found["relative_frobenius"][0].mean == 0
    assert found["cka"][0].mean == pytest.approx(1, abs=1e-12)
    assert found["relative_frobenius"][6].mean > 0.01
    assert {6, 3} <= set(found["cka"])


def test_the_prediction_is_better_at_smaller_learning_rates(results: Results) -> None:
    for name in ("full", "random:dim=8"):
        rows = cells(results.table, metric="error.kernel", subspace=name, split="test", step=6)
        errors = rows.sort_values("learning_rate")["value"].to_numpy()
        assert len(errors) >= 3
        assert errors[0] < errors[1] < errors[2]
        assert errors[0] < 0.3


def test_numbers_are_those_of_the_logits_in_the_table(results: Results) -> None:
    (run,) = looked(results)
    rows = cells(results.table, split="test", step=6, **cell(run))
    real, predicted = (
        cells(rows, metric=f"logit.{kind}").sort_values(["example", "logit"])["value"].to_numpy()
        for kind in ("real", "kernel")
    )
    start = cells(results.table, split="test", step=0, metric="logit.real", **cell(run))
    f0 = start.sort_values(["example", "logit"])["value"].to_numpy()
    assert len(real) == 3 * COUNTS["test"]
    wanted = np.linalg.norm(predicted - real) / np.linalg.norm(real - f0)
    found = chosen(findings(results)).error[6]
    assert found == pytest.approx(wanted)


def test_margins_are_of_the_true_label(results: Results) -> None:
    found = inside(results).ends
    kernel: Kernel = results.kernels["13/start"]
    labels = dict(zip(kernel.right_ids, kernel.right_labels.tolist(), strict=True))  # type: ignore[union-attr]
    assert found.labels == {name: labels[name] for name in found.labels}
    assert len(found.real) == COUNTS["test"]
    row = kernel.right_ids.index("test-4")
    f0 = kernel.right_logits[row]  # type: ignore[index]
    wanted = f0[1] - max(f0[0], f0[2])
    assert found.real["test-4"][0] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("optimizer", ["signgd", "adam"])
def test_training_the_linearized_model_is_beside_the_sign_kernel(optimizer: str) -> None:
    found = behavior.run(
        config(optimizer=optimizer, learning_rates=(1e-4, 1e-3), solvers=("asym-ridge",))
    )
    (run,) = looked(found)
    kernel = found.kernels["13/start"]
    assert kernel.is_asymmetric
    exact = cells(found.table, metric="error.linearized", split="test", **cell(run))
    assert len(exact) == 3
    low = run.learning_rate == 1e-4
    assert exact["value"].max() < (0.05 if low else 0.5)
    assert max(chosen(findings(found)).error.values()) > exact["value"].max()
    assert any("mean of the examples' signs" in text for text in caveats(found))


@pytest.mark.parametrize("optimizer", ["signgd", "adam"])
def test_rates_of_sign_rules_are_suggested(optimizer: str) -> None:
    settings = config(optimizer=optimizer, subspace="bias", solvers=("asym-ridge",))
    assert settings == config(**settings.as_dict() | {"learning_rates": "auto"})
    found = behavior.run(settings)
    model = load_model("x")
    train = encode(load_examples(SimpleNamespace(labels="abc"), "x", split="train"))
    expected = suggest(
        model, train, subspace="bias", optimizer=optimizer, batch_size=3, steps=6
    ).grid
    assert [run.learning_rate for run in findings(found).runs] == list(expected)


@pytest.mark.parametrize("subspace", ["lora:r=2,alpha=4", "bias"])
def test_other_subspaces_run_through(subspace: str) -> None:
    found = behavior.run(config(subspace=subspace, task="SST-2", learning_rates=(1e-2, 1e-1)))
    assert found.inputs["logits"] == "binary"
    assert [run.subspace for run in looked(found)] == [subspace]
    assert np.isfinite(cells(found.table, metric="error.kernel")["value"]).all()
    values = cells(found.table, metric="logit.real")["logit"]
    assert set(values) == {0}
    assert behavior.sentence(findings(found))


def test_seeds_are_pooled() -> None:
    found = behavior.run(config(data_seeds=(13, 21), learning_rates=(1e-3, 1e-2)))
    assert [run.data_seed for run in looked(found)] == [13, 21]
    assert not any("One data seed" in text for text in caveats(found))
    assert len(behavior.answer(found)["linearization"]) == 2
    assert page_of(behavior, found)


def test_runs_that_diverge_are_noted_and_do_not_stop_others() -> None:
    found = behavior.run(config(learning_rates=(1e-3, 1e300)))
    assert [run.learning_rate for run in looked(found)] == [1e-3]
    (run,) = findings(found).diverged
    assert (run.subspace, run.learning_rate) == ("full", 1e300)
    assert run.diverged is not None
    assert run.diverged <= 6
    assert any("Training diverged: full at 1e300" in text for text in caveats(found))
    gone = behavior.run(config(learning_rates=(1e300,)))
    assert looked(gone) == []
    assert behavior.sentence(findings(gone)).startswith("Undecided: every run")
    assert behavior.answer(gone)["behavior"] == behavior.answer(gone)["behaviour"] == "undecided"
    behavior.plot(gone)
    assert page_of(behavior, gone)


def chosen_edge(results: Results, run: Looked) -> str | None:
    (found,) = (each for each in runs_of(results, config(), [run]) if each.chosen)
    return found.edge


def tried(best: float, *others: float, diverged: tuple[float, ...] = ()) -> Results:
    """Return results of which these learning rates are known, the best one looked into."""
    cell: dict[str, Any] = {"data_seed": 13, "subspace": "full", "parameters": 10}
    rows = [TABLE.row(1.0, metric="chosen", step=3, learning_rate=best, **cell)]
    rows += [TABLE.row(0.5, metric="score", learning_rate=each, **cell) for each in (best, *others)]
    rows += [TABLE.row(3.0, metric="diverged", learning_rate=each, **cell) for each in diverged]
    return Results("behavior", config().as_dict(), {}, TABLE.tidy(rows))


@pytest.mark.parametrize(
    ("found", "edge"),
    [
        (tried(1e-2, 1e-1), "smallest"),
        (tried(1e-1, 1e-2), "largest"),
        (tried(1e-2, 1e-3, 1e-1), None),
        (tried(1e-2), None),
        (tried(1e-2, diverged=(1e-3,)), "largest"),  # all smaller ones diverged
        (tried(1e-2, 1e-3, diverged=(1e-1,)), None),
    ],
)
def test_the_edge_is_that_of_all_that_were_tried(found: Results, edge: str | None) -> None:
    run = Looked(13, "full", 10, found.table["learning_rate"].iloc[0], 3)
    assert chosen_edge(found, run) == edge


@pytest.mark.parametrize("edge", [True, False])
def test_a_best_rate_at_the_edge_is_marked_in_the_tables(results: Results, edge: bool) -> None:
    (run,) = looked(results)
    table = results.table
    far = run.learning_rate / 2, run.learning_rate * 2
    cell: dict[str, Any] = {"data_seed": 13, "subspace": "full", "parameters": run.parameters}
    more = [TABLE.row(0.0, metric="score", split="dev", learning_rate=each, **cell) for each in far]
    kept = table[(table["subspace"] != "full") | (table["learning_rate"] == run.learning_rate)]
    kept = pd.concat([kept.dropna(subset=["subspace"]), TABLE.tidy(more[:1] if edge else more)])
    found = replace(results, table=kept)
    told = findings(found)
    text = check_summary(behavior.summary(found), behavior.sentence(told))
    runs = next(each for each in behavior.tables(told)[0] if each.title == "Runs")
    marked = {line[2] for line in runs.rows if line[2].endswith("†")}
    assert marked == ({f"{rate(run.learning_rate)}†"} if edge else set())
    fine_tuned = next(line for line in text.splitlines() if "Fine-tuned" in line)
    assert ("†" in fine_tuned) == edge
    assert ("† The best learning rate" in " ".join(text.split())) == edge
    assert ("†" in runs.note) == edge
    assert any("is the largest tried" in text for text in caveats(found)) == edge


def asked(results: Results, logits: str = "all", **changes: Any) -> Results:
    """Return results as if they had been asked for otherwise."""
    return replace(
        results,
        config={**results.config, "rule": "sgd", "solvers": None, **changes},
        inputs={**results.inputs, "logits": logits},
    )


def test_the_page_says_what_the_kernel_s_prediction_leaves_out(results: Results) -> None:
    def said(**changes: Any) -> str:
        return " ".join(page_of(behavior, asked(results, **changes)).split())

    assert "For SGD this is exactly what" in said()
    single = {"optimizer": "signgd", "train_batch_size": 1}
    assert "one example and one logit this is exactly what" in said(logits="binary", **single)
    for changes in ({"optimizer": "adam"}, {"optimizer": "signgd"}, single):
        assert "prediction is not exact" in said(**changes)
        assert "therefore also trained itself" in said(**changes)
        without = said(linear_training=False, **changes)
        assert "also trained itself" not in without
        assert "--linear-training also trains the linearized model itself" in without
    memory = said(logits="binary", optimizer="adam", train_batch_size=1)
    assert "not exact: it takes every step for Adam&#39;s first" in memory


def test_the_page_says_how_many_examples_a_step_saw(results: Results) -> None:
    train = results.inputs["examples"][str(results.config["data_seeds"][0])]["train"]
    for size, seen in ((2, 2), (10 * train, train)):
        page = " ".join(page_of(behavior, asked(results, train_batch_size=size)).split())
        assert f"with batches of {seen};" in page


def test_a_start_at_the_probe_is_told(results: Results) -> None:
    assert any(
        "that probe" in text for text in caveats(asked(results, head="linear", head_init="probe"))
    )
    assert not any("probe" in text for text in caveats(results))


def test_the_error_of_f1_is_not_that_of_a_share(results: Results) -> None:
    """A gain of 30 points is judged by eighths: 3.8 points. At 0.8 of 9 it would be off by 13."""
    scores = {"score.zero-shot": 0.5, "score.trained": 0.8}
    table = results.table.copy()
    for metric, value in scores.items():
        table.loc[table["metric"] == metric, "value"] = value
    gained = replace(results, table=table)
    few = [
        [text for text in caveats(found) if "test examples are few" in text]
        for found in (gained, with_f1(gained, 0.01), with_f1(gained, 0.196))
    ]
    assert "one standard error of the fine-tuned accuracy is 13.3 points" in few[0][0]
    assert not few[1]
    assert "one standard error of the fine-tuned F1 is 10.0 points" in few[2][0]


def test_the_directory_holds_everything_and_is_found_done(tmp_path: Path) -> None:
    settings = config(learning_rates=(1e-2,))
    first = behavior.analyze(settings, tmp_path / "run")
    assert names(tmp_path / "run") == {
        "config.yaml", "environment.json", "results.parquet", "kernels", "figures", "report.html",
    }  # fmt: skip
    assert names(tmp_path / "run" / "figures") == {
        f"{name}.{kind}"
        for name in ("linearization", "features", "trajectories", "errors")
        for kind in ("png", "pdf")
    }
    again = behavior.analyze(settings, tmp_path / "run")
    assert again.up_to_date
    pd.testing.assert_frame_equal(again.results.table, first.results.table)
    stricter = behavior.analyze(settings.changed(cka=0.99999), tmp_path / "run", overwrite=True)
    pd.testing.assert_frame_equal(stricter.results.table, first.results.table)
    page = stricter.report.read_text(encoding="utf-8")
    assert "Features change" in page
    with pytest.raises(UserError, match="steps"):
        behavior.analyze(settings.changed(steps=7), tmp_path / "run")


def test_an_interrupted_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(learning_rates=(1e-3, 1e-2))
    whole = behavior.run(settings)
    real, calls = behavior_runs.finetune, []

    def stops(*args: Any, **options: Any) -> Any:
        calls.append(options["out"].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(behavior_runs, "finetune", stops)
    with pytest.raises(KeyboardInterrupt):
        behavior.analyze(settings, tmp_path / "run")
    assert not (tmp_path / "run" / "results.parquet").exists()
    monkeypatch.setattr(behavior_runs, "finetune", real)

    def refuses(*_: Any, **__: Any) -> None:
        raise AssertionError("the start kernel is kept, and not computed again")

    computed = behavior_runs.compute_kernel
    monkeypatch.setattr(behavior_runs, "compute_kernel", refuses)
    found = behavior.analyze(settings, tmp_path / "run").results
    monkeypatch.setattr(behavior_runs, "compute_kernel", computed)
    timeless = [
        t[~t["metric"].str.startswith("cost.")].reset_index(drop=True)
        for t in (found.table, whole.table)
    ]
    pd.testing.assert_frame_equal(*timeless, rtol=1e-9)


def test_the_command_prints_answers(tmp_path: Path) -> None:
    words = ["analyze", "behavior", "--model", "tiny", "--data", "x", "--steps", "4", "--looks"]
    words += ["2", "--kernel-steps", "1", "--learning-rates", "1e-2", "--solvers", "ridge"]
    done = CliRunner().invoke(
        cli.cli, [*words, "--task", "MNLI,SST-2", "--out", str(tmp_path / "two"), "--json"],
        catch_exceptions=False,
    )  # fmt: skip
    found = json.loads(done.output)
    assert [each["task"] for each in found] == ["MNLI", "SST-2"]
    assert {"behaviour", "reasons", "evidence", "prediction_errors"} <= found[0].keys()
    assert (tmp_path / "two" / "SST-2" / "report.html").is_file()
    again = CliRunner().invoke(
        cli.cli, [*words, "--task", "MNLI", "--out", str(tmp_path / "two" / "MNLI")],
        catch_exceptions=False,
    )  # fmt: skip
    assert "up to date" in again.output
    assert "Kernel behavior of tiny on MNLI" in again.output


def test_a_mistake_in_the_last_task_is_said_before_the_first_is_computed(tmp_path: Path) -> None:
    words = ["analyze", "behavior", "--model", "tiny", "--data", "x", "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(cli.cli, [*words, "--task", "MNLI, nosuchtask,"])
    assert isinstance(done.exception, UserError)
    assert "nosuchtask" in str(done.exception)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "lion"}, "optimizer 'lion' is unknown"),
        ({"learning_rates": (0.0,)}, "learning_rates holds 0.0"),
        ({"optimizer": "adam", "solvers": ("svc",)}, "svc needs a symmetric kernel"),
        ({"steps": 0}, "steps holds 0"),
        ({"rule": "signgd"}, "rule signgd is no optimizer's"),
        ({"cka": -1.0}, "threshold cka is -1"),
        ({"dims": (4,), "subspace": "random:dim=9"}, "random subspace of a random subspace"),
        ({"loss": "hinge"}, "loss 'hinge' is unknown"),
    ],
)
def test_wrong_settings_are_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**changes)


def test_settings_are_read_back_and_the_optimizer_decides_the_rule() -> None:
    adam = config(optimizer="adam", learning_rates=(1e-4,), solvers=("asym",), dims=(4,))
    assert adam.rule == "asymmetric_adam:eps=1e-08"
    assert Config.from_dict(adam.as_dict()) == adam
    other = Config.from_dict(adam.as_dict() | {"optimizer": "sgd", "solvers": ("ridge",)})
    assert other.rule == "sgd"


def test_more_dimensions_than_coordinates_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError):
        behavior.analyze(config(dims=(10**9,)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_rates_read_as_people_write_them() -> None:
    assert [rate(each) for each in (1e-5, 3e-4, 0.25, 12.0)] == [
        "1e\N{MINUS SIGN}5", "3e\N{MINUS SIGN}4", "2.5e\N{MINUS SIGN}1", "1.2e1",
    ]  # fmt: skip


def test_float32_models_predict_as_well() -> None:
    """Kernels are float64 whatever the model; training is not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "load_model", lambda *a, **k: load_model(*a, **k).to(torch.float32))
        found = behavior.run(config(learning_rates=(1e-4,)))
    errors = chosen(findings(found)).error
    assert max(errors.values()) < 0.04

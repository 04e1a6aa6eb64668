"""The fourteen-task study on a tiny model and tiny tasks."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from analyses.engine import environment as versions
from analyses.engine import parts
from analyses.engine.inputs import load_inputs
from analyses.engine.run_folder import Results
from analyses.fourteen_tasks import progress as screen
from analyses.fourteen_tasks import steps
from analyses.fourteen_tasks import study as fourteen_tasks
from analyses.fourteen_tasks.config import PRESETS, RATES, Config
from analyses.fourteen_tasks.inputs import Context, settings_of
from analyses.fourteen_tasks.plan import make_plan
from analyses.fourteen_tasks.progress import abreast
from analyses.fourteen_tasks.results.methods import HEADS
from analyses.fourteen_tasks.study import Done, StudyFolder
from analyses.fourteen_tasks.table import COLUMNS, FINETUNING, KERNELS, METHODS, SIGNS, tidy
from analyses.scheduler.cell import parse_only
from analyses.scheduler.executors import make_executor
from analyses.scheduler.work import FAILED, OtherWorkerError, Place
from analyses.show.terminal import show
from cli import cli as program
from cli import main
from subkern.errors import UserError
from subkern.gradients import batches
from subkern.kernels.compute import compute_kernel
from subkern.kernels.request import RunOptions
from subkern.solvers import evaluate
from subkern.storage import provenance
from subkern.tasks.catalogue import TASKS
from tests.support import tiny_study

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny model and the data of three tiny tasks."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_study.model(folder / "model")
    tiny_study.data(folder / "data")
    return folder


def config(place: Path, **changes: Any) -> Config:
    """Return settings of a study of seconds: one task, one kernel, one small grid."""
    given: dict[str, Any] = {
        "model": str(place / "model"), "data": str(place / "data"), "tasks": ("mr",),
        "shots": (4,), "data_seeds": (13,), "methods": ("kernel-sgd", "finetune-sgd"),
        "solvers": ("ridge",), "learning_rates": {"finetune-sgd": (0.01, 0.3)},
        "batch_sizes": (4,), "steps": 12, "eval_every": 4,
    }  # fmt: skip
    return Config(**{**given, **changes})


def analyze(asked: Config, out: Path, **how: Any) -> Done:
    """Run a study without its report."""
    return fourteen_tasks.analyze(asked, out, report=False, **how)


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without what differs from run to run."""
    return table.drop(columns="seconds")


@pytest.fixture(scope="module")
def whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    """Run every method."""
    out = tmp_path_factory.mktemp("whole")
    settings = config(
        place, tasks=("trec",), shots=(2,), methods=METHODS, steps=4,
        lora=("lora:r=1", "lora:r=2"), random=("random:dim=20",),
        learning_rates={method: rates[:1] for method, rates in RATES.items()},
    )  # fmt: skip
    return fourteen_tasks.analyze(settings, out), out


# --- what it finds ---


def test_scores_on_the_screen_are_never_means_over_heads_or_shots() -> None:
    def scored(head: str, k: int, subspace: str, dev: float, test: float) -> list[dict[str, Any]]:
        about = {
            "task": "SST-2", "k": k, "data_seed": 13, "head": head, "method": "kernel-lora",
            "rule": "sgd", "subspace": subspace, "solver": "ridge", "metric": "accuracy",
            "status": "done", "cell": "c",
        }  # fmt: skip
        return [{**about, "split": "dev", "value": dev}, {**about, "split": "test", "value": test}]

    rows = scored("prompt", 16, "lora:r=1", 0.8, 0.7) + scored("prompt", 16, "lora:r=8", 0.8, 0.9)
    rows += scored("linear", 16, "lora:r=1", 0.8, 0.5) + scored("prompt", 64, "lora:r=1", 0.8, 0.6)
    found = screen.results(tidy(rows))
    shown = {title: dict(zip(t["method"], t["SST-2"], strict=True)) for title, t in found.items()}
    prompt, linear = (f"Test scores in percent, {HEADS[h]}" for h in ("prompt", "linear"))
    assert shown == {
        f"{prompt}, 16 shots": {"kernel-lora lora:r=1": 70.0, "kernel-lora lora:r=8": 90.0},
        f"{linear}, 16 shots": {"kernel-lora lora:r=1": 50.0},
        f"{prompt}, 64 shots": {"kernel-lora lora:r=1": 60.0},
    }
    assert screen.results(tidy([])) == {}


def test_every_method_has_its_rows(whole: tuple[Done, Path]) -> None:
    done, out = whole
    table = done.table
    assert done.ran.failed == {}
    assert done.report == out / "report.html"
    assert done.report.is_file()
    assert list(table.columns) == list(COLUMNS)
    assert set(table["method"]) == {*METHODS, SIGNS}
    assert set(table["status"]) == {"done"}
    pd.testing.assert_frame_equal(pd.read_parquet(out / "results.parquet"), table)
    scores = table[table["metric"] == "accuracy"]
    assert scores["value"].between(0, 1).all()
    assert set(scores["method"]) == {"zero-shot", "linear-probe", *KERNELS, *FINETUNING}
    for method, rows in scores.groupby("method"):
        assert set(rows["split"]) == {"dev", "test"}, method


def test_a_linear_head_has_no_zero_shot(place: Path) -> None:
    asked = config(place, heads=("prompt", "linear"), methods=("zero-shot", "linear-probe"))
    found = [(cell.head, cell.method) for cell in make_plan(asked)]
    assert found == [
        ("prompt", "zero-shot"), ("prompt", "linear-probe"), ("linear", "linear-probe")
    ]  # fmt: skip


def test_the_sgd_kernel_comes_from_the_pass_of_the_others_if_there_is_one(place: Path) -> None:
    def cells(*methods: str) -> dict[tuple[str, str], Any]:
        return {(c.method, c.step): c for c in make_plan(config(place, methods=methods))}

    alone = cells("kernel-sgd", "kernel-lora")
    assert alone["kernel-sgd", "kernel"].needs == ()
    assert not any(method == SIGNS for method, _ in alone)
    together = cells("kernel-signgd")  # whose agreement with sgd's is a cell
    shared = together[SIGNS, "kernels"]
    assert together["kernel-sgd", "kernel"].needs == (shared.key,)
    assert shared.settings["rules"][:2] == ["sgd", "signgd"]
    same = (each["kernel-sgd", "kernel"].identity for each in (alone, together))
    assert next(same) == next(same)  # where it is done already, it stays


def test_rows_say_what_they_are_of(whole: tuple[Done, Path]) -> None:
    table = whole[0].table
    rules = {method: set(rows["rule"]) for method, rows in table.groupby("method")}
    assert rules["kernel-asymmetric_signgd"] == {"asymmetric_signgd"}
    assert rules["kernel-adam"] == {"adam:eps=1e-08"}
    lora = table[table["method"] == "kernel-lora"]
    assert set(lora["subspace"]) == {"lora:r=1", "lora:r=2"}
    assert {"cka", "pearson"} <= set(lora["metric"])
    asymmetric = table[table["method"] == "kernel-asymmetric_signgd"]
    assert set(asymmetric["solver"].dropna()) == {"asym", "asym-ridge"}
    behavior = table[table["method"].isin(("linearized", "features"))]
    assert set(behavior["optimizer"]) == {"sgd", "adam", "signgd"}
    assert {"linearized accuracy", "recovered share", "relative change", "cka with start"} <= set(
        behavior["metric"]
    )
    assert not {"accuracy", "f1"} & set(behavior["metric"])


def test_a_kernel_and_its_classifier_are_the_librarys(
    whole: tuple[Done, Path], place: Path
) -> None:
    table = whole[0].table
    settings = settings_of(config(place), "trec", 2, 13, "prompt")
    inputs = load_inputs(settings)
    model = parts.load(settings, inputs)
    encoded = parts.encode(model, inputs.splits[13])
    train, dev, test = (
        compute_kernel(model, encoded["train"], encoded[split])
        for split in ("train", "dev", "test")
    )
    wanted = evaluate("ridge", train, test, dev, grid="default")
    mine = table[
        (table["method"] == "kernel-sgd") & (table["solver"] == "ridge")
    ].set_index("split")["value"]  # fmt: skip
    assert mine["test"] == wanted["eval accuracy"]
    assert mine["dev"] == wanted["dev accuracy"]


def test_a_linear_head_starts_at_the_probe(place: Path, tmp_path: Path) -> None:
    asked = config(
        place, heads=("linear",), methods=("linear-probe", "finetune-sgd"), steps=1,
        learning_rates={"finetune-sgd": (1e-12,)},
    )  # fmt: skip
    table = analyze(asked, tmp_path / "probe").table.set_index(["method", "metric", "split"])
    value = table["value"].drop("best step", level="metric")
    for split in ("dev", "test"):
        probe = value["linear-probe", "accuracy", split]
        assert value["finetune-sgd", "accuracy", split] == probe
    drawn = analyze(asked.changed(head_init="random"), tmp_path / "random").table
    assert not numbers(drawn).equals(numbers(table.reset_index()[list(COLUMNS)]))


def test_small_steps_are_linear_and_leave_features(whole: tuple[Done, Path]) -> None:
    table = whole[0].table
    rows = table[(table["method"] == "linearized") & (table["optimizer"] == "adam")]
    close = rows[rows["metric"] == "linearization distance"]["value"]
    assert (close < 0.05).all()
    rows = table[(table["method"] == "features") & (table["optimizer"] == "adam")]
    assert (rows[rows["metric"] == "cka with start"]["value"] > 0.999).all()
    assert (rows[rows["metric"] == "relative change"]["value"] < 0.05).all()


def test_the_folder_reads_as_results(whole: tuple[Done, Path]) -> None:
    results = Results.load(whole[1])
    assert results.analysis == "fourteen-tasks"
    assert results.config["tasks"] == ["trec"]
    assert "versions" in results.environment
    assert Config.from_file(whole[1] / "config.yaml").tasks == ("trec",)


def test_only_what_may_be_the_best_keeps_what_moved(place: Path, tmp_path: Path) -> None:
    done = analyze(config(place), tmp_path)
    rows = done.table[done.table["method"] == "finetune-sgd"].set_index("metric")["value"]
    kept = sorted(path.parent.parent.name for path in tmp_path.rglob("shift.safetensors"))
    assert kept == [f"train lr={float(rows['learning rate'])!r} b=4"]
    assert rows["grid edge"] == {0.01: -1, 0.3: 1}[rows["learning rate"]]
    assert rows["batch size"] == 4
    assert rows["best step"] in (4, 8, 12)


# --- what it computes, and when ---


def test_more_tasks_seeds_and_methods_compute_only_what_is_new(place: Path, tmp_path: Path) -> None:
    first = analyze(config(place), tmp_path)
    assert len(first.ran.computed) == 5
    more = config(place, tasks=("mr", "SST-2"), data_seeds=(13, 21), solvers=("ridge", "svc"))
    again = analyze(more, tmp_path, only=parse_only(["method=kernel-*"]))
    assert len(again.ran.computed) == 4 * 3 - 2
    old = numbers(first.table)
    both = numbers(again.table)
    assert len(old.merge(both)) == len(old)
    assert len(analyze(more, tmp_path).ran.computed) == 3 * 3


def test_a_larger_grid_trains_only_the_new_points(place: Path, tmp_path: Path) -> None:
    analyze(config(place, methods=("finetune-sgd",)), tmp_path)
    wider = config(
        place, methods=("finetune-sgd",), learning_rates={"finetune-sgd": (0.01, 0.3, 0.5)}
    )
    done = analyze(wider, tmp_path)
    assert [key.rsplit("/", 1)[1] for key in done.ran.computed] == ["train lr=0.5 b=4", "best"]


def test_a_smaller_grid_has_its_best_again(place: Path, tmp_path: Path) -> None:
    asked = config(place, methods=("finetune-sgd", "linearized"))
    rows = analyze(asked, tmp_path).table.set_index("metric")["value"]
    (left,) = {0.01, 0.3} - {rows["learning rate"]}
    smaller = asked.changed(learning_rates={"finetune-sgd": (left,)})
    done = analyze(smaller, tmp_path)
    assert [key.rsplit("/", 1)[1] for key in done.ran.computed] == [
        "best", "linearized finetune-sgd",
    ]  # fmt: skip
    assert done.ran.failed == {}
    pd.testing.assert_frame_equal(
        numbers(done.table), numbers(analyze(smaller, tmp_path / "alone").table)
    )


def test_killed_training_goes_on_from_its_checkpoint(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(place, methods=("finetune-sgd",), learning_rates={"finetune-sgd": (0.3,)})
    real, seen = steps.finetune, []

    def watched(*given: Any, **how: Any) -> Any:
        def progress(step: int, steps: int) -> None:
            seen.append(step)
            if step == 7 and seen.count(7) == 1:
                raise KeyboardInterrupt

        return real(*given, **how, progress=progress, checkpoint_seconds=0)

    monkeypatch.setattr(steps, "finetune", watched)
    with pytest.raises(KeyboardInterrupt):
        analyze(asked, tmp_path / "killed")
    assert list((tmp_path / "killed" / "unfinished").iterdir())
    first = len(seen)
    resumed = analyze(asked, tmp_path / "killed")
    assert len(seen) - first < 12  # of 12 steps
    assert not list((tmp_path / "killed" / "unfinished").iterdir())
    monkeypatch.setattr(steps, "finetune", real)
    whole = analyze(asked, tmp_path / "whole")
    pd.testing.assert_frame_equal(numbers(resumed.table), numbers(whole.table))


def test_a_killed_kernel_goes_on_from_its_tiles(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(place, methods=("kernel-sgd",))
    real, tiles = steps.compute_kernel, []

    def killed(*given: Any, options: RunOptions, **how: Any) -> Any:
        real(*given, options=options, **how)
        assert options.checkpoint is not None
        tiles.append([path.name for path in Path(options.checkpoint).iterdir()])
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "compute_kernel", killed)
    with pytest.raises(KeyboardInterrupt):
        analyze(asked, tmp_path)
    assert tiles[0]
    monkeypatch.setattr(steps, "compute_kernel", real)
    monkeypatch.setattr(batches, "capture", None)  # nothing is left to capture
    assert analyze(asked, tmp_path).ran.failed == {}


def test_training_that_diverges_fails_alone(place: Path, tmp_path: Path) -> None:
    rates = {"finetune-sgd": (0.01, 1e30)}
    done = analyze(config(place, learning_rates=rates), tmp_path)
    assert len(done.ran.failed) == 1
    key, reason = next(iter(done.ran.failed.items()))
    assert key.endswith("train lr=1e+30 b=4")
    assert "diverged at step" in reason
    assert "learning rate 1e+30" in reason
    assert done.table["status"].value_counts().to_dict()["failed"] == 1
    rows = done.table[done.table["method"] == "finetune-sgd"].dropna(subset="metric")
    assert rows.set_index("metric")["value"]["learning rate"] == 0.01


def test_a_grid_that_diverges_altogether_blocks_what_needs_it(place: Path, tmp_path: Path) -> None:
    asked = config(
        place, methods=("finetune-sgd", "linearized"), learning_rates={"finetune-sgd": (1e30,)}
    )
    done = analyze(asked, tmp_path)
    assert [key.rsplit("/", 1)[1] for key in done.ran.failed] == ["train lr=1e+30 b=4", "best"]
    assert "none of the 1 points of the grid finished" in list(done.ran.failed.values())[1]
    assert list(done.ran.states.values())[-1] == "blocked"


def test_another_version_or_other_settings_are_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(place, methods=("zero-shot",))
    done = analyze(asked, tmp_path)
    with pytest.raises(UserError, match=r"mr/4-13.*model\.tie: .*untied"):
        analyze(asked.changed(tie="untied"), tmp_path)
    with pytest.raises(UserError, match=r"examples\.digest"):
        analyze(asked.changed(test_limit=4), tmp_path)
    here = provenance.environment()
    other = {**here, "versions": {**here["versions"], "torch": "99"}}
    monkeypatch.setattr(provenance, "environment", lambda: other)
    with pytest.raises(UserError, match=r"environment\.versions\.torch: .99. asked for"):
        analyze(asked, tmp_path)
    assert StudyFolder(asked, tmp_path).store.others(make_plan(asked))
    replaced = analyze(asked, tmp_path, overwrite=True)
    assert len(replaced.ran.computed) == 1
    pd.testing.assert_frame_equal(numbers(replaced.table), numbers(done.table))


def test_a_worker_with_other_libraries_is_told_so(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(place, methods=("zero-shot",))
    (cell,) = make_plan(asked)
    here = provenance.environment()
    other = {**here, "versions": {**here["versions"], "torch": "99"}}
    monkeypatch.setattr(provenance, "environment", lambda: other)
    said = r"the worker on '.*' is not like .*versions\.torch: .* asked for, .99. there\)"
    with pytest.raises(OtherWorkerError, match=said):
        fourteen_tasks.Work(asked)(cell, {}, Place(tmp_path))
    moved = {**here, "machine": {**here["machine"], "threads": 99}}
    monkeypatch.setattr(provenance, "environment", lambda: moved)
    assert fourteen_tasks.Work(asked)(cell, {}, Place(tmp_path)).rows


@pytest.mark.parametrize("what", ["model", "data"])
def test_a_worker_with_another_model_or_data_is_told_so(
    place: Path, tmp_path: Path, what: str
) -> None:
    asked = config(place, methods=("zero-shot",))
    (cell,) = make_plan(asked)
    (tiny_study.model if what == "model" else tiny_study.data)(tmp_path / what)
    if what == "model":
        (tmp_path / what / "extra.txt").write_text("another", encoding="utf-8")
    else:
        for path in (tmp_path / what).rglob("train*"):
            path.write_text(path.read_text().replace("a", "e"), encoding="utf-8")
    there = asked.changed(**{what: str(tmp_path / what)})
    with pytest.raises(OtherWorkerError, match="files: " if what == "model" else "examples.digest"):
        fourteen_tasks.Work(there)(cell, {}, Place(tmp_path))


def test_another_scikit_learn_is_another_version_of_classifiers_not_of_kernels(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(place, methods=("linear-probe", "kernel-sgd"))
    analyze(asked, tmp_path)
    monkeypatch.setattr(versions, "libraries", lambda: {"scikit-learn": "99"})
    found = StudyFolder(asked, tmp_path).store.others(make_plan(asked))
    assert sorted(key.rpartition("/")[2] for key in found) == ["probe", "solve ridge"]
    with pytest.raises(UserError, match=r"libraries\.scikit-learn: .99. asked for"):
        analyze(asked, tmp_path)


def test_a_table_is_always_of_the_settings_beside_it(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks while a study is computed anew finds nothing of the one before."""
    asked = config(place, methods=("zero-shot",))
    fourteen_tasks.analyze(asked, tmp_path)
    seen: list[tuple[int, int, bool]] = []

    def look(*_: Any) -> None:
        record = yaml.safe_load((tmp_path / "config.yaml").read_text())
        table = pd.read_parquet(tmp_path / "results.parquet")
        report = (tmp_path / "report.html").exists()
        seen.append((record["config"]["test_limit"], len(table), report))

    other = asked.changed(test_limit=4)
    fourteen_tasks.analyze(other, tmp_path, overwrite=True, progress=look)
    assert seen == [(4, 0, False), (4, 0, False)]
    assert (tmp_path / "report.html").exists()


def test_an_interruption_leaves_the_report_of_a_table_that_did_not_change(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(place, methods=("zero-shot",))
    fourteen_tasks.analyze(asked, tmp_path)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fourteen_tasks, "run_cells", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fourteen_tasks.analyze(asked, tmp_path)
    assert (tmp_path / "report.html").exists()


def test_less_memory_cuts_the_tiles_of_a_failed_kernel_anew(place: Path, tmp_path: Path) -> None:
    asked = config(place, methods=("kernel-sgd",), memory="1GiB")
    cell = next(cell for cell in make_plan(asked) if cell.step == "kernel")

    def begin(memory: str) -> Path:
        found = Context(asked.changed(memory=memory), cell, {}, Place(tmp_path, tmp_path)).options
        assert found.checkpoint is not None
        return Path(found.checkpoint)

    (begin("1GiB")).mkdir()
    assert begin("2GiB").exists()  # a killed run goes on, whatever it is given now
    (tmp_path / FAILED).touch()
    assert begin("2GiB").exists()
    assert not begin("1GiB").exists()


def test_a_report_that_was_not_drawn_is_drawn_by_the_next_run(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fourteen_tasks.analyze(config(place, methods=("zero-shot",)), tmp_path)

    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    more = config(place, methods=("zero-shot", "linear-probe"))
    with monkeypatch.context() as patch:
        patch.setattr(fourteen_tasks, "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fourteen_tasks.analyze(more, tmp_path)
    done = fourteen_tasks.analyze(more, tmp_path)
    assert done.ran.computed == []
    assert done.report is not None
    assert "linear probe" in done.report.read_text(encoding="utf-8").lower()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "ray"])
def test_others_find_the_same(
    place: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # workers run this copy of the code
    if kind == "ray":
        pytest.importorskip("ray", reason="needs ray: pip install 'subkern[ray]'")
    asked = config(place)
    here = analyze(asked, tmp_path / "here")
    others = make_executor(kind, workers=2 if kind == "local" else 1)
    there = analyze(asked, tmp_path / "there", executor=others)
    assert there.ran.failed == {}
    pd.testing.assert_frame_equal(numbers(here.table), numbers(there.table))


def test_again_leaves_the_table_as_it_is(place: Path, tmp_path: Path) -> None:
    asked = config(place, methods=("zero-shot",))
    analyze(asked, tmp_path)
    before = (tmp_path / "results.parquet").stat().st_mtime_ns
    assert analyze(asked, tmp_path).ran.computed == []
    assert (tmp_path / "results.parquet").stat().st_mtime_ns == before
    fewer = analyze(config(place, methods=("zero-shot", "linear-probe")), tmp_path)
    assert (tmp_path / "results.parquet").stat().st_mtime_ns > before
    assert len(fewer.table) == 4


def test_only(place: Path, tmp_path: Path) -> None:
    done = analyze(config(place), tmp_path, only=parse_only(["method=kernel-*"]))
    assert set(done.table["method"]) == {"kernel-sgd"}
    assert len(done.ran.computed) == 2


# --- settings ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("kernel-sdg",)}, "did you mean kernel-sgd"),
        ({"tasks": ("SST-3",)}, "SST-3"),
        ({"tasks": ()}, "tasks is empty"),
        ({"heads": ("mlp",)}, "heads 'mlp' is unknown"),
        ({"asymmetric_solvers": ("ridge",)}, "which needs a symmetric kernel"),
        ({"solvers": ("rigde",)}, "solvers 'rigde' is unknown"),
        ({"lora": ("bias",)}, "lora holds 'bias', another kind"),
        ({"learning_rates": {"kernel-sgd": (1,)}}, "learning_rates of 'kernel-sgd' is unknown"),
        ({"learning_rates": {"finetune-sgd": ("x",)}}, "give a number"),
        ({"learning_rates": {"finetune-sgd": (-1,)}}, "give numbers above 0"),
        ({"learning_rates": {"finetune-sgd": ()}}, "is empty"),
        ({"steps": 0}, "steps holds 0"),
        ({"loss": "hinge"}, "loss 'hinge' is unknown"),
        ({"methods": ("kernel-*", "linearized")}, "add finetune-sgd"),
        ({"tasks": ("mr", "MR")}, "task mr is given twice"),
        (
            {"methods": ("zero-shot",), "heads": ("linear",), "head_init": "probe"},
            "zero-shot leave nothing to compute: a linear head that starts at its probe has no",
        ),
    ],
)
def test_bad_settings(place: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_plan(config(place, **changes))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--workers", "0"), "0 workers can do nothing"),
        (("--executor", "slurm"), "executor 'slurm' is unknown"),
        (("--address", "foo:1"), "--address foo:1 is for --executor ray"),
    ],
)
@pytest.mark.parametrize("only_shown", ["--status", "--dry-run"])
def test_bad_options_are_said_where_nothing_is_computed(
    place: Path, tmp_path: Path, words: tuple[str, ...], message: str, only_shown: str
) -> None:
    settings = tmp_path / "c.yaml"
    settings.write_text(yaml.safe_dump(config(place).as_dict()), encoding="utf-8")
    asked = ["--config", str(settings), "--out", str(tmp_path / "out"), only_shown, *words]
    found = CliRunner().invoke(program, ["analyze", "fourteen-tasks", *asked])
    assert isinstance(found.exception, UserError)
    assert message in str(found.exception)


def test_every_command_that_computed_a_part_is_kept(place: Path, tmp_path: Path) -> None:
    study = StudyFolder(config(place), tmp_path)
    for said in ("first", "second", "first"):
        study.claim(said)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["command"] == "second\nfirst"


def test_settings_survive_a_file(place: Path, tmp_path: Path) -> None:
    asked = config(place, methods=("kernel-*", "finetune-adam"), lora=("lora:r=2", "lora:r=4"))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(asked.as_dict()), encoding="utf-8")
    assert Config.from_file(tmp_path / "c.yaml") == asked
    with pytest.raises(UserError, match="unknown setting 'task': did you mean tasks"):
        Config.from_dict({"model": "m", "task": "mr"})
    with pytest.raises(UserError, match="the settings name no model"):
        Config.from_dict({"tasks": ["mr"]})


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_settings(preset: str) -> None:
    found = Config.from_dict(PRESETS[preset])
    counts = (len(found.tasks), len(found.data_seeds), found.shots)
    wanted = {"quick": (3, 1, (8,)), "paper": (14, 5, (16, 64)), "full": (14, 5, (16, 64, 512))}
    assert counts == wanted[preset]
    assert found.methods == METHODS


def test_a_wide_table_is_shown_in_parts_of_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    tasks = {name: [50.25, float("nan")] for name in TASKS}
    wide = pd.DataFrame({"method": ["kernel-asymmetric_signgd", "zero-shot"], **tasks})
    parts = abreast(wide)
    assert [name for part in parts for name in part.columns[1:]] == list(TASKS)
    for part in parts:
        show(part, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("kernel-asymmetric_signgd" in line for line in lines) == len(parts)
    assert abreast(pd.DataFrame()) == []


def test_tidy_has_every_column() -> None:
    table = tidy([{"task": "mr", "k": 16, "value": np.float64(0.5)}])
    assert list(table.columns) == list(COLUMNS)
    assert table["solver"].isna().all()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("file", "is a file"),
        ("foreign", "and no study"),
        ("other", "holds a run of analyze lora"),
        ("parts", "holds several studies drawn as one"),
    ],
)
def test_folders_of_others_are_left_alone(
    place: Path, tmp_path: Path, made: str, message: str
) -> None:
    out = tmp_path / "out"
    if made == "file":
        out.write_text("mine", encoding="utf-8")
    else:
        out.mkdir()
        name, text = {
            "foreign": ("notes.txt", "x"),
            "other": ("config.yaml", "{analysis: lora, config: {}, inputs: {}, asked: {}}"),
            "parts": (
                "config.yaml",
                "{analysis: fourteen-tasks, config: {}, inputs: {}, asked: {parts: [a, b]}}",
            ),
        }[made]
        (out / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        analyze(config(place), out)


# --- the command ---


def command(place: Path, out: Path, *args: object) -> list[str]:
    """Return the command line of a quick study."""
    return [
        sys.executable, "-m", "cli", "analyze", "fourteen-tasks", "--preset", "quick",
        "--model", str(place / "model"), "--data", str(place / "data"), "--heads", "prompt",
        "--tasks", "SST-2,mr,trec", "--shots", "4", "--out", str(out), *map(str, args),
    ]  # fmt: skip


def cli(place: Path, out: Path, *args: object) -> subprocess.CompletedProcess[str]:
    """Run it and return what it said."""
    return subprocess.run(command(place, out, *args), cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_the_command_on_the_quick_preset(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    planned = cli(place, out, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "cells, " in planned.stdout
    assert not out.exists()
    done = cli(place, out)
    assert done.returncode == 0, done.stderr
    assert "kernel-asymmetric_signgd" in done.stdout
    table = pd.read_parquet(out / "results.parquet")
    assert set(table["task"]) == {"SST-2", "mr", "trec"}
    assert set(table["method"]) == {*METHODS, SIGNS}
    status = cli(place, out, "--status")
    assert status.returncode == 0, status.stderr
    assert "nothing left" in status.stdout
    again = cli(place, out)
    assert "up to date: nothing was computed" in again.stdout


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_quick_preset_as_it_is(minilm: str, shared_data: Path, tmp_path: Path) -> None:
    """The preset's own model, head, tasks, shots and grids, on real data."""
    run = [sys.executable, "-m", "cli", "analyze", "fourteen-tasks", "--preset", "quick"]
    run += ["--data", str(shared_data), "--out", str(tmp_path / "run")]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(tmp_path / "run" / "results.parquet")
    assert set(table["task"]) == {"SST-2", "mr", "subj"}
    assert set(table["method"]) == {*METHODS, SIGNS} - {"zero-shot"}
    assert set(table["status"]) == {"done"}
    assert set(table["head"]) == {"linear"}
    assert (tmp_path / "run" / "report.html").is_file()
    status = subprocess.run([*run, "--status"], cwd=ROOT, capture_output=True, text=True)
    assert "nothing left" in status.stdout


@pytest.mark.slow
def test_a_machine_of_the_ray_cluster_that_dies_changes_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real study by the real command on a cluster of two machines, of which one is killed."""
    pytest.importorskip("ray", reason="needs ray: pip install 'subkern[ray]'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # its workers inherit it
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    try:
        victim = cluster.add_node(**small)
        args = ("--tasks", "mr,trec", "--methods", "kernel-*,finetune-sgd")
        out = tmp_path / "ray"
        process = subprocess.Popen(
            command(place, out, *args, "--executor", "ray", "--address", cluster.address),
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        until = time.monotonic() + 240
        while len(list(out.glob("cells/*/*/*/*/*/cell.json"))) < 3:  # both are at work
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.05)
        cluster.remove_node(victim, allow_graceful=False)
        assert not (out / "results.parquet").exists()
        _, said = process.communicate(timeout=400)
        assert process.returncode == 0, said
    finally:
        cluster.shutdown()
    assert cli(place, tmp_path / "quiet", *args).returncode == 0
    tables = [
        numbers(pd.read_parquet(folder / "results.parquet")) for folder in (out, tmp_path / "quiet")
    ]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.slow
def test_failures_and_only_on_the_command_line(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    args = ("--methods", "finetune-sgd", "--learning-rates", "finetune-sgd=1e-2,1e30")
    only = ("--only", "task=mr", "--only", "task=trec,step=train*")
    done = cli(place, out, *args, *only)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("subkern: 2 cells failed, as mr/4-13/prompt/finetune-sgd/train lr=1e+30")
    assert "traceback.txt" in last
    status = cli(place, out, *args, "--status", "--json")
    assert '"state": "failed"' in status.stdout
    assert '"state": "missing"' in status.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--executor", "ray", "--address", "127.0.0.1:9"), "no Ray cluster answers"),
        (("--only", "color=red"), "is not understood"),
        (("--executor", "ray", "--workers", "4"), "--workers 4 is for --executor local"),
        (("--learning-rates", "1e-3"), "write METHOD=1e-3"),
    ],
)
def test_mistakes_are_one_line(
    place: Path,
    tmp_path: Path,
    args: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "ray" in args:
        pytest.importorskip("ray", reason="needs ray: pip install 'subkern[ray]'")
    monkeypatch.setattr(sys, "argv", command(place, tmp_path / "run", *args)[2:])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def _is_computing(out: Path, since: float) -> bool:
    """Return whether a cell was begun, or went on, after a time."""
    for lease in out.glob("work/*/lease.json"):
        with suppress(FileNotFoundError):  # its cell is done
            if lease.stat().st_mtime > since:
                return True
    return False


@pytest.mark.slow
def test_the_study_killed_at_twenty_random_moments_ends_with_the_same_table(
    place: Path, tmp_path: Path
) -> None:
    """From its first moment on, imports included, and in turn from the first cell on."""
    args = ("--tasks", "mr,trec", "--methods", "kernel-*,finetune-sgd,linearized,features")
    started = time.monotonic()
    assert cli(place, tmp_path / "quiet", *args).returncode == 0
    longest = time.monotonic() - started
    out, rng, unfinished, computing = tmp_path / "killed", random.Random(4), 0, 0
    for turn in range(20):
        began = time.time()
        process = subprocess.Popen(
            command(place, out, *args), cwd=ROOT, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if turn % 2:  # on a busy machine a time alone would meet imports, or the end
            while process.poll() is None and not _is_computing(out, began):
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 0.2))
        else:
            time.sleep(rng.uniform(0.0, longest / 3))
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL and not (out / "results.parquet").exists():
            unfinished += 1
            computing += any(out.glob("work/*/lease.json"))
    assert unfinished >= 10
    assert computing >= 5  # in the middle of a cell, not of the imports
    done = cli(place, out, *args)
    assert done.returncode == 0, done.stderr
    tables = [
        numbers(pd.read_parquet(folder / "results.parquet")) for folder in (out, tmp_path / "quiet")
    ]
    pd.testing.assert_frame_equal(*tables)

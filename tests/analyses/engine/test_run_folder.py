"""The run directory: complete or as it was, resumable, never mixed with another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from analyses.engine.pooling import pool_values
from analyses.engine.run_folder import KernelFolder, Results, RunDirectory, replacing
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.storage.claim import REPLACE
from subkern.storage.lock import only_run
from subkern.storage.provenance import OLDER
from tests.support.folders import names

ASKED = {"settings": {"rank": [1, 2], "task": "mr"}, "answer": {"max_drop": 0.02}}
TABLE = pd.DataFrame({"metric": ["cka"], "value": [0.5]})


def directory(path: Path, **changes: Any) -> RunDirectory:
    return RunDirectory(path, "lora", {**ASKED, **changes})


def claim(run: RunDirectory) -> None:
    run.claim({"ranks": (1, 2)}, {"task": {"name": "mr"}}, "subkern analyze lora")


def kernel(value: float = 1.0) -> Kernel:
    return Kernel(np.full((1, 1, 1, 1), value), ["a"], ["a"], provenance={"rule": "sgd"})


def test_a_finished_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = directory(tmp_path / "run")
    assert run.state() == "new"
    assert not run.path.exists()
    claim(run)
    assert run.state() == "unfinished"
    run.kernels["13/full"] = kernel(3.0)
    run.checkpoint.mkdir()
    written = run.finish(TABLE, {"versions": {"torch": "2"}})
    read = Results.load(run.path)
    assert run.state() == "done"
    assert names(run.path) == {"config.yaml", "environment.json", "results.parquet", "kernels"}
    for results in (written, read):
        pd.testing.assert_frame_equal(results.table, TABLE)
        assert results.config == {"ranks": [1, 2]}
        assert results.environment == {"versions": {"torch": "2"}}
        assert results.command == "subkern analyze lora"
        assert list(results.kernels) == ["13/full"]
        assert results.kernels["13/full"].values.item() == 3.0
    record = yaml.safe_load((run.path / "config.yaml").read_text())
    assert len(record["fingerprint"]) == 64


def test_other_settings_are_refused_with_both_values(tmp_path: Path) -> None:
    claim(directory(tmp_path))
    other = directory(tmp_path, settings={"rank": [1, 4], "task": "mr"})
    with pytest.raises(UserError, match=r"rank\[1\]: 4 asked for, 2 stored.*--overwrite") as error:
        other.state()
    assert "\n" not in str(error.value)
    assert other.state(overwrite=True) == "new"


def test_a_run_of_an_older_version_is_refused_in_a_line_of_words(tmp_path: Path) -> None:
    old = {"code": {"digest": "7" * 64}, "versions": {"subkern": "0.1.0", "torch": "2"}}
    new = {"code": {"numerics": 1}, "versions": {"torch": "2"}}
    run = directory(tmp_path, environment=old, study="8" * 64)
    claim(run)
    run.finish(TABLE, {})
    again = directory(tmp_path, environment=new, study="9" * 64)
    with pytest.raises(UserError) as error:
        again.state()
    assert str(error.value) == (f"'{tmp_path}' holds a run of other settings ({OLDER}): {REPLACE}")
    assert again.state(overwrite=True) == "new"
    assert len(Results.load(tmp_path).table) == 1  # what it found can be read


def test_another_answer_alone_is_said_to_compute_nothing(tmp_path: Path) -> None:
    claim(directory(tmp_path))
    other = directory(tmp_path, answer={"max_drop": 0.1})
    with pytest.raises(UserError, match=r"max_drop: .*--overwrite draws it anew and computes noth"):
        other.state()


def test_overwriting_removes_the_old_run_and_nothing_else(tmp_path: Path) -> None:
    old = directory(tmp_path)
    claim(old)
    old.kernels["13/full"] = kernel()
    old.finish(TABLE, {})
    (tmp_path / "notes.txt").write_text("mine")
    new = directory(tmp_path, settings={})
    claim(new)
    assert names(tmp_path) == {"config.yaml", "notes.txt"}
    new.clear()
    assert names(tmp_path) == {"notes.txt"}


def test_another_answer_needs_overwrite_but_no_new_numbers(tmp_path: Path) -> None:
    claim(directory(tmp_path))
    directory(tmp_path).finish(TABLE, {})
    other = directory(tmp_path, answer={"max_drop": 0.05})
    with pytest.raises(UserError, match=r"max_drop: 0\.05 asked for, 0\.02 stored"):
        other.state()
    assert other.state(overwrite=True) == "done"
    other.rewrite({"max_drop": 0.05}, "again")
    assert other.state() == "done"
    assert (Results.load(tmp_path).config, Results.load(tmp_path).command) == (
        {"max_drop": 0.05},
        "again",
    )


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("config", [None, "model: roberta-base\n"])
def test_foreign_files_are_never_overwritten(
    tmp_path: Path, overwrite: bool, config: str | None
) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(UserError, match="and no subkern run"):
        directory(tmp_path).state(overwrite=overwrite)


@pytest.mark.parametrize(
    "name", ["trajectory.npz", "adapter.safetensors", "settings.json", "grid.json"]
)
def test_a_damaged_file_of_a_fine_tuning_is_reported_and_computed_again(
    name: str, tmp_path: Path
) -> None:
    run = directory(tmp_path)
    claim(run)
    run.finish(TABLE, {}, {"verification": TABLE})
    point = tmp_path / "verification" / "search" / "points" / "lr-0.1"
    point.mkdir(parents=True)
    for each in ("result.json", name):
        with replacing(point / each) as part:
            part.write_text("steps")
    assert run.state() == "done"
    (point / name).write_text("stops")
    with pytest.raises(UserError, match=f"{name}' is damaged"):
        run.state()
    assert run.state(overwrite=True) == "unfinished"
    claim(run)
    assert names(point.parent) == (set() if name != "grid.json" else {"lr-0.1"})
    assert not (point / name).exists()
    assert not (tmp_path / "verification.parquet").exists()  # and it is searched again


@pytest.mark.parametrize(
    ("values", "mean"),
    [([1.0, np.inf], np.inf), ([-np.inf, np.inf], np.nan), ([1, np.nan], np.nan)],
)
def test_what_is_not_finite_has_a_mean_and_no_interval(values: list[float], mean: float) -> None:
    for seeds in (np.array([0.0, 1.0]), np.array([0.0, 0.0])):  # a warning is an error here
        pooled = pool_values(np.array(values), seeds, (np.nan, np.nan), 0.95)
        np.testing.assert_array_equal(
            [pooled.mean, pooled.low, pooled.high], [mean, np.nan, np.nan]
        )


def test_a_damaged_record_is_reported(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"config\.yaml' is damaged"):
        directory(tmp_path).state()


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        directory(tmp_path / "file").state()


@pytest.mark.parametrize(("claimed", "reason"), [(False, "no subkern run"), (True, "unfinished")])
def test_loading_needs_a_finished_run(tmp_path: Path, claimed: bool, reason: str) -> None:
    if claimed:
        claim(directory(tmp_path))
    with pytest.raises(UserError, match=reason):
        Results.load(tmp_path)


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == {"x.json"}


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    run = directory(tmp_path / "run")
    claim(run)
    (run.path / ".results.part.parquet").write_text("half")
    run.clear()
    assert not run.path.exists()


def test_a_kernel_folder_is_a_mapping(tmp_path: Path) -> None:
    folder = KernelFolder(tmp_path)
    folder["13/lora-r1-s0"] = kernel(1.0)
    folder["13/full"] = kernel(2.0)
    folder["13/full"] = kernel(3.0)
    assert list(folder) == ["13/full", "13/lora-r1-s0"]
    assert folder["13/full"].values.item() == 3.0
    del folder["13/full"]
    assert len(folder) == 1
    assert "13/full" not in folder
    with pytest.raises(KeyError):
        folder["21/full"]


def test_one_run_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    """A second run in a folder is told so, and a folder to which nothing came is gone again."""
    folder = tmp_path / "run"
    refused = pytest.raises(UserError, match="another run is at work in")
    with only_run(folder), refused, only_run(folder):
        pass
    assert not folder.exists()
    with only_run(folder):
        (folder / "config.yaml").touch()
    assert folder.exists()

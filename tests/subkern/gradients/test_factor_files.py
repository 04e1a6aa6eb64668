"""Factors on files: captured once however small the memory, shared as they were, then gone."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from subkern.errors import NoSpaceError
from subkern.gradients import factor_files as factor_shelf
from subkern.gradients.batches import CaptureJob
from subkern.gradients.capture import Captured, capture
from subkern.gradients.contract import contract, shared_inputs
from subkern.gradients.factor_files import FactorFiles
from subkern.gradients.plan import validate
from subkern.kernels.compute import compute_kernel
from subkern.kernels.engines import updates
from subkern.kernels.engines.signs import engine as sign_kernel
from subkern.kernels.engines.signs import rows as sign_rows
from subkern.kernels.request import RunOptions
from subkern.kernels.sweeps.lora import LoraGrid, sweep_lora
from subkern.models.logit_model import LogitModel, named_parameters
from subkern.prompts.prompt import EncodedExample
from subkern.storage.files import is_full, scratch_folder
from subkern.subspaces.base import Full
from tests.support import oracles
from tests.support.families import FAMILIES, random_examples

BERT = next(f for f in FAMILIES if (f.name, f.kind) == ("bert", "masked"))
X = random_examples(5, read=BERT.read, seed=0)
SPARE = factor_shelf._SPARE
MORE = [*X, *random_examples(6, read=BERT.read, seed=1)]


@pytest.fixture
def model() -> LogitModel:
    return oracles.logit_model(BERT)


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else is on the disk of this machine."""
    monkeypatch.setattr(factor_shelf, "_SPARE", 0)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the ids of the examples that are captured, as they are."""
    ids: list[str] = []
    original = CaptureJob.capture

    def counted(job: CaptureJob, examples: list[EncodedExample], bounded: bool) -> Captured:
        ids.extend(e.id for e in examples)
        return original(job, examples, bounded)

    monkeypatch.setattr(CaptureJob, "capture", counted)
    return ids


def tight(model: LogitModel) -> float:
    """Return a budget that holds the factors of two examples, so that there are many tiles."""
    plan = validate(Full().attach(model), MORE)
    return 2.2 * plan.bytes_per_token * max(len(e.input_ids) for e in MORE) / 0.6


def kernel(model: LogitModel, options: RunOptions) -> list[np.ndarray]:
    return [compute_kernel(model, X, MORE, options=options).values]


def sweep(model: LogitModel, options: RunOptions) -> list[np.ndarray]:
    swept = sweep_lora(model, X, MORE, grid=LoraGrid((2, 1), (0,)), options=options)
    return [swept.full.values, *(k.values for k in swept.kernels.values())]


@pytest.mark.parametrize("values", [kernel, sweep])
def test_many_tiles_capture_every_example_once(
    values: Callable[[LogitModel, RunOptions], list[np.ndarray]],
    model: LogitModel,
    captured: list[str],
) -> None:
    expected = values(model, RunOptions())
    captured.clear()
    found = values(model, RunOptions(memory=tight(model)))
    assert sorted(captured) == sorted(e.id for e in MORE)
    for mine, theirs in zip(found, expected, strict=True):
        assert oracles.error(mine, theirs) <= 1e-12


def test_without_room_on_disk_they_are_captured_again(
    model: LogitModel, captured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = kernel(model, RunOptions())
    captured.clear()
    monkeypatch.setattr(FactorFiles, "has_room", lambda _shelf, _nbytes: False)
    folder = tmp_path / "tiles"
    (found,) = kernel(model, RunOptions(memory=tight(model), checkpoint=folder))
    assert len(captured) > 2 * len(MORE)
    assert not list(folder.glob("*factors*"))
    assert oracles.error(found, expected) <= 1e-12


def test_a_disk_that_fills_up_meanwhile_is_no_end(
    model: LogitModel, captured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = kernel(model, RunOptions())
    captured.clear()
    save, tried = factor_shelf.save_factors, []

    def full(group: Captured, path: Path, *, kept: bool) -> None:
        tried.append(path.name)
        if len(tried) > 3:
            raise SafetensorError("Error while serializing: I/O error: … (os error 122)")
        save(group, path, kept=kept)

    monkeypatch.setattr(factor_shelf, "save_factors", full)
    (found,) = kernel(model, RunOptions(memory=tight(model), checkpoint=tmp_path / "tiles"))
    assert len(captured) > len(MORE)
    assert len(tried) <= 3 + len(MORE)  # nothing is tried on a full disk twice
    assert oracles.error(found, expected) <= 1e-12


def test_what_is_on_files_is_read_from_them_on_a_full_disk(
    model: LogitModel, captured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(_done: int, _total: int) -> None:
        if len(captured) == len(MORE):
            monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(free=-1))

    kernel(model, RunOptions(memory=tight(model), progress=fill_up))
    assert sorted(captured) == sorted(e.id for e in MORE)


def test_other_errors_are_not_hidden(model: LogitModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(group: Captured, path: Path, *, kept: bool) -> None:
        raise OSError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(factor_shelf, "save_factors", broken)
    with pytest.raises(PermissionError):
        kernel(model, RunOptions(memory=tight(model)))


def test_a_killed_run_finds_what_it_captured(
    model: LogitModel, captured: list[str], tmp_path: Path
) -> None:
    class Killed(Exception):  # noqa: N818
        pass

    def kill(done: int, total: int) -> None:
        if done > total // 2:
            raise Killed

    folder, memory = tmp_path / "tiles", tight(model)
    (whole,) = kernel(model, RunOptions(memory=memory))
    with pytest.raises(Killed):
        kernel(model, RunOptions(memory=memory, checkpoint=folder, progress=kill))
    captured.clear()
    assert list(folder.glob("factors-*"))
    (again,) = kernel(model, RunOptions(memory=memory, checkpoint=folder))
    assert captured == []
    assert not list(folder.glob("factors-*"))  # tiles stay until the kernel is safe elsewhere
    np.testing.assert_array_equal(again, whole)


@pytest.mark.parametrize("rule", ["sgd", "signgd", "adam"])
def test_temporary_files_have_no_name_that_a_kill_could_leave(
    rule: str, model: LogitModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    written: list[Path] = []
    replacing = factor_shelf.replacing

    def noted(path: Path, *, kept: bool) -> AbstractContextManager[Path]:
        written.append(path)
        assert not kept
        return replacing(path, kept=kept)

    monkeypatch.setattr(factor_shelf, "replacing", noted)
    monkeypatch.setattr(sign_rows, "replacing", noted)
    monkeypatch.setattr(sign_kernel, "_KEPT_SHARE", 0)

    def look(_done: int, _total: int) -> None:
        assert not list(tmp_path.iterdir())

    options = RunOptions(memory=tight(model), progress=look)
    compute_kernel(model, X, MORE, rule=rule, options=options)
    assert written
    assert {path.parent.parent for path in written} == {tmp_path}


def test_large_temporary_files_go_where_the_user_says_else_to_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    with scratch_folder() as folder:
        assert Path(folder).parent == Path("/var/tmp")
    monkeypatch.setattr("os.access", lambda _path, _mode: False)
    with scratch_folder() as folder:
        assert Path(folder).parent != Path("/var/tmp")
    monkeypatch.undo()
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with scratch_folder() as folder:
        assert Path(folder).parent == tmp_path


def test_layers_share_inputs_on_files_as_in_memory(model: LogitModel, tmp_path: Path) -> None:
    parameters = named_parameters(model)
    whole = capture(model, parameters, X, bounded=True)
    parts = [capture(model, parameters, group, bounded=True) for group in (X[:2], X[2:])]
    shelf = FactorFiles(tmp_path, True, torch.device("cpu"))
    for part in parts:
        shelf.add(part)
    read = shelf.captured()
    groups = [shared_inputs(c.factors, c.factors, parameters) for c in (whole, read)]
    assert groups[0] == groups[1]
    assert any(len(group) == 3 for group in groups[0])  # query, key, value
    shapes = {name: p.shape for name, p in parameters.items()}
    blocks = [contract(c, c, shapes, model.num_logits) for c in (whole, read)]
    assert oracles.error(blocks[1].numpy(), blocks[0].numpy()) <= 1e-12


@pytest.mark.parametrize(("free", "fits"), [(12, True), (11.9, False)])
def test_four_gibibytes_of_the_disk_are_left_free(
    free: float, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factor_shelf, "_SPARE", SPARE)
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(free=free * 2**30))
    shelf = FactorFiles(tmp_path, True, torch.device("cpu"))
    assert shelf.has_room(8 * 2**30) == fits


@pytest.mark.parametrize("checkpoint", [None, "tiles"])
@pytest.mark.parametrize("room", [0.0, 0.4], ids=["memory", "disk"])
def test_where_the_disk_lacks_room_parameters_are_taken_some_at_a_time(
    room: float,
    checkpoint: str | None,
    model: LogitModel,
    captured: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = compute_kernel(model, X, MORE, rule="adam")
    captured.clear()
    monkeypatch.setattr(factor_shelf, "_SPARE", SPARE)
    free = SPARE + room * 2 * tight(model)
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(free=free))
    folder = checkpoint and tmp_path / checkpoint
    options = RunOptions(memory=tight(model), checkpoint=folder)
    found = compute_kernel(model, X, MORE, rule="adam", options=options)
    assert len(captured) > len(MORE)
    assert oracles.error(found.values, expected.values) <= 1e-12
    assert not list(tmp_path.rglob("factors-*"))


@pytest.mark.parametrize("checkpoint", [None, "tiles"])
def test_rules_that_need_files_say_so_before_the_disk_is_full(
    checkpoint: str | None, model: LogitModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(free=2**30))
    monkeypatch.setattr(factor_shelf, "_SPARE", SPARE)
    monkeypatch.setattr(updates, "_HELD_SHARE", 0.0)
    folder = checkpoint and tmp_path / checkpoint
    options = RunOptions(memory=tight(model), checkpoint=folder)
    advice = "make room or" if checkpoint else "make room, set TMPDIR or"
    with pytest.raises(
        NoSpaceError,
        match=rf"take 0\.0 GiB of files in '.*', where 1\.0 GiB are free and 4 .*: {advice} raise",
    ) as caught:
        compute_kernel(model, X, MORE, rule="adam", options=options)
    assert is_full(caught.value)

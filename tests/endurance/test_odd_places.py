"""Disks that cannot be written, terminals that lack characters, templates of other models."""

from __future__ import annotations

import errno
import io
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from analyses.commands.group import main
from subkern.storage import files
from tests.support.tiny_folder import masked_model, reviews


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["subkern", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """Options of any command on a tiny model and task."""
    model, data = masked_model(tmp_path / "model"), reviews(tmp_path)
    return ["--model", str(model), "--task", "mr", "--data", str(data), "--shots", "4"]


def test_a_finished_training_on_a_read_only_disk_is_up_to_date(
    tmp_path: Path,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    grid = ["--steps", "2", "--learning-rates", "1e-3,1e-2", "--out", str(tmp_path / "runs")]
    assert _run(monkeypatch, "finetune", *asked, *grid) == 0

    def refuse(path: Any, *_: Any, **__: Any) -> NoReturn:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    for name in ("unlink", "replace", "mkdir", "rmdir", "write_text", "write_bytes"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr(files, "replacing", refuse)
    capsys.readouterr()
    assert _run(monkeypatch, "finetune", *asked, *grid) == 0
    assert "is up to date" in capsys.readouterr().out


def test_a_terminal_that_lacks_characters_loses_nothing(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    out = tmp_path / "Küche" / "K.zarr"
    assert _run(monkeypatch, "kernel", *asked, "--out", str(out)) == 0
    assert out.exists()
    shown.flush()
    assert b"che/K.zarr" in shown.buffer.getvalue()  # type: ignore[attr-defined]


def test_a_template_of_the_other_kind_is_not_ignored(
    tmp_path: Path,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    given = ["--template", "*sent_0*_it_was", "--ranks", "1,2", "--out", str(out)]
    assert _run(monkeypatch, "analyze", "lora", *asked, *given) == 2
    assert "put *mask* where" in capsys.readouterr().err
    assert not out.exists()


def test_a_revision_of_a_folder_is_not_ignored(
    tmp_path: Path,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--revision", "main", "--out", str(tmp_path / "K.zarr")]
    assert _run(monkeypatch, "kernel", *asked, *given) == 2
    assert "revision 'main' is of a model on the hub" in capsys.readouterr().err

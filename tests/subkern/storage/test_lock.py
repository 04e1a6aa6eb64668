"""One run at a time in one place."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from subkern.errors import UserError
from subkern.storage.lock import only_run


@pytest.mark.parametrize("beside", [False, True])
def test_the_second_run_is_refused_until_the_first_has_ended(beside: bool, tmp_path: Path) -> None:
    place = tmp_path / "run"
    with only_run(place, beside=beside):
        place.mkdir(exist_ok=True)
        (place / "x").touch()
        with (
            pytest.raises(UserError, match=r"another run is at work in '.*run': wait"),
            only_run(place, beside=beside),
        ):
            raise AssertionError
    with only_run(place, beside=beside):
        pass


def test_what_stands_beside_survives_that_its_place_is_made_anew(tmp_path: Path) -> None:
    place = tmp_path / "K.zarr"
    place.mkdir()
    with only_run(place, beside=True):
        shutil.rmtree(place)
        place.mkdir()
        with pytest.raises(UserError, match="another run"), only_run(place, beside=True):
            raise AssertionError


def test_nothing_is_left_where_nothing_was_written(tmp_path: Path) -> None:
    for beside in (False, True):
        with only_run(tmp_path / "a" / "run", beside=beside):
            pass
    assert not (tmp_path / "a" / "run").exists()
    with only_run(None):
        pass


def test_who_is_refused_leaves_no_lock_beside_what_is_there(tmp_path: Path) -> None:
    place = tmp_path / "thesis"
    place.mkdir()
    with pytest.raises(UserError), only_run(place, beside=True):
        raise UserError("it is no kernel")
    assert list(tmp_path.iterdir()) == [place]
    with only_run(place, beside=True):
        pass
    with pytest.raises(UserError), only_run(place, beside=True):
        raise UserError("it is of other settings")
    assert (tmp_path / ".thesis.lock").exists()


def test_a_place_that_is_a_file_is_left_to_who_reads_it(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with only_run(tmp_path / "x"):
        pass


def test_a_place_that_never_takes_a_file_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc does: the folder is there, and a file in it is not to be made."""

    def refuse(path: Path, *_: object) -> int:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(FileNotFoundError), only_run(tmp_path):
        pass

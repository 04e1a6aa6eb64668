"""Files that carry a checksum: whatever becomes of their bytes is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from subkern.errors import DamagedError
from subkern.storage.checksums import SUMS, is_noted, is_sound, require_sound, seal, unsound
from subkern.storage.files import read_json, replacing, staged, write_json


@pytest.mark.parametrize("content", [b'{"a": 2}\n', b"", b'{"a"', bytes(9)])
def test_other_bytes_are_damage_whatever_they_are(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    assert is_sound(path)
    assert read_json(path) == {"a": 1}
    path.write_bytes(content)
    assert not is_sound(path)
    with pytest.raises(DamagedError, match=r"x\.json' is damaged .*--overwrite"):
        read_json(path)
    assert list(unsound(tmp_path)) == [path]
    write_json(path, {"a": 3})
    assert require_sound(path) == path


def test_what_nobody_noted_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("{}")
    assert is_sound(tmp_path / "old.json")
    assert not is_noted(tmp_path / "old.json")
    assert read_json(tmp_path / "old.json") == {}


def test_a_kill_before_the_new_file_has_its_name_leaves_the_old_one_sound(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    before = path.read_bytes()
    write_json(path, {"a": 2})
    path.write_bytes(before)  # as if only the note had been written
    assert is_sound(path)


def test_the_list_of_checksums_stays_short_and_survives_a_torn_line(tmp_path: Path) -> None:
    for i in range(900):
        write_json(tmp_path / f"{i % 3}.json", {"i": i})
    assert (tmp_path / SUMS).stat().st_size < 2**17
    assert not list(unsound(tmp_path))
    with (tmp_path / SUMS).open("a") as file:
        file.write("0123")
    write_json(tmp_path / "0.json", {"i": -1})
    assert is_sound(tmp_path / "0.json")


def test_a_sealed_folder_knows_all_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    (tmp_path / "b").mkdir()
    with replacing(tmp_path / "b" / "y") as part:
        part.write_text("2")
    seal(tmp_path)
    assert not list(unsound(tmp_path))
    for path in (tmp_path / "a" / "x", tmp_path / "b" / "y"):
        path.write_text("3")
        assert path in unsound(tmp_path)
    assert not is_sound(tmp_path / "a" / "x", sealed=tmp_path)


def test_a_staged_folder_leaves_nothing_beside_it_and_what_a_kill_left_goes(tmp_path: Path) -> None:
    def build() -> None:
        with staged(tmp_path / "K") as new:
            new.mkdir()
            (new / "x").write_text("1")

    build()
    left = tmp_path / ".K.abcd.tmp"
    left.mkdir()
    (tmp_path / "K").rename(left / "old")  # killed as it replaced it
    build()
    assert [path.name for path in tmp_path.iterdir()] == ["K"]
    with pytest.raises(FileNotFoundError), staged(tmp_path / "K") as new:
        (new / "x").write_text("2")
    assert [path.name for path in tmp_path.iterdir()] == ["K"]
    assert (tmp_path / "K" / "x").read_text() == "1"

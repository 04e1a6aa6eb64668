"""How the two sides are cut to fit in memory, and how finished tiles are kept."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subkern import UserError
from subkern.kernels import tiles
from subkern.kernels.tiles import TileStore, Tiling, choose_tiling
from subkern.storage.provenance import OLDER
from tests.support.folders import names

sizes = st.lists(st.floats(1, 100), min_size=1, max_size=30)


def chunks(cut: tuple[slice, ...], values: list[float]) -> list[list[float]]:
    return [values[s] for s in cut]


@given(left=sizes, right=st.one_of(st.just([]), sizes), roomy=st.floats(1, 40))
def test_tiling_covers_every_example_once_within_the_budget(
    left: list[float], right: list[float], roomy: float
) -> None:
    budget = roomy * (max(left) + max([*left, *right]))
    tiling = choose_tiling(left, right, budget)
    lefts, rights = chunks(tiling.left, left), chunks(tiling.right, right)
    assert list(chain.from_iterable(lefts)) == left
    assert list(chain.from_iterable(rights)) == right
    assert all(lefts)
    assert all(rights)
    largest = max(map(sum, lefts))
    assert largest + max([0.0, *map(sum, rights)]) <= budget * (1 + 1e-9)
    if len(lefts) > 1:  # then two of them meet
        assert largest <= max(budget / 2, max(left)) * (1 + 1e-9)


def test_all_at_once_if_it_fits() -> None:
    assert choose_tiling([1.0] * 8, [1.0] * 20, 60.0) == Tiling((slice(0, 8),), (slice(0, 20),))


def test_a_budget_below_two_examples_is_refused() -> None:
    message = r"^--memory of 10 MiB .* less than the 12 MiB of two examples: raise --memory or"
    with pytest.raises(UserError, match=message):
        choose_tiling([5 * 2**20], [1.0, 7 * 2**20], 10 * 2**20)


@pytest.mark.parametrize("symmetric", [True, False])
def test_tasks_visit_every_tile_once_row_by_row(symmetric: bool) -> None:
    tiling = Tiling(tuple(slice(i, i + 1) for i in range(3)), (slice(0, 2), slice(2, 5)))
    tasks = list(tiling.tasks(symmetric))
    wanted = {("right", i, k) for i in range(3) for k in range(2)}
    if symmetric:
        wanted |= {("left", i, k) for i in range(3) for k in range(i, 3)}
    assert set(tasks) == wanted
    assert len(tasks) == len(wanted)
    assert [i for _, i, _ in tasks] == sorted(i for _, i, _ in tasks)


TILING = Tiling((slice(0, 2), slice(2, 3)), (slice(0, 4),))
IDENTITY = {"rule": "sgd"}
TILE = {"values": np.arange(6.0).reshape(1, 2, 3), "left": np.array([0.1])}


def other() -> Tiling:
    raise AssertionError("a tiling was chosen although there is one")


def test_store_gives_back_what_it_was_given(tmp_path: Path) -> None:
    store = TileStore(tmp_path / "a" / "tiles", IDENTITY)
    assert store.tiling(lambda: TILING) == TILING
    assert store.get("left-0-0") is None
    store.put("left-0-0", TILE)
    again = TileStore(tmp_path / "a" / "tiles", IDENTITY)
    assert again.tiling(other) == TILING
    saved = again.get("left-0-0")
    assert saved is not None
    assert saved.keys() == TILE.keys()
    assert all(np.array_equal(saved[k], TILE[k]) for k in TILE)
    assert names(store.folder) == {"left-0-0.npz", "tiling.json"}
    store.clear()
    assert not store.folder.exists()


def test_the_time_of_earlier_runs_is_that_of_the_tiles_they_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(tiles.time, "perf_counter", lambda: now)
    store = TileStore(tmp_path, IDENTITY)
    for key in ("left-0-0", "right-0-0"):
        now += 3.0
        store.put(key, TILE)
    now += 50.0  # lost with the run that was killed here
    again = TileStore(tmp_path, IDENTITY)
    assert (again.earlier, again.get("right-0-1")) == (0.0, None)
    for key in ("left-0-0", "right-0-0"):
        again.get(key)
    assert (store.earlier, again.earlier) == (0.0, 6.0)


def test_a_folder_with_other_files_is_refused_and_they_stay(tmp_path: Path) -> None:
    """Tiles without their record may be of any settings."""
    for name in ("thesis.txt", "left-0-0.npz"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("mine")
        store = TileStore(folder, IDENTITY)
        with pytest.raises(UserError, match=rf"holds '{name}' and no record .* of its own$"):
            store.tiling(other)
        store.clear()
        assert (folder / name).read_text() == "mine"


def test_clearing_takes_the_record_last_and_leaves_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TileStore(tmp_path / "tiles", IDENTITY)
    store.tiling(lambda: TILING)
    store.put("left-0-0", TILE)
    for name in ("factors-0.safetensors", ".left-0-1.part.npz", "notes.txt"):
        (store.folder / name).write_text("…")
    gone: list[str] = []
    unlink = Path.unlink
    monkeypatch.setattr(
        Path, "unlink", lambda path, **kwargs: (gone.append(path.name), unlink(path, **kwargs))[1]
    )
    store.clear()
    files = [".left-0-1.part.npz", "factors-0.safetensors", "left-0-0.npz"]
    assert sorted(gone[:-2]) == files
    assert gone[-2] == ".sha256"
    assert gone[-1] == "tiling.json"
    assert [p.name for p in store.folder.iterdir()] == ["notes.txt"]


def test_store_without_a_folder_keeps_nothing(tmp_path: Path) -> None:
    store = TileStore(None, IDENTITY)
    assert store.tiling(lambda: TILING) == TILING
    store.put("left-0-0", TILE)
    assert store.get("left-0-0") is None
    store.clear()
    assert list(tmp_path.iterdir()) == []


def test_store_refuses_tiles_of_other_numbers(tmp_path: Path) -> None:
    TileStore(tmp_path, IDENTITY | {"recorded": {"seconds": 1}}).tiling(lambda: TILING)
    assert TileStore(tmp_path, IDENTITY).tiling(other) == TILING
    expected = r'unfinished tiles .*rule: "signgd" asked for, "sgd" stored.* or write elsewhere$'
    with pytest.raises(UserError, match=expected):
        TileStore(tmp_path, {"rule": "signgd"}).tiling(other)


def test_tiles_that_do_not_say_of_what_are_of_an_older_version(tmp_path: Path) -> None:
    TileStore(tmp_path, IDENTITY).tiling(lambda: TILING)
    record = json.loads((tmp_path / "tiling.json").read_text())
    del record["identity"]
    record["fingerprint"] = "f" * 64
    (tmp_path / "tiling.json").write_text(json.dumps(record))
    (tmp_path / ".sha256").unlink()  # it had no checksums
    with pytest.raises(UserError, match=OLDER):
        TileStore(tmp_path, IDENTITY).tiling(other)


def test_a_tile_is_kept_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TileStore(tmp_path, IDENTITY)
    store.tiling(lambda: TILING)

    def broken(file: object, **arrays: np.ndarray) -> None:
        file.write(b"half a tile")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match="disk full"):
        store.put("left-0-0", TILE)
    assert store.get("left-0-0") is None
    assert names(tmp_path) == {"tiling.json"}
    assert json.loads((tmp_path / "tiling.json").read_text())["identity"] == IDENTITY


@pytest.mark.parametrize("name", ["left-0-0.npz", "tiling.json"])
def test_damaged_tiles_are_computed_again(name: str, tmp_path: Path) -> None:
    store = TileStore(tmp_path, IDENTITY)
    store.tiling(lambda: TILING)
    store.put("left-0-0", TILE)
    for content in (b"", (tmp_path / name).read_bytes()[:-9]):
        (tmp_path / name).write_bytes(content)
        again = TileStore(tmp_path, IDENTITY)
        assert again.tiling(lambda: TILING) == TILING
        assert again.get("left-0-0") is None
        again.put("left-0-0", TILE)
        assert again.get("left-0-0") is not None


def test_a_foreign_record_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "tiling.json").write_text("mine")
    with pytest.raises(UserError, match="damaged"):
        TileStore(tmp_path, IDENTITY).tiling(lambda: TILING)
    assert (tmp_path / "tiling.json").read_text() == "mine"


def test_what_was_counted_is_of_all_runs(tmp_path: Path) -> None:
    first, counts = TileStore(tmp_path, IDENTITY), {"pairs": 0.0}
    first.tiling(lambda: TILING)
    first.count(lambda: counts)
    for name, done in (("left-0-0", 4.0), ("left-0-1", 9.0)):
        counts = {"pairs": done}
        first.put(name, TILE)
    again = TileStore(tmp_path, IDENTITY)
    again.count(lambda: {"pairs": 2.0})
    assert again.get("left-0-0") is not None
    assert again.counted() == {"pairs": 6.0}
    assert again.get("left-0-1") is not None
    assert again.counted() == {"pairs": 11.0}

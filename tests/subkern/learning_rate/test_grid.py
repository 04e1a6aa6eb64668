"""Searches over suggested rates: each batch size has its own, and they are kept with the search."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from subkern.errors import DamagedError
from subkern.learning_rate import NoSuggestion, suggest
from subkern.learning_rate import grid as grid_module
from subkern.learning_rate.grid import stored_suggestions, suggested_grid
from subkern.training import grid_search
from subkern.training.grid_search import SUGGESTED, Search, TrainingGrid, search
from subkern.training.settings import Training
from tests.support import oracles
from tests.support.families import FAMILIES, random_examples

(BERT,) = (f for f in FAMILIES if (f.name, f.kind) == ("bert", "masked"))
MODEL = oracles.logit_model(BERT, 2)
SPLITS = {s: random_examples(6, read=BERT.read, seed=i) for i, s in enumerate(("train", "dev"))}
TRAINING = Training("sgd", steps=2, eval_every=1, seed=4)


def run(
    out: Path | None, sizes: tuple[int, ...] = (3,), training: Training = TRAINING, **options: Any
) -> Search:
    chosen = partial(
        suggested_grid,
        MODEL, SPLITS["train"], subspace="bias", training=training, batch_sizes=sizes,
    )  # fmt: skip
    return search(
        MODEL, SPLITS, subspace="bias", training=training, out=out,
        grid=lambda folder: chosen(folder=folder), **options,
    )  # fmt: skip


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the batch size of every suggestion that is computed."""
    sizes: list[int] = []

    def noted(*args: Any, batch_size: int, **asked: Any) -> Any:
        sizes.append(batch_size)
        return suggest(*args, batch_size=batch_size, **asked)

    monkeypatch.setattr(grid_module, "suggest", noted)
    return sizes


def test_points_are_the_three_rates_of_each_batch_size(tmp_path: Path, measured: list[int]) -> None:
    found = run(tmp_path / "grid", (3, 6))
    rows = [tuple(row) for row in found.table[["learning rate", "batch size"]].to_numpy()]
    for size in (3, 6):
        asked = {"subspace": "bias", "optimizer": "sgd", "batch_size": size, "seed": 4, "steps": 2}
        own = suggest(MODEL, SPLITS["train"], **asked)  # type: ignore[arg-type]
        assert [rate for rate, each in rows if each == size] == list(own.grid)
        stored = stored_suggestions(tmp_path / "grid")[size]
        assert {**stored, "seconds": 0} == {**own.as_dict(), "seconds": 0}
    assert measured == [3, 6]
    assert run(None, (3, 6)).table["learning rate"].tolist() == [rate for rate, _ in rows]


def test_a_search_goes_on_with_the_rates_it_began_with(
    tmp_path: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "grid"

    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(grid_search, "finetune", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(out)
    kept = (out / SUGGESTED).read_bytes()
    assert run(out).table["status"].tolist() == ["done"] * 3
    run(out)  # up to date
    assert (measured, (out / SUGGESTED).read_bytes()) == ([3], kept)
    run(out, (3, 6))
    assert measured == [3, 6]
    run(out, training=Training("adam", steps=2, eval_every=1, seed=4), overwrite=True)
    assert measured == [3, 6, 3]
    assert stored_suggestions(out)[3]["optimizer"] == "adam"


def test_no_suggestion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> Any:
        raise NoSuggestion("a step does not change the logits")

    out = tmp_path / "grid"
    with monkeypatch.context() as patch:
        patch.setattr(grid_module, "suggest", none)
        with pytest.raises(NoSuggestion):
            run(out)
    assert {path.name for path in out.iterdir()} <= {".lock", ".sha256"}
    run(out, training=replace(TRAINING, seed=5))  # of other settings: the folder is nobody's
    with monkeypatch.context() as patch:
        patch.setattr(grid_module, "suggest", none)
        with pytest.raises(NoSuggestion):
            run(out, (3, 6), replace(TRAINING, seed=5))
    assert run(out, training=replace(TRAINING, seed=5)).table["status"].tolist() == ["done"] * 3


def test_damage_is_seen(tmp_path: Path, measured: list[int]) -> None:
    out = tmp_path / "grid"
    run(out)
    (out / SUGGESTED).write_text("{}")
    with pytest.raises(DamagedError, match=r"suggested\.json"):
        run(out)
    run(out, overwrite=True)
    assert measured == [3, 3]
    (out / SUGGESTED).write_text("{}")
    (out / "grid.json").unlink()  # unfinished: damaged work is done again
    run(out)
    assert measured == [3, 3, 3]


def test_edges_are_those_of_a_batch_size() -> None:
    found = TrainingGrid({4: (1e-4, 1e-3), 8: (1e-3, 1e-2)}, (4, 8))
    assert [(t.learning_rate, t.batch_size) for t in found.trainings(TRAINING)] == [
        (1e-4, 4), (1e-3, 8), (1e-3, 4), (1e-2, 8),
    ]  # fmt: skip
    assert (found.edge(1e-3, 4), found.edge(1e-3, 8)) == ("largest", "smallest")
    with pytest.raises(ValueError, match="batch size 2 has no learning rates"):
        TrainingGrid({4: (1e-4,)}, (4, 2))
    with pytest.raises(ValueError, match=r"learning_rates \[\]: give one or more"):
        TrainingGrid({4: ()}, (4,))

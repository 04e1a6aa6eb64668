"""Searches over learning rates and batch sizes: the best on dev, edges, divergence, folders."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from subkern.errors import UserError
from subkern.prompts.prompt import EncodedExample
from subkern.subspaces.movable import MovableModel
from subkern.training.finetune import Training, finetune
from subkern.training.grid_search import GridEdgeWarning, Search, TrainingGrid, search
from subkern.training.result import FineTuned
from tests.support import oracles
from tests.support.families import FAMILIES, random_examples

BERT = next(f for f in FAMILIES if (f.name, f.kind) == ("bert", "masked"))
MODEL = oracles.logit_model(BERT, dtype=torch.float32)
TRAINING = Training(steps=4, eval_every=2)
GRID = TrainingGrid((1e-4, 1e-2, 1e30), (3, 4))


def splits() -> dict[str, list[EncodedExample]]:
    counts = {"train": 7, "dev": 9, "test": 4}
    return {
        s: random_examples(n, read=BERT.read, seed=i) for i, (s, n) in enumerate(counts.items())
    }


def run(grid: TrainingGrid = GRID, **options: Any) -> Search:
    """Search over the biases by SGD, warnings of the edge left out."""
    asked: dict[str, Any] = {"subspace": "bias", "training": TRAINING, **options}
    asked["training"] = Training(**{**asked["training"].describe(), "optimizer": "sgd"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GridEdgeWarning)
        return search(MODEL, splits(), grid=grid, **asked)


def assert_same(one: Search, other: Search) -> None:
    left, right = (s.table.drop(columns="seconds") for s in (one, other))
    assert left.equals(right)
    assert (one.best.best_step, one.best.scores) == (other.best.best_step, other.best.scores)
    assert all(torch.equal(one.best.shift[n], t) for n, t in other.best.shift.items())
    assert one.warning == other.warning


def test_every_point_is_the_run_of_its_own_and_the_best_on_dev_is_chosen() -> None:
    found = run()
    assert len(found.table) == 6
    ranks = {}
    for i, row in found.table.iterrows():
        if row["status"] != "done":
            assert row["learning rate"] == 1e30
            assert row["status"] in {f"diverged at step {k}" for k in range(1, 5)}
            continue
        point = Training(
            "sgd", row["learning rate"], row["batch size"], TRAINING.steps, eval_every=2
        )
        alone = finetune(MODEL, splits(), subspace="bias", training=point)
        assert (row["best step"], row["dev accuracy"], row["dev loss"]) == (
            alone.best_step,
            alone.scores["dev"],
            alone.dev_loss,
        )
        ranks[i] = (row["dev accuracy"], -row["dev loss"])
        if row["note"].startswith("best"):
            assert alone.scores == found.best.scores
            assert all(torch.equal(alone.shift[n], t) for n, t in found.best.shift.items())
            for name in ("train", "dev", "test"):
                assert np.array_equal(alone.best_logits[name], found.best.best_logits[name])
                assert np.array_equal(alone.start_logits[name], found.best.start_logits[name])
    assert len(ranks) == 4
    notes = found.table["note"].fillna("")
    assert notes[max(ranks, key=ranks.__getitem__)].startswith("best")
    assert (notes != "").sum() == 1


def test_the_best_at_an_edge_is_marked_and_warned_of() -> None:
    grid = TrainingGrid((1e-4, 1e-2), (3,))
    with pytest.warns(
        GridEdgeWarning, match=r"^the best learning rate .* of the grid: try"
    ) as seen:
        found = search(MODEL, splits(), subspace="bias", grid=grid, training=TRAINING)
    side = {1e-4: "smallest", 1e-2: "largest"}[found.best.training["learning_rate"]]
    assert found.warning == str(seen[0].message)
    assert f"is the {side} of the grid" in found.warning
    assert sorted(found.table["note"]) == ["", f"best, {side} rate"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = search(
            MODEL, splits(), subspace="bias", grid=TrainingGrid((1e-3,)), training=TRAINING
        )
    assert alone.warning is None
    assert alone.table["note"].tolist() == ["best"]


def test_a_grid_that_diverges_everywhere_is_refused() -> None:
    with pytest.raises(UserError, match=r"^all 2 points of the grid diverged: lower rates than"):
        run(TrainingGrid((1e30, 1e35), (3,)))


def test_only_the_best_keeps_what_moved_and_the_table_is_read_again(tmp_path: Path) -> None:
    out, steps = tmp_path / "grid", []
    whole = run(out=out)
    assert len(list(out.glob("points/*/result.json"))) == 6
    assert len(list(out.glob("points/*/shift.safetensors"))) == 1
    assert FineTuned.load(out / "best").scores == whole.best.scores
    before = (out / "best" / "result.json").stat().st_mtime_ns
    again = run(out=out, progress=lambda done, total: steps.append((done, total)))
    assert steps == []
    assert (out / "best" / "result.json").stat().st_mtime_ns == before
    assert_same(again, whole)
    assert_same(run(), whole)


def test_a_grid_that_grows_trains_only_the_new_points(tmp_path: Path) -> None:
    out, done = tmp_path / "grid", []
    run(TrainingGrid((1e-4, 1e30), (3, 4)), out=out)
    grown = run(out=out, progress=lambda step, total: done.append(step))
    assert done == [9, 10, 11, 12, 13, 14, 15, 16][: len(done)]
    assert len(done) == 8
    assert_same(grown, run())
    shrunk = TrainingGrid((1e-4,), (3, 4))
    assert_same(run(shrunk, out=out), run(shrunk))  # its best had lost what moved


def test_an_interrupted_search_ends_as_one_that_was_not(tmp_path: Path) -> None:
    out = tmp_path / "grid"
    stops = [1, 4, 5, 11, 15]

    def stop(step: int, total: int) -> None:
        if step in stops:
            stops.remove(step)
            raise KeyboardInterrupt

    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            run(out=out, checkpoint_seconds=0, progress=stop)
    assert_same(run(out=out, checkpoint_seconds=0, progress=stop), run())
    assert stops == []


def test_models_that_were_trained_are_let_go() -> None:
    """Each holds a copy of the coordinates and an optimizer: a grid must not pile them up."""
    alive: list[int] = []

    def count(step: int, total: int) -> None:
        alive.append(sum(type(o) is MovableModel for o in gc.get_objects()))

    run(TrainingGrid((1e30, 1e-3, 1e-2), (3,)), progress=count)
    assert max(alive) == 1
    assert not any(type(o) is MovableModel for o in gc.get_objects())


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    out, grid = tmp_path / "grid", TrainingGrid((1e-3,))
    run(grid, out=out)
    longer = Training(steps=6, eval_every=2)
    with pytest.raises(UserError, match=r"training\.steps: 6 asked for, 4 stored"):
        run(grid, out=out, training=longer)
    with pytest.raises(UserError, match=r"subspace\.kind: \"full\" asked for"):
        run(grid, out=out, subspace="full")
    found = run(grid, out=out, training=longer, overwrite=True)
    assert found.best.training["steps"] == 6
    assert_same(found, run(grid, training=longer))


def test_other_test_examples_score_the_best_again(tmp_path: Path) -> None:
    first = run(TrainingGrid((1e-3,)), out=tmp_path / "grid")
    data = {**splits(), "test": splits()["test"][:2]}
    sgd = Training(optimizer="sgd", steps=4, eval_every=2)
    found = search(
        MODEL,
        data,
        subspace="bias",
        grid=TrainingGrid((1e-3,)),
        training=sgd,
        out=tmp_path / "grid",
    )
    assert found.best.best_logits["test"].shape == (2, 2)
    np.testing.assert_allclose(
        found.best.best_logits["test"], first.best.best_logits["test"][:2], atol=1e-5
    )


def test_a_batch_is_no_larger_than_the_training_set() -> None:
    """What was really used is reported, and the same training is done once."""
    count = len(splits()["train"])
    found = run(TrainingGrid((1e-2,), (count, 400, 1000)))
    assert found.table["batch size"].tolist() == [count]
    assert found.best.training["batch_size"] == count
    assert_same(found, run(TrainingGrid((1e-2,), (count,))))


def test_wrong_grids_are_refused() -> None:
    with pytest.raises(UserError, match=r"^learning_rates \[\]: give one or more, each once$"):
        TrainingGrid(())
    with pytest.raises(UserError, match=r"^batch_sizes \[4, 4\]: give one or more, each once$"):
        TrainingGrid((0.1,), (4, 4))
    with pytest.raises(UserError, match=r"^6 points to choose from and no dev split"):
        search(MODEL, {"train": splits()["train"]}, grid=GRID)
    found = search(
        MODEL, {"train": splits()["train"]}, grid=TrainingGrid((1e-3,)), training=TRAINING
    )
    assert found.best.best_step == 4

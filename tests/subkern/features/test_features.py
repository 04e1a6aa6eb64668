"""Features on disk: equal to compute_kernel, resumable after a kill, refused where they differ."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import cli
from subkern.errors import UserError
from subkern.features import features as module
from subkern.features import store
from subkern.features.error import check_allocation, feature_error, sketch_error
from subkern.features.features import Features, compute_features
from subkern.features.store import FeatureStore, is_begun
from subkern.kernels.compute import compute_kernel
from subkern.kernels.request import RunOptions
from subkern.prompts.prompt import EncodedExample
from subkern.subspaces.random import RandomSubspace
from tests.support import oracles
from tests.support.families import FAMILIES, random_examples

GPT2 = next(f for f in FAMILIES if f.name == "gpt2")
SUBSPACE = RandomSubspace(96, "srht", 3)
TIGHT = RunOptions(1, "1.5MiB")


def examples(n: int = 7, seed: int = 0) -> list[EncodedExample]:
    return random_examples(n, read=GPT2.read, seed=seed)


def test_kernels_of_features_equal_those_computed(tmp_path: Path) -> None:
    model, left, right = oracles.logit_model(GPT2), examples(), examples(4, 1)
    sides = [
        compute_features(model, side, subspace=SUBSPACE, out=tmp_path / name, options=TIGHT)
        for name, side in (("l", left), ("r", right))
    ]
    assert sides[0].values.shape == (7, 2, 96)
    assert sides[0].values.dtype == np.float32
    for rule in ("sgd", "signgd", "asymmetric_signgd"):
        kernel = sides[0].kernel(*sides[1:], rule=rule)
        expected = compute_kernel(model, left, right, subspace=SUBSPACE, rule=rule)
        assert oracles.error(kernel.values, expected.values) <= 1e-6
        assert kernel.left_ids == expected.left_ids
        np.testing.assert_array_equal(kernel.right_labels, expected.right_labels)  # type: ignore[arg-type]
        np.testing.assert_allclose(kernel.right_logits, expected.right_logits, atol=1e-12)  # type: ignore[arg-type]
        stored = kernel.provenance
        assert stored.pop("stored") == "float32"
        wanted = {k: v for k, v in expected.provenance.items() if k != "recorded"}
        assert stored == wanted
    symmetric = sides[0].kernel()
    assert symmetric.is_symmetric


def test_selected_examples(tmp_path: Path) -> None:
    model, batch = oracles.logit_model(GPT2), examples()
    found = compute_features(model, batch, subspace=SUBSPACE, out=tmp_path / "f")
    whole = found.kernel()
    ids = [batch[4].id, batch[1].id]
    some = found.select(ids).kernel(found.select(slice(2, 6)).select(slice(1, 3)))
    expected = whole.select(ids, [e.id for e in batch[3:5]])
    np.testing.assert_allclose(some.values, expected.values, rtol=1e-12)
    assert some.left_ids == tuple(ids)
    assert some.fingerprint != whole.fingerprint
    with pytest.raises(UserError, match="no example has the id 'nobody'"):
        found.select(["nobody"])
    with pytest.raises(UserError, match="leaves none of the 7 examples"):
        found.select(slice(9, 12))


def test_the_same_ids_of_other_data_are_other_examples(tmp_path: Path) -> None:
    """Examples are called train-0, train-1, ... whatever the data seed."""
    model, ids = oracles.logit_model(GPT2), [f"train-{i}" for i in range(4)]
    drawn = [
        [replace(e, id=i) for e, i in zip(examples(4, seed), ids, strict=True)] for seed in (13, 21)
    ]
    found = [
        compute_features(model, drawn[i], subspace=SUBSPACE, out=tmp_path / f"{i}").select(slice(3))
        for i in range(2)
    ]
    kernels = [each.kernel() for each in found]
    assert kernels[0].left_ids == kernels[1].left_ids
    assert kernels[0].fingerprint != kernels[1].fingerprint
    kernels[0].save(tmp_path / "k.zarr")
    with pytest.raises(UserError, match=r"kernel of other settings .*examples\.left"):
        kernels[1].save(tmp_path / "k.zarr")
    again = found[0].select(slice(1, 3)).kernel()
    assert again.fingerprint == found[0].select(ids[1:3]).kernel().fingerprint


def test_a_shape_is_told_without_reading_the_numbers(tmp_path: Path) -> None:
    found = compute_features(
        oracles.logit_model(GPT2), examples(3), subspace=SUBSPACE, out=tmp_path / "f"
    )
    shutil.rmtree(tmp_path / "f" / "values" / "c")
    assert found.shape == (3, 2, 96)
    assert found.select(slice(2)).shape == (2, 2, 96)


def test_every_chunk_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed, real = [], store._digest
    monkeypatch.setattr(store, "_digest", lambda *a: hashed.append(a[0].shape) or real(*a))  # type: ignore[func-returns-value]
    asked = {"subspace": SUBSPACE, "out": tmp_path / "f", "options": TIGHT}
    model = oracles.logit_model(GPT2)
    for computed in (7, 0):
        assert compute_features(model, examples(), **asked).computed == computed
        assert sum(shape[0] for shape in hashed) == 7
        hashed.clear()


def test_readers_cannot_write(tmp_path: Path) -> None:
    compute_features(oracles.logit_model(GPT2), examples(3), subspace=SUBSPACE, out=tmp_path / "f")
    reader = FeatureStore(tmp_path / "f")
    with pytest.raises(ValueError, match="read-only"):
        reader.put(0, np.zeros((3, 2, 96)), np.zeros((3, 2)))
    assert FeatureStore(tmp_path / "f").has(0)


def test_why_features_cannot_be_read_is_told(tmp_path: Path) -> None:
    compute_features(oracles.logit_model(GPT2), examples(3), subspace=SUBSPACE, out=tmp_path / "f")
    (tmp_path / "f" / "values" / "zarr.json").unlink()
    with pytest.raises(UserError, match=r"cannot be read \(values/zarr.json is damaged"):
        Features.load(tmp_path / "f")
    (tmp_path / "f" / "features.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot be read \(.*damaged"):
        Features.load(tmp_path / "f")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no features"):
        Features.load(tmp_path / "empty")


@pytest.fixture
def projected(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the examples of every batch that is projected."""
    counts: list[int] = []
    original = module.project_captured

    def count(captured, shapes, projections):  # type: ignore[no-untyped-def]
        counts.append(len(captured))
        return original(captured, shapes, projections)

    monkeypatch.setattr(module, "project_captured", count)
    return counts


def test_a_killed_run_goes_on_after_its_finished_chunks(
    tmp_path: Path, projected: list[int]
) -> None:
    model, batch, out = oracles.logit_model(GPT2), examples(), tmp_path / "f"
    whole = compute_features(model, batch, subspace=SUBSPACE, out=tmp_path / "w", options=TIGHT)
    chunks = len(projected)
    assert chunks >= 3

    def stop(done: int, total: int) -> None:
        assert total == 7
        if done >= 3:
            raise KeyboardInterrupt

    projected.clear()
    with pytest.raises(KeyboardInterrupt):
        compute_features(
            model, batch, subspace=SUBSPACE, out=out, options=replace(TIGHT, progress=stop)
        )
    begun = len(projected)
    assert 0 < begun < chunks
    with pytest.raises(UserError, match=rf"lacks {chunks - begun} of {chunks} chunks"):
        Features.load(out)
    # What a kill in the middle of a write leaves: a chunk without its mark, and a torn one.
    (out / "done" / "0.sha256").write_text("torn")
    projected.clear()
    again = compute_features(model, batch, subspace=SUBSPACE, out=out, options=RunOptions())
    assert len(projected) == chunks - begun + 1
    np.testing.assert_array_equal(again.values, whole.values)
    projected.clear()
    compute_features(model, batch, subspace=SUBSPACE, out=out)
    assert projected == []


def test_features_of_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    model, batch, out = oracles.logit_model(GPT2), examples(3), tmp_path / "f"
    first = compute_features(model, batch, subspace=SUBSPACE, out=out)
    other = RandomSubspace(96, "srht", 4)
    with pytest.raises(UserError, match=r"subspace\.seed: 4 asked for, 3 stored.*--overwrite"):
        compute_features(model, batch, subspace=other, out=out)
    with pytest.raises(UserError, match=r"other settings \(examples: "):
        compute_features(model, batch[:2], subspace=SUBSPACE, out=out)
    second = compute_features(model, batch, subspace=other, out=tmp_path / "g")
    with pytest.raises(UserError, match=r"made differently: subspace\.seed"):
        first.kernel(second)
    compute_features(model, batch, subspace=other, out=out, overwrite=True)
    for name in ("thesis.txt", "logits/mine.txt"):
        mine = tmp_path / "mine" / name
        mine.parent.mkdir(parents=True)
        mine.write_text("keep me")
        with pytest.raises(UserError, match="exists and holds no features"):
            compute_features(model, batch, subspace=SUBSPACE, out=tmp_path / "mine", overwrite=True)
        assert mine.read_text() == "keep me"
        shutil.rmtree(tmp_path / "mine")
    with pytest.raises(UserError, match="does not exist"):
        Features.load(tmp_path / "nowhere")


def test_damage_is_noticed(tmp_path: Path) -> None:
    model, batch, out = oracles.logit_model(GPT2), examples(3), tmp_path / "f"
    compute_features(model, batch, subspace=SUBSPACE, out=out)
    chunk = next(p for p in (out / "values" / "c").rglob("*") if p.is_file())
    chunk.unlink()
    with pytest.raises(UserError, match=r"lacks 1 of 1 chunks \(unfinished or damaged\)"):
        Features.load(out)


def test_a_mark_that_was_being_written_marks_nothing(tmp_path: Path) -> None:
    model, batch, out = oracles.logit_model(GPT2), examples(3), tmp_path / "f"
    compute_features(model, batch, subspace=SUBSPACE, out=out)
    assert not is_begun(out)
    mark = out / "done" / "0.sha256"
    mark.rename(mark.with_name(".0.part.sha256"))
    assert is_begun(out)


def test_the_error_on_a_sample_is_as_theory_expects(tmp_path: Path) -> None:
    model, batch = oracles.logit_model(GPT2, dtype=torch.float32), examples(12)
    subspace = RandomSubspace(800, "rademacher", 1)
    found = compute_features(model, batch, subspace=subspace, out=tmp_path / "f")
    error = feature_error(model, batch, found, subspace=subspace, sample=8)
    assert error.pairs == 16 * 17 // 2
    assert 800**-0.5 < error.expected_rms < (2 / 800) ** 0.5
    assert 0.2 * error.expected_rms < error.rms < 3 * error.expected_rms
    assert error.rms < error.largest < error.jl_epsilon
    exact = compute_kernel(model, batch)
    same = sketch_error(exact, exact, 800)
    assert (same.rms, same.largest, same.within_95) == (0, 0, 1)
    assert same.as_dict()["jl_epsilon"] == same.jl_epsilon < 1
    few = sketch_error(exact, exact, 8)
    assert few.jl_epsilon == float("inf")
    assert few.as_dict()["jl_epsilon"] is None  # JSON has no infinity
    with pytest.raises(UserError, match="not of one set of examples"):
        sketch_error(exact, found.select(slice(3)).kernel(), 800)


def test_the_command_reports_the_error_and_resumes(
    minilm_mlm: Path, shared_data: Path, tmp_path: Path, projected: list[int]
) -> None:
    asked = ["features", "--model", minilm_mlm, "--task", "SST-2", "--data", shared_data]
    asked += ["--limit", 3, "--dim", 512, "--out", tmp_path / "f"]

    def run(*more: object) -> str:
        words = [str(word) for word in [*asked, *more]]
        return CliRunner().invoke(cli.cli, words, catch_exceptions=False).stdout

    assert f"wrote {tmp_path / 'f'}: features [3, 2, 512] srht" in run()
    (error,) = json.loads(run("--check", 2, "--json"))
    assert error["pairs"] == 4 * 5 // 2
    assert 0.1 * error["expected_rms"] < error["rms"] < 4 * error["expected_rms"]
    with pytest.raises(UserError, match="--check 4 is more than the 3 examples: give at most 3"):
        run("--check", 4)
    found = Features.load(tmp_path / "f")
    assert found.values.shape == (3, 2, 512)
    assert projected
    projected.clear()
    assert "is up to date" in run()
    assert projected == []
    with pytest.raises(UserError, match=r"projection: .rademacher. asked for, .srht. stored"):
        run("--kind", "rademacher")


def test_no_interval_where_no_formula_gives_one() -> None:
    check_allocation(RandomSubspace(8))
    with pytest.raises(UserError, match="no interval is known for allocation 'per-parameter'"):
        check_allocation(RandomSubspace(8, allocation="per-parameter"))

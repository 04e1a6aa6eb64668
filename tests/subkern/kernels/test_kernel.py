"""The kernel type: what it accepts, how it is selected from, and what survives the disk."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from subkern import symmetry
from subkern.errors import DamagedError, NoSpaceError, UserError
from subkern.kernels.kernel import Kernel

PROVENANCE = {"rule": "sgd", "task": "mr", "subspace": {"kind": "lora", "r": 8}, "seeds": [13, 21]}


def make(n: int = 3, m: int = 4, c: int = 2, **changes: Any) -> Kernel:
    """Return a random kernel with labels and initial logits; ``changes`` replace arguments."""
    rng = np.random.default_rng(n + 10 * m + 100 * c)
    arguments: dict[str, Any] = {
        "values": rng.normal(size=(n, c, m, c)),
        "left_ids": [f"train-{i}" for i in range(n)],
        "right_ids": [f"dev-{i}" for i in range(m)],
        "left_labels": np.arange(n) % 2,
        "right_labels": np.arange(m) % 2,
        "provenance": PROVENANCE,
        "left_logits": rng.normal(size=(n, c)),
        "right_logits": rng.normal(size=(m, c)),
    }
    return Kernel(**(arguments | changes))


def square(values: np.ndarray, *, asymmetric: bool = False, **provenance: Any) -> Kernel:
    """Return a kernel of a set with itself."""
    ids = [f"train-{i}" for i in range(len(values))]
    return Kernel(values, ids, ids, provenance=provenance, asymmetric=asymmetric)


def gram(n: int = 3, c: int = 2) -> np.ndarray:
    """Return a symmetric kernel ``[n, c, n, c]``."""
    rows = np.random.default_rng(0).normal(size=(n, c, 5))
    return np.einsum("iap,jbp->iajb", rows, rows)


def test_parts() -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 2, 3, 2)
    kernel = make(n=2, m=3, values=torch.from_numpy(values))
    assert (kernel.shape, kernel.num_logits) == ((2, 2, 3, 2), 2)
    assert kernel.values.dtype == np.float64
    assert kernel.array.dims == ("left", "left_logit", "right", "right_logit")
    assert kernel.left_ids == ("train-0", "train-1")
    assert kernel.right_labels is not None
    assert kernel.right_labels.tolist() == [0, 1, 0]
    assert kernel.matrix().shape == (4, 6)
    assert kernel.matrix()[1 * 2 + 0, 2 * 2 + 1] == values[1, 0, 2, 1]
    assert not kernel.is_symmetric
    assert "\n" not in repr(kernel)
    assert "[2, 2, 3, 2] sgd: train-0..train-1 x dev-0..dev-2" in repr(kernel)


def test_cannot_be_changed_from_outside() -> None:
    values = np.ones((1, 1, 1, 1))
    kernel = make(n=1, m=1, c=1, values=values)
    values[:] = 7
    kernel.array[:] = 7
    kernel.provenance["rule"] = "signgd"
    assert kernel.values.item() == 1
    assert kernel.provenance == PROVENANCE
    for array in (kernel.values, kernel.matrix(), kernel.left_labels, kernel.left_logits):
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": np.ones((3, 4))}, r"is \[n, c, m, c\].*not \[3, 4\]"),
        ({"values": np.ones((3, 2, 4, 1))}, r"not \[3, 2, 4, 1\]"),
        ({"values": np.ones((0, 2, 4, 2))}, r"not \[0, 2, 4, 2\]"),
        ({"left_ids": ["a", "b"]}, "2 left ids for 3 left examples"),
        ({"right_ids": ["a", "b", "a", "c"]}, "right id 'a' stands twice"),
        ({"left_ids": [0, 1, 2]}, "left ids must be strings, not 0"),
        ({"left_labels": [0, 1, 2]}, "left label 2 is not an index from 0 to 1"),
        ({"left_labels": [0, 1, -1]}, "left label -1 is not an index"),
        ({"left_labels": [0, 1, 0.5]}, "left label 0.5 is not an index"),
        ({"right_labels": [[0], [1], [0], [1]]}, r"right labels must have shape \[4\]"),
        ({"left_logits": np.ones((3, 1))}, r"left logits must have shape \[3, 2\]"),
        ({"right_logits": np.full((4, 2), np.inf)}, "right logits hold inf"),
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**changes)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_values_that_are_not_finite(bad: float) -> None:
    values = np.ones((3, 2, 4, 2))
    values[2, 1, 3, 0] = bad
    with pytest.raises(UserError, match=rf"first {bad} at \(train-2, logit 1, dev-3, logit 0\)"):
        make(values=values)


def test_labels_and_logits_are_optional() -> None:
    nothing = dict.fromkeys(("left_labels", "right_labels", "left_logits", "right_logits"))
    kernel = make(**nothing)
    assert [getattr(kernel, name) for name in nothing] == [None] * 4


@pytest.mark.parametrize(("offset", "accepted"), [(1e-6, True), (1e-4, False)])
def test_symmetry_is_held_to_1e_5_of_the_largest_entry(offset: float, accepted: bool) -> None:
    values = gram()
    values[0, 1, 2, 0] += offset * np.abs(values).max()
    if accepted:
        kernel = square(values, rule="sgd")
        assert kernel.is_symmetric
        assert symmetry.is_symmetric(kernel.values)  # as agreement and solvers ask
    else:
        with pytest.raises(UserError, match=r"not symmetric.*train-0, logit 1, train-2, logit 0"):
            square(values, rule="sgd")


def test_asymmetric_rules_need_no_symmetry() -> None:
    values = np.arange(36.0).reshape(3, 2, 3, 2)
    assert not square(values, asymmetric=True).is_symmetric
    with pytest.raises(UserError, match="not symmetric"):
        square(values, rule="asymmetric_signgd")  # what provenance says steers no mathematics


@pytest.mark.parametrize("told", [True, False])
def test_one_sidedness_is_stored_and_read_off_the_rule_of_older_stores(
    told: bool, tmp_path: Path
) -> None:
    values = np.arange(36.0).reshape(3, 2, 3, 2)
    kernel = square(values, asymmetric=True, rule="asymmetric_signgd")
    path = kernel.save(tmp_path / "kernel.zarr")
    if not told:
        group = json.loads((path / "zarr.json").read_text())
        del group["attributes"]["asymmetric"], group["attributes"]["attributes_checksum"]
        (path / "zarr.json").write_text(json.dumps(group))
    loaded = Kernel.load(path)
    assert loaded == kernel
    assert loaded.is_asymmetric
    assert loaded.select(left=slice(2), right=slice(2)).is_asymmetric


def test_select_by_ids_and_slices() -> None:
    kernel = make()
    part = kernel.select(left=["train-2", "train-0"], right=slice(1, None, 2))
    assert (part.left_ids, part.right_ids) == (("train-2", "train-0"), ("dev-1", "dev-3"))
    np.testing.assert_array_equal(part.values, kernel.values[[2, 0]][:, :, 1::2])
    for name, rows in (("left_labels", [2, 0]), ("left_logits", [2, 0]), ("right_logits", [1, 3])):
        np.testing.assert_array_equal(getattr(part, name), getattr(kernel, name)[rows])
    assert part.provenance == kernel.provenance
    assert part.fingerprint != kernel.fingerprint
    assert kernel.select() == kernel


@pytest.mark.parametrize(
    ("left", "message"),
    [
        (["train-9"], "no left example has the id 'train-9': try train-"),
        (["train-1", "train-1"], "'train-1' stands twice"),
        (slice(5, 9), "leaves none of the 3 left examples"),
        ([], r"not \[0, 2, 4, 2\]"),
    ],
)
def test_select_refuses(left: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make().select(left=left)


def test_equality_and_closeness() -> None:
    kernel = make()
    near = make(values=kernel.values + 1e-9)
    assert kernel == make()
    assert kernel != near
    assert kernel != make(provenance=PROVENANCE | {"rule": "signgd"})
    assert kernel != make(left_labels=[1, 1, 1])
    assert kernel != "kernel"
    assert kernel.allclose(near)
    assert not kernel.allclose(near, rtol=1e-12)
    assert kernel.allclose(near, rtol=0, atol=2e-9)
    assert not kernel.allclose(kernel.select(left=["train-1", "train-0", "train-2"]))


@pytest.mark.parametrize("c", [1, 2, 6])
@pytest.mark.parametrize("optional", [True, False])
def test_round_trip(tmp_path: Path, c: int, optional: bool) -> None:
    ids = ["train-0", "naïve ‘quote’ 漢字", " a\tb "]
    nothing = {} if optional else dict.fromkeys(("left_labels", "right_logits"))
    kernel = make(c=c, left_ids=ids, **nothing)
    path = tmp_path / "not" / "there" / "K.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernel.save(path) == path
        again = Kernel.load(path)
    assert again == kernel
    assert again.left_ids == tuple(ids)
    assert again.values.tobytes() == kernel.values.tobytes()
    assert again.provenance == PROVENANCE
    assert [item.name for item in path.parent.iterdir()] == ["K.zarr"]


def test_store_is_portable_zarr_3(tmp_path: Path) -> None:
    make().save(tmp_path / "K.zarr")
    nodes = {p.parent.name: json.loads(p.read_text()) for p in tmp_path.rglob("zarr.json")}
    assert {node["zarr_format"] for node in nodes.values()} == {3}
    assert nodes["kernel"]["data_type"] == "float64"
    assert nodes["left"]["data_type"] == "string"


def test_saving_again(tmp_path: Path) -> None:
    path = tmp_path / "K.zarr"
    make().save(path)
    make(values=np.ones((3, 2, 4, 2))).save(path)  # same fingerprint: harmless
    assert Kernel.load(path).values.max() == 1

    other = make(provenance=PROVENANCE | {"rule": "signgd", "subspace": {"kind": "lora", "r": 4}})
    with pytest.raises(UserError) as caught:
        other.save(path)
    message = str(caught.value)
    assert 'rule: "signgd" asked for, "sgd" stored' in message
    assert "subspace.r: 4 asked for, 8 stored" in message
    assert "--overwrite" in message
    assert "\n" not in message
    assert Kernel.load(path).provenance == PROVENANCE

    other.save(path, overwrite=True)
    assert Kernel.load(path) == other
    assert [item.name for item in tmp_path.iterdir()] == ["K.zarr"]


def test_other_examples_are_another_kernel(tmp_path: Path) -> None:
    make().save(tmp_path / "K.zarr")
    with pytest.raises(UserError, match=r'right_ids\[0\]: "dev-1" asked for, "dev-0" stored'):
        make(right_ids=["dev-1", "dev-0", "dev-2", "dev-3"]).save(tmp_path / "K.zarr")


@pytest.mark.parametrize("overwrite", [True, False])
def test_never_replaces_what_is_no_kernel(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "precious.txt").write_text("thesis")
    for path in (tmp_path, tmp_path / "precious.txt"):
        with pytest.raises(UserError, match="exists and is not a kernel"):
            make().save(path, overwrite=overwrite)
    assert (tmp_path / "precious.txt").read_text() == "thesis"


def test_a_failed_write_leaves_the_old_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "K.zarr"
    make().save(path)
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(NoSpaceError, match="cannot be written: No space left on device"):
        make(n=2).save(path, overwrite=True)
    assert Kernel.load(path) == make()
    assert [item.name for item in tmp_path.iterdir()] == ["K.zarr"]


def test_load_expects(tmp_path: Path) -> None:
    path = make().save(tmp_path / "K.zarr")
    assert Kernel.load(path, expect=PROVENANCE) == make()
    assert Kernel.load(path, expect={"task": "mr", "right_ids": list(make().right_ids)}) == make()
    with pytest.raises(UserError, match=r'task: "SST-2" asked for, "mr" stored\)'):
        Kernel.load(path, expect={"task": "SST-2"})
    with pytest.raises(UserError, match=r"dtype: \"float64\" asked for, \(absent\) stored"):
        Kernel.load(path, expect={"dtype": "float64"})
    with pytest.raises(UserError, match=r"subspace.kind: \(absent\) asked for, \"lora\" stored"):
        Kernel.load(path, expect={"subspace": {"r": 8}})


def _truncate(path: Path) -> None:
    chunk = next(p for p in sorted((path / "kernel" / "c").rglob("*")) if p.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-3])


def _edit(path: Path, **changes: Any) -> None:
    group = json.loads((path / "zarr.json").read_text())
    group["attributes"].update(changes)
    (path / "zarr.json").write_text(json.dumps(group))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "damaged kernel"),
        (lambda path: shutil.rmtree(path / "kernel" / "c"), "'kernel' does not match its checksum"),
        (lambda path: shutil.rmtree(path / "left_label" / "c"), "'left_label' does not match"),
        (lambda path: shutil.rmtree(path / "left" / "c"), "'left' does not match"),
        (lambda path: shutil.rmtree(path / "left_logits"), "'left_logits' is missing"),
        (lambda path: shutil.rmtree(path / "kernel"), "'kernel' is missing"),
        (lambda path: _edit(path, fingerprint="0"), "attributes do not match"),
        (lambda path: _edit(path, provenance="{"), "damaged kernel"),
        (lambda path: _edit(path, checksums=None), "attributes do not match"),
        (lambda path: _edit(path, format_version=2), "kernel format 2, this subkern reads 1"),
    ],
)
def test_damage_is_noticed_in_one_line(tmp_path: Path, damage: Any, message: str) -> None:
    path = make().save(tmp_path / "K.zarr")
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        Kernel.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", '{"attributes": {"format": "subkern-kernfl"}}'])
def test_a_kernel_without_readable_attributes_can_be_replaced(content: str, tmp_path: Path) -> None:
    path = make().save(tmp_path / "K.zarr")
    (path / "zarr.json").write_text(content)
    with pytest.raises(DamagedError, match=r"zarr\.json.*--overwrite"):
        Kernel.load(path)
    make().save(path, overwrite=True)
    assert Kernel.load(path) == make()


def test_a_damaged_kernel_can_be_replaced(tmp_path: Path) -> None:
    path = make().save(tmp_path / "K.zarr")
    shutil.rmtree(path / "kernel")
    with pytest.raises(UserError, match="--overwrite"):
        make().save(path)
    make().save(path, overwrite=True)
    assert Kernel.load(path) == make()


@pytest.mark.parametrize("what", ["nothing", "file", "folder", "group"])
def test_load_refuses_what_is_no_kernel(tmp_path: Path, what: str) -> None:
    path = tmp_path / "K.zarr"
    if what == "file":
        path.write_text("no kernel")
    elif what != "nothing":
        path.mkdir()
    if what == "group":
        (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    message = "does not exist" if what == "nothing" else "is not a kernel"
    with pytest.raises(UserError, match=message):
        Kernel.load(path)


def test_a_kernel_of_version_0_1_0_is_read() -> None:
    """Its fingerprint is made from the provenance of that time, whose code was a digest."""
    found = Kernel.load(Path(__file__).with_name("kernel-0.1.0.zarr"), expect={"rule": "sgd"})
    assert found.shape == (2, 2, 2, 2)
    assert found.fingerprint.startswith("d13546f8bfec")
    assert found.values[0, 0, 0, 0] > 0

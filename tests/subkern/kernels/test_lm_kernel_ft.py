"""Files in LM-Kernel-FT's layout, written here with plain ``torch.save`` as its code does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from subkern.errors import UserError
from subkern.kernels.compute import compute_kernel
from subkern.kernels.kernel import Kernel
from subkern.kernels.lm_kernel_ft import check_export, export_lmk, import_lmk, is_exported
from tests.support.toys import WIDTH, toy, toy_examples


def write(folder: Path, c: int, split: str = "dev", m: int = 4) -> tuple[Path, torch.Tensor]:
    """Write kernel and logits of ``split`` against 3 train examples; return path and kernel."""
    torch.manual_seed(c)
    rows = {"train": torch.randn(3, c, 7), "dev": torch.randn(m, c, 7)}
    kernel = torch.einsum("iap,jbp->iajb", rows["train"], rows[split]).to(torch.float64)
    labels = torch.arange(kernel.shape[2]) % max(c, 2)
    if c == 1:
        labels = (labels * 2 - 1).float()
    path = folder / f"{split}_kernels_sst-2.pt"
    torch.save((kernel, labels), path)
    torch.save((rows[split][:, :, 0].clone(), labels), folder / f"{split}_logits_sst-2.pt")
    return path, kernel


@pytest.mark.parametrize("c", [1, 2, 6])
def test_import(tmp_path: Path, c: int) -> None:
    write(tmp_path, c, "train")
    path, values = write(tmp_path, c)
    kernel = import_lmk(path)
    np.testing.assert_array_equal(kernel.values, values.numpy())
    assert kernel.left_ids == ("train-0", "train-1", "train-2")
    assert kernel.right_ids == ("dev-0", "dev-1", "dev-2", "dev-3")
    for labels, count in ((kernel.left_labels, 3), (kernel.right_labels, 4)):
        assert labels is not None
        assert labels.tolist() == [i % max(c, 2) for i in range(count)]
    for logits, split in ((kernel.left_logits, "train"), (kernel.right_logits, "dev")):
        assert logits is not None
        np.testing.assert_array_equal(logits, torch.load(tmp_path / f"{split}_logits_sst-2.pt")[0])
    assert kernel.provenance["task"] == "sst-2"
    assert import_lmk(tmp_path / "train_kernels_sst-2.pt").is_symmetric


def test_import_of_a_lone_file(tmp_path: Path) -> None:
    path, _ = write(tmp_path, 2)
    (tmp_path / "dev_logits_sst-2.pt").unlink()
    kernel = import_lmk(path)
    assert (kernel.left_labels, kernel.left_logits, kernel.right_logits) == (None, None, None)


@pytest.mark.parametrize("c", [1, 2, 6])
@pytest.mark.parametrize("split", ["train", "dev"])
def test_export_gives_their_file_back(tmp_path: Path, c: int, split: str) -> None:
    theirs, _ = write(tmp_path, c, split)
    ours = export_lmk(import_lmk(theirs), tmp_path / "out" / theirs.name)
    old, new = (torch.load(path, weights_only=True) for path in (theirs, ours))
    assert isinstance(new, tuple)
    for mine, other in zip(new, old, strict=True):
        assert mine.dtype == other.dtype
        assert torch.equal(mine, other)
    assert [path.name for path in ours.parent.iterdir()] == [theirs.name]


def test_export_refuses(tmp_path: Path) -> None:
    ids = ["train-0"]
    path = tmp_path / "dev_kernels_mr.pt"
    unlabelled = Kernel(np.ones((1, 1, 1, 1)), ids, ids)
    with pytest.raises(UserError, match="labels of the kernel's columns"):
        export_lmk(unlabelled, path)
    rule = {"rule": "asymmetric_signgd"}
    one_way = Kernel(np.ones((1, 1, 1, 1)), ids, ["dev-0"], [0], [0], rule, asymmetric=True)
    with pytest.raises(UserError, match="both directions of asymmetric_signgd"):
        export_lmk(one_way, path)
    assert not path.exists()

    kernel = Kernel(np.ones((1, 1, 1, 1)), ids, ids, [0], [0])
    export_lmk(kernel, path)
    with pytest.raises(UserError, match=r"exists.*--overwrite"):
        export_lmk(kernel, path)
    with pytest.raises(UserError, match=r"exists.*--overwrite"):
        check_export(path)
    check_export(path, overwrite=True)
    assert export_lmk(kernel, path, overwrite=True) == path


def test_what_is_exported_is_known_by_its_numbers(tmp_path: Path) -> None:
    path, ids = tmp_path / "dev_kernels_mr.pt", ["train-0"]
    kernel = Kernel(np.ones((1, 1, 1, 1)), ids, ids, [0], [0])
    assert not is_exported(kernel, path)
    export_lmk(kernel, path)
    assert is_exported(kernel, path)
    assert not is_exported(Kernel(2 * np.ones((1, 1, 1, 1)), ids, ids, [0], [0]), path)
    path.write_bytes(path.read_bytes()[:100])
    assert not is_exported(kernel, path)


def test_both_directions_of_asymmetric_signgd(tmp_path: Path) -> None:
    path, values = write(tmp_path, 2)
    labels = torch.load(path)[1]
    torch.save((torch.stack([values, 2 * values]), labels), path)
    assert import_lmk(path) == import_lmk(path, signs="left")
    np.testing.assert_array_equal(import_lmk(path, signs="left").values, values.numpy())
    flipped = import_lmk(path, signs="right")
    np.testing.assert_array_equal(flipped.values, 2 * values.numpy())
    assert flipped.reverse is not None
    np.testing.assert_array_equal(flipped.reverse, values.numpy())
    assert flipped.provenance["rule"] == "asymmetric_signgd"
    assert flipped.fingerprint != import_lmk(path, signs="left").fingerprint
    theirs = torch.load(path)[0]
    for side in (None, "left", "right"):
        kernel = import_lmk(path, signs=side)  # type: ignore[arg-type]
        ours = export_lmk(kernel, tmp_path / "out" / path.name, overwrite=True)
        assert torch.equal(torch.load(ours, weights_only=True)[0], theirs)
    with pytest.raises(UserError, match="signs='both' is no side"):
        import_lmk(path, signs="both")  # type: ignore[arg-type]


def test_export_of_an_asymmetric_kernel_has_the_signs_of_train_first(tmp_path: Path) -> None:
    def use(p: Any, features: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return features @ p["w"]

    model, examples = toy(use, w=(WIDTH, 3)), toy_examples()
    kernel = compute_kernel(model, examples[:2], examples[1:], rule="asymmetric_signgd")
    stored = torch.load(export_lmk(kernel, tmp_path / "dev_kernels_x.pt"), weights_only=True)[0]
    np.testing.assert_array_equal(stored[0].numpy(), kernel.values)
    np.testing.assert_array_equal(stored[1].numpy(), kernel.reverse)
    back = import_lmk(tmp_path / "dev_kernels_x.pt")
    assert back.reverse is not None
    np.testing.assert_array_equal(back.reverse, stored[1].numpy())
    square = compute_kernel(model, examples, rule="asymmetric_signgd")
    both = Kernel(square.values, *[square.left_ids] * 2, *[[0, 1, 0]] * 2, asymmetric=True)
    stored = torch.load(export_lmk(both, tmp_path / "train_kernels_x.pt"), weights_only=True)[0]
    np.testing.assert_array_equal(stored[1].numpy(), square.reverse)


class Payload:
    """What a hostile file would hold."""


def _save(value: Any) -> Callable[[Path], object]:
    return lambda path: torch.save(value, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "does not exist"),
        (_save((Payload(), torch.zeros(4))), "tensors only"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "cannot be read"),
        (lambda path: path.write_text("text"), "cannot be read"),
        (_save(torch.ones(3)), "does not hold a pair"),
        (_save({"kernel": torch.ones(3), "labels": torch.ones(3)}), "does not hold a pair"),
        (_save((torch.ones(3, 4), torch.zeros(4))), r"shape \[3, 4\]"),
        (_save((torch.ones(3, 2, 4, 2), torch.full((4,), 0.5))), "no class indices"),
        (_save((torch.ones(3, 1, 4, 1), torch.zeros(4))), "label 0, neither -1 nor"),
        (_save((torch.ones(3, 2, 4, 2), torch.zeros(4))), "other labels than the kernel"),
    ],
)
def test_import_refuses(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    path, _ = write(tmp_path, 2)
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        import_lmk(path)
    assert "\n" not in str(caught.value)


def test_import_refuses_a_foreign_name_and_needless_signs(tmp_path: Path) -> None:
    path, _ = write(tmp_path, 2)
    with pytest.raises(UserError, match="drop signs"):
        import_lmk(path, signs="left")
    with pytest.raises(UserError, match=r"is not named \{train,dev,test\}_kernels_<task>.pt"):
        import_lmk(path.rename(tmp_path / "kernel.pt"))

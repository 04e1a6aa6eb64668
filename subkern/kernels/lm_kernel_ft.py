"""Kernels in the files of LM-Kernel-FT, the code of Malladi et al. 2023.

That code saves with ``torch.save`` a pair (kernel, labels), ``{train,dev,test}_kernels_<task>.pt``:
the kernel ``[train, c, X, c]`` in float64 and the labels of X; beside it, for initial logits,
``{train,dev,test}_logits_<task>.pt``: a pair (logits ``[X, c]``, labels of X). With several logits
labels are indices; with one (the difference f_1 - f_0) they are -1.0 and +1.0. Under
``asymmetric_signgd`` the kernel is ``[2, train, c, X, c]``: first with the signs of the train
gradients, then with the signs of the gradients of X.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.storage.files import replacing, sync

__all__ = ["check_export", "export_lmk", "import_lmk", "is_exported"]

_NAME = re.compile(r"(?P<split>train|dev|test)_kernels_(?P<task>.+)\.pt")


class _File(NamedTuple):
    """A kernel file and the names that its own name implies."""

    path: Path
    split: str
    task: str

    def beside(self, kind: str, split: str) -> Path:
        """Return the path of another file of the same run."""
        return self.path.with_name(f"{split}_{kind}_{self.task}.pt")


def import_lmk(path: str | Path, *, signs: Literal["left", "right"] | None = None) -> Kernel:
    """Read a kernel file of LM-Kernel-FT.

    Example ids are ``<split>-<row>``. Labels of the train side and initial logits come from the
    files of the same run that lie beside it, where there are any; else they are None. Labels -1 and
    +1 become the indices 0 and 1. Only tensors are unpickled (``weights_only=True``).

    Args:
        path: a file named ``{train,dev,test}_kernels_<task>.pt``.
        signs: only for kernels of asymmetric_signgd, which hold both directions: the side whose
            gradients are replaced by their signs in ``values``; None is ``"left"``, as our kernels
            have it. The other direction is ``reverse``.

    Raises:
        UserError: wrong name or contents, files that disagree, or ``signs`` out of place.
    """
    file = _named(Path(path))
    values, labels = _read_pair(file.path, "kernel [train, c, X, c]")
    values, reverse = _directions(file.path, values, signs)
    signs = None if reverse is None else signs or "left"
    num_logits = values.shape[1]
    left_labels = labels if file.split == "train" else _train_labels(file)
    return Kernel(
        values.numpy(),
        [f"train-{i}" for i in range(values.shape[0])],
        [f"{file.split}-{i}" for i in range(values.shape[2])],
        None if left_labels is None else _indices(file.path, left_labels, num_logits),
        _indices(file.path, labels, num_logits),
        _provenance(file, signs),
        _initial_logits(file.beside("logits", "train"), left_labels),
        _initial_logits(file.beside("logits", file.split), labels),
        None if reverse is None else reverse.numpy(),
    )


def export_lmk(kernel: Kernel, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a kernel (rows: the train split) as LM-Kernel-FT would have saved it.

    That code looks for ``{train,dev,test}_kernels_<task>.pt``; other names are written too. Of a
    rule that acts on one side both directions are written, that with the update on the left first.

    Raises:
        UserError: labels of the columns are unknown, the rule is asymmetric and the kernel does not
            carry the other direction, or another file is there and ``overwrite`` is not given.
    """
    path = Path(path)
    pair = _exported(kernel, path)
    check_export(path, overwrite=overwrite)
    with replacing(path, kept=False) as part:  # no checksum: other programs may write it too
        torch.save(pair, part)
        sync(part)
    return path


def is_exported(kernel: Kernel, path: str | Path) -> bool:
    """Whether a file holds what `export_lmk` would write."""
    path = Path(path)
    try:
        found = _read_pair(path, "kernel")
    except UserError:
        return False
    pair = _exported(kernel, path)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, pair, strict=True))


def _exported(kernel: Kernel, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two tensors of a kernel's file."""
    if kernel.right_labels is None:
        raise UserError(f"{path} needs the labels of the kernel's columns, which are unknown")
    if kernel.right_labels.dtype.kind == "f":
        raise UserError(f"{path} is of class labels and the kernel's are real: save it as it is")
    values = _both(kernel, path) if kernel.is_asymmetric else kernel.values
    labels = torch.from_numpy(kernel.right_labels.copy())
    if kernel.num_logits == 1:
        labels = (2 * labels - 1).to(torch.float32)
    return torch.from_numpy(values.copy()), labels


def _both(kernel: Kernel, path: Path) -> npt.NDArray[np.float64]:
    """Both directions ``[2, n, c, m, c]`` of a kernel, that with the update on the left first."""
    reverse = kernel.reverse
    if reverse is None and kernel.left_ids == kernel.right_ids:
        reverse = kernel.values.transpose(2, 3, 0, 1)
    if reverse is None:
        rule = kernel.provenance.get("rule", "its rule")
        raise UserError(
            f"{path} needs both directions of {rule} and the kernel carries one: compute it again"
        )
    on_right = kernel.provenance.get("signs") == "right"
    return np.stack([reverse, kernel.values] if on_right else [kernel.values, reverse])


def check_export(path: Path, *, overwrite: bool = False) -> None:
    """Refuse before a kernel is computed what `export_lmk` would refuse after it.

    Raises:
        UserError: something is there and ``overwrite`` is not given.
    """
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: choose another path, or replace it with --overwrite")


def _named(path: Path) -> _File:
    """Return split and task from the file's name."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise UserError(f"{path} is not named {{train,dev,test}}_kernels_<task>.pt: rename it so")
    return _File(path, match["split"], match["task"])


def _read_pair(path: Path, what: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two tensors of a file, the second flat; ``what`` describes the first."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: give a file that LM-Kernel-FT saved")
    try:
        pair: Any = torch.load(path, map_location="cpu", weights_only=True)
    # Truncated archives, foreign formats and refused pickles each raise another type.
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as a torch file of tensors only ({type(error).__name__}):"
            " give a file that LM-Kernel-FT saved"
        ) from error
    is_pair = isinstance(pair, tuple | list) and len(pair) == 2
    if not is_pair or not all(isinstance(item, torch.Tensor) for item in pair):
        raise UserError(
            f"{path} does not hold a pair ({what}, labels [X]): give a file that LM-Kernel-FT saved"
        )
    return pair[0].to(torch.float64), pair[1].reshape(-1)


def _directions(
    path: Path, values: torch.Tensor, signs: Literal["left", "right"] | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the kernel ``[train, c, X, c]``, of two stacked ones first what ``signs`` names."""
    if signs not in (None, "left", "right"):
        raise UserError(f"signs={signs!r} is no side: use 'left' or 'right'")
    if values.ndim == 5 and values.shape[0] == 2:
        first, second = values
        return (second, first) if signs == "right" else (first, second)
    if signs is not None:
        raise UserError(f"{path} does not hold both directions of asymmetric_signgd: drop signs")
    if values.ndim != 4:
        shape = list(values.shape)
        raise UserError(f"{path} holds a kernel of shape {shape}, not [train, c, X, c]")
    return values, None


def _indices(path: Path, labels: torch.Tensor, num_logits: int) -> npt.NDArray[np.int64]:
    """Return label indices; with one logit the file has -1 for label 0 and +1 for label 1."""
    values = labels.to(torch.float64).numpy()
    if num_logits == 1:
        if not np.isin(values, (-1.0, 1.0)).all():
            wrong = values[abs(values) != 1][0]
            raise UserError(f"{path} has one logit and label {wrong:g}, neither -1 nor +1")
        values = (values + 1) / 2
    if not (values == np.round(values)).all():
        raise UserError(f"{path} has labels that are no class indices: regression is not supported")
    return values.astype(np.int64)


def _train_labels(file: _File) -> torch.Tensor | None:
    """Return the train labels, as the file has them, from a file of the same run, or None."""
    for kind in ("kernels", "logits"):
        path = file.beside(kind, "train")
        if path.is_file():
            return _read_pair(path, kind)[1]
    return None


def _initial_logits(path: Path, labels: torch.Tensor | None) -> npt.NDArray[np.float64] | None:
    """Return f0 ``[X, c]`` from a logits file with these labels, or None if there is no file."""
    if not path.is_file():
        return None
    logits, theirs = _read_pair(path, "logits [X, c]")
    same = labels is None or torch.equal(labels.to(torch.float64), theirs.to(torch.float64))
    if not same:
        raise UserError(f"{path} has other labels than the kernel beside it: one run per folder")
    return logits.numpy()


def _provenance(file: _File, signs: str | None) -> dict[str, Any]:
    """Return what such a file tells; of a single kernel not whether its rule is sgd or signgd."""
    with file.path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    known = {"source": "LM-Kernel-FT", "sha256": digest, "task": file.task, "split": file.split}
    return {**known, "rule": "asymmetric_signgd", "signs": signs} if signs else known

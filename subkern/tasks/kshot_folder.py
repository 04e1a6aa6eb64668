"""Splits from a folder in LM-BFF's layout: ``<root>/<task>/<k>-<seed>/train.csv`` and so on."""

from __future__ import annotations

import re
from pathlib import Path

from subkern.errors import UserError
from subkern.tasks.csv_rows import Row, read_rows
from subkern.tasks.task import Task

__all__ = ["folder_rows"]

_SPLIT_FOLDER = re.compile(r"(\d+)-(\d+)", re.ASCII)


def folder_rows(task: Task, root: Path, *, split: str, shots: int, seed: int) -> list[Row]:
    """Return the rows of a split.

    Where the folder has no ``<shots>-<seed>``, the smallest larger split of that seed is cut: the
    first `shots` rows per label of its train and of its dev file. Should its dev file have fewer of
    some label, dev is rows k..2k per label of its train file instead, which is what LM-BFF itself
    would have sampled for that k.

    Raises:
        UserError: a folder or file that is missing (the message lists what is there) or malformed.
    """
    base = _task_folder(task, root)
    available = _splits(base)
    if (shots, seed) in available:
        return _read(task, available[shots, seed], split)
    larger = min((k for k, s in available if s == seed and k > shots), default=None)
    if larger is None:
        found = ", ".join(f"{k}-{s}" for k, s in sorted(available)) or "none"
        raise UserError(
            f"{base} has no split {shots}-{seed} nor a larger one of seed {seed}: it has {found}"
        )
    rows = _read(task, available[larger, seed], split)
    if split == "test":
        return rows
    if split == "dev" and _fewest(task, rows) < shots:
        return _per_label(_read(task, available[larger, seed], "train"), shots, 2 * shots)
    return _per_label(rows, 0, shots)


def _task_folder(task: Task, root: Path) -> Path:
    """Find what holds the task's ``<k>-<seed>`` folders: a folder below `root`, or `root`."""
    if not root.is_dir():
        raise UserError(f"no data folder '{root}': check the path")
    try:
        names = sorted(p.name for p in root.iterdir() if p.is_dir())
    except OSError as error:
        raise UserError(f"cannot read data folder '{root}': {error.strerror}") from None
    for name in names:
        if name == task.folder:
            return root / name
    for name in names:
        if name.lower() == task.folder.lower():
            return root / name
    if _splits(root):
        return root
    raise UserError(
        f"no folder '{task.folder}' in '{root}': it has {', '.join(names) or 'no folders'}"
    )


def _splits(folder: Path) -> dict[tuple[int, int], Path]:
    """Return every split folder by its (k, seed); ``016-13`` is one of 16 and 13."""
    found = sorted((p for p in folder.iterdir() if p.is_dir()), reverse=True)
    matches = ((_SPLIT_FOLDER.fullmatch(p.name), p) for p in found)
    return {(int(m[1]), int(m[2])): p for m, p in matches if m}


def _read(task: Task, folder: Path, split: str) -> list[Row]:
    path = folder / task.file_source.file_name(split)
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
        raise UserError(f"no {split} file '{path}': the folder has {found}")
    return read_rows(path, task.file_source)


def _per_label(rows: list[Row], begin: int, end: int) -> list[Row]:
    """Return rows `begin` to `end` of each label, in file order."""
    seen: dict[str, int] = {}
    chosen = []
    for row in rows:
        rank = seen.get(row.label, 0)
        seen[row.label] = rank + 1
        if begin <= rank < end:
            chosen.append(row)
    return chosen


def _fewest(task: Task, rows: list[Row]) -> int:
    """Return how many rows the rarest label has."""
    return min(sum(row.label == label for row in rows) for label in task.labels)

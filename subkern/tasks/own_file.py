"""A task made of a data file: what its columns say, and its rows cut into train, dev and test."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from subkern.errors import UserError
from subkern.tasks.formats import Format, Parts, recognize
from subkern.tasks.records import Record, is_file, read_records
from subkern.tasks.task import FileRows, Task

__all__ = ["DEMO_FILES", "described", "file_labels", "file_task", "is_own", "split_parts"]

_DEMO = Path(__file__).parent / "data" / "demo"
DEMO_FILES = {f"demo:{path.stem}": path for path in sorted(_DEMO.glob("*.jsonl"))}
"""Small files of our own, one a format, by the name that ``--data`` takes."""

MAX_LENGTH, MOST_LABELS = 1024, 100
_CAUSAL = {1: "*sent_0*\\nAnswer:", 2: "*sent_0*\\n*sent_1*\\nAnswer:"}
_MASKED = {
    1: "*cls**sent_0*_Answer:*mask*.*sep+*",
    2: "*cls**sent_0*_*sent_1*_Answer:*mask*.*sep+*",
}


def file_task(
    data: str,
    *,
    test: str = "0.2",
    dev: str = "0.1",
    format: str | None = None,
    columns: str | None = None,
    max_length: int | None = None,
    template: str | None = None,
    normalize: str | None = None,
    beta: float | None = None,
) -> Task:
    """The task that a data file holds.

    Args:
        data: JSONL, JSON, CSV, TSV or Parquet file, or ``NAME`` or ``NAME:CONFIG`` of a data set on
            the hub.
        test: a file of the same format, or the share of the rows that is drawn for tests.
        dev: likewise.
        format: of `FORMATS`; None recognizes it by the columns.
        columns: which column is what, as ``text=subject+body,label=kind``.
        max_length: longest sequence in tokens; longer ones lose the beginning of their prompt.
        template: of texts with labels, in LM-BFF's notation.
        normalize: whether a log-likelihood is the ``sum`` over its tokens (None too) or their
            ``mean``.
        beta: β of preferences; None is 0.1.

    Raises:
        UserError: a file that cannot be read, columns of no format, or a row that cannot be used.
    """
    rows = FileRows(data, str(test), str(dev), format or "", _roles(columns))
    for name in ("test", "dev"):
        _share(name, getattr(rows, name))
    made, parts = _parts(rows, data)
    if made.name in ("labels", "regression"):  # another file's labels need not tell which
        rows = replace(rows, format=made.name) if made.name == "regression" else rows
    every = [*parts]
    for given in (rows.test, rows.dev):
        if _is_share(given):
            continue
        other, more = _parts(rows, given)
        if other is not made:
            raise UserError(
                f"{given} holds {other.said} and {data} {made.said}: give files of one format"
            )
        every += more
    if beta is not None and made.kind != "preference":
        raise UserError(
            f"--beta {beta:g} is of preferences, and {data} holds {made.said}: leave it out"
        )
    if normalize is not None and made.kind == "regression":
        raise UserError(
            f"--normalize {normalize} is of log-likelihoods, and {data} holds {made.said}: leave it"
            " out"
        )
    length = MAX_LENGTH if max_length is None else max_length
    how: dict[str, Any] = {
        "max_length": length,
        "normalize": "sum" if normalize is None else normalize,
        "beta": 0.1 if beta is None else beta,
        "rows": rows,
    }
    stem = Path(data).stem if is_file(data) else data
    name = re.sub(r"[^\w.-]+", "-", stem).strip("-.")[:80] or "data"
    if made.kind == "labels":
        labels = tuple(sorted({str(p.answer) for p in every}, key=_numbers_first))
        if len(labels) > MOST_LABELS:
            raise UserError(
                f"{data} has {len(labels)} labels, such as '{labels[0][:40]}', and at most"
                f" {MOST_LABELS} can be told apart: if they are numbers, say --format regression;"
                " if answers, --columns prompt=COLUMN,completion=COLUMN"
            )
        if len(labels) < 2:
            raise UserError(
                f"{data} has the label '{labels[0][:40]}' alone, and a task needs two or more: give"
                " rows of others"
            )
        count = len(every[0].texts)
        masked, causal = _MASKED[count], _CAUSAL[count]
        if template is not None:
            masked, causal = (template, "") if "*mask*" in template else ("", template)
        return Task(
            name, labels, labels, masked, causal.replace("\\n", "\n"), kind="labels",
            num_texts=count, **how,
        )  # fmt: skip
    if template is not None:
        raise UserError(f"--template is of texts with labels, and {data} holds {made.said}")
    if made.kind == "regression":
        values = np.array([p.answer for p in parts], dtype=np.float64)
        if values.min() == values.max():
            raise UserError(
                f"{data} has the label {values[0]:g} alone, and there is nothing to learn:"
                " give rows of others"
            )
        return Task(
            name, (), (), "", kind="regression", metric="pearson", num_texts=len(parts[0].texts),
            center=float(values.mean()), spread=float(values.std()), **how,
        )  # fmt: skip
    if made.kind == "choices":
        most = max(len(p.texts) for p in every) - 1
        labels = tuple(chr(ord("A") + i) if i < 26 else str(i) for i in range(most))
        return Task(name, labels, (), "", kind="choices", **how)
    if made.kind == "preference":
        return Task(name, ("rejected", "chosen"), (), "", kind="preference", **how)
    return Task(name, (), (), "", kind="completion", metric="log_likelihood", **how)


def is_own(data: str) -> bool:
    """Whether `data` is a file of rows: by its ending, or a demo one."""
    return data in DEMO_FILES or is_file(data)


def file_labels(task: Task) -> list[str]:
    """The labels in the files of a task of texts with labels."""
    rows = task.rows
    assert rows is not None
    files = [rows.data, *(given for given in (rows.test, rows.dev) if not _is_share(given))]
    return sorted({str(p.answer) for data in files for p in _parts(rows, data)[1]})


def described(task: Task) -> str:
    """What the file of a task holds, in words."""
    assert task.rows is not None
    made, parts = _parts(task.rows, task.rows.data)
    more = f", {len(task.labels)} labels" if task.kind == "labels" else ""
    if task.kind == "regression":
        values = [float(p.answer) for p in parts]
        more = (
            f", from {min(values):g} to {max(values):g}; f is their distance from the mean"
            f" {task.center:.4g} in standard deviations of {task.spread:.4g}"
        )
    return f"{task.rows.data}: {len(parts)} rows of {made.said} (format {made.name}){more}"


def split_parts(task: Task, split: str, seed: int) -> list[tuple[int, Parts]]:
    """Number in its file, from 0, and parts of every row of a split.

    Where a split is a share of the file, labels keep their shares in it.
    """
    rows = task.rows
    assert rows is not None
    given = {"test": rows.test, "dev": rows.dev}
    if not _is_share(given.get(split, "0")):
        return list(enumerate(_parts(rows, given[split])[1]))
    parts = _parts(rows, rows.data)[1]
    left = np.random.RandomState(seed).permutation(len(parts)).tolist()
    chosen = {}
    for name in ("test", "dev"):
        share = float(given[name]) if _is_share(given[name]) else 0.0
        chosen[name] = _drawn(left, parts, task, share, len(parts))
        taken = set(chosen[name])
        left = [i for i in left if i not in taken]
    return [(i, parts[i]) for i in sorted(left if split == "train" else chosen[split])]


def _drawn(
    order: Sequence[int], parts: Sequence[Parts], task: Task, share: float, count: int
) -> list[int]:
    """The first of `order` by label, so many of each that together they are `share` of `count`.

    A share takes one at least of whatever there are two of, as a label that is missed says nothing.
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for i in order:
        groups[parts[i].answer if task.kind == "labels" else None].append(i)
    rate = share * count / max(1, len(order))
    sizes = [
        max(round(rate * len(group)), int(share > 0 and len(group) > 1))
        for group in groups.values()
    ]
    return [i for group, n in zip(groups.values(), sizes, strict=True) for i in group[:n]]


def _is_share(given: str) -> bool:
    try:
        float(given)
    except ValueError:
        return False
    return True


def _share(name: str, given: str) -> None:
    if _is_share(given) and not 0 <= float(given) < 1:
        raise UserError(f"--{name} {given} is no share: give a file, or a number from 0 to 1 (0.2)")


def _roles(columns: str | None) -> tuple[tuple[str, str], ...]:
    """Parse ``text=subject+body,label=kind``; two texts are the roles text and text2."""
    found: dict[str, str] = {}
    for part in (columns or "").split(",") if columns else ():
        role, sign, names = part.partition("=")
        if not sign or not role.strip() or not names.strip():
            raise UserError(
                f"--columns '{columns}' is not ROLE=COLUMN,…: give text=body,label=kind"
            )
        if role.strip() in found:
            raise UserError(f"--columns '{columns}' names {role.strip()} twice: give it once")
        first, *more = [name.strip() for name in names.split("+")]
        if more and (role.strip() != "text" or len(more) > 1):
            raise UserError(f"--columns '{columns}': only text may be two columns, text=A+B")
        found[role.strip()] = first
        if more:
            found["text2"] = more[0]
    return tuple(found.items())


def _parts(rows: FileRows, data: str) -> tuple[Format, list[Parts]]:
    """The format of a file, and the parts of each row."""
    path = DEMO_FILES.get(data, Path(data))
    return _read(rows, data, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=8)
def _read(rows: FileRows, data: str, changed: int) -> tuple[Format, list[Parts]]:
    """As `_parts`, of a file that was ``changed`` then."""
    if data.startswith("demo:") and data not in DEMO_FILES:
        raise UserError(f"there is no {data}: use {', '.join(DEMO_FILES)}")
    records = read_records(str(DEMO_FILES.get(data, data)))
    roles = dict(rows.columns)
    made, found = recognize(records, data, rows.format or None, roles)
    if all(role == column for role, column in found.items()):
        return made, [made.parts(record) for record in records]
    renamed = (
        Record({role: r.values.get(column) for role, column in found.items()}, r.where)
        for r in records
    )
    return made, [made.parts(record) for record in renamed]


def _numbers_first(label: str) -> tuple[bool, int, str]:
    number = label.removeprefix("-").isdecimal()
    return (not number, int(label) if number else 0, label)

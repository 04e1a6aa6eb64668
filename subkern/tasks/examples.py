"""Examples of a task from its own file, a folder, the hub, or the demo package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from subkern.errors import UserError
from subkern.tasks.catalogue import Task
from subkern.tasks.csv_rows import Row
from subkern.tasks.formats import Chat, Parts
from subkern.tasks.hub import hub_rows
from subkern.tasks.kshot_folder import folder_rows
from subkern.tasks.movie_reviews import demo_rows
from subkern.tasks.own_file import split_parts

__all__ = ["SPLITS", "Example", "load_examples"]

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Example:
    """One example of a task.

    Attributes:
        id: ``"<split>-<row>"``, rows counted from 0: unique within task, shots and seed.
        texts: its one or two texts, verbatim; of other kinds than labels prompt and answer,
            question and options, or prompt, chosen and rejected answer.
        label: position of its label in ``task.labels``; of a regression the label itself, as its
            distance from ``task.center`` in units of ``task.spread``.
        chats: the same as messages, where they are such.
    """

    id: str
    texts: tuple[str, ...]
    label: int | float
    chats: tuple[Chat, ...] = ()


def load_examples(
    task: Task,
    source: str | Path = "",
    *,
    split: str,
    shots: int = 16,
    seed: int = 13,
    limit: int | None = None,
) -> list[Example]:
    """Load a split of a task.

    Args:
        task: which task.
        source: a data folder (see `subkern.tasks.kshot_folder`), ``"hub"`` or ``"demo"``; a folder
            of such a name is ``"./hub"``. A task with a file of its own has its examples there.
        split: ``"train"``, ``"dev"`` or ``"test"``.
        shots: k, examples per label in train and in dev.
        seed: of the k-shot sample.
        limit: no more than so many examples: of train and dev the first ones; of test an evenly
            spaced choice, since a test file may be sorted by label. Ids keep their row.

    Returns:
        The examples in the source's order.

    Raises:
        UserError: anything about the source or the request that the user can put right.
    """
    _check_request(split, shots, seed, limit)
    if task.rows is not None:
        examples = [_own(task, split, i, p) for i, p in split_parts(task, split, seed)]
        if not examples:
            how = (
                "smaller shares or files (--test, --dev)"
                if split == "train"
                else f"a larger share or a file (--{split})"
            )
            raise UserError(f"split {split} of {task.rows.data} has no rows: give {how}")
        return examples if limit is None else _limited(examples, split, limit)
    if not str(source).strip() or "\0" in str(source):
        raise UserError(f"data {str(source)!r} is no source: give a folder, hub or demo")
    if source == "hub":
        rows = hub_rows(task, split=split, shots=shots, seed=seed)
    elif source == "demo":
        rows = demo_rows(task, split=split, shots=shots, seed=seed)
    else:
        rows = folder_rows(task, Path(source), split=split, shots=shots, seed=seed)
    if not rows:
        raise UserError(
            f"split {split} of task {task.name} has no rows in '{source}' "
            f"with {shots} shots and seed {seed}"
        )
    examples = [_example(task, split, i, row) for i, row in enumerate(rows)]
    return examples if limit is None else _limited(examples, split, limit)


def _check_request(split: str, shots: int, seed: int, limit: int | None) -> None:
    if split not in SPLITS:
        raise UserError(f"unknown split '{split}': use train, dev or test")
    for name, value in (("shots", shots), ("limit", limit)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}, it must be at least 1")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed}, it must be from 0 to {2**32 - 1}")


def _example(task: Task, split: str, number: int, row: Row) -> Example:
    if row.label not in task.labels:
        raise UserError(
            f"{row.where}: label '{row.label}' is not a label of task {task.name}: "
            f"its labels are {', '.join(task.labels)}"
        )
    return Example(f"{split}-{number}", row.texts, task.labels.index(row.label))


def _own(task: Task, split: str, number: int, parts: Parts) -> Example:
    """An example of a task's own file."""
    label: int | float
    if isinstance(parts.answer, str):
        label = task.labels.index(parts.answer)
    elif task.kind == "regression":
        label = (float(parts.answer) - task.center) / task.spread
    else:
        label = int(parts.answer)
    return Example(f"{split}-{number}", parts.texts, label, parts.chats)


def _limited(examples: list[Example], split: str, limit: int) -> list[Example]:
    if split != "test" or limit >= len(examples):
        return examples[:limit]
    return [examples[i * len(examples) // limit] for i in range(limit)]

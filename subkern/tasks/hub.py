"""Splits sampled from a data set of the Hugging Face hub, as LM-BFF samples them."""

from __future__ import annotations

from typing import Any

from subkern.errors import UserError
from subkern.hub import cache_only_if_silent, hub_answers
from subkern.tasks.csv_rows import Row
from subkern.tasks.sampling import cap_test, sample_k_shot
from subkern.tasks.task import HubSource, Task

__all__ = ["hub_rows"]


def hub_rows(task: Task, *, split: str, shots: int, seed: int) -> list[Row]:
    """Return the rows of a split: train and dev out of the hub's train, test out of its test split.

    GLUE's test labels are not public, so for those tasks test is the hub's validation split, as in
    LM-BFF. More than 1,000 test rows are capped by LM-Kernel-FT's shuffle.

    Raises:
        UserError: the task is not on the hub, ``datasets`` is not installed, or loading failed.
    """
    if task.hub is None:
        raise UserError(
            f"task {task.name} is not on the hub: give the folder of its files instead "
            "(docs/how-to/own-task.md says where they are)"
        )
    source = task.hub
    data = _load(source, source.test if split == "test" else source.train)
    rows, labels = _labels(source, data)
    if split == "test":
        chosen = cap_test(len(rows))
    else:
        train, dev = sample_k_shot(labels, shots, seed)
        chosen = train if split == "train" else dev
    return [_row(source, data, rows[i], labels[i]) for i in chosen]


def _load(source: HubSource, split: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(
            "source 'hub' needs the package datasets: pip install 'subkern[hub]'"
        ) from None
    try:
        with cache_only_if_silent():
            data = datasets.load_dataset(
                source.path, source.config, split=split, revision=source.revision
            )
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if not hub_answers():
            reason = "it does not answer, and the cache has none: use --data FOLDER or --data demo"
        raise UserError(
            f"cannot load split '{split}' of '{source.path}' from the hub: {reason}"
        ) from None
    missing = [c for c in (*source.texts, source.label) if c not in data.column_names]
    if missing:
        raise UserError(
            f"'{source.path}' has no column '{missing[0]}': it has {', '.join(data.column_names)}"
        )
    return data


def _labels(source: HubSource, data: Any) -> tuple[list[int], list[str]]:
    """Return the numbers of the rows that count and their labels in the task's words."""
    rows, labels = [], []
    for i, value in enumerate(data[source.label]):
        if str(value) not in source.skip:
            rows.append(i)
            labels.append(source.labels.get(str(value), str(value)))
    return rows, labels


def _row(source: HubSource, data: Any, number: int, label: str) -> Row:
    values = data[number]
    return Row(tuple(str(values[c]) for c in source.texts), label, f"{source.path} row {number}")

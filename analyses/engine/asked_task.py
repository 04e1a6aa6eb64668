"""The task that is asked for: by its name or file, or what a data file's own columns say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from subkern.errors import UserError
from subkern.tasks.catalogue import Task, get_task
from subkern.tasks.own_file import DEMO_FILES, file_labels, file_task, is_own

from .settings import OWN

__all__ = ["asked_loss", "asked_task", "check_real"]


def asked_task(asked: Mapping[str, Any]) -> Task:
    """The task of the options of a command, or of the settings of a study.

    With a data file and no name of a task it is the file's own; a named task takes labels and
    prompts from there and its rows from the file.

    Raises:
        UserError: there is neither, options of a file without one, or a file that does not fit.
    """
    name, data = asked.get("task"), str(asked["data"])
    said = {key: asked[key] for key in OWN if asked.get(key) is not None}
    if not is_own(data) and (name or data in ("hub", "demo") or Path(data).is_dir()):
        if said:
            key = next(iter(said)).replace("_", "-")
            raise UserError(f"--{key} is of a data file, and --data is '{data}': give a file")
        if not name:
            raise UserError(
                "there is no task: give --task, or a file of your own as --data (demo ones:"
                f" {', '.join(DEMO_FILES)})"
            )
        return get_task(name)
    template = asked.get("template") if not name else None
    made = file_task(data, template=template, **said)
    if not name:
        check_real(made, asked)
        return made
    task = get_task(name)
    if made.kind != "labels" or made.num_texts != task.num_texts:
        raise UserError(
            f"{data} does not hold {task.num_texts} text(s) and a label a row, as task {task.name}"
            " does: leave --task out, or say --columns"
        )
    if strange := [label for label in file_labels(made) if label not in task.labels]:
        raise UserError(
            f"{data} has the label '{strange[0]}', which task {task.name} has not (its labels are"
            f" {', '.join(task.labels)}): leave --task out for the file's own"
        )
    length = made.max_length if "max_length" in said else task.max_length
    return replace(task, rows=made.rows, max_length=length)


def check_real(task: Task, asked: Mapping[str, Any]) -> None:
    """Refuse what real labels cannot be read with, before a model is looked for.

    Raises:
        UserError: a prompt, or the binary logit.
    """
    if task.kind != "regression":
        return
    what = f"{task.rows.data if task.rows else task.name} has real labels"
    if asked.get("head", "linear") != "linear":
        raise UserError(f"{what}, which no words say: add --head linear (or --format labels)")
    if asked.get("logits") == "binary":
        raise UserError(f"{what} and one output: leave --logits binary out")


def asked_loss(asked: Mapping[str, Any], task: Task) -> str:
    """The loss that is asked for, or the task's own.

    Raises:
        UserError: it is of tasks of another kind.
    """
    loss = asked["loss"]
    if loss is None:
        return task.loss
    task.check_loss(loss)
    return str(loss)

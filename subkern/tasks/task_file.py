"""A user's own task from a TOML or YAML file: fields of `Task`, `FileSource` and `HubSource`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from subkern.errors import UserError
from subkern.storage.files import read_fields
from subkern.tasks.task import FileSource, HubSource, Task

__all__ = ["TASK_SUFFIXES", "load_task_file", "read_fields"]

TASK_SUFFIXES = (".toml", ".yaml", ".yml")
_INTEGERS = ("num_texts", "max_length", "first_sent_limit", "other_sent_limit")
_WORD_LISTS = ("labels", "label_words", "causal_label_words")
_SWITCHES = ("header", "ragged")


def load_task_file(path: Path) -> Task:
    """Read a task from `path` (format in docs/how-to/own-task.md).

    ``num_texts`` may be left out when text columns are given, ``header`` when they are named.

    Raises:
        UserError: missing or unreadable file, unknown or missing field, value of the wrong kind.
    """
    fields = read_fields(path, "task file", "docs/how-to/own-task.md")
    _check_names(path, "", fields, Task)
    missing = [f for f in ("name", "labels", "label_words") if f not in fields]
    if missing:
        raise UserError(f"{path}: '{missing[0]}' is missing: a task needs {', '.join(missing)}")
    if not fields.get("template") and not fields.get("causal_template"):
        raise UserError(f"{path}: a task needs a 'template' or a 'causal_template'")
    tables = {
        name: _table(path, name, fields.pop(name)) for name in ("files", "hub") if name in fields
    }
    values: dict[str, Any] = {"template": ""}
    values |= {name: _value(path, name, value) for name, value in fields.items()}
    if values.get("kind", "words") not in ("words", "labels"):
        raise UserError(
            f"{path}: kind '{values['kind']}' is of data files: give the file as --data and no task"
        )
    if "num_texts" not in values and tables:
        values["num_texts"] = max(len(table.get("texts", (1,))) for table in tables.values())
    if "files" in tables:
        values["files"] = _file_source(path, tables["files"], values.get("num_texts", 1))
    if "hub" in tables:
        values["hub"] = _hub_source(path, tables["hub"])
    try:
        return Task(**values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _check_names(path: Path, table: str, fields: Mapping[str, Any], kind: type) -> None:
    """Refuse a field that `kind` does not have."""
    known = [f.name for f in dataclasses.fields(kind)]
    for name in fields:
        if name not in known:
            close = get_close_matches(str(name), known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
            raise UserError(f"{path}: unknown field '{table}{name}': {hint}")


def _table(path: Path, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{path}: '{name}' must be a table of fields, not {value!r}")
    _check_names(path, f"{name}.", value, {"files": FileSource, "hub": HubSource}[name])
    if "texts" in value:
        value["texts"] = _columns(path, f"{name}.texts", value["texts"])
    return value


def _value(path: Path, name: str, value: Any) -> Any:
    """Check one field of the task and bring it to the type `Task` has."""
    if name in _WORD_LISTS:
        if not isinstance(value, list):
            raise UserError(f"{path}: '{name}' must be a list, not {value!r}")
        return tuple(_word(path, name, item) for item in value)
    if name in _INTEGERS:
        if not isinstance(value, int) or isinstance(value, bool):
            raise UserError(f"{path}: '{name}' must be a whole number, not {value!r}")
        return value
    return _string(path, name, value)


def _word(path: Path, name: str, value: Any) -> str:
    """Return a label or label word as text; numbers are welcome, YAML's bare Yes and No are not."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise UserError(f"{path}: '{name}' holds {value!r}, not text: put the word in quotes")


def _string(path: Path, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{path}: '{name}' must be text in quotes, not {value!r}")
    return value


def _columns(path: Path, name: str, value: Any) -> tuple[Any, ...]:
    """Return one column or a list of columns as a tuple."""
    items = value if isinstance(value, list) else [value]
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int | str):
            raise UserError(f"{path}: '{name}' must be column names or numbers, not {value!r}")
    return tuple(items)


def _file_source(path: Path, table: dict[str, Any], num_texts: int) -> FileSource:
    table.setdefault("texts", tuple(range(1, num_texts + 1)))
    if "label" in table:
        (table["label"],) = _columns(path, "files.label", [table["label"]])
    named = any(isinstance(c, str) for c in (*table["texts"], table.get("label", 0)))
    table.setdefault("header", named)
    for name, value in table.items():
        if name in _SWITCHES and not isinstance(value, bool):
            raise UserError(f"{path}: 'files.{name}' must be true or false, not {value!r}")
        if name not in (*_SWITCHES, "texts", "label"):
            _string(path, f"files.{name}", value)
    try:
        return FileSource(**table)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _hub_source(path: Path, table: dict[str, Any]) -> HubSource:
    for name in ("path", "texts"):
        if name not in table:
            raise UserError(f"{path}: 'hub.{name}' is missing")
    labels = table.pop("labels", {})
    if not isinstance(labels, dict):
        raise UserError(f"{path}: 'hub.labels' must map hub labels to yours, not {labels!r}")
    skip = table.pop("skip", [])
    texts = tuple(_string(path, "hub.texts", item) for item in table.pop("texts"))
    strings = {name: _string(path, f"hub.{name}", value) for name, value in table.items()}
    return HubSource(
        texts=texts,
        labels={str(key): _word(path, "hub.labels", value) for key, value in labels.items()},
        skip=tuple(str(item) for item in (skip if isinstance(skip, list) else [skip])),
        **strings,
    )

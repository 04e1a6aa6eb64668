"""Rows of a CSV or TSV file as texts and a label, with file and line for every complaint."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from subkern.errors import UserError
from subkern.tasks.task import Column, FileSource

__all__ = ["Row", "read_rows"]


class Row(NamedTuple):
    """Texts and label as they stand in the source, and where that is ("file:line")."""

    texts: tuple[str, ...]
    label: str
    where: str


def read_rows(path: Path, source: FileSource) -> list[Row]:
    """Read every row of `path`, in order; texts verbatim, labels without surrounding spaces.

    As LM-BFF reads them: a leading byte-order mark is dropped, a ``.tsv`` knows no quoting, blank
    lines do not count. Words such as ``NA`` or ``null`` are text like any other, and a text may be
    of any length: prompts are cut later.

    Raises:
        UserError: not UTF-8, no rows, a column that is not there, or a row of the wrong length.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file, any_length():
            return list(_rows(file, path, source))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}): convert it first") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


@contextmanager
def any_length() -> Iterator[None]:
    """Inside, a field of a CSV file may be of any length: Python's limit is 131,072 characters."""
    before = csv.field_size_limit(2**31 - 1)  # what a C long holds everywhere
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _rows(file: TextIO, path: Path, source: FileSource) -> Iterator[Row]:
    lines = _numbered(file, path, source.format)
    _, first = next(lines, (0, []))
    if not first:
        raise UserError(f"{path} is empty: it should hold one example per row")
    columns = [_position(c, first, path) for c in (*source.texts, source.label)]
    *texts, label = columns
    if not source.header:
        lines = _numbered_again(file, path, source.format)
    for number, fields in lines:
        _check_length(fields, len(first), columns, source, f"{path}:{number}")
        yield Row(tuple(fields[i] for i in texts), fields[label].strip(), f"{path}:{number}")


def _numbered(file: TextIO, path: Path, format: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number the row begins at, fields) of every row that is not blank."""
    if format == "tsv":
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(file, strict=True)
    begin = 1
    try:
        for fields in reader:
            if fields:
                yield begin, fields
            begin = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}:{begin}: malformed row: {error} (are the quotes closed?)"
        ) from None


def _numbered_again(file: TextIO, path: Path, format: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows from the top: without a header the first row is an example too."""
    file.seek(0)
    return _numbered(file, path, format)


def _position(column: Column, header: list[str], path: Path) -> int:
    """Return the position of a column given by number or by name."""
    if isinstance(column, int):
        if not -len(header) <= column < len(header):
            raise UserError(
                f"{path}:1: malformed row: {len(header)} column(s), but column {column} "
                "(counted from 0) is needed"
            )
        return column
    if column not in header:
        raise UserError(f"{path} has no column '{column}': its header is {', '.join(header)}")
    return header.index(column)


def _check_length(
    fields: list[str], width: int, columns: list[int], source: FileSource, where: str
) -> None:
    """Refuse a row that is not as long as the first, or for a ragged file, too short to read."""
    needed = max(columns) + 1 + (columns[-1] < 0)  # a label counted from the end comes after texts
    if source.ragged and len(fields) >= needed:
        return
    if source.ragged or len(fields) != width:
        expected = f"at least {needed}" if source.ragged else str(width)
        raise UserError(
            f"{where}: malformed row: {len(fields)} column(s) where {expected} are expected"
        )

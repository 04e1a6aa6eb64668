"""Rows of a data file, or of a data set of the hub, as they stand there: column → value."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from subkern.errors import UserError
from subkern.hub import cache_only_if_silent, hub_answers
from subkern.tasks.csv_rows import any_length

__all__ = ["SUFFIXES", "Record", "is_file", "read_records"]

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


class Record(NamedTuple):
    """The values of a row by column, and where it is: "file:line"."""

    values: dict[str, Any]
    where: str


def is_file(data: str | Path) -> bool:
    """Whether `data` names a file of rows, there or not, and no folder or source."""
    path = Path(data)
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def read_records(data: str, split: str = "train") -> list[Record]:
    """Read all rows.

    Args:
        data: a file whose ending says its format, or ``NAME`` or ``NAME:CONFIG`` of a data set on
            the hub.
        split: of a data set on the hub.

    Raises:
        UserError: it is not there, not readable, empty, or a row is malformed.
    """
    found = list(_file(Path(data)) if is_file(data) else _hub(data, split))
    if not found:
        raise UserError(f"{data} is empty: it should hold one example a row")
    return found


def _file(path: Path) -> Iterator[Record]:
    reader = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}
    try:
        yield from reader.get(path.suffix.lower(), _table)(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}): convert it first") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot read {path}: {reason}") from None


def _jsonl(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _record(_parsed(line, f"{path}:{number}"), f"{path}:{number}")


def _json(path: Path) -> Iterator[Record]:
    rows = _parsed(path.read_text(encoding="utf-8-sig"), str(path))
    if not isinstance(rows, list):
        raise UserError(
            f"{path} holds no list: write [{{…}}, {{…}}], or one object a line (.jsonl)"
        )
    for number, row in enumerate(rows, 1):
        yield _record(row, f"{path}, item {number}")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is no JSON ({' '.join(str(error).split())}): mend it") from None


def _record(row: Any, where: str) -> Record:
    if not isinstance(row, dict):
        raise UserError(f"{where}: {str(row)[:40]!r} is no object: give columns and their values")
    return Record(row, where)


def _table(path: Path) -> Iterator[Record]:
    """A CSV file with quotes, or a TSV file, in which they are ordinary characters."""
    tsv = path.suffix.lower() == ".tsv"
    how: dict[str, Any] = (
        {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tsv else {"strict": True}
    )
    with path.open(encoding="utf-8-sig", newline="") as file, any_length():
        reader, begin = csv.reader(file, **how), 1
        header: list[str] = []
        try:
            for fields in reader:
                where, begin = f"{path}:{begin}", reader.line_num + 1
                if not fields:
                    continue
                if not header:
                    header = [name.strip() for name in fields]
                    if twice := [name for name in header if header.count(name) > 1]:
                        raise UserError(f"{where}: two columns are called '{twice[0]}': rename one")
                    continue
                if len(fields) != len(header):
                    raise UserError(
                        f"{where}: malformed row: {len(fields)} column(s) where the header has"
                        f" {len(header)}"
                    )
                yield Record(dict(zip(header, fields, strict=True)), where)
        except csv.Error as error:
            raise UserError(f"{path}:{begin}: malformed row: {error} (quotes closed?)") from None


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow.parquet
    from pyarrow import ArrowException

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except ArrowException as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path} does not read as Parquet ({reason}): get it again") from None
    for number, row in enumerate(rows, 1):
        yield Record(row, f"{path}, row {number}")


def _hub(data: str, split: str) -> Iterator[Record]:
    if Path(data).is_file():
        raise UserError(
            f"{data} does not say by its ending how it is written: unpack it if it is packed, and"
            f" call it one of {', '.join(SUFFIXES)}"
        )
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"data '{data}' is no file, and a data set of the hub needs the package datasets: pip"
            " install 'subkern[hub]'"
        ) from None
    name, _, config = data.partition(":")
    try:
        with cache_only_if_silent():
            rows = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:  # of many kinds, by what stands between
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if not hub_answers():
            reason = "the hub does not answer, and its cache has none"
        raise UserError(f"cannot load split '{split}' of data '{data}': {reason}") from None
    names = {column: kind.names for column, kind in rows.features.items() if hasattr(kind, "names")}
    for number, row in enumerate(rows):
        for column, told in names.items():
            if isinstance(row[column], int) and 0 <= row[column] < len(told):
                row[column] = told[row[column]]
        yield Record(row, f"{data}, row {number}")

"""A table as a value, and what it is written as: Markdown, LaTeX (booktabs), JSON and Parquet.

HTML is the template's business, which takes a `Table` as it is. Rows may stand in blocks (a number
of shots each); their name is then the second column, and where a line holds too little for all
columns they are set group by group.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import pandas as pd

from subkern.errors import UserError
from subkern.storage.files import replacing

T = TypeVar("T")

DASH, EDGE = "–", "†"
"""No number; and the best of a grid at its edge."""
TABLE_FOLDER = "tables"

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "–": "--", "†": r"$\dagger$",
    "−": "$-$", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "<": r"$<$",
    ">": r"$>$", "→": r"$\to$", "\N{NO-BREAK SPACE}": "~", "\N{NARROW NO-BREAK SPACE}": r"\,",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row.

    Attributes:
        title: what it shows.
        note: how to read it, or an empty string.
        header: one name a column.
        rows: cells as text, as long as the header; `DASH` where there is no number.
        marked: indices of rows to set off (the recommended rank).
        best: (row, column) of cells to set off (the best of a column).
        sections: indices of rows that begin a new part (another number of shots).
        name: file name without suffix, and the LaTeX label; needed to write it.
        blocks: whether the second column names the part that a row stands in.
        apart: every part is read by itself: a table of its own where pages are narrow.
        groups: (title, indices of columns) that are set together where a line holds no more: all
            but those that name the row, once each; empty: all in one.
        frame: the same numbers, tidy, for Parquet.
    """

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: Sequence[int] = ()
    best: Collection[tuple[int, int]] = ()
    sections: Collection[int] = ()
    name: str = ""
    blocks: bool = False
    apart: bool = False
    groups: Sequence[tuple[str, Sequence[int]]] = ()
    frame: pd.DataFrame | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"a row of {len(row)} cells under {len(self.header)} headings")
        if self.groups and sorted(i for _, each in self.groups for i in each) != self.columns:
            raise ValueError("the groups are not all columns, once each")

    @property
    def columns(self) -> list[int]:
        """Indices of the columns that do not name the row."""
        return list(range(1 + self.blocks, len(self.header)))

    @property
    def missing(self) -> int:
        """Number of cells without a number."""
        return sum(row[i] == DASH for row in self.rows for i in self.columns)

    @property
    def parts(self) -> list[tuple[str, range]]:
        """The parts that `sections` begin: name (of its block) and rows."""
        starts = [0, *sorted(self.sections), len(self.rows)]
        ranges = [range(*ends) for ends in pairwise(starts)]
        return [(self.rows[rows[0]][1] if self.blocks else "", rows) for rows in ranges if rows]

    def split(self) -> list[Table]:
        """Return the parts as tables, if they are read apart; the first has the note."""
        if not self.apart:
            return [self]
        return [
            replace(
                self,
                title=f"{self.title}: {name}",
                note="" if rows[0] else self.note,
                header=[*self.header[:1], *self.header[2:]],
                rows=[[*self.rows[i][:1], *self.rows[i][2:]] for i in rows],
                best={(i - rows[0], j - 1) for i, j in self.best if i in rows},
                sections=(),
                blocks=False,
                apart=False,
                groups=(),
            )
            for name, rows in self.parts
        ]

    @property
    def _groups(self) -> Sequence[tuple[str, Sequence[int]]]:
        return self.groups or [("", self.columns)]

    def as_markdown(self) -> str:
        """Return the table in GitHub's Markdown: a part for each group of columns."""
        parts = [f"## {self.title}", self.note]
        names = list(range(1 + self.blocks))
        for title, group in self._groups:
            if len(self._groups) > 1:
                parts.append(f"**{title}**")
            lines = [_pick(self.header, [*names, *group]), [":--"] * len(names)]
            lines[1] += ["--:"] * len(group)
            for i, row in enumerate(self.rows):
                cells = [f"**{_bars(row[j])}**" if (i, j) in self.best else _bars(row[j])
                         for j in group]  # fmt: skip
                lines.append([_bars(row[0]), *row[1 : len(names)], *cells])
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        return "\n\n".join(parts) + "\n"

    def as_latex(self) -> str:
        r"""Return a ``table*`` with a booktabs tabular for each group of columns.

        It needs ``\usepackage{booktabs}`` and a Unicode engine or ``inputenc`` of utf8. Parts that
        are read by themselves are a ``table*`` each.
        """
        floats = [[part] for part in self.parts] if self.apart else [self.parts]
        parts = [self._float(each, number) for number, each in enumerate(floats)]
        return "\n".join(["% \\usepackage{booktabs}", *parts]) + "\n"

    def _float(self, parts: Sequence[tuple[str, range]], number: int) -> str:
        """Return one ``table*``; the first has the note in its caption."""
        lines = ["\\begin{table*}[t]", "\\centering", "\\small", "\\setlength{\\tabcolsep}{4pt}"]
        for i, (title, group) in enumerate(self._groups):
            if i:
                lines += ["", "\\medskip", ""]
            lines += self._tabular(parts, title if len(self._groups) > 1 else "", group)
        title = f"{self.title}: {parts[0][0]}" if self.apart else self.title
        note = f" {escape(self.note)}" if number == 0 else ""
        label = f"{self.name}-{number + 1}" if self.apart else self.name
        lines += [
            f"\\caption{{\\textbf{{{escape(title)}.}}{note}}}",
            f"\\label{{tab:{label}}}",
            "\\end{table*}",
        ]
        return "\n".join(lines)

    def _tabular(
        self, parts: Sequence[tuple[str, range]], title: str, group: Sequence[int]
    ) -> list[str]:
        """Return one tabular."""
        width = len(group) + 1
        lines = [f"\\begin{{tabular}}{{l{'r' * len(group)}}}", "\\toprule"]
        if title:
            lines += [
                f" & \\multicolumn{{{len(group)}}}{{c}}{{{escape(title)}}} \\\\",
                f"\\cmidrule(l){{2-{width}}}",
            ]
        lines += [" & ".join(map(escape, _pick(self.header, [0, *group]))) + r" \\"]
        for block, rows in parts:
            lines.append("\\midrule")
            if block and not self.apart:
                name = escape(f"{self.header[1]}: {block}")
                lines.append(f"\\multicolumn{{{width}}}{{l}}{{\\emph{{{name}}}}} \\\\")
            lines += [self._line(i, group) for i in rows]
        return [*lines, "\\bottomrule", "\\end{tabular}"]

    def _line(self, i: int, group: Sequence[int]) -> str:
        """Return one row; what stands in brackets behind a number is set smaller."""
        cells = [escape(self.rows[i][0])]
        for j in group:
            number, bracket, rest = self.rows[i][j].partition(" (")
            text = f"\\textbf{{{escape(number)}}}" if (i, j) in self.best else escape(number)
            cells.append(f"{text} {{\\scriptsize ({escape(rest)}}}" if bracket else text)
        return " & ".join(cells) + r" \\"

    def as_json(self) -> str:
        """Return title, note and rows (heading → text) as JSON."""
        rows = [dict(zip(self.header, row, strict=True)) for row in self.rows]
        found = {"title": self.title, "note": self.note, "rows": rows}
        return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


_TEXTS: Mapping[str, tuple[str, Callable[[Table], str]]] = MappingProxyType(
    {
        "md": ("md", Table.as_markdown),
        "latex": ("tex", Table.as_latex),
        "json": ("json", Table.as_json),
    }
)
"""Format → suffix, and what writes it."""
FORMATS = ("md", "latex", "parquet")
"""Written unless told otherwise."""


def write(tables: Sequence[Table], folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write every table in every format below ``folder``; return the paths.

    Args:
        tables: with a name and a frame.
        folder: it need not exist.
        formats: ``md``, ``latex``, ``parquet``, ``json``.

    Raises:
        UserError: a format that is not known.
    """
    known = dict.fromkeys([*FORMATS, *_TEXTS])
    unknown = [name for name in formats if name not in known]
    if unknown:
        raise UserError(f"unknown table format '{unknown[0]}': use {', '.join(known)}")
    written = []
    for table in tables:
        for name in formats:
            suffix, text = _TEXTS.get(name, (name, None))
            path = folder / f"{table.name}.{suffix}"
            with replacing(path, kept=False) as part:
                if text is not None:
                    part.write_text(text(table), encoding="utf-8")
                elif table.frame is not None:
                    table.frame.to_parquet(part, index=False)
            written.append(path)
    return written


def escape(text: str) -> str:
    """Return text as LaTeX sets it, special characters included."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _bars(text: str) -> str:
    """Escape what would end a cell of Markdown or start emphasis."""
    return re.sub(r"([|*_`<])", r"\\\1", text)


def _pick(items: Sequence[T], columns: Sequence[int]) -> list[T]:
    return [items[i] for i in columns]

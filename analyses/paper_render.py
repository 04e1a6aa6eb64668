"""Tables as Markdown, LaTeX (booktabs), HTML and Parquet."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from analyses.paper_grid import Cell, Grid, Row
from analyses.report import Table
from analyses.results import replacing
from subkern.errors import UserError

__all__ = ["FORMATS", "TABLE_FOLDER", "as_html", "as_latex", "as_markdown", "escape", "write"]

T = TypeVar("T")

TABLE_FOLDER = "tables"
_SUFFIXES = {"md": "md", "latex": "tex", "parquet": "parquet"}
FORMATS = tuple(_SUFFIXES)

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "–": "--", "−": "$-$", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "<": r"$<$",
    ">": r"$>$", "→": r"$\to$", "\N{NO-BREAK SPACE}": "~", "\N{NARROW NO-BREAK SPACE}": r"\,",
}  # fmt: skip


def as_markdown(grid: Grid) -> str:
    """Return the table in GitHub's Markdown: a part for each group of columns."""
    parts = [f"## {grid.title}", grid.note]
    for title, columns in grid.groups:
        if len(grid.groups) > 1:
            parts.append(f"**{title}**")
        names = [grid.corner, *([grid.block] if grid.block else []), *_pick(grid.header, columns)]
        lines = [names, [":--", *([":--"] if grid.block else []), *["--:"] * len(columns)]]
        for row in grid.rows:
            cells = [_bold(cell) for cell in _pick(row.cells, columns)]
            lines.append([_bars(row.label), *([row.block] if grid.block else []), *cells])
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def _bold(cell: Cell) -> str:
    return f"**{_bars(cell.text)}**" if cell.best else _bars(cell.text)


def _bars(text: str) -> str:
    """Escape what would end a cell or start emphasis."""
    return re.sub(r"([|*_`<])", r"\\\1", text)


def escape(text: str) -> str:
    """Return text as LaTeX sets it, special characters included."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def as_latex(grid: Grid) -> str:
    r"""Return a ``table*`` with a booktabs tabular for each group of columns.

    It needs ``\usepackage{booktabs}`` and a Unicode engine or ``inputenc`` of utf8.
    """
    lines = [
        "% \\usepackage{booktabs}",
        "\\begin{table*}[t]",
        "\\centering",
        "\\small",
        "\\setlength{\\tabcolsep}{4pt}",
    ]
    for i, (title, columns) in enumerate(grid.groups):
        if i:
            lines += ["", "\\medskip", ""]
        lines += _tabular(grid, title if len(grid.groups) > 1 else "", columns)
    lines += [
        f"\\caption{{\\textbf{{{escape(grid.title)}.}} {escape(grid.note)}}}",
        f"\\label{{tab:{grid.name}}}",
        "\\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _tabular(grid: Grid, title: str, columns: Sequence[int]) -> list[str]:
    """Return one tabular."""
    width = len(columns) + 1
    names = [grid.corner, *_pick(grid.header, columns)]
    lines = [f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", "\\toprule"]
    if title:
        lines += [
            f" & \\multicolumn{{{len(columns)}}}{{c}}{{{escape(title)}}} \\\\",
            f"\\cmidrule(l){{2-{width}}}",
        ]
    lines += [" & ".join(map(escape, names)) + r" \\"]
    for block, rows in grid.blocks():
        lines.append("\\midrule")
        if block:
            name = escape(f"{grid.block}: {block}")
            lines.append(f"\\multicolumn{{{width}}}{{l}}{{\\emph{{{name}}}}} \\\\")
        lines += [_line(row, columns) for row in rows]
    return [*lines, "\\bottomrule", "\\end{tabular}"]


def _line(row: Row, columns: Sequence[int]) -> str:
    """Return one row; what stands in brackets behind a number is set smaller."""
    cells = []
    for cell in _pick(row.cells, columns):
        number, bracket, rest = cell.text.partition(" (")
        text = f"\\textbf{{{escape(number)}}}" if cell.best else escape(number)
        cells.append(f"{text} {{\\scriptsize ({escape(rest)}}}" if bracket else text)
    return " & ".join([escape(row.label), *cells]) + r" \\"


def as_html(grid: Grid) -> Table:
    """Return the table for the report page: all columns, a column for the block."""
    head = [grid.corner, *([grid.block] if grid.block else []), *grid.header]
    lead = 2 if grid.block else 1
    rows, best = [], set()
    for i, row in enumerate(grid.rows):
        first = [row.label, *([row.block] if grid.block else [])]
        rows.append([*first, *(cell.text for cell in row.cells)])
        best |= {(i, lead + j) for j, cell in enumerate(row.cells) if cell.best}
    return Table(grid.title, grid.note, head, rows, best=frozenset(best))


def write(grids: Sequence[Grid], folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write every table in every format below ``folder``; return the paths.

    Raises:
        UserError: a format that is not known.
    """
    unknown = [name for name in formats if name not in _SUFFIXES]
    if unknown:
        raise UserError(f"unknown table format '{unknown[0]}': use {', '.join(FORMATS)}")
    texts: dict[str, Callable[[Grid], str]] = {"md": as_markdown, "latex": as_latex}
    written = []
    for grid in grids:
        for name in formats:
            path = folder / f"{grid.name}.{_SUFFIXES[name]}"
            with replacing(path) as part:
                if name == "parquet":
                    grid.frame.to_parquet(part, index=False)
                else:
                    part.write_text(texts[name](grid), encoding="utf-8")
            written.append(path)
    return written


def _pick(items: Sequence[T], columns: Sequence[int]) -> list[T]:
    return [items[i] for i in columns]

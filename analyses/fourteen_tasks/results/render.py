"""Tables as Markdown, LaTeX (booktabs), HTML and Parquet."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from subkern.errors import UserError

from ...engine.run_folder import replacing
from ...show.page import Table
from ...show.table import Cell, Grid, Row

T = TypeVar("T")
Block = tuple[str, Sequence[Row]]

TABLE_FOLDER = "tables"
_SUFFIXES = {"md": "md", "latex": "tex", "parquet": "parquet"}
FORMATS = tuple(_SUFFIXES)

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "–": "--", "†": r"$\dagger$",
    "−": "$-$", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "<": r"$<$",
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

    It needs ``\usepackage{booktabs}`` and a Unicode engine or ``inputenc`` of utf8. Blocks that are
    read by themselves are a ``table*`` each.
    """
    blocks = list(grid.blocks())
    floats = [[block] for block in blocks] if grid.apart else [blocks]
    parts = [_float(grid, each, i, apart=grid.apart) for i, each in enumerate(floats)]
    return "\n".join(["% \\usepackage{booktabs}", *parts]) + "\n"


def _float(grid: Grid, blocks: Sequence[Block], number: int, *, apart: bool) -> str:
    """Return one ``table*``; the first has the note in its caption."""
    lines = ["\\begin{table*}[t]", "\\centering", "\\small", "\\setlength{\\tabcolsep}{4pt}"]
    for i, (title, columns) in enumerate(grid.groups):
        if i:
            lines += ["", "\\medskip", ""]
        lines += _tabular(grid, blocks, title if len(grid.groups) > 1 else "", columns)
    title = f"{grid.title}: {blocks[0][0]}" if apart else grid.title
    note = f" {escape(grid.note)}" if number == 0 else ""
    label = f"{grid.name}-{number + 1}" if apart else grid.name
    lines += [
        f"\\caption{{\\textbf{{{escape(title)}.}}{note}}}",
        f"\\label{{tab:{label}}}",
        "\\end{table*}",
    ]
    return "\n".join(lines)


def _tabular(grid: Grid, blocks: Sequence[Block], title: str, columns: Sequence[int]) -> list[str]:
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
    for block, rows in blocks:
        lines.append("\\midrule")
        if block and not grid.apart:
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


def as_html(grid: Grid) -> list[Table]:
    """Return the table for the report page: all columns, and one for the block.

    Blocks that are read by themselves are tables of their own; the first has the note.
    """
    if not grid.apart:
        return [_html(grid, grid.title, grid.note, grid.rows, [grid.block] if grid.block else [])]
    return [
        _html(grid, f"{grid.title}: {name}", "" if i else grid.note, rows, [])
        for i, (name, rows) in enumerate(grid.blocks())
    ]


def _html(grid: Grid, title: str, note: str, rows: Sequence[Row], lead: Sequence[str]) -> Table:
    lines = [[row.label, *[row.block for _ in lead], *(c.text for c in row.cells)] for row in rows]
    start = 1 + len(lead)
    best = {
        (i, start + j)
        for i, row in enumerate(rows)
        for j, cell in enumerate(row.cells)
        if cell.best
    }
    header = [grid.corner, *lead, *grid.header]
    sections = {i for i in range(1, len(rows)) if rows[i].block != rows[i - 1].block}
    return Table(title, note, header, lines, best=frozenset(best), sections=frozenset(sections))


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

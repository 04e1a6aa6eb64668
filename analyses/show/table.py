"""A table of the paper as a value: rows, columns, marks; how it is written is another matter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pandas as pd

from . import numbers as fmt

DASH = "–"
EDGE = "†"


@dataclass(frozen=True)
class Summary:
    """One number of a table.

    Attributes:
        mean: over data seeds.
        sd: sample standard deviation over data seeds (n − 1 in the denominator), NaN for one seed.
        seeds: how many.
    """

    mean: float
    sd: float
    seeds: int

    @property
    def text(self) -> str:
        """Per cent with one decimal, the standard deviation in brackets: ``88.1 (1.2)``."""
        mean = fmt.points(self.mean)
        return mean if math.isnan(self.sd) else f"{mean} ({fmt.points(self.sd)})"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what stands in it; a dash where there is no number.
        best: whether it is the best of its kind in its column.
    """

    text: str
    best: bool = False

    @classmethod
    def of(
        cls, found: Summary | None, *, best: bool = False, seeds: int = 0, edge: bool = False
    ) -> Cell:
        """Return a score's cell.

        A number of seeds below ``seeds`` is written behind it, and `EDGE` where the grid of its
        learning rates was too narrow.
        """
        if found is None:
            return cls(DASH)
        few = f" [{found.seeds}]" if found.seeds < seeds else ""
        return cls(found.text + few + (EDGE if edge else ""), best)

    @property
    def missing(self) -> bool:
        """Whether there is no number."""
        return self.text == DASH


@dataclass(frozen=True)
class Row:
    """One row: its name, the block it stands in (``16``), a cell a column."""

    label: str
    cells: tuple[Cell, ...]
    block: str = ""


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        name: file name without suffix, and the LaTeX label.
        title: what it shows.
        note: how to read it.
        corner: heading of the first column.
        header: heading of every further column.
        rows: as long as ``header`` each.
        groups: columns (by index) that are set together where a line holds no more: (title,
            indices). All columns, once each.
        frame: the same numbers, tidy.
        block: what the blocks are (``Shots``), or empty where there are none.
        apart: every block is read by itself: a table of its own where pages are narrow.
    """

    name: str
    title: str
    note: str
    corner: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    groups: tuple[tuple[str, tuple[int, ...]], ...]
    frame: pd.DataFrame = field(repr=False)
    block: str = ""
    apart: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.header):
                raise ValueError(f"a row of {len(row.cells)} cells under {len(self.header)} names")
        if sorted(i for _, each in self.groups for i in each) != list(range(len(self.header))):
            raise ValueError("the groups are not all columns, once each")

    @property
    def missing(self) -> int:
        """Number of cells without a number."""
        return sum(cell.missing for row in self.rows for cell in row.cells)

    def blocks(self) -> Iterator[tuple[str, Sequence[Row]]]:
        """Yield the rows of every block, with its name, in order."""
        for name in dict.fromkeys(row.block for row in self.rows):
            yield name, [row for row in self.rows if row.block == name]

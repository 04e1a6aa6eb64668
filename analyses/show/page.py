"""One self-contained report page: text, tables and figures in one HTML file, without network.

The page is a plain value, :class:`Page`; an analysis fills it in, :func:`render` makes the HTML.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

__all__ = ["Caption", "Image", "Page", "Table", "png", "render"]

DPI = 200  # twice what a plain screen shows of 4.8 inches
_TEMPLATE = Path(__file__).parents[1] / "templates" / "report.html.j2"


@dataclass(frozen=True)
class Caption:
    """The words around a figure.

    Attributes:
        title: heading above it.
        text: what it shows, with numbers.
        alt: what a reader who does not see it should know.
    """

    title: str
    text: str
    alt: str


@dataclass(frozen=True)
class Image:
    """A figure of the page.

    Attributes:
        name: its file name without the suffix; also its anchor.
        caption: the words around it.
        png: the picture.
    """

    name: str
    caption: Caption
    png: bytes

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Table:
    """A table of the page; the first column names the row.

    Attributes:
        title: heading above it.
        note: what the columns mean, or an empty string.
        header: one name a column.
        rows: cells as text, as long as the header.
        marked: indices of rows to set off (the recommended rank).
        best: (row, column) of cells to set off (the best of a column).
        sections: indices of rows that begin a new part (another number of shots).
    """

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: Sequence[int] = ()
    best: Collection[tuple[int, int]] = ()
    sections: Collection[int] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"a row of {len(row)} cells under {len(self.header)} headings")


@dataclass(frozen=True)
class Page:
    """A report, in the order it is read.

    Attributes:
        title: what was analysed.
        question: what was asked, in one sentence.
        answer: the answer, in one or two sentences with numbers.
        facts: the answer's few numbers to show large: name -> value.
        caveats: what limits the answer; each computed from the numbers.
        reading: how to read what follows, a paragraph each.
        images, tables: the evidence.
        cost: what it took.
        settings: name -> value.
        command: the command that makes this page again.
        environment: name -> value.
    """

    title: str
    question: str
    answer: str
    facts: Mapping[str, str] = field(default_factory=dict)
    caveats: Sequence[str] = ()
    reading: Sequence[str] = ()
    images: Sequence[Image] = ()
    tables: Sequence[Table] = ()
    cost: Sequence[Table] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def png(figure: Figure) -> bytes:
    """Return the figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def render(page: Page) -> str:
    """Return the page as one HTML document: styles and pictures inside, no scripts or links."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = _TEMPLATE.read_text(encoding="utf-8")
    return environment.from_string(source).render(page=page)

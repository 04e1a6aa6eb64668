"""One self-contained report page: text, tables and figures in one HTML file, without network.

A study's ``page.html.j2`` extends ``show/report.html.j2`` and says what was found: it sees the
findings as ``f`` and decides nothing. What every page has (figures, tables, settings, command,
environment, a proof by training) is its :class:`Frame`. The terminal says the same words.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from matplotlib.figure import Figure

from subkern.storage.files import replacing

from ..engine.run_folder import FIGURE_FOLDER, REPORT, Results
from . import numbers as fmt
from .table import Table

DPI = 200  # twice what a plain screen shows of 4.8 inches


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
class Proof:
    """What training made of a study's advice, in words and tables.

    Attributes:
        verdict: to follow the answer.
        facts: name -> value, to show large.
        caveats: what limits the proof.
        reading: how it was made and what it says.
        caption: of its figure, if it has one.
        tables, cost: its tables.
        settings: how it was trained.
    """

    verdict: str
    facts: Mapping[str, str]
    caveats: Sequence[str]
    reading: str
    caption: Caption | None
    tables: Sequence[Table]
    cost: Sequence[Table]
    settings: Mapping[str, str]


@dataclass(frozen=True)
class Frame:
    """What every report has beside its own words.

    Attributes:
        pictures: its figures as PNG, by name.
        tables: the evidence.
        cost: what it took.
        settings: name -> value.
        command: the command that makes the page again.
        environment: name -> value.
        proof: what training made of the advice, if it was asked for.
        notes: what limits the answer beside the study's own caveats.
        files: what other programs take, by their names beside the page.
    """

    pictures: Mapping[str, bytes] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    cost: Sequence[Table] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    proof: Proof | None = None
    notes: Sequence[str] = ()
    files: Sequence[str] = ()

    def source(self, name: str) -> str:
        """Return a figure as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.pictures[name]).decode("ascii")


def png(figure: Figure) -> bytes:
    """Return the figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def draw_all(
    drawings: Mapping[str, Callable[[], Figure]],
    out: Path,
    page: Callable[[Mapping[str, bytes]], str],
) -> Path:
    """Write figures as PNG and PDF and the page made of them below ``out``; return the page's path.

    Args:
        drawings: name -> what draws it.
        out: a run directory.
        page: makes the HTML from the figures as PNG, by name.
    """
    pictures = {}
    for name, drawing in drawings.items():
        figure = drawing()
        pictures[name] = png(figure)
        with replacing(figure_path(out, name, "png")) as part:
            part.write_bytes(pictures[name])
        with replacing(figure_path(out, name, "pdf")) as part:
            figure.savefig(part, metadata={"CreationDate": None})
    report = out / REPORT
    with replacing(report) as part:
        part.write_text(page(pictures), encoding="utf-8")
    return report


def figure_path(out: Path, name: str, kind: str) -> Path:
    """Return where a figure of a run directory lies."""
    return out / FIGURE_FOLDER / f"{name}.{kind}"


def render_page(template: Path, findings: Any, frame: Frame) -> str:
    """Return the page as one HTML document: styles and pictures inside, no scripts or links.

    Args:
        template: a study's template; those of ``analyses/show`` are known to it as ``show/…``.
        findings: what it says, as ``f``.
        frame: the rest.
    """
    return _template(template).render(f=findings, frame=frame)


def words(template: Path, block: str, findings: Any) -> list[str]:
    """Return what a block of a page says as plain text: each list item by itself, or the whole."""
    page = _template(template)
    if block not in page.blocks:
        return []
    context = page.new_context({"f": findings, "frame": Frame()})
    deque(page.root_render_func(context), maxlen=0)  # a page's macros are made as it is rendered
    html = "".join(page.blocks[block](context))
    items = re.findall(r"<li>(.*?)</li>", html, re.DOTALL) if "<li>" in html else [html]
    return [text for item in items if (text := _plain(item))]


def _plain(html: str) -> str:
    """Return HTML as text; spaces that do not break stay so."""
    return re.sub(r"[ \t\n]+", " ", unescape(re.sub(r"<[^>]*>", "", html))).strip()


def settings_of(results: Results, tabled: Collection[str] = ()) -> dict[str, str]:
    """Return the config and what it was resolved to, as text; digests stay in ``config.yaml``.

    Inputs that are ``tabled`` have a table of their own.
    """
    inputs = {name: each for name, each in results.inputs.items() if name not in tabled}
    every = {**flat(results.config), **flat(inputs, "resolved ")}
    return {name: text for name, text in every.items() if not name.endswith("digest")}


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as one level of ``a.b`` -> text; what is not set is left out."""
    found: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= flat(item, f"{prefix}{key}.")
        elif isinstance(item, list | tuple):
            if item:
                found[prefix + key] = ", ".join(map(str, item))
        elif item is not None:
            found[prefix + key] = str(item)
    return found


def _template(path: Path) -> Template:
    return _environment(path.parent).get_template(path.name)


@cache
def _environment(folder: Path) -> Environment:
    made = Environment(
        loader=FileSystemLoader([folder, Path(__file__).resolve().parents[1]]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = (
        *("correlation", "count", "counted", "decimal", "duration", "fixed", "joined", "lower_by"),
        *("number_between", "percent", "points", "points_between", "rate", "share_between", "size"),
    )
    made.filters |= {name: getattr(fmt, name) for name in names}
    made.filters["first_sentence"] = _first_sentence
    made.filters["known"] = lambda value: not math.isnan(value)
    made.globals["moves"] = fmt.moves
    return made


def _first_sentence(text: str) -> str:
    """Return a caption's first sentence as plain text, for who does not see the figure."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", _plain(text), maxsplit=1)[0]

"""``subkern figures``: tables, figures and report of a study, from its saved table alone."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from subkern.kernel_behavior import Thresholds

from ...engine.run_folder import FIGURE_FOLDER
from ...show.page import Frame, draw_all, flat, render_page, settings_of
from ...show.table import FORMATS, TABLE_FOLDER, Table, write
from . import draw_scatter, draw_subspaces, draw_tasks
from .findings import Findings, find
from .read import SavedStudy, load
from .tables import NAMES, cost, failed_cells, missing_cells, tables

TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True)
class Drawable:
    """A figure.

    Attributes:
        name: its file name without suffix.
        needs: the cells it is drawn from, for those who lack them.
        of: returns the finding that it shows; nothing where a study lacks the cells.
        drawn: draws it.
    """

    name: str
    needs: str
    of: Callable[[Findings], Any]
    drawn: Callable[[SavedStudy, Any], Figure]

    def has(self, found: Findings) -> bool:
        """Say if a study has the cells."""
        return bool(self.of(found))

    def draw(self, found: Findings) -> Figure:
        """Draw it."""
        return self.drawn(found.study, self.of(found))


FIGURES = (
    Drawable(
        "kernel-vs-finetuning",
        "kernel-* and finetune-* of the same task, shots and head",
        lambda found: found.panels,
        draw_scatter.scatter,
    ),
    Drawable(
        "signgd-vs-adam",
        "finetune-signgd and finetune-adam of the same task, shots and head",
        lambda found: [[found.signgd]] if found.signgd else [],
        draw_scatter.scatter,
    ),
    Drawable(
        "prompting",
        "a kernel or fine-tuning under both heads, prompt and linear",
        lambda found: found.prompting,
        draw_tasks.prompting,
    ),
    Drawable(
        "linearization",
        "linearized, with zero-shot and the fine-tuning it is of",
        lambda found: found.linearization,
        draw_tasks.linearization,
    ),
    Drawable(
        "fixed-features",
        "features of fine-tuned models",
        lambda found: found.features,
        draw_tasks.fixed_features,
    ),
    Drawable(
        "subspace-kernels",
        "kernel-lora or kernel-random",
        lambda found: found.preservation,
        draw_subspaces.preservation,
    ),
    Drawable(
        "subspace-sizes",
        "kernel-lora of several ranks or kernel-random of several dimensions",
        lambda found: found.curves,
        draw_subspaces.sizes,
    ),
)
"""Every figure, in the order of the story."""


@dataclass(frozen=True)
class Said:
    """What the page says.

    Attributes:
        found: what the study found.
        dashes: in its tables.
        left_out: figures whose cells are missing.
    """

    found: Findings
    dashes: int
    left_out: Sequence[Drawable]


def draw(
    directory: str | Path,
    *,
    out: str | Path | None = None,
    formats: Sequence[str] = FORMATS,
    thresholds: Thresholds | None = None,
) -> Path:
    """Write tables, figures (PNG and PDF) and ``report.html`` of a study; return the report's path.

    Nothing is computed but means: what is drawn is in ``results.parquet``. A figure whose cells are
    missing is left out (an old one of that name removed) and the report says what it needs.

    Args:
        directory: the study's folder.
        out: where to write; None: the study's folder.
        formats: of the tables; see `analyses.show.table.write`.
        thresholds: what counts as kernel behavior.

    Raises:
        UserError: there is no finished study in ``directory``, or an unknown format.
    """
    found = find(load(directory), thresholds)
    made = tables(found.study, found.verdicts, found.thresholds)
    place = Path(directory if out is None else out)
    _write(made, place, formats)
    shown = [each for each in FIGURES if each.has(found)]
    left_out = [each for each in FIGURES if each not in shown]
    for each in left_out:
        for kind in ("png", "pdf"):
            (place / FIGURE_FOLDER / f"{each.name}.{kind}").unlink(missing_ok=True)
    drawings = {each.name: partial(each.draw, found) for each in shown}
    return draw_all(drawings, place, partial(page, found, made, left_out))


def page(
    found: Findings,
    made: Sequence[Table],
    left_out: Sequence[Drawable],
    pictures: Mapping[str, bytes],
) -> str:
    """Return the report as HTML.

    Args:
        found: what the study found.
        made: its tables.
        left_out: the figures that cannot be drawn.
        pictures: the others as PNG, by name.
    """
    study = found.study
    absent = [each for each in (missing_cells(made), failed_cells(study)) if each is not None]
    frame = Frame(
        pictures=pictures,
        tables=[*(part for table in made for part in table.split()), *absent],
        cost=[cost(study)],
        settings=settings_of(study.results),
        command=f"{study.results.command}\nsubkern figures {shlex.quote(str(study.where))}",
        environment=flat(study.results.environment),
    )
    return render_page(TEMPLATE, Said(found, sum(each.missing for each in made), left_out), frame)


def write_tables(
    directory: str | Path, *, out: str | Path | None = None, formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Write the tables of a study alone; return their paths. See `draw`."""
    found = find(load(directory))
    made = tables(found.study, found.verdicts, found.thresholds)
    return _write(made, Path(directory if out is None else out), formats)


def _write(made: Sequence[Table], place: Path, formats: Sequence[str]) -> list[Path]:
    """Write tables, and remove old ones that the study has no numbers for any more."""
    written = write(made, place / TABLE_FOLDER, formats)
    for name in set(NAMES) - {table.name for table in made}:
        for path in (place / TABLE_FOLDER).glob(f"{name}.*"):
            path.unlink()
    return written

"""``subkern figures``: the paper's tables, figures and report, from a study's saved table alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from ...engine.run_folder import FIGURE_FOLDER
from ...show.page import draw_all, render
from ...show.table import Grid
from .figures import drawables
from .page import page
from .read import Study, load
from .render import FORMATS, TABLE_FOLDER, write
from .tables import NAMES, score_tables
from .verdict import Thresholds, behaviour_table


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
        formats: of the tables: ``md``, ``latex``, ``parquet``.
        thresholds: what counts as kernel behaviour.

    Raises:
        UserError: there is no finished study in ``directory``, or an unknown format.
    """
    study, limits = load(directory), thresholds or Thresholds()
    place = Path(directory if out is None else out)
    grids = tables(study, limits)
    _write(grids, place, formats)
    every = drawables(limits)
    shown = [each for each in every if each.has(study)]
    left_out = [each for each in every if each not in shown]
    for each in left_out:
        for kind in ("png", "pdf"):
            (place / FIGURE_FOLDER / f"{each.name}.{kind}").unlink(missing_ok=True)

    def report(pictures: Mapping[str, bytes]) -> str:
        return render(page(study, grids, shown, left_out, pictures, limits))

    return draw_all({each.name: partial(each.draw, study) for each in shown}, place, report)


def write_tables(
    directory: str | Path, *, out: str | Path | None = None, formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Write the tables of a study alone; return their paths. See `draw`."""
    place = Path(directory if out is None else out)
    return _write(tables(load(directory)), place, formats)


def _write(grids: Sequence[Grid], place: Path, formats: Sequence[str]) -> list[Path]:
    """Write tables, and remove old ones that the study has no numbers for any more."""
    written = write(grids, place / TABLE_FOLDER, formats)
    for name in set(NAMES) - {grid.name for grid in grids}:
        for path in (place / TABLE_FOLDER).glob(f"{name}.*"):
            path.unlink()
    return written


def tables(study: Study, thresholds: Thresholds | None = None) -> list[Grid]:
    """Return the tables of a study: scores, then the verdict per task."""
    verdict = behaviour_table(study, thresholds)
    return [*score_tables(study), *([verdict] if verdict is not None else [])]

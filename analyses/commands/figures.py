"""``subkern figures``: tables, figures and report of a finished study."""

from __future__ import annotations

from pathlib import Path

import click

from subkern.errors import UserError

from .options import PATH, Command


@click.command(cls=Command)
@click.argument("results", metavar="RESULTS_DIR...", type=PATH, nargs=-1, required=True)
@click.option("--out", type=PATH, help="Where to write.  [default: RESULTS_DIR, if one]")
@click.option("--tables-only", is_flag=True, help="Write the tables, no figures and no report.")
@click.option(
    "--formats",
    default="md,latex,parquet",
    show_default=True,
    help="Formats of the tables, with commas.",
)
@click.option("--across-versions", is_flag=True, help="Join parts that other code computed.")
def figures(
    results: tuple[Path, ...],
    out: Path | None,
    tables_only: bool,
    formats: str,
    across_versions: bool,
) -> None:
    """Draw the tables and figures of a study from its saved results.

    RESULTS_DIR is the --out folder of 'analyze fourteen-tasks'. Nothing is computed again; what the
    study has no numbers for is left out, and the report says what is missing.

    Several are parts of one study, run apart (other tasks, another day or machine): --out becomes
    the folder of the whole. They must have the same model and settings, and the same numbers where
    they have the same cells. Parts of another version of subkern or its libraries
    are refused unless --across-versions says that this is meant.
    """
    from subkern.storage.lock import only_run

    from ..fourteen_tasks.results.combine import combine
    from ..fourteen_tasks.results.page import draw, write_tables
    from ..show.table import TABLE_FOLDER

    wanted = [name.strip() for name in formats.split(",") if name.strip()]
    study = results[0]
    if len(results) > 1:
        if out is None:
            raise UserError(f"{len(results)} studies are drawn as one: say where with --out FOLDER")
        study = combine(results, out, across_versions=across_versions)
    place = study if out is None else out
    with only_run(place):
        if tables_only:
            written = write_tables(study, out=out, formats=wanted)
            click.echo(f"wrote {len(written)} tables below {place / TABLE_FOLDER}")
        else:
            click.echo(f"wrote {draw(study, out=out, formats=wanted)}")

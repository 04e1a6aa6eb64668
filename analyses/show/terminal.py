"""What the command line shows: progress bars and tables."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence

import click
import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from subkern.storage import progress
from subkern.tasks.own_file import described
from subkern.tasks.task import Task

from . import page

WIDTH = 80


def say_rows(task: Task) -> None:
    """Say on stderr what the rows of a task's own file are taken for."""
    if task.rows is not None:
        click.echo(described(task), err=True)


class ProgressBar:
    """``with ProgressBar("entries") as report``: a bar with rate and time left on stderr.

    Silent where stderr is no terminal.
    """

    def __init__(self, what: str) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self.report = self._row(what)

    def __enter__(self) -> progress.Progress:
        if not self.bar.disable:
            self.bar.start()
        return self.report

    def then(self, what: str) -> progress.Progress:
        """Return what moves a second bar, for what comes after; it shows once it is called."""
        return self._row(what, visible=False)

    def _row(self, what: str, visible: bool = True) -> progress.Progress:
        task = self.bar.add_task(what, total=None, rate="", visible=visible)

        def report(done: int, total: int) -> None:
            speed = self.bar.tasks[task].speed
            rate = f"{speed:.0f}/s" if speed else ""
            self.bar.update(task, completed=done, total=total, rate=rate, visible=True)

        return report

    def __exit__(self, *_: object) -> None:
        if not self.bar.disable:  # rich before 14.3 writes an empty line
            self.bar.stop()


def rich_table(table: page.Table) -> Table:
    """Return a page's table for a terminal, its marked rows bold."""
    made = Table(
        title=table.title, title_justify="left", caption=table.note or None, caption_justify="left"
    )
    for name in table.header:
        made.add_column(name, justify="right" if made.columns else "left", overflow="fold")
    for at, cells in enumerate(table.rows):
        made.add_row(
            *cells,
            style="bold" if at in table.marked else None,
            end_section=at + 1 in table.sections,
        )
    return made


def notes(answer: str, reasons: Sequence[str], caveats: Sequence[str]) -> list[Text]:
    """Return an answer, what it rests on and its limits for a terminal."""
    return [
        Text(answer, style="bold"),
        *(Text(f"- {text}") for text in reasons),
        *(Text(f"Note: {text}") for text in caveats),
    ]


def wrapped(text: str) -> str:
    """Text in lines of 80 columns at most, if no word is longer."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def show(table: pd.DataFrame, as_json: bool, *, listed: bool = True) -> None:
    """Print a table, 80 columns wide at most, or as JSON records (NaN as null).

    Args:
        table: its first column names the rows.
        as_json: print JSON.
        listed: show a single row as a list, which reads better where a table has no more.
    """
    if as_json:
        click.echo(json.dumps(json.loads(table.to_json(orient="records")), indent=2))
        return
    if len(table) == 1 and listed:
        table = pd.DataFrame(
            {"": list(table.columns), "value": [_text(v) for v in table.iloc[0].tolist()]}
        )
    rich = Table()
    for name in table.columns:
        rich.add_column(str(name), overflow="fold")
    for row in table.itertuples(index=False):
        rich.add_row(*(_text(v) for v in row))
    console = Console(width=min(WIDTH, Console().width), highlight=False)
    wanted = Measurement.get(console, console.options.update_width(10 * WIDTH), rich).maximum
    if wanted > console.width:
        rich.box, rich.show_edge, rich.pad_edge = box.SIMPLE_HEAD, False, False
        rich.padding = (0, 1, 0, 0)  # rather no lines than broken names
    console.print(rich)


def _text(value: object) -> str:
    if value is None or value is pd.NA or value != value:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

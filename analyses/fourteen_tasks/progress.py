"""What ``subkern analyze fourteen-tasks`` shows: the plan, how far it is, what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
import pandas as pd
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..scheduler.cell import Plan, State
from ..scheduler.status import Timing, counts, duration, status_table, time_left
from ..scheduler.work import Ended
from ..show.terminal import WIDTH, show
from .estimate import costs, pass_seconds
from .results.methods import head_name
from .study import Done, StudyFolder
from .study import Progress as Seen

_ENDED = ("done", "failed", "blocked")


@contextmanager
def watching(study: StudyFolder, workers: int) -> Iterator[Seen]:
    """Show cells as they end, with the time left, on stderr; only a terminal gets a bar."""
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("cells"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    timing: list[Timing] = []
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("cells", total=None, left="")

        def seen(plan: Plan, states: Mapping[str, State], end: Ended | None) -> None:
            if not timing:
                timing.append(Timing(plan, study.store, costs(study.config)))
            if end is not None:
                stored = study.store.stored(end.key)
                if stored is not None:
                    timing[0].learn(plan[end.key], stored.seconds)
                line = _line(end, None if stored is None else stored.seconds)
                console.print(line, markup=False, soft_wrap=True)
            done = sum(state in _ENDED for state in states.values())
            left = _left(plan, states, timing[0], workers)
            bar.update(task, completed=done, total=len(plan), left=left)

        yield seen


def _line(end: Ended, seconds: float | None) -> str:
    """Return one line about a cell that ended."""
    if end.state == "done":
        return f"done   {end.key}" + ("" if seconds is None else f"  {duration(seconds)}")
    return f"{end.state:<6} {end.key}: {end.reason}"


def _left(plan: Plan, states: Mapping[str, State], timing: Timing, workers: int) -> str:
    """Return the time left in words."""
    seconds, unknown = time_left(plan, states, timing, workers)
    if not any(state in ("missing", "running") for state in states.values()):
        return "nothing left"
    found = f"about {duration(seconds)} left" if seconds else "time left unknown"
    return f"{found}, and {unknown} cells of unknown time" if unknown and seconds else found


def show_status(
    study: StudyFolder, filters: Sequence[Mapping[str, str]], workers: int, as_json: bool
) -> None:
    """Print counts of cells per task and method, failures and the time left."""
    plan, chosen = study.plan, study.plan.choose(filters)
    states = {key: s for key, s in study.store.states(plan).items() if key in chosen}
    timing = Timing(plan, study.store, costs(study.config))
    seconds, unknown = time_left(plan, states, timing, workers)
    failed = {
        key: failure
        for key in plan.sorted(chosen)
        if states[key] == "failed" and (failure := study.store.failure(key)) is not None
    }
    others = [key for key in plan.sorted(study.store.others(plan)) if key in chosen]
    if as_json:
        rows = [{"cell": key, "state": state} for key, state in states.items()]
        left = {"seconds_left": seconds, "of_unknown_time": unknown}
        reasons = {key: failure.reason for key, failure in failed.items()}
        answer = {"cells": rows, **left, "failed": reasons, "other_version": others}
        click.echo(json.dumps(answer, indent=2))
        return
    table = status_table(plan, states, chosen)
    console = Console(highlight=False)
    if not console.is_terminal:  # a file is as wide as need be
        console.width = Measurement.get(
            console, console.options.update(width=10_000), table
        ).maximum
    console.print(table)
    click.echo(f"{counts(states.values())}; {_left(plan, states, timing, workers)}")
    for key, failure in failed.items():
        click.echo(f"failed {key}: {failure.reason} ({failure.traceback})")
    if others:
        click.echo(f"{len(others)} cells are of other settings or another version, as {others[0]}")


def show_plan(
    study: StudyFolder, filters: Sequence[Mapping[str, str]], workers: int, as_json: bool
) -> None:
    """Print the cells by method and step, and the time they may take."""
    plan, chosen = study.plan, study.plan.choose(filters)
    states = study.store.states(plan)
    unit = pass_seconds(study.config, next(iter(plan)))
    timing = Timing(plan, study.store, costs(study.config), unit)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in plan:
        if cell.key not in chosen:
            continue
        step = cell.step.partition(" ")[0]
        row = rows.setdefault(
            (cell.method, step),
            {"method": cell.method, "step": step, "cells": 0, "left": 0, "seconds": 0.0},
        )
        left = states[cell.key] != "done"
        row["cells"] += 1
        row["left"] += left
        row["seconds"] += (timing.of(cell) or 0.0) if left else 0.0
    table = pd.DataFrame(list(rows.values()))
    if as_json:
        show(table, as_json=True)
        return
    total = float(table["seconds"].sum()) / workers
    table["time"] = [duration(seconds) for seconds in table["seconds"]]
    show(table.drop(columns="seconds"), as_json=False)
    click.echo(
        f"{int(table['cells'].sum())} cells, {int(table['left'].sum())} of them to compute:"
        f" about {duration(total)} with {workers} worker{'s' if workers > 1 else ''}"
    )


def results(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return test scores in percent, methods by tasks, for every head and number of shots.

    Means over data seeds of the solver that is best on dev. For a glance; `subkern figures` has the
    tables.
    """
    rows = table[table["metric"].isin(("accuracy", "f1"))]
    keys = ["task", "k", "data_seed", "head", "method", "subspace"]
    wide = rows.pivot_table(
        index=[*keys, "solver"], columns="split", values="value", dropna=False, observed=True
    ).dropna(how="all")
    if "dev" not in wide or "test" not in wide or wide.empty:
        return {}
    wide = wide.reset_index().sort_values("dev", ascending=False, kind="stable")
    best = wide.drop_duplicates(keys)
    several = best.groupby("method", observed=True)["subspace"].nunique()
    order = list(dict.fromkeys(rows["method"]))
    place, names = {}, []
    for method, subspace in zip(best["method"], best["subspace"], strict=True):
        names.append(f"{method} {subspace}" if several[method] > 1 else method)
        place[names[-1]] = (order.index(method), names[-1])
    best = best.assign(method=names)
    found = {}
    for (head, k), part in best.groupby(["head", "k"], observed=True, sort=False):
        scores = part.pivot_table(index="method", columns="task", values="test", observed=True)
        by = sorted(scores.index, key=lambda name: place[name])
        title = f"Test scores in percent, {head_name(head)}, {k} shots"
        found[title] = (100 * scores).reindex(by).round(1).reset_index()
    return found


def abreast(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Return a table in parts that fit a terminal beside each other: the first column in each."""
    if table.empty:
        return []
    first, *rest = table.columns

    def wide(name: str) -> int:
        texts = [str(name), *table[name].map("{:.4g}".format if name != first else str)]
        return max(map(len, texts)) + 3  # a line and two blanks

    parts: list[list[str]] = [[]]
    for name in rest:
        used = 1 + wide(first) + sum(map(wide, parts[-1]))
        if parts[-1] and used + wide(name) > WIDTH:
            parts.append([])
        parts[-1].append(name)
    return [table[[first, *part]] for part in parts]


def show_end(study: StudyFolder, done: Done, as_json: bool) -> None:
    """Print what came of a run: test scores, failures, where everything lies."""
    if as_json:
        answer = {
            "out": str(study.out),
            "computed": done.ran.computed,
            "failed": done.ran.failed,
            "states": done.ran.states,
            "report": None if done.report is None else str(done.report),
        }
        click.echo(json.dumps(answer, indent=2))
        return
    for title, scores in results(done.table).items():
        click.echo(title)
        for part in abreast(scores):
            show(part, as_json=False)
    click.echo(counts(done.ran.states.values()))
    if not done.ran.computed and not done.ran.failed:
        click.echo("up to date: nothing was computed")
    click.echo(f"results: {study.out / 'results.parquet'}")
    if done.report is not None:
        click.echo(f"report: {done.report}")
    if done.ran.failed:
        key, reason = next(iter(done.ran.failed.items()))
        where = study.out / "failed" / key / "traceback.txt"
        click.echo(
            f"subkern: {len(done.ran.failed)} cells failed, as {key}: {reason} ({where});"
            " --retry-failed tries them again",
            err=True,
        )

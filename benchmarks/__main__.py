"""``python -m benchmarks``: time everything, print a table a case, write ``benchmark.json``."""

from __future__ import annotations

import gc
import os
import sys
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.schedule import CASES, MINUTES, Step, schedule, seconds_for

if TYPE_CHECKING:
    from benchmarks.cases import Plan
    from benchmarks.contenders import Say

# Nothing here is on the network; progress lines, not progress bars.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/bench"),
    show_default=True,
    help="Folder for benchmark.json and benchmark.txt.",
)
@click.option(
    "--model",
    "which",
    type=click.Choice(list(MINUTES)),
    multiple=True,
    help="Only this model; may be repeated.  [default: both]",
)
@click.option(
    "--case",
    "cases",
    type=click.Choice(CASES),
    multiple=True,
    help="Only this comparison; may be repeated.  [default: all but asymmetric-sign]",
)
@click.option(
    "--left", type=click.IntRange(min=4), default=32, show_default=True, help="Rows of the kernel."
)
@click.option(
    "--right",
    type=click.IntRange(min=4),
    default=200,
    show_default=True,
    help="Columns of the kernel.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Most turns of every contender; the median counts.",
)
@click.option(
    "--memory", default="3GiB", show_default=True, help="subkern's budget beyond the loaded model."
)
@click.option(
    "--minutes",
    type=float,
    default=15.0,
    show_default=True,
    help="Begin no further turn that would end later than this; the first round is always whole.",
)
@click.option("--quick", is_flag=True, help="Tiny random models: does it run? Times mean nothing.")
def main(
    out: Path, which: tuple[str, ...], cases: tuple[str, ...], left: int, right: int,
    rounds: int, memory: str, minutes: float, quick: bool,
) -> None:  # fmt: skip
    """Time subkern, the paper's algorithm and explicit Jacobian rows, taking turns."""
    import transformers

    from benchmarks.cases import QUICK, Plan
    from benchmarks.report import SCHEMA, report, write_json
    from subkern.errors import UserError
    from subkern.storage.provenance import environment

    started = time.monotonic()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    plan = replace(QUICK, memory=memory) if quick else Plan(rounds=rounds, memory=memory)
    if quick:
        left, right = min(left, 6), min(right, 12)
        gc.freeze()  # else looking through all that was imported takes most of the time
    steps = schedule(which, cases)

    def say(line: str) -> None:
        click.echo(f"[{time.monotonic() - started:5.0f} s] {line}", err=True)

    records: list[dict[str, Any]] = []
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "quick": quick,
        "settings": {"left": left, "right": right, "minutes": minutes} | asdict(plan),
        "environment": environment(),
        "cases": records,
    }
    text = ""
    for i, step in enumerate(steps):
        left_over = 60 * minutes - (time.monotonic() - started)
        deadline = time.monotonic() + seconds_for(steps[i:], left_over)
        try:
            found = measure(step, (left, right), plan, quick, say, deadline)
        except UserError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(2)
        records += found
        text += "".join(map(report, found))
        results["seconds"] = time.monotonic() - started
        write_json(out / "benchmark.json", results)
    (out / "benchmark.txt").write_text(text, encoding="utf-8")
    click.echo(text + f"written to {out / 'benchmark.json'} in {results['seconds']:.0f} s")


def measure(
    step: Step, sizes: tuple[int, int], plan: Plan, quick: bool, say: Say, deadline: float
) -> list[dict[str, Any]]:
    """The records of one step."""
    from benchmarks.cases import Cases
    from benchmarks.models import PROBLEMS, QUICK_PROBLEMS
    from benchmarks.projection_case import project
    from benchmarks.race import race

    problem = (QUICK_PROBLEMS if quick else PROBLEMS)[step.model](*sizes)
    if step.cases == ("projection",):
        return [project(problem, plan, say, deadline)]
    cases = Cases(problem, plan)
    return race(problem, [cases.named(name) for name in step.cases], plan, say, deadline)


if __name__ == "__main__":
    main()

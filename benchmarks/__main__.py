"""``python -m benchmarks``: time everything, print a table a case, write ``benchmark.json``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import click

# Nothing here is on the network; progress lines, not progress bars.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

SHARES = {"minilm": 3.0, "smollm2": 10.0}
"""Of the time there is, how much each model gets; what one leaves goes to the next."""


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
    type=click.Choice(["minilm", "smollm2"]),
    multiple=True,
    help="Only this model; may be repeated.  [default: both]",
)
@click.option(
    "--case",
    "cases",
    type=click.Choice(["kernel"]),
    multiple=True,
    help="Only this comparison; may be repeated.  [default: all]",
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

    from benchmarks.cases import CASES, Plan
    from benchmarks.models import PROBLEMS, QUICK_PROBLEMS
    from benchmarks.race import race
    from benchmarks.report import SCHEMA, notes, table, write_json
    from subkern.errors import UserError
    from subkern.provenance import environment

    started = time.monotonic()
    transformers.logging.disable_progress_bar()
    plan = Plan(rounds=rounds, memory=memory)
    if quick:
        left, right = min(left, 6), min(right, 12)
        plan = Plan(
            rounds=1, oracle=(3, 4), few=(2, 3), blocks=2, left_sizes=(1, 2),
            right_sizes=(1, 4), memory=memory,
        )  # fmt: skip
    names = which or tuple(PROBLEMS)

    def say(line: str) -> None:
        click.echo(f"[{time.monotonic() - started:5.0f} s] {line}", err=True)

    records: list[dict[str, Any]] = []
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "quick": quick,
        "settings": {"left": left, "right": right, "rounds": plan.rounds, "memory": memory},
        "environment": environment(),
        "cases": records,
    }
    text = ""
    for i, name in enumerate(names):
        shares = [SHARES[n] for n in names[i:]]
        end = 60 * minutes - (time.monotonic() - started)  # what is left is shared by what is left
        deadline = time.monotonic() + end * shares[0] / sum(shares)
        try:
            problem = (QUICK_PROBLEMS if quick else PROBLEMS)[name](left, right)
            chosen = [CASES[case](problem, plan) for case in cases or CASES]
            found = race(problem, chosen, plan, say, deadline)
        except UserError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(2)
        records += found
        text += "".join(table(record) + notes(record) + "\n" for record in found)
        results["seconds"] = time.monotonic() - started
        write_json(out / "benchmark.json", results)
    (out / "benchmark.txt").write_text(text, encoding="utf-8")
    click.echo(text + f"written to {out / 'benchmark.json'} in {results['seconds']:.0f} s")


if __name__ == "__main__":
    main()

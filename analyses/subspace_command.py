"""The command ``subkern analyze subspace``."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from analyses.options import (
    AS_JSON,
    DATA,
    HEAD,
    OVERWRITE,
    PATH,
    READING,
    RUNNING,
    Numbers,
)
from analyses.study_options import NumbersOrNone, Words, settings_of

__all__ = ["analyze_subspace"]


@click.command("subspace")
@click.option("--config", type=PATH, help="YAML of settings; options given here win.")
@click.option("--model", help="Hub id, local directory, demo:smollm2 or demo:minilm.")
@click.option("--task", help="Task name, or path of a task file.")
@DATA
@click.option(
    "--seed",
    "data_seeds",
    type=Numbers(),
    default="13",
    show_default=True,
    help="Seed(s) of the k-shot splits, with commas.",
)
@click.option(
    "--dims",
    type=Numbers(),
    help="Dimensions of the random subspaces.  [default: 2,4,8,...,4096]",
)
@click.option(
    "--kinds",
    type=Words(),
    help="Kinds of projection; the first gives the answer.  [default: srht,"
    " count_sketch,very_sparse,gaussian,rademacher,sparse]",
)
@click.option(
    "--max-dense",
    default=64,
    show_default=True,
    help="Most dimensions of the last three, which cost much more.",
)
@click.option("--projection-seeds", default=5, show_default=True, help="How many draws of each.")
@click.option("--allocation", default="global", show_default=True, help="global | per-parameter.")
@click.option(
    "--ranks",
    type=NumbersOrNone(),
    default="1,2,4,8,16,32",
    show_default=True,
    help="LoRA ranks, or none.",
)
@click.option("--adapter-seeds", default=3, show_default=True, help="How many seeds of LoRA's A.")
@click.option(
    "--targets",
    default="all-linear",
    show_default=True,
    help="What LoRA adapts: all-linear, names with commas, or a regular expression.",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="Another method on one line (bias, ia3, vera:r=64), or none; may be repeated."
    "  [default: those of bias, norm, ia3 that the model can take]",
)
@click.option(
    "--rule", default="sgd", show_default=True, help="sgd | signgd | adam | asymmetric_..."
)
@click.option("--solvers", type=Words(), help="Classifiers; the first judges.")
@click.option("--tuning", default="full", show_default=True, help="full | each kernel by itself.")
@click.option("--logits", default="auto", show_default=True, help="all | binary | auto.")
@HEAD
@click.option("--template", help="Prompt in LM-BFF's notation instead of the task's.")
@click.option("--label-words", type=Words(), help="Label words instead of the task's, with commas.")
@READING
@RUNNING
@click.option("--train-limit", type=int)
@click.option("--dev-limit", type=int)
@click.option("--test-limit", type=int, help="At most so many examples of a split.")
@click.option("--share", default=0.9, show_default=True, help="Of full's score, to be reached.")
@click.option("--min-cka", default=0.9, show_default=True, help="At which a kernel is preserved.")
@click.option(
    "--min-agreement", default=0.95, show_default=True, help="Share of equal predictions, likewise."
)
@click.option("--out", type=PATH, required=True, help="Run directory.")
@OVERWRITE
@AS_JSON
def analyze_subspace(
    config: Path | None, out: Path, overwrite: bool, as_json: bool, **asked: Any
) -> None:
    """How many dimensions does the task need, and which method preserves most per parameter?

    Writes tables, figures and report.html to the run directory. The same command again continues
    an interrupted run, or says "up to date".
    """
    from rich.console import Console

    from analyses import subspace
    from analyses.subspace_json import as_json as answer
    from analyses.terminal import WIDTH, ProgressBar
    from subkern.subspace_text import parse_targets

    asked["targets"] = parse_targets(asked["targets"])
    asked["methods"] = () if asked["methods"] == ("none",) else asked["methods"] or None
    settings = settings_of(subspace.Config, config, asked)
    command = shlex.join(["subkern", *sys.argv[1:]])
    with ProgressBar("kernel entries") as report:
        found = subspace.analyze(
            settings, out, overwrite=overwrite, progress=report, command=command
        )
    if as_json:
        click.echo(json.dumps({**answer(found.results), "report": str(found.report)}, indent=2))
        return
    console = Console(width=min(WIDTH, Console().width), highlight=False)
    console.print(subspace.summary(found.results))
    if found.up_to_date:
        click.echo("up to date: nothing was computed")
    click.echo(f"report: {found.report}")

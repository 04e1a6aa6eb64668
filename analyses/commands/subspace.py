"""The command ``subkern analyze subspace``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .options import AS_JSON, Numbers
from .study_options import (
    ADAPTER_SEEDS,
    ASKED,
    COMPUTING,
    RUN_DIRECTORY,
    VERIFYING,
    NumbersOrNone,
    Words,
    print_outcome,
    run_study,
    settings_of,
    split_trial,
)

__all__ = ["analyze_subspace"]


@click.command("subspace")
@ASKED
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
@ADAPTER_SEEDS
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
@COMPUTING
@click.option("--share", default=0.9, show_default=True, help="Of full's score, to be reached.")
@click.option("--min-cka", default=0.9, show_default=True, help="At which a kernel is preserved.")
@click.option(
    "--min-agreement", default=0.95, show_default=True, help="Share of equal predictions, likewise."
)
@VERIFYING
@RUN_DIRECTORY
@AS_JSON
def analyze_subspace(
    config: Path | None, out: Path, overwrite: bool, as_json: bool, **asked: Any
) -> None:
    """How many dimensions does the task need, and which method preserves most per parameter?

    Writes tables, figures and report.html to the run directory. The same command again continues
    an interrupted run, or says "up to date". --verify fine-tunes what was judged and says how good
    the advice was; added to a finished run it computes only the training.
    """
    from subkern.subspaces.text import parse_targets

    from ..subspace import analysis as subspace
    from ..subspace.json_answer import as_json as answer

    asked["targets"] = parse_targets(asked["targets"])
    asked["methods"] = () if asked["methods"] == ("none",) else asked["methods"] or None
    trial = split_trial(asked)
    settings = settings_of(subspace.Config, config, asked)
    found = run_study(subspace, settings, out, overwrite=overwrite, trial=trial)
    if as_json:
        click.echo(json.dumps({**answer(found.results), "report": str(found.report)}, indent=2))
    else:
        print_outcome(subspace, found)

"""The command ``subkern analyze prompting``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from subkern.errors import UserError

from .options import AS_JSON, PATH, READING, RUNNING, Numbers
from .study_options import (
    ASKED,
    RUN_DIRECTORY,
    Words,
    print_outcome,
    run_study,
    settings_of,
)

__all__ = ["analyze_prompting"]


@click.command("prompting")
@ASKED
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    help="A prompt that comes with the task, by name, or none; may be repeated."
    "  [default: all that fit the model]",
)
@click.option("--prompt-file", type=PATH, help="TOML or YAML file with prompts of your own.")
@click.option("--template", help="One more prompt, in LM-BFF's notation.")
@click.option("--label-words", type=Words(), help="Its label words, with commas.")
@click.option("--linear/--no-linear", default=True, help="Also a linear head.  [default: yes]")
@click.option("--random/--no-random", default=True, help="Also random weights.  [default: yes]")
@click.option("--pooling", default="read", show_default=True, help="Linear head: read | mean.")
@click.option(
    "--head-init",
    type=click.Choice(["random", "probe"]),
    help="The linear head's start; probe: logistic regression on the training examples."
    "  [default: probe]",
)
@click.option(
    "--rule", default="sgd", show_default=True, help="sgd | signgd | adam | asymmetric_..."
)
@click.option("--subspace", default="full", show_default=True, help="What is trained.")
@click.option("--solvers", type=Words(), help="Classifiers; the first judges.  [default: logistic]")
@click.option("--logits", default="auto", show_default=True, help="all | binary | auto.")
@READING
@RUNNING
@click.option("--train-limit", type=int)
@click.option("--dev-limit", type=int)
@click.option("--test-limit", type=int, help="At most so many examples of a split.")
@click.option(
    "--finetune/--no-finetune",
    default=True,
    help="Fine-tune, and see if the kernel was right.  [default: yes]",
)
@click.option("--optimizer", default="adam", show_default=True, help="adam | sgd | signgd.")
@click.option("--loss", default="cross_entropy", show_default=True, help="cross_entropy | squared.")
@click.option(
    "--learning-rates", type=Numbers(float), default="1e-5,5e-5,2e-4", show_default=True,
    help="Dev chooses.",
)  # fmt: skip
@click.option(
    "--batch-sizes", type=Numbers(), default="8", show_default=True, help="In training; likewise."
)
@click.option("--steps", default=200, show_default=True, help="Of each training.")
@click.option("--eval-every", default=20, show_default=True, help="Steps between looks at dev.")
@RUN_DIRECTORY
@AS_JSON
def analyze_prompting(
    config: Path | None, out: Path, overwrite: bool, as_json: bool, **asked: Any
) -> None:
    """Which prompt fine-tunes best, and does the kernel tell before training?

    Writes tables, figures and report.html to the run directory. The same command again continues
    an interrupted run, or says "up to date".
    """
    from ..prompting import analysis as prompting
    from ..prompting.json_answer import as_json as answer

    asked["prompts"] = _names(asked["prompts"])
    settings = settings_of(prompting.Config, config, asked)
    found = run_study(prompting, settings, out, overwrite=overwrite, what="prompts")
    if as_json:
        click.echo(json.dumps({**answer(found.results), "report": str(found.report)}, indent=2))
    else:
        print_outcome(prompting, found)


def _names(given: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the prompts named: None for all, empty for none.

    Raises:
        UserError: ``none`` beside a name.
    """
    if "none" in given and len(given) > 1:
        raise UserError(f"--prompt none and {given[0]}: give none alone, or names")
    return () if given == ("none",) else given or None

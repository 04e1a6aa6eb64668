"""The command ``subkern analyze lora``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from analyses.options import (
    DATA,
    HEAD,
    JUDGING,
    OVERWRITE,
    PATH,
    READING,
    RUNNING,
    TARGETS,
    Numbers,
)
from analyses.study_options import settings_of

__all__ = ["analyze_lora"]


@click.command("lora")
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
@click.option("--ranks", type=Numbers(), default="1,2,4,8,16,32", show_default=True)
@click.option("--adapter-seeds", default=3, show_default=True, help="How many seeds of LoRA's A.")
@TARGETS
@click.option("--alpha", default=8.0, show_default=True, help="LoRA's alpha (scale only).")
@click.option("--rslora", is_flag=True, help="Rank-stabilised scaling (scale only).")
@click.option("--logits", default="auto", show_default=True, help="all | binary | auto.")
@HEAD
@click.option("--template", help="Prompt in LM-BFF's notation instead of the task's.")
@click.option("--label-words", help="Label words instead of the task's, with commas.")
@READING
@RUNNING
@click.option("--train-limit", type=int)
@click.option("--dev-limit", type=int)
@click.option("--test-limit", type=int, help="At most so many examples of a split.")
@JUDGING
@click.option("--out", type=PATH, required=True, help="Run directory.")
@OVERWRITE
def analyze_lora(config: Path | None, out: Path, overwrite: bool, **asked: Any) -> None:
    """Which LoRA rank (and which targets) preserve the kernel of full fine-tuning?

    Writes tables, figures and report.html to the run directory. The same command again continues
    an interrupted run, or says "up to date".
    """
    from rich.console import Console

    from analyses import lora
    from analyses.lora_targets import from_texts
    from analyses.terminal import WIDTH, ProgressBar

    if asked["label_words"] is not None:
        asked["label_words"] = tuple(asked["label_words"].split(","))
    if _is_given("targets"):
        asked |= from_texts(asked["targets"])
    else:
        del asked["targets"]
    settings = settings_of(lora.Config, config, asked)
    command = shlex.join(["subkern", *sys.argv[1:]])
    with ProgressBar("kernel entries") as report:
        found = lora.analyze(settings, out, overwrite=overwrite, progress=report, command=command)
    console = Console(width=min(WIDTH, Console().width), highlight=False)
    console.print(lora.summary(found.results))
    if found.up_to_date:
        click.echo("up to date: nothing was computed")
    click.echo(f"report: {found.report}")


def _is_given(option: str) -> bool:
    """Whether an option stands on the command line; True for what is made of one that does."""
    default = click.core.ParameterSource.DEFAULT
    return click.get_current_context().get_parameter_source(option) is not default

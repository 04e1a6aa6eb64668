"""The command ``subkern analyze behavior``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from .options import AS_JSON, Numbers, options
from .study_options import (
    ASKED,
    COMPUTING,
    RUN_DIRECTORY,
    NumbersOrNone,
    Words,
    print_outcome,
    run_study,
    settings_of,
)

__all__ = ["analyze_behavior"]


TRAINING = options(
    click.option("--subspace", default="full", show_default=True, help="What is trained."),
    click.option(
        "--dims",
        type=NumbersOrNone(),
        default="none",
        show_default=True,
        help="Random subspaces of it to train too, by dimension: the error against the width.",
    ),
    click.option("--optimizer", default="sgd", show_default=True, help="sgd | adam | signgd."),
    click.option(
        "--learning-rates",
        type=Numbers(float),
        help="Tried, best on dev.  [default: 0.1,0.3,1,3 of the kernel's critical one; adam and"
        " signgd 1e-5,1e-4,1e-3]",
    ),
    click.option("--train-batch-size", default=8, show_default=True, help="Examples a step."),
    click.option("--steps", default=100, show_default=True, help="Updates of each run."),
    click.option(
        "--loss", default="cross_entropy", show_default=True, help="cross_entropy | squared."
    ),
    click.option("--epsilon", default=1e-8, show_default=True, help="Adam's."),
    click.option("--training-seed", default=0, show_default=True, help="Of the batches' order."),
    click.option("--looks", default=10, show_default=True, help="Logits are taken so often."),
    click.option("--kernel-steps", default=4, show_default=True, help="Kernels are, so often."),
    click.option(
        "--linear-training/--no-linear-training",
        default=True,
        show_default=True,
        help="For adam and signgd: train the linearized model itself too.",
    ),
)
THRESHOLDS = options(
    click.option("--kernel-share", default=0.8, show_default=True, help="Of the gain: the kernel."),
    click.option("--recovered", default=0.5, show_default=True, help="Of the gain: linearized."),
    click.option("--cka", default=0.9, show_default=True, help="Of the kernel with its start."),
    click.option(
        "--relative-change", default=1.0, show_default=True, help="Most change of the kernel."
    ),
    click.option("--min-gain", default=0.02, show_default=True, help="Least gain to be judged."),
)


@click.command("behavior")
@ASKED
@TRAINING
@THRESHOLDS
@click.option("--solvers", type=Words(), help="Classifiers; the first one is used.")
@COMPUTING
@RUN_DIRECTORY
@AS_JSON
def analyze_behavior(
    config: Path | None, out: Path, overwrite: bool, as_json: bool, **asked: Any
) -> None:
    """Does fine-tuning show kernel behaviour, and does the kernel predict its logits?

    --task takes several tasks with commas: a run directory each below --out.

    Fine-tunes, and sets beside it the kernel's classifier, the linearized model, the kernel over
    training, and the logits that the kernel predicts for every step. Writes tables, figures and
    report.html. The same command again continues an interrupted run, or says "up to date".
    """
    from ..behavior import analysis as behavior
    from ..behavior.text import as_json as answer
    from ..engine.inputs import load_inputs

    settings = settings_of(behavior.Config, config, asked)
    named = dict.fromkeys(filter(None, map(str.strip, settings.task.split(","))))
    tasks = list(named) or [settings.task]
    for task in tasks[1:]:
        load_inputs(replace(settings, task=task))  # a mistake is said before the first is computed
    answers = []
    for task in tasks:
        place = out / Path(task).stem if len(tasks) > 1 else out
        found = run_study(behavior, replace(settings, task=task), place, overwrite=overwrite)
        answers.append({**answer(found.results), "report": str(found.report)})
        if not as_json:
            print_outcome(behavior, found)
    if as_json:
        click.echo(json.dumps(answers if len(tasks) > 1 else answers[0], indent=2))

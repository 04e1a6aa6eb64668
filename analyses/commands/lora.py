"""The command ``subkern analyze lora``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .options import AS_JSON, JUDGING, TARGETS, Numbers
from .study_options import (
    ADAPTER_SEEDS,
    ASKED,
    COMPUTING,
    RUN_DIRECTORY,
    VERIFYING,
    print_outcome,
    run_study,
    settings_of,
    split_trial,
)

__all__ = ["analyze_lora"]


@click.command("lora")
@ASKED
@click.option("--ranks", type=Numbers(), default="1,2,4,8,16,32", show_default=True)
@ADAPTER_SEEDS
@TARGETS
@click.option("--alpha", default=8.0, show_default=True, help="LoRA's alpha (scale only).")
@click.option("--rslora", is_flag=True, help="Rank-stabilised scaling (scale only).")
@COMPUTING
@JUDGING
@VERIFYING
@RUN_DIRECTORY
@AS_JSON
def analyze_lora(
    config: Path | None, out: Path, overwrite: bool, as_json: bool, **asked: Any
) -> None:
    """Which LoRA rank (and which targets) preserve the kernel of full fine-tuning?

    Writes tables, figures and report.html to the run directory. The same command again continues
    an interrupted run, or says "up to date". --verify fine-tunes what was judged and says how good
    the advice was; added to a finished run it computes only the training.
    """
    from ..lora import analysis as lora
    from ..lora.json_answer import as_json as answer
    from ..lora.targets import from_texts

    if _is_given("targets"):
        asked |= from_texts(asked["targets"])
    else:
        del asked["targets"]
    trial = split_trial(asked)
    settings = settings_of(lora.Config, config, asked)
    found = run_study(lora, settings, out, overwrite=overwrite, trial=trial)
    if as_json:
        click.echo(json.dumps({**answer(found.results), "report": str(found.report)}, indent=2))
    else:
        print_outcome(lora, found)


def _is_given(option: str) -> bool:
    """Whether an option stands on the command line; True for what is made of one that does."""
    default = click.core.ParameterSource.DEFAULT
    return click.get_current_context().get_parameter_source(option) is not default

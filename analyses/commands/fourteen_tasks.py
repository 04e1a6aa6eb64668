"""The command ``subkern analyze fourteen-tasks``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from subkern.errors import UserError

from ..engine.settings import read_settings
from ..fourteen_tasks.config import AUTO, PRESETS, Config
from ..fourteen_tasks.table import FINETUNING
from .options import AS_JSON, OVERWRITE, PATH, Command
from .study_options import CONFIG, options_of


@click.command("fourteen-tasks", cls=Command)
@click.option("--preset", type=click.Choice([*PRESETS]), help="Settings to go from.")
@CONFIG
@options_of(Config)
@click.option(
    "--learning-rates",
    multiple=True,
    metavar="METHOD=R,R,...",
    help="Rates that dev chooses from, as finetune-sgd=1e-3,1e-2; METHOD=auto: three for each batch"
    " size, as learning-rate suggests; auto: for all methods. May be repeated.  [default: auto]",
)
@click.option(
    "--only", multiple=True, metavar="FIELD=PATTERN,...",
    help="Compute only such cells and what they need, as task=SST-2,method=kernel-*; several: any.",
)  # fmt: skip
@click.option("--status", is_flag=True, help="Say what is done, running, failed, left; no more.")
@click.option("--dry-run", is_flag=True, help="List the cells and the time they may take; no more.")
@click.option("--retry-failed", is_flag=True, help="Try failed cells again.")
@click.option("--executor", default="local", show_default=True, help="local | ray.")
@click.option("--address", help="Of a Ray cluster: host:6379 or auto.  [default: one started here]")
@click.option("--workers", default=1, show_default=True, help="Processes of --executor local.")
@click.option("--out", type=PATH, required=True, help="The study's folder.")
@OVERWRITE
@AS_JSON
def analyze_fourteen_tasks(
    preset: str | None,
    config: Path | None,
    learning_rates: tuple[str, ...],
    only: tuple[str, ...],
    status: bool,
    dry_run: bool,
    retry_failed: bool,
    executor: str,
    address: str | None,
    workers: int,
    out: Path,
    overwrite: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Does the kernel predict what fine-tuning does, task by task?

    Every finished cell is kept: the same command goes on, with more tasks, seeds or methods it
    computes what is new. A cell that fails does not stop the others.
    """
    from ..fourteen_tasks.progress import show_end, show_plan, show_status, watching
    from ..fourteen_tasks.study import StudyFolder, analyze
    from ..scheduler.cell import parse_only
    from ..scheduler.executors import check_executor, make_executor

    study = StudyFolder(_settings(preset, config, learning_rates, asked), out)
    filters = parse_only(only)
    check_executor(executor, workers=workers, address=address)
    if status or dry_run:
        study.check()
        show = show_status if status else show_plan
        show(study, filters, workers, as_json)
        return
    gpus = int(study.config.device.startswith("cuda"))
    runner = make_executor(executor, workers=workers, address=address, gpus=gpus)
    with watching(study, workers) as progress:
        done = analyze(
            study.config,
            out,
            executor=runner,
            only=filters,
            overwrite=overwrite,
            retry_failed=retry_failed,
            progress=progress,
            command=shlex.join(["subkern", *sys.argv[1:]]),
        )
    show_end(study, done, as_json)
    if done.ran.failed:
        raise click.exceptions.Exit(1)


def _settings(
    preset: str | None, config: Path | None, rates: Sequence[str], asked: Mapping[str, Any]
) -> Config:
    """Return the settings: a file's or a preset's, and over them the options that were given.

    Raises:
        UserError: they name no model, or a setting is wrong.
    """
    if preset is not None and config is not None:
        raise UserError("--preset and --config both say where to go from: give one of them")
    values = dict(PRESETS[preset] if preset is not None else {})
    if config is not None:
        values |= read_settings(config)
    given = {name: value for name, value in asked.items() if value is not None}
    if rates:
        named = values.get("learning_rates", AUTO)
        named = {} if named == AUTO else named
        # What is no mapping is kept, to be refused.
        given["learning_rates"] = (
            {**named, **_rates(rates)} if isinstance(named, Mapping) else named
        )
    values |= given
    if "model" not in values:
        raise UserError("no model is named: give --model, or a --preset or --config that has")
    if values.get("data") == "demo" and "tasks" not in given and config is None:
        values["tasks"] = ("mr",)  # the only one there
    return Config.from_dict(values)


def _rates(texts: Sequence[str]) -> dict[str, list[str] | str]:
    """Read ``finetune-sgd=1e-3,1e-2``, ``finetune-sgd=auto`` and ``auto``."""
    found: dict[str, list[str] | str] = {}
    for text in texts:
        method, equals, values = text.partition("=")
        if text == AUTO:
            found |= dict.fromkeys(FINETUNING, AUTO)
        elif not equals:
            raise UserError(
                f"--learning-rates '{text}' is not understood: write METHOD=1e-3,1e-2 or"
                " METHOD=auto"
            )
        else:
            found[method] = AUTO if values == AUTO else [each for each in values.split(",") if each]
    return found

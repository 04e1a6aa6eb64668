"""The command ``subkern analyze fourteen-tasks``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from subkern.errors import UserError

from .options import AS_JSON, OVERWRITE, PATH, RUNNING, Numbers
from .study_options import Words

_NOT_SETTINGS = ("preset", "config", "rates")


@click.command("fourteen-tasks")
@click.option(
    "--preset", type=click.Choice(["quick", "paper", "full"]), help="Settings to go from."
)
@click.option("--config", type=PATH, help="YAML of settings; options given here win.")
@click.option("--model", help="Hub id, local directory, demo:smollm2 or demo:minilm.")
@click.option("--data", default="hub", show_default=True, help="K-shot folder, hub or demo.")
@click.option("--tasks", type=Words(), help="Names, or paths of task files.  [default: all 14]")
@click.option("--shots", type=Numbers(), help="Training examples a label.  [default: 16]")
@click.option("--seed", "data_seeds", type=Numbers(), help="Of splits.  [default: 13,21,42,87,100]")
@click.option("--heads", type=Words(), help="prompt,linear.  [default: prompt]")
@click.option("--head-init", help="Of a linear head: probe | random.  [default: probe]")
@click.option("--methods", type=Words(), help="Names or patterns (kernel-*).  [default: all]")
@click.option("--solvers", type=Words(), help="Classifiers on symmetric kernels.")
@click.option("--asymmetric-solvers", type=Words(), help="And on asymmetric ones.")
@click.option("--lora", multiple=True, help="LoRA, as lora:r=8; several: a kernel of each.")
@click.option(
    "--random",
    multiple=True,
    help="Random subspace, likewise.  [default: random:dim=1000,kind=srht]",
)
@click.option(
    "--learning-rates",
    "rates",
    multiple=True,
    metavar="METHOD=R,R,...",
    help="Rates that dev chooses from, as finetune-sgd=1e-3,1e-2; may be repeated.",
)
@click.option("--batch-sizes", type=Numbers(), help="Of training, likewise.  [default: 2,4,8]")
@click.option("--steps", type=int, help="Of training.  [default: 1000]")
@click.option("--eval-every", type=int, help="Steps between looks at dev.  [default: 100]")
@click.option("--loss", help="Of training: cross_entropy | squared.  [default: cross_entropy]")
@click.option("--epsilon", type=float, help="Adam's, of training and kernel.  [default: 1e-8]")
@click.option("--pooling", help="Of a linear head: read | mean.  [default: read]")
@click.option("--logits", help="all | binary | auto.  [default: auto]")
@click.option("--tie", help="model | untied (the paper's).  [default: model]")
@click.option("--revision", help="Hub revision of the model; unless given, the one in the cache.")
@click.option("--test-limit", type=int, help="At most so many test examples.")
@RUNNING
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
    from ..fourteen_tasks.study import Study, analyze
    from ..scheduler.cell import parse_only
    from ..scheduler.executors import check_executor, make_executor

    study = Study(_settings(asked), out)
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


def _settings(asked: dict[str, Any]) -> Any:
    """Return the settings: a file's or a preset's, and over them the options that were given.

    Raises:
        UserError: they name no model, or a setting is wrong.
    """
    from ..fourteen_tasks.config import PRESETS, Config

    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    given = {
        name: value
        for name, value in asked.items()
        if name not in _NOT_SETTINGS and context.get_parameter_source(name) is not default
    }
    if asked["preset"] is not None and asked["config"] is not None:
        raise UserError("--preset and --config both say where to go from: give one of them")
    values: dict[str, Any] = dict(PRESETS.get(asked["preset"], {}))
    if asked["config"] is not None:
        values = Config.from_file(asked["config"]).as_dict()
    if asked["rates"]:
        given["learning_rates"] = values.get("learning_rates", {}) | _rates(asked["rates"])
    values |= given
    if values.get("data") == "demo" and "tasks" not in given and asked["config"] is None:
        values["tasks"] = ("mr",)  # the only one there
    return Config.from_dict(values)


def _rates(texts: tuple[str, ...]) -> dict[str, list[str]]:
    """Read ``finetune-sgd=1e-3,1e-2``."""
    found = {}
    for text in texts:
        method, equals, values = text.partition("=")
        if not equals:
            raise UserError(f"--learning-rates '{text}' is not understood: write METHOD=1e-3,1e-2")
        found[method] = [value for value in values.split(",") if value]
    return found

"""Options of commands that run a study, the settings that they make, and what is printed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import click

from subkern.errors import UserError

from .options import (
    DATA,
    HEAD,
    HEAD_INIT,
    OVERWRITE,
    PATH,
    READING,
    RUNNING,
    Numbers,
    options,
)

if TYPE_CHECKING:
    from ..engine.settings import Settings
    from ..study import Outcome
    from ..verify.trial import Trial

__all__ = [
    "ADAPTER_SEEDS",
    "ASKED",
    "COMPUTING",
    "RUN_DIRECTORY",
    "VERIFYING",
    "NumbersOrNone",
    "Words",
    "print_outcome",
    "run_study",
    "settings_of",
    "split_trial",
]


class Stored(Protocol):
    """Settings that are read from and written to plain values."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The settings with these values."""
        ...

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """The settings in a YAML file."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        ...


Chosen = TypeVar("Chosen", bound=Stored)


class NumbersOrNone(Numbers):
    """The same, or ``none`` for no numbers."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Parse ``1,2,4`` or ``none``."""
        return () if value == "none" else super().convert(value, param, ctx)


class Words(click.ParamType[Any]):
    """Words separated by commas, as a tuple."""

    name = "a,b,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Parse ``gaussian,srht``."""
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value


ASKED = options(
    click.option("--config", type=PATH, help="YAML of settings; options given here win."),
    click.option("--model", help="Hub id, local directory, demo:smollm2 or demo:minilm."),
    click.option("--task", help="Task name, or path of a task file."),
    DATA,
    click.option(
        "--seed",
        "data_seeds",
        type=Numbers(),
        default="13",
        show_default=True,
        help="Seed(s) of the k-shot splits, with commas.",
    ),
)
ADAPTER_SEEDS = click.option(
    "--adapter-seeds", default=3, show_default=True, help="How many seeds of LoRA's A."
)
COMPUTING = options(
    click.option("--logits", default="auto", show_default=True, help="all | binary | auto."),
    HEAD,
    HEAD_INIT,
    click.option("--template", help="Prompt in LM-BFF's notation instead of the task's."),
    click.option(
        "--label-words", type=Words(), help="Label words instead of the task's, with commas."
    ),
    READING,
    RUNNING,
    click.option("--train-limit", type=int),
    click.option("--dev-limit", type=int),
    click.option("--test-limit", type=int, help="At most so many examples of a split."),
)
VERIFYING = options(
    click.option("--verify", is_flag=True, help="Then fine-tune all of it, and compare."),
    click.option(
        "--verify-optimizer", default="adam", show_default=True, help="adam | sgd | signgd."
    ),
    click.option(
        "--verify-learning-rates",
        type=Numbers(float),
        help="Tried, with commas.  [default: 1e-5,1e-4,1e-3; sgd: 1e-4,1e-3,1e-2,1e-1]",
    ),
    click.option("--verify-batch-sizes", type=Numbers(), default="8", show_default=True),
    click.option("--verify-steps", default=100, show_default=True, help="Updates."),
    click.option(
        "--verify-draws",
        default=1,
        show_default=True,
        help="How many seeds of LoRA's A or of the subspace.",
    ),
)
RUN_DIRECTORY = options(
    click.option("--out", type=PATH, required=True, help="Run directory."), OVERWRITE
)


def settings_of(kind: type[Chosen], config: Path | None, asked: Mapping[str, Any]) -> Chosen:
    """Return a study's settings: a file's, and over them the options given on the command line.

    Raises:
        UserError: neither names a model and a task, or a setting is wrong.
    """
    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    given = {name for name in asked if context.get_parameter_source(name) is not default}
    values = {name: value for name, value in asked.items() if value is not None}
    if config is not None:
        stored = kind.from_file(config).as_dict()
        values = stored | {name: value for name, value in values.items() if name in given}
    missing = [f"--{name}" for name in ("model", "task") if name not in values]
    if missing:
        raise UserError(f"{' and '.join(missing)} missing: give it, or a --config that has it")
    return kind.from_dict(values)


def split_trial(asked: dict[str, Any]) -> Trial | None:
    """Take the options of `VERIFYING` out of ``asked``; return how to train, if it is asked for.

    Raises:
        UserError: options are given of what is not asked for, or one is wrong.
    """
    from ..verify.trial import Trial

    context, default = click.get_current_context(), click.core.ParameterSource.DEFAULT
    wanted = asked.pop("verify")
    names = [name for name in asked if name.startswith("verify_")]
    for name in names:
        if not wanted and context.get_parameter_source(name) is not default:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} {asked[name]} is of the verification: add --verify")
    given = {name.removeprefix("verify_"): asked.pop(name) for name in names}
    return Trial(**given) if wanted else None


def run_study(
    study: ModuleType,
    settings: Settings,
    out: Path,
    *,
    overwrite: bool,
    what: str = "kernel entries",
    trial: Trial | None = None,
) -> Outcome:
    """Run the study of a module such as `analyses.lora` in a directory, with a progress bar.

    ``what`` is counted by the bar. With a ``trial`` the study is verified too.
    """
    from ..show.terminal import ProgressBar

    if trial is not None:
        trial.check_draws(settings)  # before the study takes its time
    command = shlex.join(["subkern", *sys.argv[1:]])
    with ProgressBar(what) as report:
        found: Outcome = study.analyze(
            settings, out, overwrite=overwrite, progress=report, command=command
        )
    if trial is None:
        return found
    with ProgressBar("training steps") as report:
        proved: Outcome = study.verify(settings, out, trial, progress=report, command=command)
    return replace(proved, up_to_date=found.up_to_date and proved.up_to_date)


def print_outcome(study: ModuleType, found: Outcome) -> None:
    """Print the summary of a study, that of its verification if there is one, and the report."""
    from rich.console import Console

    from ..show.terminal import WIDTH
    from ..verify import report as verify_report
    from ..verify.numbers import is_verified

    console = Console(width=min(WIDTH, Console().width), highlight=False)
    console.print(study.summary(found.results))
    if is_verified(found.results):
        console.print(verify_report.summary(found.results, study.advice(found.results)))
    if found.up_to_date:
        click.echo("up to date: nothing was computed")
    click.echo(f"report: {found.report}")

"""``subkern estimate COMMAND …``: what a command will take on this machine, before it is run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from subkern.cores import MUCH
from subkern.errors import UserError

from .analyze import QUESTIONS, study_command
from .features import features
from .kernel import kernel
from .options import AS_JSON

if TYPE_CHECKING:
    from subkern.estimates.estimate import Estimate

SUPPORTED = "kernel, features or analyze lora"
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")


def _started() -> float:
    """Seconds since this process began: imports, data and loading are measured by doing them."""
    import psutil

    return max(0.0, time.time() - float(psutil.Process().create_time()))


class _Known(click.Group):
    """A group that names what it knows."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse other commands in one line."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            asked = " ".join([*ctx.command_path.split()[2:], args[0]])
            raise UserError(f"'{asked}' is not estimated: use {SUPPORTED}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Known)
def estimate() -> None:
    """What a command will take here: estimate COMMAND and its options.

    Loads the model, runs the checks, captures a few examples and times parts of the contraction;
    writes nothing.
    """


class _Questions(_Known):
    """Studies that are estimated; their commands are made when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the questions."""
        return ["lora"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a question."""
        return _like(study_command("lora"), _lora) if cmd_name == "lora" else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the questions without making their commands."""
        with formatter.section("Commands"):
            formatter.write_dl([("lora", QUESTIONS["lora"])])


@click.group(cls=_Questions)
def analyze() -> None:
    """What a study will take here."""


def _like(command: click.Command, answer: Callable[[dict[str, Any]], Estimate]) -> click.Command:
    """Return what estimates a command: its options, of which ``--out`` may be left out."""

    def run(**asked: Any) -> None:
        as_json = asked.pop("as_json")
        found = answer(asked)
        click.echo(json.dumps(found.as_dict(), indent=2) if as_json else table(found))

    options = [
        _optional(each) if each.name == "out" else each
        for each in command.params
        if each.name != "as_json"
    ]
    made = type(command)(command.name, callback=run, params=options, short_help=command.short_help)
    made.help = f"Estimate `subkern {_path(command)}` with these options."
    return AS_JSON(made)


def _path(command: click.Command) -> str:
    return (
        str(command.name) if command.name in ("kernel", "features") else f"analyze {command.name}"
    )


def _optional(option: click.Parameter) -> click.Parameter:
    return click.Option(
        option.opts, type=option.type, required=False, help="As the command has it; not written."
    )


def _kernel(asked: dict[str, Any]) -> Estimate:
    from subkern.estimates.kernel import check_estimated, check_single_words, estimate_kernel
    from subkern.kernels.request import RunOptions

    from ..engine.heads import load_started
    from .kernel import asked_examples

    check_estimated(asked["rule"], asked["engine"])  # before anything is read
    task, left, right = asked_examples(asked)
    check_single_words(task.marked)
    model = load_started(task, asked)
    sides = model.encode_all(left), model.encode_all(right)
    method = {k: asked[k] for k in ("rule", "subspace", "engine")}
    options = RunOptions(asked["batch_size"], asked["memory"])
    started = _started()
    return estimate_kernel(model, *sides, options=options, **method).after("start", started)


def _features(asked: dict[str, Any]) -> Estimate:
    from subkern.estimates.features import estimate_features
    from subkern.kernels.request import RunOptions

    from .features import asked_features

    model, encoded, subspace = asked_features(asked)
    options = RunOptions(asked["batch_size"], asked["memory"])
    started = _started()
    found = estimate_features(model, encoded, subspace=subspace, options=options)
    return found.after("start", started)


def _lora(asked: dict[str, Any]) -> Estimate:
    from ..lora.config import Config
    from ..lora.estimate import estimate_study
    from ..verify.trial import Trial
    from .study_options import settings_of, split_trial

    for name in ("out", "overwrite"):
        asked.pop(name)
    if split_trial(Trial, asked) is not None:
        raise UserError("--verify trains, which is not estimated: leave it out")
    rates = asked.pop("rates")
    settings = settings_of(Config, asked.pop("config"), asked)
    if "," in settings.task:
        raise UserError(f"--task {settings.task} names several: estimate one at a time")
    return estimate_study(settings, rates=rates, started=_started)


for _command, _answer in ((kernel, _kernel), (features, _features)):
    estimate.add_command(_like(_command, _answer))
estimate.add_command(analyze)


def table(found: Estimate) -> str:
    """The estimate in at most 80 columns."""
    costs = found.costs
    lines = [
        f"{found.entries:,} {found.what}: about {_time(costs.seconds)},"
        f" {_size(costs.memory_bytes)} of memory,",
        f"{_size(found.output_bytes)} of results on disk before compression,"
        f" {_size(costs.scratch_bytes)} more while it runs",
        "",
        f"{'phase':<28}{'time':>12}{'GFLOP':>14}",
    ]
    for phase in costs.phases:
        count = "" if phase.flops is None else f"{phase.flops / 1e9:,.4g}"
        lines.append(f"{phase.name:<28}{_time(phase.seconds):>12}{count:>14}")
    lines += ["", f"{'asked for otherwise':<28}{'time':>12}{'memory':>14}{'meanwhile':>14}"]
    for each in found.alternatives:
        other = each.costs
        cells = (_time(other.seconds), _size(other.memory_bytes), _size(other.scratch_bytes))
        lines.append(f"{each.change:<28}{cells[0]:>12}{cells[1]:>14}{cells[2]:>14}")
    if found.cores_of_others >= MUCH:
        lines.append(
            f"Other processes used {found.cores_of_others:.1f} cores meanwhile: it is for a machine"
            " as busy."
        )
    return "\n".join(lines)


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _size(count: float) -> str:
    unit = 0
    while count >= 1024 and unit < len(_BYTES) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.3g} {_BYTES[unit]}" if unit else f"{count:.0f} B"

"""``subkern analyze QUESTION``: a command for each study, its options made from its settings."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import Command
from .study_options import settings_of, split_trial, study_options

if TYPE_CHECKING:
    from ..engine.settings import Settings
    from ..study import Outcome, Study
    from ..verify.trial import Trial

QUESTIONS = {
    "behavior": "Does fine-tuning show kernel behavior, and does the kernel predict its logits?",
    "fourteen-tasks": "Kernels against fine-tuning on the paper's tasks: every method, resumable.",
    "learning-rate": "Is the learning rate that is suggested before training right?",
    "lora": "Which LoRA rank (and which targets) preserve the kernel of full fine-tuning?",
    "prompting": "Which prompt fine-tunes best, and does the kernel tell before training?",
    "subspace": "How many dimensions does the task need, and which method preserves most?",
    "width": "Do features stay or move as width grows, and do learning rates carry over?",
}
"""What is asked, by name: told without importing what answers it."""
MORE = {
    "width": "\n\n    Trains models of several widths from random weights in each parametrization"
    " and fits how the change of features and function, and the error of the kernel's prediction,"
    " go with width. With --pretrained it fine-tunes models of several sizes instead.",
    "learning-rate": "\n\n    Suggests a rate before training, trains at rates around it, and sets"
    " edge, best rate, loss and score beside what other rules say.",
    "behavior": "\n\n    Fine-tunes, and sets beside it the kernel's classifier, the linearized"
    " model, the kernel over training, and the logits that the kernel predicts for every step.",
}
PROVEN = ("lora", "subspace")
"""Whose advice ``--verify`` can train: those studies that prove."""


class Questions(click.Group):
    """A group whose commands are made when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the questions."""
        return sorted(QUESTIONS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a question."""
        if cmd_name not in QUESTIONS:
            return None
        if cmd_name == "fourteen-tasks":
            from .fourteen_tasks import analyze_fourteen_tasks

            return analyze_fourteen_tasks
        return study_command(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the questions without making their commands."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(QUESTIONS.items()))


@click.group(cls=Questions)
def analyze() -> None:
    """Studies: one question each, answered with tables, figures and a report."""


def study_command(name: str) -> click.Command:
    """Return the command of a study, made from its settings: what answers is imported to answer."""
    kind: type[Settings] = import_module(f"..{_folder(name)}.config", __package__).Config
    proves = name in PROVEN
    from ..verify.trial import Trial

    def command(
        config: Path | None, out: Path, overwrite: bool, as_json: bool, **asked: Any
    ) -> None:
        trial = split_trial(Trial, asked) if proves else None
        rates = asked.pop("rates", False)
        settings = settings_of(kind, config, asked)
        named = dict.fromkeys(filter(None, map(str.strip, settings.task.split(","))))
        tasks = list(named) or [settings.task]
        made = _study(name)()
        for task in tasks[1:]:  # a mistake is said before the first is computed
            made.inputs(settings.changed(task=task))
        answers = []
        for task in tasks:
            place = out / Path(task).stem if len(tasks) > 1 else out
            found = _run(made, settings.changed(task=task), place, overwrite, trial, rates)
            files = [str(found.report.parent / name) for name in made.files(found.results)]
            answer = made.answer(found.results) | ({"files": files} if files else {})
            answers.append({**answer, "report": str(found.report)})
            if not as_json:
                _print(made, found)
        if as_json:
            click.echo(json.dumps(answers if len(tasks) > 1 else answers[0], indent=2))

    proof = (
        " --verify fine-tunes what was judged and says how good the advice was; added to a finished"
        " run it computes only the training."
    )
    command.__doc__ = f"""{QUESTIONS[name]}{MORE.get(name, "")}

    Writes tables, figures and report.html to the run directory. The same command again continues an
    interrupted run, or says "up to date". --task takes several tasks with commas: a run directory
    each below --out.{proof if proves else ""}
    """
    options = study_options(kind, Trial if proves else None)
    return click.command(name, cls=Command, short_help=QUESTIONS[name])(options(command))


def _folder(name: str) -> str:
    return name.replace("-", "_")


def _study(name: str) -> type[Study[Any, Any]]:
    """Return a study; others are not imported."""
    module = import_module(f"..{_folder(name)}.study", __package__)
    found: type[Study[Any, Any]] = next(
        each
        for each in vars(module).values()
        if isinstance(each, type) and getattr(each, "name", None) == name
    )
    return found


def _run(
    study: Study[Any, Any],
    settings: Settings,
    out: Path,
    overwrite: bool,
    trial: Trial | None,
    rates: bool,
) -> Outcome:
    """Run a study in a directory, with a progress bar; with a ``trial`` it is verified too."""
    from ..show.terminal import ProgressBar

    if trial is not None:
        trial.check_draws(settings)  # before the study takes its time
        study.check_trial(settings)
    command = shlex.join(["subkern", *sys.argv[1:]])
    bar = ProgressBar(study.counts)
    with bar as report:
        found = study.analyze(
            settings,
            out,
            overwrite=overwrite,
            progress=report,
            command=command,
            rates=bar.then("learning rates") if rates else False,
        )
    if trial is None:
        return found
    with ProgressBar("training steps") as report:
        proved = study.verify(settings, out, trial, progress=report, command=command)
    return replace(proved, up_to_date=found.up_to_date and proved.up_to_date)


def _print(study: Study[Any, Any], found: Outcome) -> None:
    """Print the summary of a study, that of its verification if there is one, and the report."""
    from rich.console import Console

    from ..show.terminal import WIDTH

    console = Console(width=min(WIDTH, Console().width), highlight=False)
    console.print(study.summary(found.results))
    if found.up_to_date:
        click.echo("up to date: nothing was computed")
    for name in study.files(found.results):
        click.echo(
            f"{'train' if name.endswith('.py') else 'adapter'}: {found.report.parent / name}"
        )
    click.echo(f"report: {found.report}")

"""``subkern learning-rate``: which learning rate, from the function itself, before training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from subkern.errors import UserError
from subkern.subspaces.text import FORMS
from subkern.training.choices import OPTIMIZERS

from .options import (
    AS_JSON,
    COMPUTING,
    COUNT,
    EXAMPLES,
    HEAD,
    HEAD_START,
    LOGITS,
    READING,
    Command,
    listed,
)

if TYPE_CHECKING:
    import pandas as pd

    from subkern.learning_rate import Suggestion
    from subkern.models.logit_model import LogitModel


@click.command("learning-rate", cls=Command)
@EXAMPLES
@LOGITS
@click.option(
    "--subspace",
    "subspaces",
    multiple=True,
    default=["full"],
    show_default=True,
    help=f"What is trained; several: a row each.{listed(FORMS.values())}",
)
@click.option("--optimizer", default="adam", show_default=True, help=f"{' | '.join(OPTIMIZERS)}.")
@click.option("--batch-size", default=8, show_default=True, help="Examples of a step.")
@click.option(
    "--steps",
    type=COUNT,
    help="Updates of the training: a rate for few is larger.  [default: many]",
)
@click.option(
    "--loss",
    help="cross_entropy | squared.  [default: cross_entropy; of real labels squared, of completions"
    " their likelihood]",
)
@click.option("--epsilon", default=1e-8, show_default=True, help="Adam's.")
@click.option(
    "--training-seed", default=0, show_default=True, help="Seed of the order of examples."
)
@click.option(
    "--batches", default=4, show_default=True, help="Batches looked at after the first step."
)
@click.option(
    "--limit", default=8, show_default=True, help="Most examples looked at for each batch."
)
@HEAD
@HEAD_START
@READING
@COMPUTING
@AS_JSON
def learning_rate(**asked: Any) -> None:
    """Suggest a learning rate for each way to train, without training.

    The rate at which one step changes the logits by 1, at the start and after such a step: training
    spikes at a few times the second.
    """
    from subkern.learning_rate.measure import check_asked
    from subkern.subspaces.text import as_subspace
    from subkern.tasks.examples import load_examples

    from ..engine.asked_task import asked_loss, asked_task
    from ..engine.heads import check_running, load_started
    from ..show.terminal import say_rows

    task, subspaces = asked_task(asked), asked["subspaces"]
    say_rows(task)
    for line in subspaces:  # refuse a bad one before the model is loaded
        as_subspace(line)
        if subspaces.count(line) > 1:
            raise UserError(f"--subspace '{line}' stands twice: give it once")
    names = ("optimizer", "batch_size", "steps", "loss", "epsilon", "batches", "limit")
    how = {k: asked[k] for k in names} | {"seed": asked["training_seed"]}
    how["loss"] = asked_loss(asked, task)
    check_asked(**how)
    check_running(asked)
    where = {k: asked[k] for k in ("shots", "seed")}
    examples = load_examples(task, asked["data"], split="train", **where)
    model = load_started(task, asked)
    found = _suggest(model, model.encode_all(examples), subspaces, how)
    _show(found, asked["as_json"])
    for each in found.values():
        if isinstance(each, UserError):
            raise each


def _suggest(
    model: LogitModel, examples: Sequence[Any], subspaces: Sequence[str], how: dict[str, Any]
) -> dict[str, Suggestion | UserError]:
    """What is found for each subspace: one that has no rate does not lose the others'."""
    from subkern.learning_rate import suggest

    from ..show.terminal import ProgressBar

    found: dict[str, Suggestion | UserError] = {}
    with ProgressBar("batches") as report:
        for k, line in enumerate(subspaces):

            def progress(done: int, total: int, before: int = k) -> None:
                report(before * total + done, len(subspaces) * total)

            try:
                found[line] = suggest(model, examples, subspace=line, progress=progress, **how)
            except UserError as error:
                found[line] = error
    return found


def _show(found: dict[str, Suggestion | UserError], as_json: bool) -> None:
    from ..show.terminal import show, wrapped

    if as_json:
        records = [
            {"subspace": line, "error": str(each)}
            if isinstance(each, UserError)
            else each.as_dict()
            for line, each in found.items()
        ]
        click.echo(json.dumps(records, indent=2))
        return
    rates = [each for each in found.values() if not isinstance(each, UserError)]
    if not rates:
        return
    show(_table(rates), False)
    for note in dict.fromkeys(note for each in rates for note in each.notes):
        click.echo(wrapped(f"Note: {note}."))
    for each in rates:
        if each.warning is not None:
            click.echo(wrapped(f"{each.subspace}: {each.warning}."))


def _table(found: Sequence[Suggestion]) -> pd.DataFrame:
    """A row a subspace in 80 columns; the one row of one subspace has room for more."""
    import pandas as pd

    rows = []
    for each in found:
        row = {
            "subspace": each.subspace,
            "at start": _rate(each.rate_at_start),
            "one step": _rate(each.rate_after_step),
            "suggested": _rate(each.suggested),
        }
        if len(found) == 1:
            row["grid"] = ", ".join(map(_rate, each.grid))
        row["spikes near"] = _spike(each)
        rows.append({**row, "s": f"{each.seconds:.1f}"})
    return pd.DataFrame(rows)


def _spike(found: Suggestion) -> str:
    if found.spike is None or found.spike_interval is None:
        return "unknown"
    low, high = map(_rate, found.spike_interval)
    return f"{_rate(found.spike)} ({low}..{high})"


def _rate(rate: float) -> str:
    """Two digits, as people write rates: 2.3e-4."""
    digits, _, power = f"{rate:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"

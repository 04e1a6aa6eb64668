"""``subkern kernel``: one kernel, computed and saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from subkern.errors import DamagedError, UserError, check_choice
from subkern.subspaces.text import FORMS

from .options import (
    COUNT,
    EXAMPLES,
    HEAD,
    HEAD_START,
    LOGITS,
    OVERWRITE,
    PATH,
    READING,
    RUNNING,
    SPLITS,
    Command,
    listed,
)

if TYPE_CHECKING:
    from subkern.kernels.kernel import Kernel
    from subkern.tasks.examples import Example
    from subkern.tasks.task import Task

RULE_HELP = (
    "sgd | signgd | asymmetric_signgd | adam | asymmetric_adam; options after a colon, as in"
    " adam:eps=1e-8 or signgd:zero_tolerance=0 (entries of rounding noise keep their signs)."
)


@click.command(cls=Command)
@EXAMPLES
@click.option("--left", default="train", type=SPLITS, show_default=True, help="Rows.")
@click.option("--right", default="train", type=SPLITS, show_default=True, help="Columns.")
@click.option("--left-limit", type=COUNT, help="At most so many rows' examples.")
@click.option("--right-limit", type=COUNT, help="At most so many columns' examples.")
@click.option("--rule", default="sgd", show_default=True, help=RULE_HELP)
@LOGITS
@click.option(
    "--subspace",
    default="full",
    show_default=True,
    help=f"What is trained; @CHECKPOINT after it: there.{listed(FORMS.values())}",
)
@click.option("--engine", default="factors", show_default=True, help="factors | reference.")
@HEAD
@HEAD_START
@READING
@RUNNING
@click.option("--out", required=True, type=PATH, help="Kernel file to write (Zarr).")
@click.option("--export-lmk", type=PATH, help="Also write LM-Kernel-FT's format (.pt).")
@OVERWRITE
def kernel(**asked: Any) -> None:
    """Compute one kernel and save it.

    The same command again continues an interrupted run, or says "up to date".
    """
    from subkern.kernels.compute import compute_kernel
    from subkern.kernels.lm_kernel_ft import check_export, export_lmk, is_exported
    from subkern.kernels.request import RunOptions, kernel_identity
    from subkern.kernels.tiles import TileStore
    from subkern.storage.files import recover
    from subkern.storage.lock import only_run

    from ..engine.heads import load_started
    from ..show.terminal import ProgressBar, wrapped

    out = asked["out"]
    export = asked["export_lmk"]
    if export is not None and not out.exists():  # else it may be of this very kernel
        check_asked(asked)
        check_export(export, overwrite=asked["overwrite"])
    task, left, right = asked_examples(asked)
    model = load_started(task, asked)
    sides = model.encode_all(left), model.encode_all(right)
    method = {k: asked[k] for k in ("rule", "subspace", "engine")}
    identity = kernel_identity(model, *sides, **method)
    tiles = out.with_name(f".{out.name}.tiles")
    with only_run(out, beside=True):
        recover(out)
        if asked["overwrite"]:
            TileStore(tiles, identity).drop_others()
        if found := _finished(out, identity, asked["overwrite"]):
            click.echo(f"{out} is up to date\n{wrapped(repr(found))}")
        else:
            with ProgressBar("kernel entries") as report:
                options = RunOptions(asked["batch_size"], asked["memory"], report, tiles)
                found = compute_kernel(model, *sides, options=options, **method)
            found.save(out, overwrite=asked["overwrite"])
            click.echo(f"wrote {out}\n{wrapped(repr(found))}")
        RunOptions(checkpoint=tiles).clear()  # also what a run left that was killed after saving
        if export is not None and is_exported(found, export):
            click.echo(f"{export} is up to date")
        elif export is not None:
            click.echo(f"wrote {export_lmk(found, export, overwrite=asked['overwrite'])}")


def check_asked(asked: Mapping[str, Any]) -> None:
    """Refuse bad options before examples or weights are read.

    Raises:
        UserError: a subspace, rule, engine, or how to read a model and compute.
    """
    from subkern.kernels.request import ENGINES
    from subkern.kernels.rules import parse_rule
    from subkern.subspaces.text import as_subspace

    from ..engine.heads import check_running

    as_subspace(asked["subspace"])
    parse_rule(asked["rule"])
    check_running(asked)
    check_choice("engine", asked["engine"], ENGINES)


def asked_examples(asked: dict[str, Any]) -> tuple[Task, list[Example], list[Example]]:
    """Return the task of the options, and the examples of both sides, once the options are good."""
    from ..engine.asked_task import asked_task
    from ..show.terminal import say_rows

    check_asked(asked)
    task = asked_task(asked)
    if asked["export_lmk"] is not None and not task.classifies:
        raise UserError(
            f"--export-lmk writes class labels, which {asked['data']} has not: leave it out"
        )
    say_rows(task)
    left, right = (_examples(task, asked, side) for side in ("left", "right"))
    return task, left, right


def _examples(task: Any, asked: dict[str, Any], side: str) -> Any:
    from subkern.tasks.examples import load_examples

    return load_examples(
        task,
        asked["data"],
        split=asked[side],
        shots=asked["shots"],
        seed=asked["seed"],
        limit=asked[f"{side}_limit"],
    )


def _finished(out: Path, identity: dict[str, Any], overwrite: bool) -> Kernel | None:
    """The kernel already at `out` if it has this identity; UserError if it has another."""
    from subkern.kernels.kernel import Kernel

    if overwrite or not out.exists():
        return None
    try:
        return Kernel.load(out, expect=identity)
    except DamagedError:
        raise  # it says so already
    except UserError as error:
        raise UserError(f"{error} (--overwrite replaces it)") from error

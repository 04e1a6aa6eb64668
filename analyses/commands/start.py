"""``subkern start``: where LoRA starts when data choose its start (EVA, LoRA-GA)."""

from __future__ import annotations

import json
from typing import Any

import click

from .options import (
    AS_JSON,
    COMPUTING,
    COUNT,
    EXAMPLES,
    HEAD,
    HEAD_START,
    LOGITS,
    LOSS,
    OVERWRITE,
    PATH,
    READING,
    Command,
)


@click.command(cls=Command)
@EXAMPLES
@LOGITS
@click.option("--method", required=True, help="eva | lora-ga.")
@click.option(
    "--subspace",
    default="lora:r=8",
    show_default=True,
    help="LoRA: its rank, alpha, targets.",
)
@click.option("--batch-size", type=COUNT, default=8, show_default=True, help="Examples at once.")
@LOSS
@HEAD
@HEAD_START
@READING
@COMPUTING
@click.option("--out", required=True, type=PATH, help="File to write, .safetensors.")
@AS_JSON
@OVERWRITE
def start(**asked: Any) -> None:
    """Write where LoRA starts when the training data choose its start.

    EVA's rows of A are the directions in which a layer's inputs vary most; LoRA-GA's are those
    of the loss's gradient. Give what is written as a subspace to any other command, after an @:
    lora:r=8@FILE.
    """
    from subkern.errors import UserError, check_choice
    from subkern.storage.files import write_tensors
    from subkern.subspaces.lora import Lora
    from subkern.subspaces.text import as_subspace
    from subkern.tasks.examples import load_examples
    from subkern.training.data_starts import METHODS, data_start
    from subkern.training.losses import get_loss

    from ..engine.asked_task import asked_loss, asked_task
    from ..engine.heads import check_running, load_started
    from ..show.terminal import say_rows

    line, method, out = asked["subspace"], asked["method"], asked["out"]
    lora = as_subspace(line)
    if not isinstance(lora, Lora):
        raise UserError(
            f"--subspace '{line}' is not plain LoRA: give r, alpha, targets, seed and rslora only"
        )
    check_choice("method", method, METHODS)
    if out.suffix != ".safetensors":
        raise UserError(f"--out '{out}' is no .safetensors file: give one, as {out}.safetensors")
    if out.exists() and not asked["overwrite"]:
        raise UserError(f"'{out}' is there already: give --overwrite, or another --out")
    task = asked_task(asked)
    say_rows(task)
    loss = asked_loss(asked, task)
    get_loss(loss)
    check_running(asked)
    where = {k: asked[k] for k in ("shots", "seed")}
    examples = load_examples(task, asked["data"], split="train", **where)
    model = load_started(task, asked)
    tensors = data_start(
        model,
        model.encode_all(examples),
        lora,
        method,
        batch_size=asked["batch_size"],
        loss=loss,
    )
    write_tensors(out, tensors)
    given = f"{line}@{out}"
    if asked["as_json"]:
        click.echo(json.dumps({"out": str(out), "subspace": given, "tensors": len(tensors)}))
    else:
        click.echo(f"wrote {out}: give it as --subspace {given}")

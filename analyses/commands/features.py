"""``subkern features``: sketched gradients of many examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import (
    AS_JSON,
    COUNT,
    EXAMPLES,
    HEAD,
    LOGITS,
    OVERWRITE,
    PATH,
    READING,
    RUNNING,
    SPLITS,
    Command,
)

if TYPE_CHECKING:
    from subkern.models.logit_model import LogitModel
    from subkern.prompts.prompt import EncodedExample
    from subkern.subspaces.random import RandomSubspace


@click.command(cls=Command)
@EXAMPLES
@click.option("--split", default="train", type=SPLITS, show_default=True)
@click.option("--limit", type=COUNT, help="At most so many examples.")
@click.option("--dim", default=2048, show_default=True, help="Numbers kept of each gradient.")
@click.option(
    "--kind",
    default="srht",
    show_default=True,
    help="srht, count_sketch, very_sparse (fast) | rademacher, sparse, gaussian.",
)
@click.option("--projection-seed", default=0, show_default=True, help="Seed of the projection.")
@click.option("--allocation", default="global", show_default=True, help="global | per-parameter.")
@click.option("--subspace", default="full", show_default=True, help="What is projected.")
@LOGITS
@HEAD
@click.option("--head-seed", default=0, show_default=True, help="Seed of a linear head.")
@READING
@RUNNING
@click.option("--check", type=int, help="Report the error on so many examples' exact kernel.")
@click.option("--out", required=True, type=PATH, help="Features to write (Zarr).")
@AS_JSON
@OVERWRITE
def features(**asked: Any) -> None:
    """Project the gradients of many examples to a few numbers each.

    Kernels of any two sets of features are then one matrix product (Features.kernel). The same
    command again continues an interrupted run.
    """
    import pandas as pd

    from subkern.features.error import feature_error
    from subkern.features.features import compute_features
    from subkern.kernels.request import RunOptions

    from ..show.terminal import ProgressBar, show

    model, encoded, subspace = asked_features(asked)
    with ProgressBar("examples") as report:
        options = RunOptions(asked["batch_size"], asked["memory"], report)
        found = compute_features(
            model,
            encoded,
            subspace=subspace,
            out=asked["out"],
            options=options,
            overwrite=asked["overwrite"],
        )
    said = f"wrote {asked['out']}" if found.computed else f"{asked['out']} is up to date"
    click.echo(f"{said}: features {list(found.shape)} {subspace.kind}", err=asked["as_json"])
    if asked["check"] is not None:
        quiet = RunOptions(asked["batch_size"], asked["memory"])
        error = feature_error(
            model, encoded, found, subspace=subspace, sample=asked["check"], options=quiet
        )
        show(pd.DataFrame([error.as_dict()]), asked["as_json"])


def asked_features(
    asked: dict[str, Any],
) -> tuple[LogitModel, list[EncodedExample], RandomSubspace]:
    """Return the model, the examples as it reads them, and where their gradients are projected.

    Raises:
        UserError: a bad option, before examples or weights are read; or what reading them refuses.
    """
    from subkern.errors import UserError
    from subkern.features.error import check_allocation
    from subkern.models.load import load_model
    from subkern.subspaces.random import RandomSubspace
    from subkern.subspaces.text import as_subspace
    from subkern.tasks.examples import load_examples

    from ..engine.asked_task import asked_task
    from ..engine.heads import check_running
    from ..show.terminal import say_rows

    inner = as_subspace(asked["subspace"])
    kind, seed, dim = asked["kind"], asked["projection_seed"], asked["dim"]
    check_running(asked)
    subspace = RandomSubspace(dim, kind, seed, asked["allocation"], inner)
    if asked["check"] is not None:
        if asked["check"] < 1:
            raise UserError(f"--check {asked['check']} is not positive: give a number of examples")
        check_allocation(subspace)  # before the features are computed
    task = asked_task(asked)
    say_rows(task)
    wanted = {k: asked[k] for k in ("split", "shots", "seed", "limit")}
    examples = load_examples(task, asked["data"], **wanted)
    if (asked["check"] or 0) > len(examples):
        raise UserError(
            f"--check {asked['check']} is more than the {len(examples)} examples: give at most"
            f" {len(examples)}"
        )
    reading = {k: asked[k] for k in ("head", "tie", "logits", "dtype", "device", "revision")}
    model = load_model(asked["model"], task=task, seed=asked["head_seed"], **reading)
    return model, model.encode_all(examples), subspace

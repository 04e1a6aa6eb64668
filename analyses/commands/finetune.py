"""``subkern finetune``: real training in any subspace, its settings chosen on dev."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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
    OVERWRITE,
    PATH,
    READING,
    Command,
    Numbers,
    Rates,
    listed,
    options,
)

if TYPE_CHECKING:
    import pandas as pd

    from subkern.training.grid_search import Search

TRAINING = options(
    click.option(
        "--optimizer",
        default="adam",
        show_default=True,
        help=f"{' | '.join(OPTIMIZERS)}.",
    ),
    click.option(
        "--learning-rates",
        default="auto",
        type=Rates(),
        show_default=True,
        help="Grid, with commas; auto: three for each batch size, as learning-rate suggests.",
    ),
    click.option(
        "--batch-sizes", default="8", type=Numbers(), show_default=True, help="Grid, with commas."
    ),
    click.option("--steps", default=200, show_default=True, help="Updates."),
    click.option("--eval-every", default=20, show_default=True, help="Steps between looks at dev."),
    click.option(
        "--loss",
        help="cross_entropy | squared.  [default: cross_entropy; of real labels squared, of"
        " completions their likelihood]",
    ),
    click.option("--epsilon", default=1e-8, show_default=True, help="Adam's."),
    click.option(
        "--schedule", default="constant", show_default=True, help="constant | linear | cosine."
    ),
    click.option("--warmup", default=0, show_default=True, help="Steps of rising learning rate."),
    click.option("--dropout", is_flag=True, help="Train with the model's dropout."),
    click.option(
        "--training-seed", default=0, show_default=True, help="Seed of the order of examples."
    ),
    click.option(
        "--log-steps",
        type=Numbers(),
        help="Keep the logits of every split at these steps.  [default: train and dev, at looks]",
    ),
    click.option(
        "--keep-steps", type=Numbers(), default=(), help="Keep what moved at these steps too."
    ),
)


@click.command(cls=Command)
@EXAMPLES
@click.option("--test-limit", type=COUNT, help="At most so many test examples.")
@LOGITS
@click.option(
    "--subspace",
    default="full",
    show_default=True,
    help=f"What is trained.{listed(FORMS.values())}",
)
@TRAINING
@HEAD
@HEAD_START
@READING
@COMPUTING
@click.option("--out", required=True, type=PATH, help="Folder of the runs.")
@AS_JSON
@OVERWRITE
def finetune(**asked: Any) -> None:
    """Fine-tune at every learning rate and batch size, keep the best on dev.

    Rates that are not given are suggested, as by subkern learning-rate, and kept. The same
    command again continues an interrupted run, or says "up to date"; more learning rates or
    batch sizes train only the new points.
    """
    from functools import partial

    from subkern.learning_rate.grid import stored_suggestions, suggested_grid
    from subkern.subspaces.text import as_subspace
    from subkern.training.grid_search import TrainingGrid, search

    from ..engine.asked_task import asked_loss, asked_task
    from ..engine.heads import check_running, load_started
    from ..show.terminal import ProgressBar, say_rows

    subspace = asked["subspace"]
    as_subspace(subspace)  # refuse a bad one before the model is loaded, and bad points
    task = asked_task(asked)
    say_rows(task)
    training = _training(asked | {"loss": asked_loss(asked, task)})
    auto, sizes = asked["learning_rates"] == "auto", asked["batch_sizes"]
    grid = TrainingGrid((1.0,) if auto else asked["learning_rates"], sizes)
    check_running(asked)
    grid.trainings(training)
    examples = _examples(task, asked)
    model = load_started(task, asked)
    splits = {name: model.encode_all(given) for name, given in examples.items()}
    suggested = partial(
        suggested_grid,
        model,
        splits["train"],
        subspace=subspace,
        training=training,
        batch_sizes=sizes,
    )
    before = _state(asked["out"])
    with ProgressBar("steps") as report, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the one of the edge is printed below
        found = search(
            model,
            splits,
            subspace=subspace,
            grid=(lambda folder: suggested(folder=folder)) if auto else grid,
            training=training,
            metric=task.metric,  # type: ignore[arg-type]
            out=asked["out"],
            overwrite=asked["overwrite"],
            progress=report,
        )
    said = "is up to date" if _state(asked["out"]) == before else "is written"
    rates = stored_suggestions(asked["out"]) if auto else {}
    suggestions = {size: rates[size] for size in sizes if size in rates}
    _show(found, asked["out"], said, task.metric, asked["as_json"], suggestions)


def _training(asked: dict[str, Any]) -> Any:
    from subkern.training.settings import Training

    same = ("optimizer", "steps", "eval_every", "loss", "epsilon", "schedule", "warmup", "dropout")
    return Training(
        seed=asked["training_seed"],
        log_steps=asked["log_steps"],
        keep_steps=asked["keep_steps"],
        **{k: asked[k] for k in same},
    )


def _examples(task: Any, asked: dict[str, Any]) -> dict[str, Any]:
    from subkern.tasks.examples import SPLITS, load_examples

    limits = {"test": asked["test_limit"]}
    where = {k: asked[k] for k in ("shots", "seed")}
    return {
        name: load_examples(task, asked["data"], split=name, limit=limits.get(name), **where)
        for name in SPLITS
    }


def _state(out: Path) -> list[int]:
    """When each file of a search was written."""
    files = [*out.glob("grid.json"), *sorted(out.glob("*/**/result.json"))]
    return [path.stat().st_mtime_ns for path in files]


def _narrow(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The table in 80 columns: what diverged and what is best share one."""
    diverged = table["status"].where(table["status"] != "done", "")
    names = {"learning rate": "rate", "batch size": "batch", "best step": "step"}
    names |= {f"dev {metric}": f"dev {metric}", "dev loss": "loss", "seconds": "seconds"}
    return table[list(names)].rename(columns=names).assign(note=table["note"].fillna("") + diverged)


def _show(
    found: Search,
    out: Path,
    said: str,
    metric: str,
    as_json: bool,
    suggestions: dict[int, dict[str, Any]],
) -> None:
    """Print the grid and the best run, and where its rates are from."""
    from subkern.training.monitor import score

    from ..show.terminal import show, wrapped

    best = found.best
    start = {
        name: score(logits, best.labels[name], metric)  # type: ignore[arg-type]
        for name, logits in best.start_logits.items()
    }
    if found.warning is not None:
        click.echo(f"subkern: {found.warning}", err=True)
    if as_json:
        summary = {
            "learning_rate": best.training["learning_rate"],
            "batch_size": best.training["batch_size"],
            "step": best.best_step,
            "metric": metric,
            "scores": dict(best.scores),
            "scores_before": start,
        }
        points = json.loads(found.table.to_json(orient="records"))
        said_all = {"points": points, "best": summary, "warning": found.warning}
        if suggestions:
            said_all["suggestions"] = list(suggestions.values())
        click.echo(json.dumps(said_all, indent=2))
        return
    show(_narrow(found.table, metric), False, listed=False)
    for size, each in suggestions.items():
        text = f"suggested for batches of {size}: learning rate {each['suggested']:g}"
        if each["spike"] is not None:
            text += f"; training likely spikes near {each['spike']:.2g}"
        click.echo(wrapped(text))
    scores = ", ".join(f"{n} {best.scores[n]:.3f} (before {start[n]:.3f})" for n in best.scores)
    rate, size = best.training["learning_rate"], best.training["batch_size"]
    where = f"learning rate {rate:g}, batch size {size}, step {best.best_step}"
    click.echo(wrapped(f"best: {where}; {metric}: {scores}"))
    click.echo(f"{out} {said}")

"""The command line: ``subkern tasks | kernel | features | solve | agree | finetune | analyze | …``.

Exit status: 0 done, 2 the user's mistake (one line on stderr), 1 anything else.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analyses.commands.behavior import analyze_behavior
from analyses.commands.features import features
from analyses.commands.figures import figures
from analyses.commands.finetune import finetune
from analyses.commands.fourteen_tasks import analyze_fourteen_tasks
from analyses.commands.lora import analyze_lora
from analyses.commands.options import (
    AS_JSON,
    DATA,
    HEAD,
    HEAD_START,
    MODEL,
    OVERWRITE,
    PATH,
    READING,
    RUNNING,
    SPLITS,
    listed,
)
from analyses.commands.prompting import analyze_prompting
from analyses.commands.subspace import analyze_subspace
from subkern import __version__
from subkern.errors import UserError
from subkern.storage.files import is_full
from subkern.subspaces.text import FORMS

if TYPE_CHECKING:
    from subkern.kernels.kernel import Kernel

RULE_HELP = (
    "sgd | signgd | asymmetric_signgd | adam | asymmetric_adam; options after a colon, as in"
    " adam:eps=1e-8 or signgd:zero_tolerance=0 (entries of rounding noise keep their signs)."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(__version__, prog_name="subkern")
@click.option("--debug", is_flag=True, envvar="SUBKERN_DEBUG", help="Show tracebacks.")
def cli(debug: bool) -> None:
    """Will LoRA of this rank learn my task like full fine-tuning?

    subkern answers from the kernels of the pretrained model, before any training.
    """


@cli.group(invoke_without_command=True)
@AS_JSON
@click.pass_context
def tasks(ctx: click.Context, as_json: bool) -> None:
    """List the tasks, or show how an example of one looks to a model."""
    if ctx.invoked_subcommand is not None:
        return
    import pandas as pd

    from analyses.show.terminal import show
    from subkern.tasks.catalogue import TASKS

    rows = [
        {
            "task": t.name,
            "classes": len(t.labels),
            "texts": t.num_texts,
            "metric": t.metric,
            "label words": ", ".join(t.label_words),
        }
        for t in TASKS.values()
    ]
    show(pd.DataFrame(rows), as_json)


@tasks.command("show")
@click.argument("task")
@MODEL
@HEAD
@DATA
@click.option("--seed", default=13, show_default=True, help="Seed of the split.")
@click.option("--split", default="train", type=SPLITS, show_default=True)
@click.option("--index", default=0, show_default=True, help="Which example of the split.")
def tasks_show(
    task: str, model: str, head: str, data: str, shots: int, seed: int, split: str, index: int
) -> None:
    """Render one example of TASK as text and as tokens, read position marked.

    Without --data the texts are placeholders.
    """
    from subkern.models.load import load_prompt
    from subkern.tasks.catalogue import get_task
    from subkern.tasks.examples import Example, load_examples

    spec = get_task(task)
    prompt = load_prompt(model, task=spec, head=head)
    given = click.get_current_context().get_parameter_source("data")
    if given is click.core.ParameterSource.DEFAULT:
        texts = ("This is the first text.", "And this is the second.")[: spec.num_texts]
        example = Example("placeholder", texts, 0)
    else:
        examples = load_examples(spec, data, split=split, shots=shots, seed=seed)
        if not 0 <= index < len(examples):
            raise UserError(f"--index {index} is outside the {len(examples)} examples of {split}")
        example = examples[index]
    click.echo(prompt.render(example))


@cli.command()
@MODEL
@click.option("--task", required=True, help="Task name, or path of a task file.")
@DATA
@click.option("--seed", default=13, show_default=True, help="Seed of the split.")
@click.option("--left", default="train", type=SPLITS, show_default=True, help="Rows.")
@click.option("--right", default="train", type=SPLITS, show_default=True, help="Columns.")
@click.option("--left-limit", type=int, help="At most so many rows' examples.")
@click.option("--right-limit", type=int, help="At most so many columns' examples.")
@click.option("--rule", default="sgd", show_default=True, help=RULE_HELP)
@click.option("--logits", default="all", show_default=True, help="all | binary | auto.")
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
    from analyses.engine.heads import load_started
    from analyses.show.terminal import ProgressBar, wrapped
    from subkern.kernels.compute import compute_kernel, kernel_identity
    from subkern.kernels.lm_kernel_ft import check_export, export_lmk
    from subkern.kernels.request import RunOptions
    from subkern.kernels.rules import parse_rule
    from subkern.storage.files import only_run
    from subkern.subspaces.text import as_subspace
    from subkern.tasks.catalogue import get_task

    out, task = asked["out"], get_task(asked["task"])
    as_subspace(asked["subspace"])  # refuse a bad one before the model is loaded
    rule = parse_rule(asked["rule"])
    if asked["export_lmk"] is not None:
        check_export(asked["export_lmk"], rule.name, overwrite=asked["overwrite"])
    left, right = (_examples(task, asked, side) for side in ("left", "right"))
    model = load_started(task, asked)
    assert model.prompt is not None
    sides = model.prompt.encode_all(left), model.prompt.encode_all(right)
    method = {k: asked[k] for k in ("rule", "subspace", "engine")}
    identity = kernel_identity(model, *sides, **method)
    tiles = out.with_name(f".{out.name}.tiles")
    with only_run(tiles):
        if found := _finished(out, identity, asked["overwrite"]):
            click.echo(f"{out} is up to date\n{wrapped(repr(found))}")
        else:
            with ProgressBar("kernel entries") as report:
                options = RunOptions(asked["batch_size"], asked["memory"], report, tiles)
                found = compute_kernel(model, *sides, options=options, **method)
            found.save(out, overwrite=asked["overwrite"])
            click.echo(f"wrote {out}\n{wrapped(repr(found))}")
        RunOptions(checkpoint=tiles).clear()  # also what a run left that was killed after saving
    if asked["export_lmk"] is not None:
        click.echo(f"wrote {export_lmk(found, asked['export_lmk'], overwrite=asked['overwrite'])}")


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
    except UserError as error:
        raise UserError(f"{error} (--overwrite replaces it)") from error


@cli.command()
@click.argument("train", type=PATH)
@click.argument("evaluation", metavar="EVAL", type=PATH)
@click.option(
    "--solver",
    default="ridge",
    show_default=True,
    help="ridge | lstsq | logistic | row-logistic | svc | svr | asym | asym-ridge; the last two and"
    " row-logistic take asymmetric kernels.",
)
@click.option("--dev", type=PATH, help="Kernel train x dev on which settings are chosen.")
@click.option(
    "--grid",
    "grids",
    multiple=True,
    help="Solver settings to choose from, like gamma=0.1,1,10 (repeatable), or 'default'.",
)
@click.option("--f0-scales", help="Scales of the initial logits to choose from, like none,1,10.")
@click.option("--metric", default="accuracy", show_default=True, help="accuracy | f1.")
@AS_JSON
def solve(
    train: Path,
    evaluation: Path,
    solver: str,
    dev: Path | None,
    grids: tuple[str, ...],
    f0_scales: str | None,
    metric: str,
    as_json: bool,
) -> None:
    """Solve a classifier on TRAIN (train x train), score it on EVAL (train x eval)."""
    import pandas as pd

    from analyses.show.terminal import show
    from subkern.kernels.kernel import Kernel
    from subkern.solvers import evaluate, parse_grid, parse_scales

    kernels = [Kernel.load(p) for p in (train, evaluation, *([dev] if dev else []))]
    scales = parse_scales(f0_scales) if f0_scales else None
    chosen: dict[str, Any] = {"grid": parse_grid(grids), "f0_scales": scales, "metric": metric}
    found = evaluate(solver, *kernels, **chosen)
    show(pd.DataFrame([found]), as_json)


@cli.command()
@click.argument("reference", type=PATH)
@click.argument("other", type=PATH)
@click.option("--metrics", help="Names of metrics, with commas.  [default: all that apply]")
@click.option("--resamples", default=200, show_default=True, help="Bootstrap resamples.")
@click.option("--confidence", default=0.95, show_default=True, help="Of the intervals.")
@AS_JSON
def agree(
    reference: Path,
    other: Path,
    metrics: str | None,
    resamples: int,
    confidence: float,
    as_json: bool,
) -> None:
    """Agreement metrics of kernel OTHER with REFERENCE, with intervals."""
    from analyses.show.terminal import show
    from subkern.agreement import agreement_table
    from subkern.kernels.kernel import Kernel

    table = agreement_table(
        Kernel.load(reference),
        Kernel.load(other),
        metrics=metrics.split(",") if metrics else None,
        n_resamples=resamples,
        confidence=confidence,
    )
    columns = ["metric", "value", "low", "high", "reference", "better"]
    show(table if as_json else table[columns], as_json)


cli.add_command(features)
cli.add_command(figures)
cli.add_command(finetune)


@cli.group()
def analyze() -> None:
    """Studies: one question each, answered with tables, figures and a report."""


analyze.add_command(analyze_behavior)
analyze.add_command(analyze_lora)
analyze.add_command(analyze_subspace)
analyze.add_command(analyze_fourteen_tasks)
analyze.add_command(analyze_prompting)


def main() -> None:
    """Run the command line; every error is one line."""
    _quieten()
    debug = "--debug" in sys.argv or bool(os.environ.get("SUBKERN_DEBUG"))
    try:
        sys.exit(cli.main(standalone_mode=False, prog_name="subkern") or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        where = error.ctx.command_path if getattr(error, "ctx", None) else "subkern"  # type: ignore[attr-defined]
        _fail(f"{error.format_message().rstrip('.')} (see {where} --help)", 2)
    except UserError as error:
        _fail(str(error), error.status)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted: the same command continues from what is finished", 1)
    except Exception as error:
        if debug:
            raise
        if is_full(error):
            name = getattr(error, "filename", None)
            where = f" for '{name}'" if name else ""
            _fail(
                f"no space left{where}: what is finished is kept; make room and run the same"
                " command again",
                1,
            )
        if isinstance(error, OSError) and error.filename:
            _fail(f"'{error.filename}' cannot be read or written: {error.strerror}", 2)
        _fail(f"{type(error).__name__}: {' '.join(str(error).split())} (--debug says more)", 1)


def _quieten() -> None:
    """Keep other libraries' notes and progress bars off the screen, unless asked for."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)


def _fail(message: str, status: int) -> None:
    click.echo(f"subkern: {' '.join(message.split())}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()

"""``subkern tasks``: which tasks there are, and what a model sees of an example."""

from __future__ import annotations

import click

from subkern.errors import UserError

from .options import AS_JSON, DATA, HEAD, MODEL, SPLITS, Command


@click.group(invoke_without_command=True)
@AS_JSON
@click.pass_context
def tasks(ctx: click.Context, as_json: bool) -> None:
    """List the tasks, or show how an example of one looks to a model."""
    if ctx.invoked_subcommand is not None:
        return
    import pandas as pd

    from subkern.tasks.catalogue import TASKS

    from ..show.terminal import show

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


@tasks.command("show", cls=Command)
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

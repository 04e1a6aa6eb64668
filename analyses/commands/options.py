"""Command-line options that commands share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click


class Command(click.Command):
    """A command whose options are not given an empty text, which would pass for not given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and refuse an empty text."""
        rest = super().parse_args(ctx, args)
        for option in self.get_params(ctx):
            given = ctx.params.get(option.name or "")
            for text in given if isinstance(given, tuple) else (given,):
                if isinstance(text, str) and not text.strip():
                    raise click.BadParameter(
                        f"{text!r} is empty: give a value, or leave the option out", ctx, option
                    )
        return rest


class Place(click.ParamType):
    """A path to read or write; not the empty text, which would be the working directory."""

    name = "path"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return a `Path`; ``.`` and ``..`` are made whole, so that they have a name."""
        path = Path(value)
        if not str(value).strip() or "\0" in str(value):
            return self.fail(f"{value!r} is no path: give a file or folder", param, ctx)
        return path if path.name not in ("", "..") else path.resolve()


PATH = Place()


class Count(click.IntRange):
    """A whole number from 1."""

    name = "integer"

    def __init__(self) -> None:
        super().__init__(1)


COUNT = Count()
SPLITS = click.Choice(["train", "dev", "test"])


class Numbers(click.ParamType):
    """Numbers separated by commas, as a tuple: whole ones, or any (``kind=float``)."""

    def __init__(self, kind: type[int] | type[float] = int) -> None:
        self.kind = kind
        self.name = "n,n,..." if kind is int else "x,x,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Parse ``1,2,4`` or ``1e-4,1e-3``."""
        if not isinstance(value, str):
            return value
        try:
            return tuple(self.kind(part) for part in value.split(","))
        except ValueError:
            what = "whole numbers" if self.kind is int else "numbers"
            return self.fail(f"'{value}' is not {what} separated by commas", param, ctx)


class Rates(Numbers):
    """Learning rates separated by commas, or ``auto``."""

    def __init__(self) -> None:
        super().__init__(float)
        self.name = "rates"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Parse ``1e-4,1e-3``; leave ``auto``."""
        return value if value == "auto" else super().convert(value, param, ctx)


def options(*decorators: Callable[..., Any]) -> Callable[..., Any]:
    """One decorator from several, so that commands share their options."""

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


MODEL = click.option(
    "--model",
    required=True,
    help="Hub id, local directory, demo:smollm2, or demo:minilm with --head linear.",
)
HEAD = click.option("--head", default="prompt", show_default=True, help="prompt | linear.")
_COLUMN = 50  # width of help texts beside the longest option, in 80 columns


def listed(forms: Iterable[str]) -> str:
    """Help that lists forms to copy: lines break between them, and in a long one after a comma."""
    lines = [""]
    for form in forms:
        whole = f"{lines[-1]} | {form}" if lines[-1] else form
        if len(whole) <= _COLUMN:
            lines[-1] = whole
            continue
        lines += [""] if lines[-1] else []
        for part in re.findall(r"[^,]+,?", form):
            if len(lines[-1]) + len(part) > _COLUMN:
                lines.append("  ")
            lines[-1] += part
    return "\n\n\b\n" + "\n".join(lines) + "\n\n"


AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace output of other settings.")
DATA = options(
    click.option(
        "--data",
        default="hub",
        show_default=True,
        help="Folder in the k-shot layout, hub, demo, or a data file (JSONL, JSON, CSV, TSV,"
        " Parquet, a data set's name on the hub).",
    ),
    click.option(
        "--shots", default=16, show_default=True, help="Training examples per label of a folder."
    ),
)
TASK = click.option(
    "--task", help="Task name, or path of a task file; a data file may do without one."
)
OWN_DATA = options(
    click.option("--test", help="Of a data file: a file, or a share of the rows.  [default: 0.2]"),
    click.option("--dev", help="Likewise.  [default: 0.1]"),
    click.option(
        "--format",
        help="Of a data file: preference, choices, prompt-completion, messages, conversations,"
        " instruction, labels, regression or text.  [default: by its columns]",
    ),
    click.option("--columns", help="Which column is what, as in text=subject+body,label=kind."),
    click.option(
        "--max-length", type=COUNT, help="Longest sequence of a data file.  [default: 1024]"
    ),
    click.option("--normalize", help="sum | mean of an answer's log-likelihoods.  [default: sum]"),
    click.option("--beta", type=float, help="Of preferences.  [default: 0.1]"),
    click.option("--template", help="Of texts with labels, in LM-BFF's notation."),
)
EXAMPLES = options(
    MODEL,
    TASK,
    DATA,
    OWN_DATA,
    click.option("--seed", default=13, show_default=True, help="Seed of the split."),
)
LOGITS = click.option("--logits", default="all", show_default=True, help="all | binary | auto.")
LOSS = click.option(
    "--loss",
    help="cross_entropy | squared.  [default: cross_entropy; of completions their likelihood]",
)
HEAD_INIT = click.option(
    "--head-init",
    default="random",
    type=click.Choice(["random", "probe"]),
    show_default=True,
    help="A linear head's start; probe: logistic regression on the training examples.",
)
HEAD_START = options(
    click.option("--head-seed", default=0, show_default=True, help="Seed of a linear head."),
    HEAD_INIT,
)
COMPUTING = options(
    click.option("--dtype", default="float32", show_default=True, help="float32|float64|bfloat16."),
    click.option("--device", default="cpu", show_default=True, help="Torch device."),
)
RUNNING = options(
    COMPUTING,
    click.option("--batch-size", type=int, help="Most examples in one forward.  [default: auto]"),
    click.option(
        "--memory",
        help="Memory beyond the model, like 3GiB.  [default: half of what is free, at most 4GiB]",
    ),
)
READING = options(
    click.option("--tie", default="model", show_default=True, help="model | untied (the paper's)."),
    click.option(
        "--revision", help="Hub revision of the model; unless given, the one in the cache."
    ),
)
TARGETS = options(
    click.option(
        "--targets",
        multiple=True,
        default=["all-linear"],
        show_default=True,
        help="qv, attention, mlp, all-linear, all, names or suffixes with commas, or a regular"
        " expression. Several, or grid for the first five: compare them.",
    ),
    click.option("--rule", default="sgd", show_default=True, help="Update rule of the kernels."),
)
JUDGING = options(
    click.option("--max-drop", default=0.02, show_default=True, help="Score a rank may lose."),
    click.option(
        "--min-agreement",
        default=0.95,
        show_default=True,
        help="Share of equal predictions it needs.",
    ),
    click.option(
        "--budget",
        help="Most parameters to train: 1% of the model's, or a count like 250k."
        "  [default: the cheapest within tolerance]",
    ),
)

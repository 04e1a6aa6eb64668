"""Command-line options that commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)
SPLITS = click.Choice(["train", "dev", "test"])


class Numbers(click.ParamType[Any]):
    """Whole numbers separated by commas, as a tuple."""

    name = "n,n,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Parse ``1,2,4``."""
        if not isinstance(value, str):
            return value
        try:
            return tuple(int(part) for part in value.split(","))
        except ValueError:
            return self.fail(f"'{value}' is not whole numbers separated by commas", param, ctx)


def options(*decorators: Callable[..., Any]) -> Callable[..., Any]:
    """One decorator from several, so that commands share their options."""

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


MODEL = click.option(
    "--model", required=True, help="Hub id, local directory, demo:smollm2 or demo:minilm."
)
HEAD = click.option("--head", default="prompt", show_default=True, help="prompt | linear.")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace output of other settings.")
DATA = options(
    click.option(
        "--data", default="hub", show_default=True, help="Folder in the k-shot layout, hub or demo."
    ),
    click.option("--shots", default=16, show_default=True, help="Training examples per label."),
)
RUNNING = options(
    click.option("--dtype", default="float32", show_default=True, help="float32|float64|bfloat16."),
    click.option("--device", default="cpu", show_default=True, help="Torch device."),
    click.option("--batch-size", type=int, help="Most examples in one forward.  [default: auto]"),
    click.option(
        "--memory", help="Memory beyond the model, like 3GiB.  [default: half of what is free]"
    ),
)
READING = options(
    click.option("--tie", default="model", show_default=True, help="model | untied (the paper's)."),
    click.option("--revision", help="Hub revision of the model."),
)

"""``subkern solve``: a classifier on saved kernels, and its score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import AS_JSON, PATH, Command


@click.command(cls=Command)
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
@click.option(
    "--metric",
    help="accuracy | f1; of real labels pearson | spearman | r2.  [default: accuracy, or pearson]",
)
@AS_JSON
def solve(
    train: Path,
    evaluation: Path,
    solver: str,
    dev: Path | None,
    grids: tuple[str, ...],
    f0_scales: str | None,
    metric: str | None,
    as_json: bool,
) -> None:
    """Solve a classifier on TRAIN (train x train), score it on EVAL (train x eval)."""
    import pandas as pd

    from subkern.kernels.kernel import Kernel
    from subkern.solvers import evaluate, parse_grid, parse_scales

    from ..show.terminal import show

    kernels = [Kernel.load(p) for p in (train, evaluation, *([dev] if dev else []))]
    scales = parse_scales(f0_scales) if f0_scales else None
    chosen: dict[str, Any] = {"grid": parse_grid(grids), "f0_scales": scales, "metric": metric}
    found = evaluate(solver, *kernels, **chosen)
    show(pd.DataFrame([found]), as_json)

"""``subkern agree``: how far two saved kernels agree."""

from __future__ import annotations

from pathlib import Path

import click

from .options import AS_JSON, PATH, Command


@click.command(cls=Command)
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
    from subkern.agreement import agreement_table
    from subkern.kernels.kernel import Kernel

    from ..show.terminal import show

    table = agreement_table(
        Kernel.load(reference),
        Kernel.load(other),
        metrics=metrics.split(",") if metrics else None,
        n_resamples=resamples,
        confidence=confidence,
    )
    # What is better can be read from the reference, of a kernel with itself: 0 lower, 1 higher.
    columns = ["metric", "value", "low", "high", "reference"]
    show(table if as_json else table[columns], as_json)

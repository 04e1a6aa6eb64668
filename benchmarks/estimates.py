"""``python -m benchmarks.estimates``: what is estimated of a computation, beside what it then took.

Estimate and computation follow each other in one process, so that both meet the same machine.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from subkern.cores import MUCH, Company, share_cores

if TYPE_CHECKING:
    from benchmarks.problem import Problem
    from subkern.estimates.estimate import Estimate

FACTOR = 1.5
"""An estimate of seconds or memory may be so many times too large or too small."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", "models", type=click.Choice(["minilm", "smollm2", "tiny"]), multiple=True)
@click.option("--what", "kinds", type=click.Choice(["kernel", "sweep", "features"]), multiple=True)
@click.option("--left", type=click.IntRange(2), default=32, show_default=True)
@click.option("--right", type=click.IntRange(2), default=200, show_default=True)
@click.option("--memory", default="3GiB", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/bench"))
def main(
    models: tuple[str, ...], kinds: tuple[str, ...], left: int, right: int, memory: str, out: Path
) -> None:
    """Estimate computations, run them, and print one beside the other."""
    share_cores()
    from benchmarks.models import PROBLEMS, QUICK_PROBLEMS

    problems: dict[str, Any] = {**PROBLEMS, "tiny": QUICK_PROBLEMS["smollm2"]}
    rows = []
    for name in models or tuple(PROBLEMS):
        problem = problems[name](left, right)
        for kind in kinds or tuple(PAIRS):
            rows.append({"model": name, "what": kind, **compare(problem, kind, memory)})
            click.echo(table(rows[-1:]), err=True)
    text = table(rows)
    out.mkdir(parents=True, exist_ok=True)
    found = {"left": left, "right": right, "memory": memory, "factor": FACTOR, "rows": rows}
    (out / "estimates.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (out / "estimates.txt").write_text(text, encoding="utf-8")
    click.echo(text)


def compare(problem: Problem, kind: str, memory: str) -> dict[str, Any]:
    """One computation, estimated and measured."""
    from benchmarks.measure import PeakMemory, release_memory, timed
    from benchmarks.roofline import watched

    problem.model(problem.model.collate(problem.left[:1]))  # touch the weights
    release_memory()
    estimated, compute = PAIRS[kind](problem, memory)
    estimating, estimate = timed(estimated)
    release_memory()
    company = Company()
    with PeakMemory(0.0) as peak, watched() as watch:
        seconds, _ = timed(compute)
    return {
        "estimating": estimating,
        "seconds": [estimate.costs.seconds, seconds],
        "memory_bytes": [estimate.costs.memory_bytes, peak.peak_bytes],
        "phases": {phase.name: phase.seconds for phase in estimate.costs.phases},
        "phases_run": dict(watch.seconds),
        "flops": estimate.costs.flops,
        "cores_of_others": company.cores(),
    }


Pair = tuple[Callable[[], "Estimate"], Callable[[], Any]]


def _kernel(problem: Problem, memory: str) -> Pair:
    from subkern.estimates.kernel import estimate_kernel
    from subkern.kernels.compute import compute_kernel
    from subkern.kernels.request import RunOptions

    given: Any = (problem.model, problem.left, problem.right)
    options = RunOptions(memory=memory)
    return (
        partial(estimate_kernel, *given, options=options),
        partial(compute_kernel, *given, options=options),
    )


def _sweep(problem: Problem, memory: str) -> Pair:
    from subkern.estimates.sweep import estimate_sweep
    from subkern.kernels.request import RunOptions
    from subkern.kernels.sweeps.lora import LoraGrid, sweep_lora

    given: Any = (problem.model, problem.left, problem.right)
    grid = LoraGrid(ranks=(1, 2, 4)) if problem.name.startswith("tiny") else LoraGrid()
    how: Any = {"options": RunOptions(memory=memory), "grid": grid}
    return partial(estimate_sweep, *given, **how), partial(sweep_lora, *given, **how)


def _features(problem: Problem, memory: str) -> Pair:
    from subkern.estimates.features import estimate_features
    from subkern.features.features import compute_features
    from subkern.kernels.request import RunOptions
    from subkern.subspaces.random import RandomSubspace

    few = min(DIM, sum(p.numel() for p in problem.model.parameters()) // 2)
    asked: Any = {"subspace": RandomSubspace(few, "srht"), "options": RunOptions(memory=memory)}

    def compute() -> None:
        with tempfile.TemporaryDirectory() as folder:
            compute_features(
                problem.model, problem.left, out=Path(folder) / "features.zarr", **asked
            )

    return partial(estimate_features, problem.model, problem.left, **asked), compute


DIM = 2048
PAIRS: dict[str, Callable[[Any, str], Pair]] = {
    "kernel": _kernel,
    "sweep": _sweep,
    "features": _features,
}


def table(rows: list[dict[str, Any]]) -> str:
    """Seconds and memory, estimated and measured, at most 80 columns wide."""
    lines = [
        f"{'':22}{'seconds':>18}{'':8}{'GiB in all':>16}{'':8}",
        f"{'':22}{'estimate':>10}{'run':>8}{'ratio':>8}{'estimate':>10}{'run':>6}{'ratio':>8}",
    ]
    for row in rows:
        cells = f"{row['model']} {row['what']:<12}".ljust(22)
        (a, b), (x, y) = row["seconds"], [each / 2**30 for each in row["memory_bytes"]]
        lines.append(f"{cells}{a:10.1f}{b:8.1f}{a / b:8.2f}{x:10.2f}{y:6.2f}{x / y:8.2f}")
        if row["cores_of_others"] >= MUCH:
            lines.append(f"  NOT IDLE: others used {row['cores_of_others']:.1f} cores meanwhile")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""Does fine-tuning on a task show kernel behaviour? Real runs beside what their kernel predicts.

`run` computes, `plot` draws, `analyze` does both in a run directory that can be resumed::

    config = Config(model="demo:smollm2", task="mr", data="demo")
    results = analyze(config, "runs/mr-behavior").results
    print(sentence(results))
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from subkern.models.logit_model import LogitModel
from subkern.storage.progress import Progress

from .. import study
from ..engine.classifiers import Split
from ..engine.heads import at_start
from ..engine.inputs import Inputs, identity, load_inputs
from ..engine.run_folder import Results, RunDirectory
from ..study import Drawing, Outcome, Workplace
from .config import Config
from .figures import FIGURES
from .measure import best, measure
from .report import page, summary
from .runs import Lab, learning_rates
from .table import row, tidy
from .text import sentence

__all__ = ["Config", "Outcome", "analyze", "plot", "run", "sentence", "summary"]

NAME = "behavior"


def analyze(
    config: Config,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    command: str | None = None,
) -> Outcome:
    """Run a study in the directory ``out``, or go on with it, or find it done.

    Args:
        config: the settings.
        out: the run directory; see :mod:`analyses.engine.run_folder`.
        overwrite: replace a run of other settings.
        progress: called with kernel entries or training steps done and in all.
        command: what the report says makes it again; the call of this function if None.

    Raises:
        UserError: anything the user can put right; nothing is written then.
    """
    inputs = load_inputs(config)
    directory = RunDirectory(out, NAME, identity(config, inputs, _prepare, _compute))
    return study.carry_out(
        directory,
        config,
        inputs,
        prepare=lambda: (_prepare(config, inputs), {}),
        compute=lambda model, place: _compute(config, inputs, model, place, progress),
        drawing=Drawing(FIGURES, page),
        overwrite=overwrite,
        command=command,
    )


def run(
    config: Config, progress: Progress | None = None, *, checkpoint: Path | None = None
) -> Results:
    """Compute the whole study and return it, writing nothing (but to ``checkpoint``, if given)."""
    inputs = load_inputs(config)
    model = _prepare(config, inputs)
    return _compute(config, inputs, model, Workplace({}, checkpoint), progress)


def plot(results: Results) -> dict[str, Figure]:
    """Draw the figures of saved or fresh results, by name."""
    return {name: figure(results) for name, figure in FIGURES.items()}


def _prepare(config: Config, inputs: Inputs) -> LogitModel:
    """The model; refuses subspaces that it cannot take, before anything is written."""
    model = study.load(config, inputs)
    for dim in (None, *config.dims):
        config.subspace_of(dim).attach(model)
    return model


def _compute(
    config: Config,
    inputs: Inputs,
    model: LogitModel,
    place: Workplace,
    progress: Progress | None,
) -> Results:
    """Train, predict and measure every data seed."""
    started = datetime.now(UTC)
    rows: list[dict[str, Any]] = []
    for seed, splits in inputs.splits.items():
        encoded = study.encode(model, splits)
        folder = None if place.checkpoint is None else place.checkpoint / f"seed-{seed}"
        lab = Lab(
            config,
            at_start(model, encoded["train"], config.head_init),
            encoded,
            study.metric_of(inputs),
            kernels=place.kernels,
            seed=seed,
            folder=folder,
            progress=progress,
        )
        split = Split(**{name: [each.id for each in found] for name, found in encoded.items()})
        rows += _one_seed(config, lab, split, seed)
    return Results(
        analysis=NAME,
        config=config.as_dict(),
        inputs=study.describe(inputs, model),
        table=tidy(rows),
        kernels=place.kernels,
        environment=study.environment_since(started),
    )


def _one_seed(config: Config, lab: Lab, split: Split, seed: int) -> list[dict[str, Any]]:
    """Rows of one data seed."""
    kernel = lab.kernel(None)
    rates, critical = learning_rates(config, kernel.select(right=list(split.train)))
    runs = [lab.run(dim, rate) for dim in (None, *config.dims) for rate in rates]
    found = best(runs, config.subspace)
    chosen = None if found is None else lab.look_into(found)
    return [
        row(critical, data_seed=seed, metric="critical_rate"),
        *measure(config, runs, chosen, kernel, split, lab.metric, seed),
    ]

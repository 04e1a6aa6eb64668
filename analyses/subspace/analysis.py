"""How many dimensions a task needs: kernels of random subspaces, LoRA and other methods beside the
kernel of full fine-tuning, on one axis of trained parameters.

`run` computes, `plot` draws, `analyze` does both in a run directory that can be resumed::

    config = Config(model="demo:smollm2", task="mr", data="demo")
    results = analyze(config, "runs/mr").results
    print(sentence(results))
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from matplotlib.figure import Figure

from subkern.models.logit_model import LogitModel
from subkern.storage.progress import Progress

from .. import study
from ..engine.inputs import Inputs, identity, load_inputs
from ..engine.predictions import Measured, to_table
from ..engine.run_folder import PREDICTIONS, Results, RunDirectory
from ..study import Drawing, Outcome, Workplace
from ..verify.proof import Trial, prove
from .cautions import caveats
from .config import Config
from .figures import figures
from .kernels import Methods, choose_methods, compute_sweep
from .measure import measure
from .report import page, summary
from .table import row, tidy
from .text import sentence
from .trial import advice, candidates

__all__ = [
    "Config",
    "Outcome",
    "Trial",
    "advice",
    "analyze",
    "caveats",
    "plot",
    "run",
    "sentence",
    "summary",
    "verify",
]

NAME = "subspace"


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
        progress: called with kernel entries done and in all, for each sweep.
        command: what the report says makes it again; the call of this function if None.

    Raises:
        UserError: anything the user can put right; nothing is written then.
    """
    inputs = load_inputs(config)
    directory = RunDirectory(out, NAME, _identity(config, inputs))
    chosen: dict[str, Methods] = {}

    def prepare() -> tuple[LogitModel, Mapping[str, Any]]:
        model = study.load(config, inputs)
        chosen["methods"] = choose_methods(config, model)
        return model, chosen["methods"].describe()

    return study.carry_out(
        directory,
        config,
        inputs,
        prepare=prepare,
        compute=lambda model, place: _compute(
            config, inputs, model, chosen["methods"], place, progress
        ),
        drawing=_drawing(config.rule),
        overwrite=overwrite,
        command=command,
    )


def verify(
    config: Config,
    out: str | Path,
    trial: Trial | None = None,
    *,
    progress: Progress | None = None,
    command: str | None = None,
) -> Outcome:
    """Fine-tune full, the first kind of random subspace, LoRA and the other methods.

    Args:
        config: the settings of a finished study.
        out: its run directory.
        trial: how to train.
        progress: called with steps done and in all.
        command: what the report says makes it again; the call of this function if None.

    Raises:
        UserError: the study is not finished, or anything else that the user can put right.
    """
    inputs, trial = load_inputs(config), trial or Trial()
    return prove(
        RunDirectory(out, NAME, _identity(config, inputs)),
        config,
        inputs,
        trial,
        candidates=lambda results: candidates(config, results, trial),
        drawing=_drawing(config.rule),
        progress=progress,
        command=command,
    )


def _identity(config: Config, inputs: Inputs) -> dict[str, Any]:
    """Return all that decides the numbers."""
    return identity(config, inputs, study.load, choose_methods, _compute)


def _drawing(rule: str) -> Drawing:
    return Drawing(figures(rule), page, advice)


def run(
    config: Config, progress: Progress | None = None, *, checkpoint: Path | None = None
) -> Results:
    """Compute the whole study and return it, writing nothing (but to ``checkpoint``, if given)."""
    inputs = load_inputs(config)
    model = study.load(config, inputs)
    place = Workplace({}, checkpoint)
    return _compute(config, inputs, model, choose_methods(config, model), place, progress)


def plot(results: Results) -> dict[str, Figure]:
    """Draw the figures of saved or fresh results, by name."""
    drawn = _drawing(results.config["rule"]).figures_of(results)
    return {name: figure(results) for name, figure in drawn.items()}


def _compute(
    config: Config,
    inputs: Inputs,
    model: LogitModel,
    methods: Methods,
    place: Workplace,
    progress: Progress | None,
) -> Results:
    """Compute and measure the kernels of every data seed."""
    started = datetime.now(UTC)
    found = Measured()
    for part in study.parts(config, inputs, model, place, progress):
        sweep = compute_sweep(config, part.model, part.train, part.every, methods, part.options)
        for member in (sweep.full, *sweep.others):
            if member.family != "random":  # thousands of files, and their seeds make them again
                place.kernels[f"{part.seed}/{member.name}"] = member.kernel
        began = perf_counter()
        found.extend(measure(sweep, part.split, study.metric_of(inputs), config, part.seed))
        judging = row(perf_counter() - began, data_seed=part.seed, metric="cost.judging_seconds")
        found.rows.append(judging)
    return Results(
        analysis=NAME,
        config=config.as_dict(),
        inputs=study.describe(inputs, model) | methods.describe(),
        table=tidy(found.rows),
        kernels=place.kernels,
        environment=study.environment_since(started),
        beside={PREDICTIONS: to_table(found.predictions)},
    )

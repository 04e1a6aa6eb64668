"""How far LoRA of each rank preserves the kernel of full fine-tuning, and which rank to take.

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

from subkern.kernels.kernel import Kernel
from subkern.kernels.sweeps.lora import LoraSweep, resolve_sets, sweep_targets
from subkern.kernels.sweeps.lora_grid import LoraGrid
from subkern.models.logit_model import LogitModel
from subkern.storage.progress import Progress
from subkern.subspaces.lora_targets import resolve

from .. import study
from ..engine.inputs import Inputs, identity, load_inputs
from ..engine.predictions import Measured, to_table
from ..engine.run_folder import PREDICTIONS, Results, RunDirectory
from ..study import Drawing, Outcome, Workplace
from ..verify.proof import Trial, prove
from .answer import caveats, figures, page, sentence, summary
from .config import Config
from .grid import recommend_configuration
from .measure import measure
from .table import row, tidy
from .targets import kernel_name
from .trial import advice, candidates
from .verdict import Recommendation, recommend

__all__ = [
    "Config",
    "Outcome",
    "Recommendation",
    "Trial",
    "advice",
    "analyze",
    "caveats",
    "plot",
    "recommend",
    "recommend_configuration",
    "run",
    "sentence",
    "summary",
    "verify",
]

NAME = "lora"


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
        progress: called with kernel entries done and in all, for each data seed.
        command: what the report says makes it again; the call of this function if None.

    Raises:
        UserError: anything the user can put right; nothing is written then.
    """
    inputs = load_inputs(config)
    directory = RunDirectory(out, NAME, identity(config, inputs, study.load, _compute))

    def prepare() -> tuple[LogitModel, Mapping[str, Any]]:
        model = study.load(config, inputs)
        resolve_sets(model, config.sets, max(config.ranks), config.adapter_seeds[:1])
        return model, _describe_sets(config, model)

    return study.carry_out(
        directory,
        config,
        inputs,
        prepare=prepare,
        compute=lambda model, place: _compute(config, inputs, model, place, progress),
        drawing=_drawing(config.as_dict()),
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
    """Fine-tune full and every rank (and target set) of the finished study in ``out``.

    Args:
        config: the study's settings.
        out: its run directory.
        trial: how to train.
        progress: called with steps done and in all.
        command: what the report says makes it again; the call of this function if None.

    Raises:
        UserError: the study is not finished, or anything else that the user can put right.
    """
    inputs, trial = load_inputs(config), trial or Trial()
    return prove(
        RunDirectory(out, NAME, identity(config, inputs, study.load, _compute)),
        config,
        inputs,
        trial,
        candidates=lambda results: candidates(config, results, trial),
        drawing=_drawing(config.as_dict()),
        progress=progress,
        command=command,
    )


def _drawing(config: Mapping[str, Any]) -> Drawing:
    return Drawing(figures(config), page, advice)


def run(
    config: Config, progress: Progress | None = None, *, checkpoint: Path | None = None
) -> Results:
    """Compute the whole study and return it, writing nothing (but to ``checkpoint``, if given)."""
    inputs = load_inputs(config)
    place = Workplace({}, checkpoint)
    return _compute(config, inputs, study.load(config, inputs), place, progress)


def plot(results: Results) -> dict[str, Figure]:
    """Draw the figures of saved or fresh results, by name."""
    drawn = _drawing(results.config).figures_of(results)
    return {name: figure(results) for name, figure in drawn.items()}


def _describe_sets(config: Config, model: LogitModel) -> dict[str, Any]:
    """Return how target sets were understood, where that is not plain."""
    notes = {name: resolve(model, targets).note for name, targets in config.sets.items()}
    return {"target_sets": {name: {"note": note} for name, note in notes.items() if note}}


def _compute(
    config: Config, inputs: Inputs, model: LogitModel, place: Workplace, progress: Progress | None
) -> Results:
    """Sweep and measure every data seed."""
    started = datetime.now(UTC)
    found = Measured()
    grid = LoraGrid(config.ranks, config.adapter_seeds, alpha=config.alpha, rslora=config.rslora)
    for part in study.parts(config, inputs, model, place, progress):
        sweeps = sweep_targets(
            part.model,
            part.train,
            part.every,
            sets=config.sets,
            grid=grid,
            rule=config.rule,
            options=part.options,
        )
        for name, kernel in _named(sweeps, config).items():
            place.kernels[f"{part.seed}/{name}"] = kernel
        began = perf_counter()
        found.extend(measure(sweeps, part.split, study.metric_of(inputs), config, part.seed))
        judging = row(perf_counter() - began, data_seed=part.seed, metric="cost.judging_seconds")
        found.rows.append(judging)
    return Results(
        analysis=NAME,
        config=config.as_dict(),
        inputs=study.describe(inputs, model) | _describe_sets(config, model),
        table=tidy(found.rows),
        kernels=place.kernels,
        environment=study.environment_since(started),
        beside={PREDICTIONS: to_table(found.predictions)},
    )


def _named(sweeps: Mapping[str, LoraSweep], config: Config) -> dict[str, Kernel]:
    """Return the kernels of one data seed by the names they are kept under."""
    settings, found = config.as_dict(), {"full": next(iter(sweeps.values())).full}
    for targets, sweep in sweeps.items():
        found[kernel_name(settings, targets, "targets")] = sweep.targets_full
        for (adapter_seed, rank), kernel in sweep.kernels.items():
            name = kernel_name(settings, targets, f"lora-r{rank}-s{adapter_seed}")
            found[name] = kernel
    return found

"""How far LoRA of each rank preserves the kernel of full fine-tuning, and which rank to take.

`run` computes, `plot` draws, `analyze` does both in a run directory that can be resumed::

    config = Config(model="demo:smollm2", task="mr", data="demo")
    results = analyze(config, "runs/mr").results
    print(sentence(results))
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from analyses import lora_classifiers, lora_measure
from analyses.lora_answer import caveats, figures, page, sentence, summary
from analyses.lora_classifiers import Split
from analyses.lora_config import Config
from analyses.lora_grid import recommend_configuration
from analyses.lora_inputs import Inputs, identity, load_inputs
from analyses.lora_measure import measure
from analyses.lora_table import tidy
from analyses.lora_targets import kernel_name
from analyses.lora_verdict import Recommendation, recommend
from analyses.report import png, render
from analyses.results import FIGURE_FOLDER, REPORT, Results, RunDirectory, State, replacing
from subkern import provenance
from subkern.agreement.predictions import Score
from subkern.data import Example
from subkern.errors import UserError
from subkern.kernel import Kernel
from subkern.loading import load_model
from subkern.lora_grid import LoraGrid
from subkern.lora_sweep import LoraSweep, resolve_sets, sweep_targets
from subkern.models import LogitModel
from subkern.prompts import EncodedExample
from subkern.running import Running
from subkern.target_sets import resolve
from subkern.tiles import Progress

__all__ = [
    "Config",
    "Outcome",
    "Recommendation",
    "analyze",
    "caveats",
    "draw",
    "plot",
    "recommend",
    "recommend_configuration",
    "run",
    "sentence",
    "summary",
]

NAME = "lora"


@dataclass(frozen=True)
class Outcome:
    """What `analyze` leaves.

    Attributes:
        results: the results, as read from the run directory.
        report: path of the report page.
        up_to_date: whether the numbers were there already.
    """

    results: Results
    report: Path
    up_to_date: bool


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
        out: the run directory; see :mod:`analyses.results`.
        overwrite: replace a run of other settings.
        progress: called with kernel entries done and in all, for each data seed.
        command: what the report says makes it again; the call of this function if None.

    Raises:
        UserError: anything the user can put right; nothing is written then.
    """
    inputs = load_inputs(config)
    asked = identity(config, inputs, lora_measure, lora_classifiers)
    directory = RunDirectory(out, NAME, asked)
    state = directory.state(overwrite=overwrite)
    command = command or f"analyses.lora.analyze(Config(**{config.as_dict()!r}), {str(out)!r})"
    if state == "done" and directory.is_current:
        results = Results.load(directory.path)
        if _is_drawn(directory.path, results):
            return Outcome(results, directory.path / REPORT, up_to_date=True)
    if state == "done":
        directory.rewrite(config.as_dict(), command)
        results = Results.load(directory.path)
    else:
        model = _load(config, inputs)
        if overwrite:  # what is there is given up only for settings that the model can take
            resolve_sets(model, config.sets, max(config.ranks), config.adapter_seeds[:1])
        directory.claim(config.as_dict(), describe(inputs, model, config), command)
        results = _compute_into(directory, state, config, inputs, model, progress)
    return Outcome(results, draw(results, directory.path), up_to_date=state == "done")


def _compute_into(
    directory: RunDirectory,
    state: State,
    config: Config,
    inputs: Inputs,
    model: LogitModel,
    progress: Progress | None,
) -> Results:
    """Compute the study in its run directory; if it is new and refused, leave no directory."""
    try:
        found = _compute(config, inputs, model, directory.kernels, directory.checkpoint, progress)
    except UserError:
        if state == "new":
            directory.clear()  # the sweep refuses some settings only when it has seen the model
        raise
    return directory.finish(found.table, found.environment)


def run(
    config: Config, progress: Progress | None = None, *, checkpoint: Path | None = None
) -> Results:
    """Compute the whole study and return it, writing nothing (but to ``checkpoint``, if given)."""
    inputs = load_inputs(config)
    return _compute(config, inputs, _load(config, inputs), {}, checkpoint, progress)


def plot(results: Results) -> dict[str, Figure]:
    """Draw the figures of saved or fresh results, by name."""
    return {name: figure(results) for name, figure in figures(results).items()}


def draw(results: Results, out: Path) -> Path:
    """Write every figure as PNG and PDF and the report below ``out``; return the report's path."""
    pictures = {}
    for name, figure in plot(results).items():
        pictures[name] = png(figure)
        with replacing(_figure_path(out, name, "png")) as part:
            part.write_bytes(pictures[name])
        with replacing(_figure_path(out, name, "pdf")) as part:
            figure.savefig(part, metadata={"CreationDate": None})
    report = out / REPORT
    with replacing(report) as part:
        part.write_text(render(page(results, pictures)), encoding="utf-8")
    return report


def _figure_path(out: Path, name: str, kind: str) -> Path:
    """Return where a figure of a run directory lies."""
    return out / FIGURE_FOLDER / f"{name}.{kind}"


def _is_drawn(out: Path, results: Results) -> bool:
    """Say if every figure and the report are there."""
    paths = [_figure_path(out, name, kind) for name in figures(results) for kind in ("png", "pdf")]
    return all(path.is_file() for path in [*paths, out / REPORT])


def describe(inputs: Inputs, model: LogitModel, config: Config) -> dict[str, Any]:
    """Return what the settings were resolved to, for readers."""
    notes = {name: resolve(model, targets).note for name, targets in config.sets.items()}
    task, prompt = inputs.task, model.prompt
    words = list(prompt.label_words) if prompt is not None else []
    return provenance.normalize(
        {
            "task": {
                "name": task.name,
                "metric": task.metric,
                "labels": task.labels,
                "label_words": words or task.labels,
                "template": prompt.description["template"] if prompt is not None else "",
            },
            "logits": inputs.logits,
            "examples": inputs.examples,
            "model": model.description,
            "target_sets": {name: {"note": note} for name, note in notes.items() if note},
        }
    )


def _load(config: Config, inputs: Inputs) -> LogitModel:
    """Load the model for the study's task."""
    return load_model(
        config.model,
        task=inputs.task,
        head=config.head,
        tie=config.tie,
        logits=inputs.logits,
        dtype=config.dtype,
        device=config.device,
        seed=config.seed,
        revision=config.revision,
        pooling=config.pooling,
    )


def _compute(
    config: Config,
    inputs: Inputs,
    model: LogitModel,
    kernels: MutableMapping[str, Kernel],
    checkpoint: Path | None,
    progress: Progress | None,
) -> Results:
    """Sweep and measure every data seed; ``kernels`` takes the kernels."""
    started = datetime.now(UTC)
    rows: list[dict[str, Any]] = []
    for seed, splits in inputs.splits.items():
        encoded = {name: _encode(model, examples) for name, examples in splits.items()}
        running = Running(
            config.batch_size,
            config.memory,
            progress,
            None if checkpoint is None else checkpoint / f"seed-{seed}",
        )
        right = [*encoded["train"], *encoded["dev"], *encoded["test"]]
        sweeps = sweep_targets(
            model,
            encoded["train"],
            right,
            sets=config.sets,
            grid=_grid(config),
            rule=config.rule,
            running=running,
        )
        for name, kernel in _named(sweeps, config).items():
            kernels[f"{seed}/{name}"] = kernel
        split = Split(**{name: [each.id for each in found] for name, found in encoded.items()})
        rows += measure(sweeps, split, _metric(inputs), config, data_seed=seed)
    times = {"started": started, "finished": datetime.now(UTC)}
    return Results(
        analysis=NAME,
        config=config.as_dict(),
        inputs=describe(inputs, model, config),
        table=tidy(rows),
        kernels=kernels,
        environment={
            **provenance.environment(),
            **{name: time.isoformat(timespec="seconds") for name, time in times.items()},
        },
    )


def _grid(config: Config) -> LoraGrid:
    """Return what the sweep of each target set covers."""
    return LoraGrid(config.ranks, config.adapter_seeds, alpha=config.alpha, rslora=config.rslora)


def _named(sweeps: Mapping[str, LoraSweep], config: Config) -> dict[str, Kernel]:
    """Return the kernels of one data seed by the names they are kept under."""
    settings, found = config.as_dict(), {"full": next(iter(sweeps.values())).full}
    for targets, sweep in sweeps.items():
        found[kernel_name(settings, targets, "targets")] = sweep.targets_full
        for (adapter_seed, rank), kernel in sweep.kernels.items():
            name = kernel_name(settings, targets, f"lora-r{rank}-s{adapter_seed}")
            found[name] = kernel
    return found


def _metric(inputs: Inputs) -> Score:
    """Return the task's metric."""
    return "f1" if inputs.task.metric == "f1" else "accuracy"


def _encode(model: LogitModel, examples: Sequence[Example]) -> list[EncodedExample]:
    """Return the examples as the model reads them."""
    if model.prompt is None:
        raise ValueError("the model was loaded without a task, so it has no prompt")
    return model.prompt.encode_all(examples)

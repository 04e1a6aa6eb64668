"""How a study is run in a directory: compute or resume, then draw figures and the report.

A study says what it computes and what it draws; :func:`carry_out` does the rest, the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from subkern.agreement.predictions import Score
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import RunOptions
from subkern.models.load import load_model
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.storage import provenance
from subkern.storage.files import only_run
from subkern.storage.progress import Progress
from subkern.tasks.examples import Example

from .engine import environment as versions
from .engine.classifiers import Split
from .engine.heads import at_start
from .engine.inputs import Inputs
from .engine.run_folder import (
    FIGURE_FOLDER,
    REPORT,
    VERIFICATION,
    Results,
    RunDirectory,
    replacing,
)
from .engine.settings import Settings
from .show.page import Page, png, render
from .verify.advice import Advice
from .verify.figure import predicted_against_trained
from .verify.numbers import is_compared, is_verified
from .verify.report import with_proof

__all__ = [
    "Drawing",
    "Outcome",
    "Part",
    "Workplace",
    "carry_out",
    "describe",
    "draw",
    "encode",
    "environment_since",
    "is_drawn",
    "load",
    "metric_of",
    "parts",
]


@dataclass(frozen=True)
class Outcome:
    """What a study leaves.

    Attributes:
        results: the results, as read from the run directory.
        report: path of the report page.
        up_to_date: whether the numbers were there already.
    """

    results: Results
    report: Path
    up_to_date: bool


@dataclass(frozen=True)
class Workplace:
    """Where a computation keeps what it makes.

    Attributes:
        kernels: takes the kernels by name.
        checkpoint: folder for what an interrupted computation needs to go on, or None.
    """

    kernels: MutableMapping[str, Kernel]
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Part:
    """What a study computes of one data seed.

    Attributes:
        seed: the data seed.
        model: f where its kernels are taken and training starts.
        train: the examples on the left of its kernels.
        every: train, dev and test, those on the right.
        split: which ids are which.
        options: how to compute, with a checkpoint folder of its own.
    """

    seed: int
    model: LogitModel
    train: list[EncodedExample]
    every: list[EncodedExample]
    split: Split
    options: RunOptions


@dataclass(frozen=True)
class Drawing:
    """What is drawn from results: figures by name, and the report page from them.

    Attributes:
        figures: name -> what draws it.
        page: makes the page from results and the figures as PNG.
        advice: what the study advises, for one that can be verified; see :mod:`analyses.verify`.
    """

    figures: Mapping[str, Callable[[Results], Figure]]
    page: Callable[[Results, Mapping[str, bytes]], Page]
    advice: Callable[[Results], Advice] | None = None

    def figures_of(self, results: Results) -> dict[str, Callable[[Results], Figure]]:
        """Return what draws each figure, a verification's included if there is one to draw."""
        if self.advice is None or not is_compared(results):
            return dict(self.figures)
        return {**self.figures, VERIFICATION: partial(predicted_against_trained, self.advice)}

    def page_of(self, results: Results, pictures: Mapping[str, bytes]) -> Page:
        """Return the report, with a verification if there is one."""
        own = {name: picture for name, picture in pictures.items() if name in self.figures}
        page = self.page(results, own)
        if self.advice is None or not is_verified(results):
            return page
        return with_proof(page, results, self.advice(results), pictures.get(VERIFICATION))


def carry_out(
    directory: RunDirectory,
    config: Settings,
    inputs: Inputs,
    *,
    prepare: Callable[[], tuple[LogitModel, Mapping[str, Any]]],
    compute: Callable[[LogitModel, Workplace], Results],
    drawing: Drawing,
    overwrite: bool,
    command: str | None,
) -> Outcome:
    """Compute a study in its run directory, or go on with it, or find it done.

    Args:
        directory: the run directory.
        config: the settings.
        inputs: what they were resolved to.
        prepare: loads the model, refuses settings that it cannot take, and returns it with what
            else was resolved; it comes before anything is written or given up.
        compute: computes the numbers with this model.
        drawing: what is drawn from them.
        overwrite: replace a run of other settings.
        command: what the report says makes it again; the call of the study's ``analyze`` if None.

    Raises:
        UserError: anything the user can put right; a new directory that holds nothing that was
            computed is then left out.
    """
    call = f"Config(**{config.as_dict()!r}), {str(directory.path)!r}"
    command = command or f"analyses.{directory.analysis}.analyze({call})"
    with only_run(directory.path):
        state = directory.state(overwrite=overwrite)
        if state == "done":
            if not directory.is_current:
                directory.rewrite(config.as_dict(), command)
            elif is_drawn(directory.path, results := Results.load(directory.path), drawing):
                return Outcome(results, directory.path / REPORT, up_to_date=True)
            results = Results.load(directory.path)
        else:
            model, resolved = prepare()
            described = {**describe(inputs, model), **resolved}
            directory.claim(config.as_dict(), described, command)
            try:
                found = compute(model, Workplace(directory.kernels, directory.checkpoint))
            except UserError:
                if state == "new" and not directory.has_work:
                    directory.clear()  # some settings are refused only when the model has been seen
                raise
            results = directory.finish(found.table, found.environment, found.beside)
        return Outcome(results, draw(results, directory.path, drawing), up_to_date=state == "done")


def draw(results: Results, out: Path, drawing: Drawing) -> Path:
    """Write every figure as PNG and PDF and the report below ``out``; return the report's path."""
    pictures = {}
    for name, function in drawing.figures_of(results).items():
        figure = function(results)
        pictures[name] = png(figure)
        with replacing(_figure_path(out, name, "png")) as part:
            part.write_bytes(pictures[name])
        with replacing(_figure_path(out, name, "pdf")) as part:
            figure.savefig(part, metadata={"CreationDate": None})
    report = out / REPORT
    with replacing(report) as part:
        part.write_text(render(drawing.page_of(results, pictures)), encoding="utf-8")
    return report


def _figure_path(out: Path, name: str, kind: str) -> Path:
    """Return where a figure of a run directory lies."""
    return out / FIGURE_FOLDER / f"{name}.{kind}"


def is_drawn(out: Path, results: Results, drawing: Drawing) -> bool:
    """Say if every figure and the report are there."""
    names = drawing.figures_of(results)
    paths = [_figure_path(out, name, kind) for name in names for kind in ("png", "pdf")]
    return all(path.is_file() for path in [*paths, out / REPORT])


def describe(inputs: Inputs, model: LogitModel) -> dict[str, Any]:
    """Return what the settings were resolved to, for readers."""
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
        }
    )


def load(
    config: Settings, inputs: Inputs, *, head: str | None = None, weights: str = "pretrained"
) -> LogitModel:
    """Load the model for the study's task, with the config's head unless another is given."""
    return load_model(
        config.model,
        task=inputs.task,
        head=head or config.head,
        weights=weights,
        tie=config.tie,
        logits=inputs.logits,
        dtype=config.dtype,
        device=config.device,
        seed=config.seed,
        revision=config.revision,
        pooling=config.pooling,
    )


def encode(
    model: LogitModel, splits: Mapping[str, list[Example]]
) -> dict[str, list[EncodedExample]]:
    """Return the examples of every split as the model reads them."""
    if model.prompt is None:
        raise ValueError("the model was loaded without a task, so it has no prompt")
    return {name: model.prompt.encode_all(examples) for name, examples in splits.items()}


def parts(
    config: Settings,
    inputs: Inputs,
    model: LogitModel,
    place: Workplace,
    progress: Progress | None,
) -> Iterator[Part]:
    """Yield the examples of every data seed as the model reads them, and how to compute on them."""
    for seed, splits in inputs.splits.items():
        encoded = encode(model, splits)
        folder = None if place.checkpoint is None else place.checkpoint / f"seed-{seed}"
        yield Part(
            seed,
            at_start(model, encoded["train"], config.head_init),
            encoded["train"],
            [*encoded["train"], *encoded["dev"], *encoded["test"]],
            Split(**{name: [each.id for each in found] for name, found in encoded.items()}),
            RunOptions(config.batch_size, config.memory, progress, folder),
        )


def metric_of(inputs: Inputs) -> Score:
    """Return the task's metric."""
    return "f1" if inputs.task.metric == "f1" else "accuracy"


def environment_since(started: datetime) -> dict[str, Any]:
    """Return versions, code and machine, and when the study started and finished."""
    times = {"started": started, "finished": datetime.now(UTC)}
    return {
        **versions.environment(),
        **{name: time.isoformat(timespec="seconds") for name, time in times.items()},
    }

"""What a study computes on: the model, the examples of every data seed, and where work is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from subkern.agreement.predictions import REAL, Score
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import RunOptions
from subkern.models.load import load_model
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample, NoTemplateError
from subkern.storage import provenance
from subkern.storage.progress import Progress
from subkern.tasks.examples import Example

from . import environment as versions
from .classifiers import Split
from .heads import at_start
from .inputs import Inputs
from .settings import Settings

LoadModel = Callable[..., LogitModel]
"""What loads a model, as `subkern.load_model` does."""


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
class Prepared:
    """What is known before anything is written.

    Attributes:
        model: the model that is loaded first.
        resolved: what settings were resolved to beside task and examples, for the record.
        chosen: what the study decided with the model at hand, for its computation.
        loader: loads further models.
    """

    model: LogitModel
    resolved: Mapping[str, Any] = field(default_factory=dict)
    chosen: Any = None
    loader: LoadModel = load_model


@dataclass(frozen=True)
class Computed:
    """The numbers of a study.

    Attributes:
        table: the long table.
        beside: other tables by name, such as the judge's predictions.
    """

    table: pd.DataFrame
    beside: Mapping[str, pd.DataFrame] = field(default_factory=dict)


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


def load(
    config: Settings,
    inputs: Inputs,
    *,
    head: str | None = None,
    weights: str = "pretrained",
    loader: LoadModel = load_model,
) -> LogitModel:
    """Load the model for the study's task, with the config's head unless another is given.

    Raises:
        UserError: the config's template is for models of the other kind, or as the loader says.
    """
    task, template = inputs.task, config.template
    if template is not None and (head or config.head) == "prompt":
        masked = "*mask*" in template  # a model of the other kind is not asked the task's prompt
        task = replace(task, causal_template="") if masked else replace(task, template="")
    try:
        return loader(
            config.model,
            task=task,
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
    except NoTemplateError as error:
        if task is inputs.task:
            raise
        how = "leave *mask* out of it" if masked else "put *mask* where the label word belongs"
        raise UserError(
            f"--template '{template}' is not for models like '{config.model}': {how}"
        ) from error


def encode(
    model: LogitModel, splits: Mapping[str, list[Example]]
) -> dict[str, list[EncodedExample]]:
    """Return the examples of every split as the model reads them."""
    if model.prompt is None:
        raise ValueError("the model was loaded without a task, so it has no prompt")
    return {name: model.encode_all(examples) for name, examples in splits.items()}


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


def describe(inputs: Inputs, model: LogitModel) -> dict[str, Any]:
    """Return what the settings were resolved to, for readers."""
    task, prompt = inputs.task, model.prompt
    words = list(prompt.label_words) if prompt is not None else []
    return provenance.normalize(
        {
            "task": {
                "name": task.name,
                "metric": task.metric,
                **({} if task.classifies else {"kind": task.kind}),
                "labels": task.labels,
                "label_words": words or task.labels,
                "template": prompt.description["template"] if prompt is not None else "",
            },
            "logits": inputs.logits,
            "examples": inputs.examples,
            "model": model.description,
        }
    )


def metric_of(inputs: Inputs) -> Score:
    """Return the task's metric."""
    known: tuple[Score, ...] = ("f1", "log_likelihood", *REAL)
    return next((each for each in known if each == inputs.task.metric), "accuracy")


def environment_since(started: datetime) -> dict[str, Any]:
    """Return versions, code and machine, and when the study started and finished."""
    times = {"started": started, "finished": datetime.now(UTC)}
    return {
        **versions.environment(),
        **{name: time.isoformat(timespec="seconds") for name, time in times.items()},
    }

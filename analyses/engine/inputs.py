"""What a study's settings are resolved to: task, examples, and what identifies them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from subkern.errors import UserError
from subkern.models.load import origin
from subkern.storage import provenance
from subkern.tasks.catalogue import Task
from subkern.tasks.examples import SPLITS, Example, load_examples

from . import environment as versions
from .asked_task import asked_task
from .code_identity import code_identity
from .settings import Settings

__all__ = [
    "Inputs",
    "identity",
    "load_inputs",
    "model_files",
    "task_fields",
]


@dataclass(frozen=True)
class Inputs:
    """Task and examples of a study.

    Attributes:
        task: the task, with the config's template and label words.
        logits: ``all`` or ``binary``.
        splits: data seed -> split -> examples.
    """

    task: Task
    logits: str
    splits: Mapping[int, Mapping[str, list[Example]]]

    @cached_property
    def examples(self) -> dict[str, dict[str, Any]]:
        """Size of every split and a digest of the examples, by data seed."""
        return {
            str(seed): {name: len(split) for name, split in splits.items()}
            | {"digest": _digest(splits)}
            for seed, splits in self.splits.items()
        }


def load_inputs(config: Settings, load: Callable[..., list[Example]] | None = None) -> Inputs:
    """Load the task and every split of every data seed; tests load examples of their own.

    Raises:
        UserError: as `get_task` and `load_examples` do, or label words that do not fit the task.
    """
    task = _task(config)
    logits = config.logits
    if logits == "auto":
        logits = "binary" if task.num_logits == 2 else "all"
    limits = {"train": config.train_limit, "dev": config.dev_limit, "test": config.test_limit}
    splits = {
        seed: {
            split: (load or load_examples)(
                task, config.data, split=split, shots=config.shots, seed=seed, limit=limits[split]
            )
            for split in SPLITS
        }
        for seed in config.data_seeds
    }
    for seed, loaded in splits.items():
        if config.head_init == "probe":
            _check_probed(loaded["train"], task, seed)
        if task.kind == "regression" and len({example.label for example in loaded["train"]}) < 2:
            raise UserError(
                f"the training examples of seed {seed} all have one label: raise --train-limit"
            )
        if task.classifies and len({example.label for example in loaded["train"]}) < 2:
            raise UserError(
                f"the {len(loaded['train'])} training examples of seed {seed} all have one label:"
                " raise --train-limit"
            )
    return Inputs(task, logits, splits)


def _check_probed(train: list[Example], task: Task, seed: int) -> None:
    """Raise `UserError` unless there are two training examples of each label to choose a probe."""
    counts = Counter(example.label for example in train)
    for label, name in enumerate(task.labels):
        if counts[label] < 2:
            raise UserError(
                f"--head-init probe needs two training examples of each label and seed {seed} has"
                f" {counts[label]} of '{name}': raise --shots or --train-limit, or use random"
            )


def identity(config: Settings, inputs: Inputs, *computed_by: Callable[..., Any]) -> dict[str, Any]:
    """Return all that decides the numbers: settings, task, examples, model files, versions, code.

    ``computed_by`` are the study's functions that load and compute; what the library computes with
    is in the environment.
    """
    return {
        "settings": config.decisive(),
        "answer": config.decisive("answer"),
        "task": provenance.normalize(task_fields(inputs.task)),
        "examples": inputs.examples,
        "model_files": model_files(config.model, config.revision) if config.model else None,
        "environment": versions.environment(),
        "study": code_identity(*computed_by),
    }


def _task(config: Settings) -> Task:
    """Return the task with the config's template and label words, for either kind of model."""
    asked = config.as_dict()
    del (
        asked["head"],
        asked["logits"],
    )  # the study says first whether it can do with the task at all
    if type(config).model_fields["max_length"].default is not None:
        del asked["max_length"]  # another's, of how models are made
    task = asked_task(asked)
    changes: dict[str, Any] = {}
    if config.template is not None:
        kind = "template" if "*mask*" in config.template else "causal_template"
        changes[kind] = config.template
    if config.label_words is not None:
        if len(config.label_words) != len(task.labels):
            raise UserError(
                f"{len(config.label_words)} label words ({', '.join(config.label_words)}) for the"
                f" {len(task.labels)} labels of {task.name}: give one a label"
            )
        changes |= {"label_words": config.label_words, "causal_label_words": config.label_words}
    return replace(task, **changes) if changes else task


def task_fields(task: Task) -> dict[str, Any]:
    """Return the fields of a task that decide labels and prompts (where its files lie does not)."""
    names = (
        "name",
        "labels",
        "label_words",
        "template",
        "causal_template",
        "causal_label_words",
        "metric",
        "max_length",
        "first_sent_limit",
        "other_sent_limit",
    )
    fields = {name: getattr(task, name) for name in names}
    if task.kind != "words":
        fields |= {name: getattr(task, name) for name in ("kind", "normalize", "beta")}
    if task.kind == "regression":
        fields |= {name: getattr(task, name) for name in ("center", "spread")}
    return fields


def _digest(splits: Mapping[str, list[Example]]) -> str:
    """Return the SHA-256 of every example of a data seed: ids, texts and labels."""
    rows = [
        [e.id, list(e.texts), e.label, *([e.chats] if e.chats else [])]
        for split in splits.values()
        for e in split
    ]
    return hashlib.sha256(provenance.canonical_json(rows).encode()).hexdigest()


def model_files(spec: str, revision: str | None) -> str | None:
    """Return what identifies a model's files: of a folder their digest, of the hub the commit.

    Of a demo model it is its package. None if the hub does not answer and has not before.
    """
    folder = Path(spec)
    return _digest_of(folder) if folder.is_dir() else origin(spec, revision)


def _digest_of(folder: Path) -> str:
    """Return the SHA-256 of a folder's names and contents."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()

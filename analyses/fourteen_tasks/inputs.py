"""What the cells of the study read: task, examples, model; kept between cells that share them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from subkern.agreement.predictions import Score
from subkern.kernels.request import RunOptions
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.tasks.examples import SPLITS
from subkern.training.linear_probe import initialize_from_probe

from ..engine.inputs import Inputs, load_inputs
from ..engine.parts import encode, load, metric_of
from ..engine.settings import Settings
from ..scheduler.cell import Cell
from ..scheduler.work import FAILED, Place
from .config import Config
from .table import KERNELS, SCORES


def settings_of(config: Config, task: str, k: int, data_seed: int, head: str) -> Settings:
    """Return the settings of one task, number of shots, data seed and head as studies share them.

    Args:
        config: the study's.
        task: name of a task, or path of its file.
        k: shots a label.
        data_seed: of the k-shot split.
        head: ``prompt`` or ``linear``.
    """
    shared = ("model", "data", "logits", "pooling", "tie", "dtype", "revision", "seed")
    options = ("test_limit", "device", "batch_size", "memory")
    same: dict[str, Any] = {name: getattr(config, name) for name in (*shared, *options)}
    return Settings(task=task, shots=k, data_seeds=(data_seed,), head=head, **same)


def rule_of(config: Config, method: str) -> str:
    """Return a kernel method's update rule; Adam's has the ε of training."""
    rule = KERNELS[method][0]
    return f"adam:eps={config.epsilon!r}" if rule == "adam" else rule


@lru_cache(maxsize=8)
def inputs_of(settings: Settings) -> Inputs:
    """Return task and examples, read once."""
    return load_inputs(settings)


@lru_cache(maxsize=1)
def _load(settings: Settings) -> LogitModel:
    """Return the model for a task and head; the last one is kept, as the plan goes task by task."""
    return load(settings, inputs_of(settings))


@lru_cache(maxsize=1)
def _start(settings: Settings, first: Settings) -> LogitModel:
    """Return the model of ``first`` with its linear head at the probe of the training examples."""
    model = _load(first)
    train = encode(model, inputs_of(settings).splits[settings.data_seeds[0]])["train"]
    return initialize_from_probe(model, train)


@dataclass(frozen=True)
class Context:
    """All that the function behind a cell may use.

    Attributes:
        config: the study's settings.
        cell: what to compute.
        needs: folders of the finished cells it waited for, by key.
        place: for its own files.
    """

    config: Config
    cell: Cell
    needs: Mapping[str, Path]
    place: Place

    @property
    def folder(self) -> Path:
        """For what it leaves to others."""
        return self.place.folder

    def unfinished(self, name: str) -> Path | None:
        """Return a folder for what a killed attempt goes on from, or None."""
        return None if self.place.unfinished is None else self.place.unfinished / name

    @cached_property
    def settings(self) -> Settings:
        """Of this task, number of shots, data seed and head."""
        cell = self.cell
        task = str(cell.settings["task"])
        return settings_of(self.config, task, cell.k, cell.data_seed, cell.head)

    @cached_property
    def inputs(self) -> Inputs:
        """Task and examples."""
        return inputs_of(self.settings)

    @cached_property
    def model(self) -> LogitModel:
        """The pretrained model with the task's head, where it starts; leave it as it is."""
        config = self.config
        # Whatever the examples, the model is one.
        first = self.settings.changed(shots=config.shots[0], data_seeds=config.data_seeds[:1])
        if self.cell.head == "linear" and config.head_init == "probe":
            return _start(self.settings, first)
        return _load(first)

    @cached_property
    def encoded(self) -> dict[str, list[EncodedExample]]:
        """Examples of every split as the model reads them."""
        return encode(self.model, self.inputs.splits[self.cell.data_seed])

    @property
    def ids(self) -> dict[str, list[str]]:
        """Ids of the examples of every split."""
        return {split: [e.id for e in self.encoded[split]] for split in SPLITS}

    @property
    def metric(self) -> Score:
        """The task's: one of `SCORES`."""
        found = metric_of(self.inputs)
        assert found in SCORES
        return found

    @property
    def options(self) -> RunOptions:
        """How kernels are computed; what was killed goes on from its finished tiles.

        Tiles are cut for the memory they were begun with: where an attempt failed, perhaps for want
        of it, and another amount is asked for now, they are cut anew.
        """
        config, tiles = self.config, self.unfinished("tiles")
        if tiles is not None and self.place.unfinished is not None:
            asked, memory = self.place.unfinished / "memory", str(config.memory).encode()
            again = (self.place.unfinished / FAILED).exists() and asked.exists()
            if again and asked.read_bytes() != memory:
                shutil.rmtree(tiles, ignore_errors=True)
            asked.write_bytes(memory)
        return RunOptions(config.batch_size, config.memory, checkpoint=tiles)

    def need(self, method: str, step: str) -> Path:
        """Return the folder of one of the cells it waited for.

        Raises:
            KeyError: it did not wait for that one.
        """
        key = replace(self.cell, method=method, step=step).key
        return self.needs[key]

    def row(self, value: float, metric: str, **more: Any) -> dict[str, Any]:
        """Return one row of the table, with what the cell is about."""
        cell = self.cell
        about = ("rule", "subspace", "optimizer", "solver")
        found = {name: cell.settings[name] for name in about if name in cell.settings}
        return {
            "task": cell.task,
            "k": cell.k,
            "data_seed": cell.data_seed,
            "head": cell.head,
            "method": cell.method,
            **found,
            "metric": metric,
            "value": float(value),
            **more,
        }

    def scores(self, scores: Mapping[str, float], splits: Sequence[str] = ("dev", "test")) -> Any:
        """Return rows of the task's score on some splits."""
        return [self.row(scores[split], self.metric, split=split) for split in splits]

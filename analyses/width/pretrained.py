"""Pretrained models of several sizes: a cell each fine-tunes one with one optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from subkern.models.copy import copy_module
from subkern.models.logit_model import LogitModel, named_parameters
from subkern.width import WideModel

from ..engine import environment as versions
from ..engine.code_identity import code_identity
from ..engine.inputs import Inputs, model_files
from ..engine.parts import encode, load
from ..scheduler.cell import Cell, Plan
from ..scheduler.store import CellStore
from ..scheduler.work import Found, Place, require_like
from .config import Config
from .table import TABLE
from .training import Training, suggested

__all__ = ["Pretrained", "files_of"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Pretrained:
    """Every pretrained model and optimizer.

    Attributes:
        config: the settings.
        inputs: task and examples.
    """

    config: Config
    inputs: Inputs

    def load(self, spec: str) -> LogitModel:
        """Load a model, and refuse one that cannot read the task.

        Raises:
            UserError: as `load_model`, or an example is too long.
        """
        model = load(self.config.changed(model=spec, pretrained=()), self.inputs)
        for splits in self.inputs.splits.values():
            model.check_tokens(encode(model, {"train": splits["train"]})["train"])
        return model

    def cells(self) -> Iterator[Cell]:
        """Yield a cell a model, optimizer and data seed."""
        config = self.config
        for spec in config.pretrained:
            for data_seed in self.inputs.splits:
                for optimizer in config.optimizers:
                    yield Cell(
                        task=config.task,
                        k=config.shots,
                        data_seed=data_seed,
                        head=config.head,
                        method=optimizer,
                        step=spec,
                        identity=_computed_with(spec, config.revision),
                    )

    def __call__(self, cell: Cell, needs: Mapping[str, Path], place: Place) -> Found:
        """Fine-tune at the suggested rate.

        Raises:
            OtherWorkerError: see `require_like`.
        """
        config, optimizer = self.config, cell.method
        here = _computed_with(cell.step, config.revision)
        asked = {name: cell.identity[name] for name in here}
        require_like(asked, here, "code, libraries and models")
        model = self.load(cell.step)
        examples = encode(model, {"train": self.inputs.splits[cell.data_seed]["train"]})["train"]
        rate = suggested(config, model, examples, optimizer, f"'{cell.step}'")
        named = named_parameters(model)

        def start() -> WideModel:
            """Return a copy whose parameters all learn at one rate."""
            copied = model.with_module(copy_module(model.module, shared=False))
            copied.readout = copy_module(model.readout, shared=False)  # type: ignore[assignment]
            return WideModel(copied, "standard", 1.0, dict.fromkeys(named, "fixed"))

        about: Row = {
            "data_seed": cell.data_seed, "optimizer": optimizer, "model": cell.step,
            "width": int(getattr(model.module.config, "hidden_size", 0)),
        }  # fmt: skip
        numbers, _ = Training(config, start, examples, optimizer, rate, centered=False).results()
        size = sum(p.numel() for p in named.values())
        found = [*numbers, {"metric": "suggested", "value": rate}]
        found.append({"metric": "parameters", "value": float(size)})
        return Found([TABLE.row(**each, **about) for each in found])

    def rows(self, plan: Plan, store: CellStore) -> Iterator[Row]:
        """Yield the rows of all cells."""
        for cell in plan:
            stored = store.stored(cell.key)
            assert stored is not None
            yield from stored.rows


@cache
def files_of(spec: str, revision: str | None) -> str | None:
    """What identifies a model's files, read once in a process."""
    return model_files(spec, revision)


def _computed_with(spec: str, revision: str | None) -> dict[str, Any]:
    """Return the code, libraries and files that decide a cell's numbers, as they are here."""
    return {
        "environment": versions.environment(),
        "study": code_identity(Pretrained.__call__),
        "files": files_of(spec, revision),
    }

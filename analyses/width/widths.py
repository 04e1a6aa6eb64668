"""Models of one shape at every width, from random weights: a cell each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subkern.storage.files import read_json
from subkern.width import initialize

from ..engine import environment as versions
from ..engine.code_identity import code_identity
from ..scheduler.cell import Cell, Plan
from ..scheduler.store import CellStore
from ..scheduler.work import Found, Place, require_like
from .config import Config
from .reading import Reading
from .table import TABLE
from .training import AT, Training, share, suggested

__all__ = ["Widths"]

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]

_ABOUT = ("data_seed", "optimizer", "parametrization", "width", "seed")
_SUGGEST, _PATH = "suggest", "path.npy"


@dataclass(frozen=True)
class Widths:
    """Every width, parametrization, optimizer and seed.

    Attributes:
        config: the settings.
        reading: models and what they read.
    """

    config: Config
    reading: Reading

    def cells(self) -> Iterator[Cell]:
        """Yield a learning rate an optimizer, then trainings, narrow ones first."""
        config = self.config
        shared: dict[str, Any] = {"task": config.task, "k": config.shots, "head": "linear"}
        here = _computed_with()
        rates = {
            (seed, optimizer): Cell(
                data_seed=seed, method=optimizer, step=_SUGGEST, identity=here, **shared
            )
            for seed in self.reading.examples
            for optimizer in config.optimizers
        }
        yield from rates.values()
        for width in sorted(config.widths):
            for (data_seed, optimizer), rate in rates.items():
                for parametrization in config.parametrizations:
                    for seed in config.seeds:
                        about = (data_seed, optimizer, parametrization, width, seed)
                        yield Cell(
                            data_seed=data_seed,
                            method=f"{parametrization} {optimizer}",
                            step=f"width {width} seed {seed}",
                            identity={"settings": dict(zip(_ABOUT, about, strict=True)), **here},
                            needs=(rate.key,),
                            **shared,
                        )

    def __call__(self, cell: Cell, needs: Mapping[str, Path], place: Place) -> Found:
        """Suggest a rate at the base width, where all parametrizations are the same, or train.

        Raises:
            OtherWorkerError: see `require_like`.
        """
        here = _computed_with()
        require_like({name: cell.identity[name] for name in here}, here, "code and libraries")
        config, examples = self.config, self.reading.examples[cell.data_seed]
        family = self.reading.family(config)
        if cell.step == _SUGGEST:
            model = initialize(family, family.base, "standard", config.seeds[0]).model
            rate = suggested(config, model, examples, cell.method, f"width {family.base}")
            about: Row = {"data_seed": cell.data_seed, "optimizer": cell.method}
            return Found([TABLE.row(rate, metric="suggested", **about)])
        (suggestion,) = needs.values()
        (row,) = read_json(suggestion / "cell.json")["rows"]
        about = {name: cell.settings[name] for name in _ABOUT}
        which = (about["width"], about["parametrization"], about["seed"])
        start = partial(initialize, family, *which)
        optimizer, factors = about["optimizer"], config.factors
        training = Training(config, start, examples, optimizer, row["value"], factors)
        numbers, path = training.results()
        if path is not None:
            np.save(place.folder / _PATH, path)
        return Found([TABLE.row(**each, **about) for each in numbers])

    def rows(self, plan: Plan, store: CellStore) -> Iterator[Row]:
        """Yield the rows of all cells, and distances between their trainings."""
        paths: dict[tuple[Any, ...], Floats] = {}
        for cell in plan:
            stored = store.stored(cell.key)
            assert stored is not None
            yield from stored.rows
            kept = store.folder(cell.key) / _PATH
            if kept.exists():
                paths[tuple(cell.settings[name] for name in _ABOUT)] = np.load(kept)
        for key, path in paths.items():
            about = dict(zip(_ABOUT, key, strict=True))
            other = paths.get((*key[:3], 2 * about["width"], about["seed"]))
            if other is not None:
                yield TABLE.row(share(path - other, other), metric="distance", factor=AT, **about)


def _computed_with() -> dict[str, Any]:
    """Return the code and libraries that decide a cell's numbers, as they are here."""
    return {"environment": versions.environment(), "study": code_identity(Widths.__call__)}

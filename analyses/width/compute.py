"""The numbers of ``analyze width``: trainings at every width, and what frozen features predict.

Each width, parametrization, optimizer and seed is a cell (`analyses.scheduler`), computed here, by
other processes or on a cluster, and kept until the run is whole. What they find is one long table,
one number a row, what it is about in the other columns.

==================== ===============================================================================
column               meaning
==================== ===============================================================================
``data_seed``        seed of the examples
``optimizer``        of the trainings
``parametrization``  how weights and rates go with width
``width``, ``seed``  n, and the seed of the weights; missing for ``suggested``
``factor``           rate over the suggested one; `AT` where a number is of that training
``layer``            of ``features…``, from 1
``metric``           ``suggested``: rate at the base width. Of a training: ``loss`` after the last
                     update (NaN: diverged), ``loss.start``, ``seconds``. At factor `AT`, RMS over
                     training examples: ``function.first``, ``function``: f − f₀ after the first
                     and last update; ``features.first``, ``features``: change of a layer's features
                     over their size; ``error``: of the prediction from frozen features along
                     training, over f − f₀; ``distance``: of f − f₀ along training to that at twice
                     the width, over the latter; ``kernel.cka`` and ``kernel.frobenius``: 1 − CKA
                     and relative distance of the kernels before and after
``value``            the number
==================== ===============================================================================
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subkern.errors import UserError
from subkern.learning_rate import NoSuggestion, suggest
from subkern.prompts.prompt import EncodedExample
from subkern.storage.files import read_json
from subkern.storage.progress import Progress
from subkern.width import initialize
from subkern.width.families import Family

from ..engine import environment as versions
from ..engine.code_identity import code_identity
from ..engine.inputs import Inputs
from ..engine.long_table import LongTable
from ..engine.parts import Computed, Prepared, Workplace
from ..scheduler.cell import Cell, Plan, State
from ..scheduler.executors import Executor
from ..scheduler.run import prepare, run_cells
from ..scheduler.store import CellStore
from ..scheduler.work import Found, Place, require_like
from .config import Config
from .reading import Reading
from .training import AT, Training, share

TABLE = LongTable(
    {
        "data_seed": "Int64",
        "optimizer": "string",
        "parametrization": "string",
        "width": "Int64",
        "seed": "Int64",
        "factor": "float64",
        "layer": "Int64",
        "metric": "string",
    }
)

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]

_ABOUT = ("data_seed", "optimizer", "parametrization", "width", "seed")
_SUGGEST, _PATH = "suggest", "path.npy"


@dataclass(frozen=True)
class Chosen:
    """What is known before a computation.

    Attributes:
        reading: models and what they read.
        executor: who computes.
    """

    reading: Reading
    executor: Executor


def compute(
    config: Config,
    inputs: Inputs,
    prepared: Prepared,
    place: Workplace,
    progress: Progress | None,
) -> Computed:
    """Train every width, parametrization, optimizer and seed, on every data seed.

    Raises:
        UserError: no learning rate can be suggested, or a training failed; those that are finished
            are kept.
    """
    chosen: Chosen = prepared.chosen
    plan = Plan(cells_of(config, inputs))
    with ExitStack() as stack:
        root = place.checkpoint or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root.mkdir(parents=True, exist_ok=True)
        store = CellStore(root)
        stack.enter_context(store.lock())
        prepare(plan, store)

        def seen(states: Mapping[str, State], _: object) -> None:
            if progress is not None:
                done = [key for key in trainings if states[key] == "done"]
                progress(len(done), len(trainings))

        work = Work(config, chosen.reading)
        suggestions = {cell.key for cell in plan if cell.step == _SUGGEST}
        trainings = plan.cells.keys() - suggestions
        for keys in (suggestions, trainings):  # what cannot be suggested is said at once
            ran = run_cells(
                plan, store, work, chosen.executor, chosen=keys, retry_failed=True, seen=seen
            )
            _refuse_failed(ran.failed, keys)
        return Computed(TABLE.tidy(rows_of(plan, store)))


def _refuse_failed(failed: Mapping[str, str], of: Collection[str]) -> None:
    if failed:
        key, reason = next(iter(failed.items()))
        raise UserError(
            f"{len(failed)} of {len(of)} cells failed, such as {key}: {reason}; the others are"
            " kept: the same command tries these again"
        )


def cells_of(config: Config, inputs: Inputs) -> Iterator[Cell]:
    """Yield what is computed: a learning rate an optimizer, then trainings, narrow ones first."""
    shared: dict[str, Any] = {"task": config.task, "k": config.shots, "head": config.head}
    with_what = _computed_with()
    rates = {
        (seed, optimizer): Cell(
            data_seed=seed, method=optimizer, step=_SUGGEST, identity=with_what, **shared
        )
        for seed in inputs.splits
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
                        identity={"settings": dict(zip(_ABOUT, about, strict=True)), **with_what},
                        needs=(rate.key,),
                        **shared,
                    )


def _computed_with() -> dict[str, Any]:
    """Return the code and libraries that decide a cell's numbers, as they are here."""
    return {"environment": versions.environment(), "study": code_identity(Work.__call__)}


@dataclass(frozen=True)
class Work:
    """Computes a cell, wherever it is."""

    config: Config
    reading: Reading

    def __call__(self, cell: Cell, needs: Mapping[str, Path], place: Place) -> Found:
        """Suggest a rate, or train.

        Raises:
            OtherWorkerError: see `require_like`.
        """
        here = _computed_with()
        require_like({name: cell.identity[name] for name in here}, here, "code and libraries")
        config, examples = self.config, self.reading.examples[cell.data_seed]
        family = self.reading.family(config)
        if cell.step == _SUGGEST:
            rate = suggested(config, family, examples, cell.method)
            about: Row = {"data_seed": cell.data_seed, "optimizer": cell.method}
            return Found([TABLE.row(rate, metric="suggested", **about)])
        (suggestion,) = needs.values()
        (row,) = read_json(suggestion / "cell.json")["rows"]
        about = {name: cell.settings[name] for name in _ABOUT}
        which = {name: value for name, value in about.items() if name != "data_seed"}
        numbers, path = Training(config, family, examples, row["value"], **which).results()
        if path is not None:
            np.save(place.folder / _PATH, path)
        return Found([TABLE.row(**each, **about) for each in numbers])


def suggested(
    config: Config, family: Family, examples: Sequence[EncodedExample], optimizer: str
) -> float:
    """Return the learning rate that is suggested at the base width, where all are the same."""
    model = initialize(family, family.base, "standard", config.seeds[0]).model
    try:
        found = suggest(
            model,
            examples,
            optimizer=optimizer,
            batch_size=config.train_batch_size,
            loss=config.loss,
            epsilon=config.epsilon,
            seed=config.training_seed,
        )
    except NoSuggestion as error:
        raise UserError(
            f"no learning rate at width {family.base} for {optimizer}: {error}"
        ) from error
    return float(found.suggested)


def rows_of(plan: Plan, store: CellStore) -> Iterator[Row]:
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

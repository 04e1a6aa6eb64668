"""Learning rate × batch size, chosen on dev, each point durable.

A folder holds ``settings.json`` (what all points share), ``points/lr-<rate>_bs-<size>/``, ``best/``
(scored on every split) and ``grid.json``, the table, written last; and ``suggested.json`` where
`subkern.learning_rate.grid` chose the rates. Only the best point keeps what moved. A grid that
grows later trains only its new points.
"""

from __future__ import annotations

import gc
import json
import math
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from subkern.agreement.predictions import Score
from subkern.errors import UserError
from subkern.models.autograd_mode import check_mode
from subkern.models.logit_model import LogitModel
from subkern.storage.checksums import is_sound
from subkern.storage.files import keep_json, remove
from subkern.storage.lock import only_run
from subkern.storage.progress import Progress
from subkern.storage.provenance import differences
from subkern.subspaces.base import Subspace
from subkern.subspaces.text import as_subspace
from subkern.training.finetune import add_splits, finetune, run_settings
from subkern.training.monitor import Splits
from subkern.training.result import SETTINGS, FineTuned, write_settings
from subkern.training.run_folder import TrainingFolder, claim
from subkern.training.settings import Diverged, Training

__all__ = ["SUGGESTED", "AllDiverged", "GridEdgeWarning", "Search", "TrainingGrid", "search"]

POINTS, BEST, TABLE = "points", "best", "grid.json"
SUGGESTED = "suggested.json"


class GridEdgeWarning(UserWarning):
    """The best learning rate is the smallest or the largest that was tried."""


class AllDiverged(UserError):  # noqa: N818
    """Training diverged at every point of a grid."""


@dataclass(frozen=True)
class TrainingGrid:
    """Points of a search: every learning rate with every batch size.

    Attributes:
        learning_rates: of all batch sizes, or of each: batch size → rates.
        batch_sizes: examples of a step.

    Raises:
        UserError: no learning rate or batch size, or one that stands twice.
    """

    learning_rates: Sequence[float] | Mapping[int, Sequence[float]] = (1e-5, 3e-5, 1e-4, 3e-4)
    batch_sizes: Sequence[int] = (8,)

    def __post_init__(self) -> None:
        rates = self.learning_rates
        own = rates.values() if isinstance(rates, Mapping) else [rates]
        named = [("batch_sizes", self.batch_sizes), *(("learning_rates", each) for each in own)]
        for name, values in named:
            if not len(values) or len(set(values)) < len(values):
                raise UserError(f"{name} {list(values)}: give one or more, each once")
        if isinstance(rates, Mapping) and (lost := set(self.batch_sizes) - rates.keys()):
            raise UserError(f"batch size {min(lost)} has no learning rates: give it some")

    def rates(self, batch_size: int) -> Sequence[float]:
        """The learning rates of a batch size."""
        rates = self.learning_rates
        return rates[batch_size] if isinstance(rates, Mapping) else rates

    def within(self, examples: int) -> TrainingGrid:
        """The same grid for so many examples: a batch holds no more than all of them."""
        sizes = tuple(dict.fromkeys(min(size, examples) for size in self.batch_sizes))
        if not isinstance(self.learning_rates, Mapping):
            return replace(self, batch_sizes=sizes)
        rates: dict[int, dict[float, None]] = {size: {} for size in sizes}
        for size in self.batch_sizes:
            rates[min(size, examples)] |= dict.fromkeys(self.rates(size))
        return TrainingGrid({size: tuple(each) for size, each in rates.items()}, sizes)

    def trainings(self, training: Training) -> list[Training]:
        """The settings of every point, the others as in `training`; rate by rate."""
        rows = zip_longest(*(self.rates(size) for size in self.batch_sizes))
        return [
            replace(training, learning_rate=rate, batch_size=size)
            for row in rows
            for rate, size in zip(row, self.batch_sizes, strict=True)
            if rate is not None
        ]

    def edge(self, learning_rate: float, batch_size: int | None = None) -> str | None:
        """``smallest`` or ``largest`` if `learning_rate` is that of several of a batch size."""
        rates = self.rates(self.batch_sizes[0] if batch_size is None else batch_size)
        if len(rates) < 2:
            return None
        return {min(rates): "smallest", max(rates): "largest"}.get(learning_rate)


@dataclass(frozen=True, eq=False)
class Search:
    """A finished search.

    Attributes:
        best: the run with the highest score on dev, then the lowest loss there, then the first.
        table: a row a point: learning rate, batch size, status (``done``, or at what step it
            diverged), best step, score and loss on dev, seconds, and a note at the best.
        warning: one line if the best learning rate is at the edge of the grid.
    """

    best: FineTuned
    table: pd.DataFrame
    warning: str | None = None


Outcome = FineTuned | Diverged

MakeGrid = Callable[[Path | None], TrainingGrid]
"""From the folder of a search, once it is that search's own, to its grid."""


def search(
    model: LogitModel,
    splits: Splits,
    *,
    subspace: Subspace | str = "full",
    grid: TrainingGrid | MakeGrid | None = None,
    training: Training | None = None,
    metric: Score = "accuracy",
    out: str | Path | None = None,
    overwrite: bool = False,
    checkpoint_seconds: float = 60.0,
    progress: Progress | None = None,
) -> Search:
    """Fine-tune at every point of `grid`, choose on dev, score the best on every split.

    A batch size above the number of training examples is that number, in what is reported too.
    Points that diverge are rows of the table. Test logits are computed for the best alone, unless
    ``training.log_steps`` asks for them. Arguments as for `finetune`; `grid` may be a function that
    makes one, such as `subkern.learning_rate.grid.suggested_grid`.

    Raises:
        AllDiverged: every point diverged.
        UserError: several points and no dev split.
    """
    grid, training, subspace = grid or TrainingGrid(), training or Training(), as_subspace(subspace)
    if isinstance(grid, TrainingGrid):
        _check_choice(grid.trainings(training), splits)
    check_mode(model)
    seen = {n: splits[n] for n in splits if n != "test" or training.log_steps is not None}
    with only_run(out):
        root = None if out is None else Path(out)
        begun = root is None or (root / SETTINGS).exists()
        if root is not None:
            _claim(root, run_settings(model, seen, subspace, training, metric), overwrite)
            overwrite |= not (root / TABLE).exists()  # what is damaged is computed again
            if overwrite and (root / SUGGESTED).exists() and not is_sound(root / SUGGESTED):
                remove(root / SUGGESTED)
        if not isinstance(grid, TrainingGrid):
            try:
                grid = grid(root)
            except UserError:
                if root is not None and not begun:
                    remove(root / SETTINGS)  # nothing was trained
                raise
        if splits.get("train"):
            grid = grid.within(len(splits["train"]))
        points = grid.trainings(training)
        _check_choice(points, splits)
        asked = {
            "subspace": subspace,
            "metric": metric,
            "checkpoint_seconds": checkpoint_seconds,
            "overwrite": overwrite,
        }
        runner = _Points(model, seen, points, root, asked, progress)
        best = runner.run()
        chosen = _finish_best(model, runner.runs[best], splits, root, subspace, metric)
        table = _table(points, runner.runs, best, grid, metric)
        found = Search(chosen, table, _edge(points[best], grid))
        if root is not None:
            records = json.loads(table.to_json(orient="records"))
            keep_json(root / TABLE, {"points": records, "warning": found.warning})
    if found.warning is not None:
        warnings.warn(found.warning, GridEdgeWarning, stacklevel=2)
    return found


def _check_choice(points: Sequence[Training], splits: Splits) -> None:
    if len(points) > 1 and "dev" not in splits:
        raise UserError(f"{len(points)} points to choose from and no dev split: give splits['dev']")


class _Points:
    """Trains the points one after the other; only the best so far keeps what moved."""

    def __init__(
        self,
        model: LogitModel,
        splits: Splits,
        points: Sequence[Training],
        root: Path | None,
        asked: Mapping[str, Any],
        progress: Progress | None,
    ) -> None:
        self.model, self.splits, self.points = model, splits, points
        self.root, self.asked, self.progress = root, asked, progress
        self.runs: list[Outcome] = []

    def run(self) -> int:
        """Which point is the best.

        Raises:
            AllDiverged: every point diverged.
        """
        best: int | None = None
        for i in range(len(self.points)):
            self.runs.append(self._train(i))
            if best is None:
                best = i
                continue
            better = _rank(self.runs[i]) > _rank(self.runs[best])
            best, loser = (i, best) if better else (best, i)
            self._drop(loser)
        if best is None or isinstance(self.runs[best], Diverged):
            low = min(p.learning_rate for p in self.points)
            count = len(self.points)
            raise AllDiverged(f"all {count} points of the grid diverged: lower rates than {low:g}?")
        found = self.runs[best]
        if isinstance(found, FineTuned) and not found.shift:  # best of a smaller grid than before
            self.runs[best] = self._train(best, again=True)
        return best

    def _folder(self, i: int) -> Path | None:
        if self.root is None:
            return None
        point = self.points[i]
        return self.root / POINTS / f"lr-{point.learning_rate!r}_bs-{point.batch_size}"

    def _train(self, i: int, again: bool = False) -> Outcome:
        out = self._folder(i)
        if again and out is not None:
            shutil.rmtree(out)

        def report(step: int, steps: int) -> None:
            if self.progress is not None:
                self.progress(i * steps + step, len(self.points) * steps)

        try:
            return finetune(
                self.model,
                self.splits,
                training=self.points[i],
                out=out,
                progress=report,
                **self.asked,
            )
        except Diverged as error:
            found = Diverged(error.step, error.learning_rate)  # the error's frames hold the model
        gc.collect()
        return found

    def _drop(self, i: int) -> None:
        found, out = self.runs[i], self._folder(i)
        if isinstance(found, Diverged):
            return
        if out is not None:
            self.runs[i] = TrainingFolder(out, found.settings).drop_shift(found)
        else:
            self.runs[i] = replace(found, shift={}, shifts={}, adapter={})


def _rank(found: Outcome) -> tuple[float, float]:
    """Higher is better; a point that diverged is below all."""
    return (-math.inf, 0.0) if isinstance(found, Diverged) else found.rank_on_dev


def _claim(root: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Make the folder this search's; what all points share decides."""
    own = ("learning_rate", "batch_size")
    shared = {k: v for k, v in settings["training"].items() if k not in own}
    settings = {**settings, "training": shared}
    if claim(root, settings, overwrite=overwrite, result=TABLE):
        remove(root / TABLE)
        remove(root / SUGGESTED)
        for folder in (root / BEST, root / POINTS):
            shutil.rmtree(folder, ignore_errors=True)
    write_settings(root, settings)


def _finish_best(
    model: LogitModel,
    found: Outcome,
    splits: Splits,
    root: Path | None,
    subspace: Subspace,
    metric: Score,
) -> FineTuned:
    """The best run, scored on every split and kept in a folder of its own."""
    assert isinstance(found, FineTuned)
    if root is None:
        return add_splits(model, found, splits, subspace=subspace, metric=metric)
    kept = _read(root / BEST)
    whole = run_settings(model, splits, subspace, Training(**found.training), metric)
    if kept is not None and not differences(whole, kept.settings):
        return kept
    found = add_splits(model, found, splits, subspace=subspace, metric=metric)
    TrainingFolder(root / BEST, found.settings, overwrite=True).finish(found)
    return found


def _read(folder: Path) -> FineTuned | None:
    try:
        return FineTuned.load(folder)
    except UserError:
        return None


def _table(
    points: Sequence[Training], runs: Sequence[Outcome], best: int, grid: TrainingGrid, metric: str
) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for i, (point, found) in enumerate(zip(points, runs, strict=True)):
        row: dict[str, Any] = {"learning rate": point.learning_rate, "batch size": point.batch_size}
        if isinstance(found, Diverged):
            rows.append({**row, "status": f"diverged at step {found.step}"})
            continue
        row |= {"status": "done", "best step": found.best_step}
        row |= {f"dev {metric}": found.scores.get("dev"), "dev loss": found.dev_loss}
        edge = grid.edge(point.learning_rate, point.batch_size)
        note = "best" + (f", {edge} rate" if edge else "") if i == best else ""
        rows.append({**row, "seconds": found.seconds, "note": note})
    table = pd.DataFrame(rows)
    return table.assign(**{"best step": table["best step"].astype("Int64")})


def _edge(best: Training, grid: TrainingGrid) -> str | None:
    edge = grid.edge(best.learning_rate, best.batch_size)
    if edge is None:
        return None
    side = "larger" if edge == "largest" else "smaller"
    return (
        f"the best learning rate {best.learning_rate:g} is the {edge} of the grid: try {side} ones"
    )

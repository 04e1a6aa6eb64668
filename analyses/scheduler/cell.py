"""A study as a table of cells: what each one computes, what it waits for, what identifies it.

A cell is the smallest piece of a study that is computed and kept by itself: one kernel, one
classifier on it, one training. Its key (``SST-2/16-13/prompt/kernel-sgd/solve-logistic``) is where
it lies below the study's folder; `CellStore` keeps it, `run_cells` computes what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal
from urllib.parse import quote

from subkern.errors import UserError

State = Literal["done", "running", "failed", "blocked", "missing"]
STATES: tuple[State, ...] = ("done", "running", "failed", "blocked", "missing")
"""``blocked``: it needs a cell that failed."""

FILTERS = ("task", "k", "data_seed", "head", "method", "step")
"""Fields of a cell by which it may be chosen."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One piece of a study.

    Attributes:
        task, k, data_seed, head: which examples, and how the model reads them.
        method: what is tried (``kernel-sgd``).
        step: which part of the method (``kernel``, ``solve-logistic``).
        identity: everything that decides its numbers, as JSON values, what it needs aside; under
            ``settings`` stands what the function that computes it reads.
        needs: keys of the cells whose results it uses; it is blocked if one fails.
        after: keys of cells that it waits for, whether they succeed or fail.
    """

    task: str
    k: int
    data_seed: int
    head: str
    method: str
    step: str
    identity: Mapping[str, Any] = field(default_factory=dict, hash=False)
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @cached_property
    def key(self) -> str:
        """Its name, readable and stable, and its folder's: ``task/k-seed/head/method/step``."""
        parts = (self.task, f"{self.k}-{self.data_seed}", self.head, self.method, self.step)
        return "/".join(quote(part, safe=" :=,+@") for part in parts)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the function that computes it reads."""
        found: Mapping[str, Any] = self.identity.get("settings", {})
        return found


class Plan:
    """The cells of a study, each after those it waits for.

    Args:
        cells: in the order in which to prefer them.

    Raises:
        ValueError: a key stands twice, a cell waits for one that is not there, or for itself.
    """

    def __init__(self, cells: Iterable[Cell]) -> None:
        given = list(cells)
        self.cells = {cell.key: cell for cell in given}
        if len(self.cells) < len(given):
            raise ValueError("two cells of the plan have the same key")
        waits = {key: [*cell.needs, *cell.after] for key, cell in self.cells.items()}
        if unknown := {name for names in waits.values() for name in names} - self.cells.keys():
            raise ValueError(f"the plan lacks cells that others wait for: {sorted(unknown)[:3]}")
        try:
            order = list(TopologicalSorter(waits).static_order())
        except CycleError as error:
            raise ValueError(f"cells wait for each other: {error.args[1]}") from error
        rank = {key: number for number, key in enumerate(self.cells)}
        self._waits, self._order, self._rank = waits, order, rank

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells.values())

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, key: str) -> Cell:
        return self.cells[key]

    @property
    def order(self) -> Sequence[str]:
        """Every key after those it waits for."""
        return self._order

    def waits(self, key: str) -> Sequence[str]:
        """Keys that a cell waits for."""
        return self._waits[key]

    def sorted(self, keys: Iterable[str]) -> list[str]:
        """Keys in the plan's order of preference."""
        return sorted(keys, key=self._rank.__getitem__)

    def dependents(self, keys: Iterable[str]) -> list[str]:
        """These cells and all that wait for them, however far: the last first."""
        found = set(keys)
        for key in self._order:
            if any(name in found for name in self._waits[key]):
                found.add(key)
        return [key for key in reversed(self._order) if key in found]

    def choose(self, filters: Sequence[Mapping[str, str]]) -> set[str]:
        """Return the keys that one of the filters picks, and all they wait for.

        Raises:
            UserError: they pick none.
        """
        if not filters:
            return set(self.cells)
        found = {cell.key for cell in self if any(_picks(each, cell) for each in filters)}
        if not found:
            asked = " or ".join(",".join(f"{k}={v}" for k, v in each.items()) for each in filters)
            raise UserError(f"no cell has {asked}: --dry-run lists the cells")
        for key in reversed(self._order):
            if key in found:
                found.update(self._waits[key])
        return found


def _picks(filter_: Mapping[str, str], cell: Cell) -> bool:
    """Say if every field of a cell matches its pattern."""
    return all(
        fnmatchcase(str(getattr(cell, name)).lower(), pattern.lower())
        for name, pattern in filter_.items()
    )


def parse_only(texts: Sequence[str]) -> list[dict[str, str]]:
    """Return filters from lines like ``task=SST-2,method=kernel-*``.

    Raises:
        UserError: a line is not of that form, or names a field that cells do not have.
    """
    found = []
    for text in texts:
        pairs = [part.partition("=") for part in text.split(",")]
        for name, equals, pattern in pairs:
            if name not in FILTERS or not equals or not pattern:
                raise UserError(
                    f"--only '{text}' is not understood at '{name}{equals}{pattern}': write"
                    f" field=pattern with a field of {', '.join(FILTERS)}"
                )
        found.append({name: pattern for name, _, pattern in pairs})
    return found

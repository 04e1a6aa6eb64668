"""How far a study is: counts of cells per task and method, and the time left."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping

from rich.table import Table

from .cell import STATES, Cell, Plan, State
from .store import CellStore

Cost = Callable[[Cell], float]
"""What a cell costs, in any unit; 0 where that is not known."""

_MARKS: Mapping[State, tuple[str, str]] = {
    "done": ("", "green"),
    "running": ("run", "cyan"),
    "failed": ("fail", "red"),
    "blocked": ("blocked", "yellow"),
    "missing": ("left", "default"),
}


class Timing:
    """Expected seconds of a cell: the mean of the finished ones most like it.

    Args:
        plan: the cells.
        store: where finished ones say how long they took.
        cost: for cells of which nothing alike is finished.
        unit: seconds per unit of cost, until a finished cell tells.
    """

    def __init__(
        self, plan: Plan, store: CellStore, cost: Cost | None = None, unit: float | None = None
    ) -> None:
        self._cost, self._unit = cost, unit
        self._known = 0.0, 0.0  # seconds and cost of the finished cells whose cost is known
        self._seconds: dict[tuple[str, ...], tuple[float, int]] = {}  # in all, of so many
        for cell in plan:
            if (stored := store.stored(cell.key)) is not None:
                self.learn(cell, stored.seconds)

    def learn(self, cell: Cell, seconds: float) -> None:
        """Take the time of a finished cell into account."""
        if self._cost is not None and (cost := self._cost(cell)):
            self._known = self._known[0] + seconds, self._known[1] + cost
        for kind in _kinds(cell):
            total, count = self._seconds.get(kind, (0.0, 0))
            self._seconds[kind] = total + seconds, count + 1

    def of(self, cell: Cell) -> float | None:
        """Return the seconds a cell is expected to take, or None where nothing is known."""
        for kind in _kinds(cell):
            if kind in self._seconds:
                total, count = self._seconds[kind]
                return total / count
        cost = self._cost(cell) if self._cost is not None else 0.0
        seconds, of = self._known
        unit = seconds / of if of else self._unit
        return cost * unit if cost and unit is not None else None


def _kinds(cell: Cell) -> Iterable[tuple[str, ...]]:
    """Yield what a cell is alike to, the closest first."""
    step = cell.step.partition(" ")[0]
    return (
        (cell.task, str(cell.k), cell.head, cell.method, step),
        (str(cell.k), cell.head, cell.method, step),
        (cell.method, step),
    )


def time_left(
    plan: Plan, states: Mapping[str, State], timing: Timing, workers: int = 1
) -> tuple[float, int]:
    """Return the seconds left, and of how many cells nothing is known.

    With so many workers, or as many as there are cells running now (a cluster's are not known).
    """
    workers = max(workers, sum(state == "running" for state in states.values()))
    left = [timing.of(plan[key]) for key, state in states.items() if state in _LEFT]
    known = [seconds for seconds in left if seconds is not None]
    return sum(known) / workers, len(left) - len(known)


_LEFT = ("missing", "running")


def counts(states: Iterable[State]) -> str:
    """Return how many cells are in which state: ``12 done, 1 failed, 3 missing``."""
    found = Counter(states)
    return ", ".join(f"{found[state]} {state}" for state in STATES if found[state]) or "no cells"


def status_table(plan: Plan, states: Mapping[str, State], chosen: Collection[str]) -> Table:
    """Return tasks as rows, methods as columns' groups: done of all, and what else there is."""
    groups: dict[str, dict[str, Counter[State]]] = defaultdict(lambda: defaultdict(Counter))
    tasks: dict[str, None] = {}
    for cell in plan:
        if cell.key in chosen:
            tasks[cell.task] = None
            groups[cell.method][cell.task][states[cell.key]] += 1
    table = Table()
    table.add_column("method", overflow="fold")
    for task in tasks:
        table.add_column(task, overflow="fold")
    for method, by_task in groups.items():
        table.add_row(method, *(_entry(by_task.get(task)) for task in tasks))
    return table


def _entry(found: Counter[State] | None) -> str:
    """Return one entry: ``3/5``, and what the others are."""
    if found is None:
        return "-"
    text = f"{found['done']}/{found.total()}"
    for state, (mark, color) in _MARKS.items():
        if mark and found[state] and state != "missing":
            text += f" [{color}]{found[state]} {mark}[/]"
    return f"[green]{text}[/]" if found["done"] == found.total() else text


def duration(seconds: float) -> str:
    """Return seconds for people: ``0.4 s``, ``45 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"

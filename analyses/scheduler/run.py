"""Compute what is missing of a plan: each cell once those it waits for have ended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from subkern.errors import NoSpaceError, UserError

from .cell import Plan, State
from .executors import Executor
from .store import CellStore
from .work import Ended, Job, Work

Seen = Callable[[Mapping[str, State], Ended | None], None]
"""Called with the state of every cell, at first and whenever one has ended."""


@dataclass
class Ran:
    """What a run did.

    Attributes:
        states: of every cell of the plan, now.
        computed: keys of the cells that this run finished.
        failed: key → reason, of the chosen cells that failed, now or before.
    """

    states: dict[str, State]
    computed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def prepare(
    plan: Plan,
    store: CellStore,
    *,
    chosen: Collection[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Put a study's folder in order before a run.

    Args:
        plan: its cells.
        store: its folder, locked by the caller.
        chosen: keys of the cells that may be computed; None for all. Others stay as they are,
            unless they use one that is forgotten.
        overwrite: forget finished cells of other settings or versions, and what uses them.

    Chosen cells that are damaged are forgotten, to be computed again.

    Raises:
        UserError: chosen cells are there of other settings or versions, and ``overwrite`` is
            false.
    """
    if overwrite:
        store.discard(plan.dependents(store.others(plan, chosen)))
    store.refuse_others(plan, chosen)
    store.discard_damaged(plan, chosen)
    store.discard_stale(plan, chosen)
    states = store.states(plan)
    store.forget_failures(key for key, state in states.items() if state == "missing")


def run_cells(
    plan: Plan,
    store: CellStore,
    work: Work,
    executor: Executor,
    *,
    chosen: Collection[str] | None = None,
    retry_failed: bool = False,
    seen: Seen | None = None,
) -> Ran:
    """Compute the chosen cells that are missing; a failure stops only the cells that need it.

    Args:
        plan: all cells of the study.
        store: where they are kept, put in order by `prepare`.
        work: computes a cell.
        executor: who does it; it is started and stopped here.
        chosen: keys of the cells that may be computed; None for all.
        retry_failed: compute those that failed, too. They stay failed until they have ended, and
            what was chosen without them stays unless they finish.
        seen: told of progress.

    Raises:
        UserError: the disk is full, or a machine does not see the study's folder. What is done is
            kept, here and at any interruption.
    """
    ran = Ran(store.states(plan))
    wanted = set(plan.cells if chosen is None else chosen)
    if retry_failed:
        failed = [key for key in wanted if ran.states[key] == "failed"]
        ran.states |= dict.fromkeys(plan.dependents(failed), "missing")
    # Finished, and missing all the same: of cells that are others by now, or tried again.
    kept = {key for key, state in ran.states.items() if state == "missing" and store.stored(key)}
    running: set[str] = set()
    if seen is not None:
        seen(ran.states, None)
    with executor:
        while True:
            ready, current = _ready(plan, ran.states, wanted, store, kept)
            if current and seen is not None:
                seen(ran.states, None)
            for key in ready[: _room(executor, running)]:
                if key in kept:
                    outdated = plan.dependents([key])
                    store.discard(outdated)
                    kept.difference_update(outdated)
                    ran.states |= dict.fromkeys(outdated, "missing")
                ran.states[key] = "running"
                running.add(key)
                executor.submit(Job(store.root.resolve(), plan[key], work))
            if not running:
                break
            for end in executor.ended():
                running.discard(end.key)
                _note(end, ran, plan, store)
                if seen is not None:
                    seen(ran.states, end)
    ran.states = store.states(plan)  # of cells that were not chosen, too
    for key in plan.sorted(wanted):
        if ran.states[key] == "failed" and (failure := store.failure(key)) is not None:
            ran.failed[key] = failure.reason
    return ran


def _room(executor: Executor, running: Collection[str]) -> int | None:
    """Return how many more jobs an executor takes; None for any number."""
    return None if executor.slots is None else executor.slots - len(running)


def _ready(
    plan: Plan,
    states: dict[str, State],
    wanted: Collection[str],
    store: CellStore,
    kept: set[str],
) -> tuple[list[str], bool]:
    """Return the missing cells that need not wait, and whether any became ``done``.

    Those that can never be computed become ``blocked``. Of the finished cells that are ``kept``,
    those that are as they would be computed now become ``done``.
    """
    ready, current = [], False
    for key in plan.order:
        if states[key] != "missing":
            continue
        if any(states[name] in ("failed", "blocked") for name in plan[key].needs):
            states[key] = "blocked"
        elif all(states[name] == "done" for name in plan[key].needs) and all(
            states[name] not in ("missing", "running") for name in plan[key].after
        ):
            if key in kept and store.is_current(plan[key], states):
                states[key], current = "done", True
                kept.discard(key)
            elif key in wanted:
                ready.append(key)
    return plan.sorted(ready), current


def _note(end: Ended, ran: Ran, plan: Plan, store: CellStore) -> None:
    """Take down how a cell ended.

    Raises:
        UserError: nothing can be kept any more.
    """
    if end.state == "done":
        ran.states[end.key] = "done"
        ran.computed.append(end.key)
    elif end.state == "failed":
        ran.states[end.key] = "failed"
    elif end.state == "full":
        done = sum(state == "done" for state in ran.states.values())
        raise NoSpaceError(
            f"no space left for '{store.root}' at cell {end.key}: the {done} of {len(plan)} cells"
            " that are done are kept; make room and run the same command again"
        )
    else:
        raise UserError(f"cell {end.key} could not be kept: {end.reason}")

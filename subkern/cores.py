"""A machine's cores, when other programs compute too.

After every parallel operation torch's threads spin for some milliseconds, in case more comes. That
is fast on an idle machine; beside other busy processes the cores that spin are wanted, threads wait
for each other's turn, and a kernel takes many times as long. Told to spin briefly, and to be no
more than others leave cores, they lose little beyond what others take; how much exactly
``python -m benchmarks.shared_machine`` prints.

The program ``subkern`` tells them by itself. In a program of one's own, before torch is imported::

    from subkern.cores import share_cores

    share_cores()

With another number of threads sums are taken in another order, so that the last bits of a kernel
depend on what else the machine does. Whoever wants the same bits from every run says how many
threads there are (``OMP_NUM_THREADS``). Training takes as many in every step (`subkern.training`).
"""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

SPINS = 20_000
"""How often a waiting thread looks before it sleeps (GNU OpenMP's own: 300,000)."""

_CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")

_PAUSE = 0.5
"""Seconds between two looks at what others do."""

_SHARE = 0.65
"""Of a core, from which it is free: two threads and a busy process have one and a half of two."""

_SHORT = 10.0
"""Seconds; a run that takes less is not worth a word."""

MUCH = 0.4
"""Cores that others use on average, from which a run is told of them."""


class BusyMachineWarning(UserWarning):
    """Other processes kept cores busy that a run's threads were spinning on."""


def share_cores() -> bool:
    """Let torch's threads sleep where they would spin, and be no more than there are free cores.

    It sets ``GOMP_SPINCOUNT``, for this process and those that it starts, unless the environment
    already says how to wait or how many threads to take (``OMP_WAIT_POLICY``, ``GOMP_SPINCOUNT``,
    ``OMP_NUM_THREADS``). Torch reads it once: call this before anything imports torch.

    Returns:
        Whether torch does as it is told, or as the environment says.
    """
    global _sharing
    ours = os.environ.get("GOMP_SPINCOUNT") == str(SPINS)  # of the process that started this one
    if any(name in os.environ for name in _CHOSEN if not (ours and name == "GOMP_SPINCOUNT")):
        return True
    if "torch" in sys.modules:
        return False
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)
    _sharing = True
    return True


@contextmanager
def heeding_others() -> Iterator[None]:
    """A long computation, which others may compute beside.

    If `share_cores` was called it takes as many threads of torch as there are free cores, and goes
    on to do so wherever it calls `make_way`. Otherwise it ends with a warning if it spun on cores
    that other processes wanted.
    """
    global _turn
    import torch

    threads = torch.get_num_threads()
    if threads < 2 or _turn is not None:
        yield
    elif _sharing:
        _turn = _Turn(threads, threading.get_ident(), _look())
        try:
            yield
        finally:
            _turn = None
            torch.set_num_threads(threads)
    elif any(name in os.environ for name in _CHOSEN):
        yield
    else:
        began = _look()
        yield
        _warn(began, _look())


def make_way() -> None:
    """Take as many threads as others leave cores; it looks every half second, however often called.

    What others leave is what was idle and what this process had.
    """
    if _turn is None or time.monotonic() < _turn.looked.when + _turn.pause:
        return
    if threading.get_ident() != _turn.thread:
        return  # a thread of ours that has a core for itself
    import torch

    now, then = _look(), _turn.looked
    free = (now.idle - then.idle + now.own - then.own) / (now.when - then.when)
    torch.set_num_threads(min(_turn.most, max(1, int(free + 1 - _SHARE))))
    _turn.looked, _turn.pause = now, _PAUSE


class Company:
    """Other processes on this machine's cores, from when it is made."""

    def __init__(self) -> None:
        self._began = _look()

    def cores(self) -> float:
        """Cores that others used on average until now."""
        return _used(self._began, _look())


def _used(began: _Look, ended: _Look) -> float:
    used = ended.busy - began.busy - (ended.own - began.own)
    return max(0.0, used / max(ended.when - began.when, 1e-9))


def _warn(began: _Look, ended: _Look) -> None:
    took, used = ended.when - began.when, _used(began, ended)
    if took >= _SHORT and used >= MUCH:
        warnings.warn(
            f"other processes used {used:.1f} of {os.cpu_count()} cores meanwhile, and"
            " torch's threads spin while they wait, which makes both slow: call"
            " subkern.cores.share_cores() before torch is imported, or set OMP_WAIT_POLICY=PASSIVE",
            BusyMachineWarning,
            stacklevel=5,
        )


class _Look(NamedTuple):
    """Seconds on the clock; and since some start core seconds of nobody, somebody, and of this
    process. Cores are those that this process may use.
    """

    when: float
    idle: float
    busy: float
    own: float


@dataclass
class _Turn:
    """A computation that heeds others: its most threads, whose they are, the last look and how
    long until the next.
    """

    most: int
    thread: int
    looked: _Look
    pause: float = _PAUSE / 5  # it may have begun with too many


_sharing = False
_turn: _Turn | None = None


def _look() -> _Look:
    import psutil  # late: a start needs none

    cores = psutil.cpu_times(percpu=True)
    if hasattr(os, "sched_getaffinity"):
        cores = [cores[core] for core in os.sched_getaffinity(0) if core < len(cores)]
    idle = sum(core.idle + getattr(core, "iowait", 0.0) for core in cores)
    every = sum(sum(core) for core in cores)
    return _Look(time.monotonic(), idle, every - idle, time.process_time())

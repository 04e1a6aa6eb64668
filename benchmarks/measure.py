"""Seconds, peak memory and counted FLOPs of a piece of work."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import psutil
from torch.utils.flop_counter import FlopCounterMode

_INTERVAL = 0.005  # seconds between two looks at the resident memory


@dataclass(frozen=True)
class Sample:
    """One timed turn of a contender.

    Attributes:
        seconds_per_entry: what the whole kernel would cost by this turn's times, per entry.
        wall_seconds: how long the turn took.
        entries: kernel entries that were computed in it.
        peak_bytes: most resident memory above the loaded model during it.
        parts: the times behind `seconds_per_entry`, by name, in seconds, and other numbers.
    """

    seconds_per_entry: float
    wall_seconds: float
    entries: int
    peak_bytes: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that `work` takes, and what it returns."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def counted(work: Callable[[], Any]) -> tuple[float, Any]:
    """FLOPs of the matrix products and attention of `work`, and what it returns.

    Counted by torch at dispatch, below `torch.func`'s transforms: what ran, not what a formula
    says. Pointwise operations count nothing.
    """
    with FlopCounterMode(display=False) as counter:
        result = work()
    return float(counter.get_total_flops()), result


def resident_bytes() -> int:
    """Resident memory of this process's own.

    Pages of mapped files are left out where the system tells (Linux): it takes them back at need.
    """
    found = psutil.Process().memory_info()
    return int(found.rss - getattr(found, "shared", 0))


def release_memory() -> None:
    """Give what is free back to the system, so that the next contender starts from the same place.

    Freed blocks stay with the C library's allocator otherwise and would count for the next one.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl has not
        if trim is not None:
            trim(0)


class PeakMemory:
    """The most resident memory while inside, by looking at it every 5 ms from a thread.

    Args:
        base: resident bytes that do not count: those of the loaded model.
    """

    def __init__(self, base: float) -> None:
        self.base = base
        self.peak_bytes = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL):
            self._look()

    def _look(self) -> None:
        self.peak_bytes = max(self.peak_bytes, resident_bytes() - self.base)

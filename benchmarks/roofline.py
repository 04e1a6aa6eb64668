"""Where the time of one of our kernels goes, and how near each part is to this machine's products.

The library is timed as it runs: functions that begin a phase are wrapped where they are looked up,
and what one of them calls in another phase is that phase's alone.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from importlib import import_module
from inspect import isgeneratorfunction
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.measure import timed
from subkern.cores import MUCH, Company

ENGINES = "subkern.kernels.engines"
FILES = "subkern.gradients.factor_files"
PHASES: dict[str, tuple[tuple[str, str], ...]] = {
    "checks": (("subkern.kernels.request", "validate"),),
    "capture": (("subkern.gradients.batches", "CaptureJob.capture"),),
    "contraction": (
        (f"{ENGINES}.tiled", "_Timed.__call__"),
        (f"{ENGINES}.signs.engine", "_Signs.tile"),
        (f"{ENGINES}.updates", "_unit"),
    ),
    "packing": (
        ("subkern.gradients.contract", "_tiles"),
        (f"{ENGINES}.signs.engine", "_Signs.form"),
    ),
    "disk": (
        (FILES, "FactorFiles._store"),
        (FILES, "FactorFiles.captured"),
        (f"{ENGINES}.signs.rows", "SignRows.save"),
        ("subkern.kernels.tiles", "TileStore.put"),
        ("subkern.kernels.tiles", "TileStore.get"),
    ),
}
"""Phase → where it begins: module, and a function or method of it.

Packing is cutting and joining tokens to tiles, or forming and packing signs.
"""
OTHER = "other"
_GEMM_SIZES = (512, 1024, 2048)


class Stopwatch:
    """Seconds of every phase, each without those that it calls.

    Of the thread that it was made for: what threads do side by side counts where they are awaited.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = [OTHER]
        self._thread = threading.get_ident()
        self._since = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Inside, time counts for this phase."""
        if threading.get_ident() != self._thread:
            yield
            return
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        now = time.perf_counter()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` as part of a phase; of a generator, what is between its yields."""
        if isgeneratorfunction(function):

            @wraps(function)
            def stepwise(*args: Any, **kwargs: Any) -> Iterator[Any]:
                made = function(*args, **kwargs)
                while True:
                    with self.phase(name):
                        try:
                            item = next(made)
                        except StopIteration:
                            return
                    yield item

            return stepwise

        @wraps(function)
        def whole(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return whole


@contextmanager
def watched() -> Iterator[Stopwatch]:
    """Inside, kernels are timed by phase."""
    watch = Stopwatch()
    with ExitStack() as stack:
        for name, places in PHASES.items():
            for module, path in places:
                *owners, attribute = path.split(".")
                owner: Any = import_module(module)
                for each in owners:
                    owner = getattr(owner, each)
                timed_ = watch.wrapped(name, getattr(owner, attribute))
                stack.enter_context(patch.object(owner, attribute, timed_))
        watch._since = time.perf_counter()
        yield watch
        watch._turn()


def gemm_rate(repeats: int = 3) -> float:
    """FLOPs a second of a float32 product here: the best of several sizes and repeats."""
    best = 0.0
    for size in _GEMM_SIZES:
        a, b = torch.randn(size, size), torch.randn(size, size)
        out = torch.empty(size, size)
        for _ in range(repeats):
            seconds, _ = timed(lambda a=a, b=b, out=out: torch.mm(a, b, out=out))  # type: ignore[misc]
            best = max(best, 2.0 * size**3 / seconds)
    return best


def measure(work: Callable[[], Any]) -> tuple[float, Any, dict[str, Any]]:
    """Seconds of `work`, what it returns, and its phases beside the rate of products."""
    before, company = gemm_rate(), Company()
    with watched() as watch:
        seconds, result = timed(work)
    others = company.cores()
    rate = max(before, gemm_rate())
    phases = {name: watch.seconds.get(name, 0.0) for name in (*PHASES, OTHER)}
    found = {"seconds": phases, "gemm_flops_per_second": rate, "cores_of_others": others}
    return seconds, result, found


def table(roofline: Mapping[str, Any]) -> str:
    """Share of time of every phase, and of the rate of products where its FLOPs are known."""
    seconds, flops = roofline["seconds"], roofline["flops"]
    rate, total = roofline["gemm_flops_per_second"], sum(roofline["seconds"].values())
    lines = [
        f"roofline: float32 products of this machine {rate / 1e9:.0f} GFLOP/s in the same run",
        f"{'phase':14}{'seconds':>10}{'of time':>10}{'GFLOP':>12}{'GFLOP/s':>10}{'of rate':>10}",
    ]
    parts = {name: (seconds[name], flops.get(name)) for name in seconds}
    known = sum(flops.values())
    for name, (took, count) in {**parts, "whole": (total, known)}.items():
        cells = f"{name:14}{took:10.2f}{took / total:10.0%}"
        if count and took:
            cells += f"{count / 1e9:12.4g}{count / took / 1e9:10.1f}{count / took / rate:10.0%}"
        lines.append(cells)
    if roofline["cores_of_others"] >= MUCH:
        others = roofline["cores_of_others"]
        lines.append(f"NOT IDLE: others used {others:.1f} cores meanwhile; do not trust the shares")
    return "\n".join(lines) + "\n"

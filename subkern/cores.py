"""A machine's cores, when other programs compute too.

After every parallel operation torch's threads spin for some milliseconds, in case more comes. That
is fast on an idle machine; beside other busy processes the cores that spin are wanted, threads wait
for each other's turn, and a kernel takes many times as long. Told to spin briefly they lose little
alone, and two to three times beside one or two busy processes on two cores; how much exactly
``python -m benchmarks.shared_machine`` prints.

The program ``subkern`` tells them by itself. In a program of one's own, before torch is imported::

    from subkern.cores import share_cores

    share_cores()
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

SPINS = 1_000
"""How often a waiting thread looks before it sleeps (GNU OpenMP's own: 300,000)."""

_CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")

_SHORT = 10.0
"""Seconds; a run that takes less is not worth a word."""

_MUCH = 0.4
"""Cores that others use on average, from which a run is told of them."""


class BusyMachineWarning(UserWarning):
    """Other processes kept cores busy that a run's threads were spinning on."""


def share_cores() -> bool:
    """Let torch's threads sleep where they would spin; whether that is (now) so.

    It sets ``GOMP_SPINCOUNT``, for this process and those that it starts, unless the environment
    already says how to wait or how many threads to take (``OMP_WAIT_POLICY``, ``GOMP_SPINCOUNT``,
    ``OMP_NUM_THREADS``). Torch reads it once: call this before anything imports torch.
    """
    if not any(name in os.environ for name in _CHOSEN):
        if "torch" in sys.modules:
            return False
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
    return True


@contextmanager
def heeding_others(threads: int) -> Iterator[None]:
    """Warn after a long computation that spun on cores which other processes wanted.

    Args:
        threads: how many threads of torch it used.
    """
    if threads < 2 or any(name in os.environ for name in _CHOSEN):
        yield
        return
    began, before = time.monotonic(), _seconds_of_others()
    yield
    took = time.monotonic() - began
    others = (_seconds_of_others() - before) / max(took, 1e-9)
    if took >= _SHORT and others >= _MUCH:
        warnings.warn(
            f"other processes used {others:.1f} of {os.cpu_count()} cores meanwhile, and torch's"
            " threads spin while they wait, which makes both slow: call"
            " subkern.cores.share_cores() before torch is imported, or set OMP_WAIT_POLICY=PASSIVE",
            BusyMachineWarning,
            stacklevel=4,
        )


def _seconds_of_others() -> float:
    """CPU seconds that all processes but this one have used."""
    import psutil  # late: a start needs none

    every, own = psutil.cpu_times(), time.process_time()
    return float(sum(every) - every.idle - getattr(every, "iowait", 0.0) - own)

"""Who computes the cells: this process, some processes of this machine, or a Ray cluster.

An executor is given jobs whose needs are finished, and says which have ended. What comes first, and
what to do about failures, is `run_cells`' business.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from types import TracebackType
from typing import Protocol, Self

from threadpoolctl import threadpool_limits

from subkern.errors import UserError
from subkern.storage.memory import share_memory

from .work import ATTEMPTS, Ended, Job, lost, run_job


class Executor(Protocol):
    """Computes jobs; used as a context manager, it leaves no process behind.

    Attributes:
        slots: how many jobs to give it at once; None for as many as there are.
    """

    slots: int | None

    def __enter__(self) -> Self:
        """Start."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Stop at once, whatever is running."""
        ...

    def submit(self, job: Job) -> None:
        """Take a job."""
        ...

    def ended(self) -> list[Ended]:
        """Wait until at least one job has ended; return those that have."""
        ...


class Here:
    """This very process, one job after the other."""

    slots: int | None = 1

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._jobs.clear()

    def submit(self, job: Job) -> None:
        """Take a job."""
        self._jobs.append(job)

    def ended(self) -> list[Ended]:
        """Compute the next job."""
        return [run_job(self._jobs.popleft())]


class Processes:
    """Worker processes of this machine.

    Each is a pool of one, so that the death of one (no memory left) concerns its own cell only.
    They are spawned: CUDA and threads do not survive a fork.

    Args:
        count: of workers.
    """

    def __init__(self, count: int) -> None:
        self.slots: int | None = count
        self._idle: list[ProcessPoolExecutor] = []
        self._busy: dict[Future[Ended], tuple[ProcessPoolExecutor, Job]] = {}
        self._tries: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._idle = [self._worker() for _ in range(self.slots or 1)]
        return self

    def __exit__(self, *_: object) -> None:
        for pool in [*self._idle, *(pool for pool, _ in self._busy.values())]:
            for process in list((pool._processes or {}).values()):
                process.kill()  # nothing that is done is lost, and nobody waits for the rest
            pool.shutdown(wait=False, cancel_futures=True)
        self._idle, self._busy = [], {}

    def _worker(self) -> ProcessPoolExecutor:
        """Return a new worker; it starts with its first job."""
        threads = max(1, (os.cpu_count() or 1) // (self.slots or 1))
        return ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin_worker,
            initargs=(threads, self.slots or 1),
        )

    def submit(self, job: Job) -> None:
        """Take a job."""
        pool = self._idle.pop()
        try:
            future = pool.submit(run_job, job)
        except BrokenProcessPool:  # it died while it had nothing to do
            pool.shutdown(wait=False)
            pool = self._worker()
            future = pool.submit(run_job, job)
        self._busy[future] = (pool, job)

    def ended(self) -> list[Ended]:
        """Wait for workers; the job of one that died is tried again by a new one."""
        while True:
            finished, _ = wait(self._busy, return_when=FIRST_COMPLETED)
            found = [end for future in finished if (end := self._take(future)) is not None]
            if found:
                return found

    def _take(self, future: Future[Ended]) -> Ended | None:
        """Return how a job ended, or None if it is being tried again."""
        pool, job = self._busy.pop(future)
        try:
            end = future.result()
        except BrokenProcessPool:
            pool.shutdown(wait=False)
            self._idle.append(self._worker())
            tries = self._tries[job.cell.key] = self._tries.get(job.cell.key, 0) + 1
            if tries >= ATTEMPTS:
                return lost(job, f"its process died {tries} times: out of memory? (see --memory)")
            self.submit(job)
            return None
        self._idle.append(pool)
        return end


def _begin_worker(threads: int, workers: int) -> None:
    """Make a worker heed its parent alone: its death, but no Ctrl-C; and take its share."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # for torch, which is not loaded yet
    threadpool_limits(threads)
    share_memory(workers)
    parent = multiprocessing.parent_process()
    if parent is not None:
        end_with(lambda: connection.wait([parent.sentinel]))


def end_with(wait_for_it: Callable[[], object]) -> None:
    """End this process as soon as something happens."""

    def watch() -> None:
        wait_for_it()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def make_executor(
    kind: str = "local", *, workers: int = 1, address: str | None = None, gpus: int = 0
) -> Executor:
    """Return an executor.

    Args:
        kind: ``local`` or ``ray``.
        workers: of ``local``: 1 computes in this process.
        address: of ``ray``: of a cluster that runs (``host:6379``, ``auto``); None starts one here.
        gpus: of ``ray``: how many each cell needs.

    Raises:
        UserError: as `check_executor`, or Ray is not installed or does not answer.
    """
    check_executor(kind, workers=workers, address=address)
    if kind == "ray":
        from .ray import Ray

        return Ray(address, gpus)
    return Here() if workers == 1 else Processes(workers)


def check_executor(kind: str, *, workers: int, address: str | None) -> None:
    """Raise `UserError` for an unknown kind, no workers, several of Ray, or an address without Ray.

    No cluster is asked: it may be gone where only the state of a study is.
    """
    if kind not in ("local", "ray"):
        raise UserError(f"executor '{kind}' is unknown: use local or ray")
    if workers < 1:
        raise UserError(f"{workers} workers can do nothing: give --workers 1 or more")
    if kind == "ray" and workers > 1:
        raise UserError(
            f"--workers {workers} is for --executor local: on Ray as many cells run as there are"
            " cores"
        )
    if kind == "local" and address is not None:
        raise UserError(f"--address {address} is for --executor ray")

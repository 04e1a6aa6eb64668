"""Who computes the cells: this process, some processes of this machine, or a Ray cluster.

An executor is given jobs whose needs are finished, and says which have ended. What comes first, and
what to do about failures, is `run_cells`' business.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Protocol, Self

from threadpoolctl import threadpool_limits

from subkern.cores import share_cores
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

    The death of one (no memory left) concerns its own cell only. They are spawned: CUDA and threads
    do not survive a fork.

    Args:
        count: of workers.
    """

    def __init__(self, count: int) -> None:
        self.slots: int | None = count
        self._count = count
        self._idle: list[_Worker] = []
        self._busy: list[tuple[_Worker, Job]] = []
        self._tries: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in [*self._idle, *(worker for worker, _ in self._busy)]:
            worker.kill()  # nothing that is done is lost, and nobody waits for the rest
        self._idle, self._busy = [], []

    def submit(self, job: Job) -> None:
        """Take a job."""
        worker = self._idle.pop() if self._idle else _Worker(self._count)
        try:
            worker.pipe.send(job)
        except OSError:  # it died while it had nothing to do
            worker.kill()
            worker = _Worker(self._count)
            worker.pipe.send(job)
        self._busy.append((worker, job))

    def ended(self) -> list[Ended]:
        """Wait for workers; the job of one that died is tried again by a new one."""
        while True:
            ready = wait([worker.pipe for worker, _ in self._busy])
            taken = [each for each in self._busy if each[0].pipe in ready]
            found = [end for each in taken if (end := self._take(*each)) is not None]
            if found:
                return found

    def _take(self, worker: _Worker, job: Job) -> Ended | None:
        """Return how a job ended, or None if it is being tried again."""
        self._busy.remove((worker, job))
        try:
            answer: Ended | Exception = worker.pipe.recv()
        except (EOFError, OSError):
            worker.kill()
            self._tries[job.cell.key] += 1
            if (tries := self._tries[job.cell.key]) >= ATTEMPTS:
                return lost(job, f"its process died {tries} times: out of memory? (see --memory)")
            self.submit(job)
            return None
        self._idle.append(worker)
        if isinstance(answer, Exception):
            raise answer
        return answer


class _Worker:
    """A process that computes one job after the other, and the pipe to it."""

    def __init__(self, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, workers))
        self.process.start()
        there.close()  # so that its death is seen here

    def kill(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, workers: int) -> None:
    """Compute jobs that come through a pipe, one of ``workers`` processes that share a machine.

    It heeds its parent alone: its death, but no Ctrl-C.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threads = max(1, (os.cpu_count() or 1) // workers)
    share_cores()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # for torch, which is not loaded yet
    threadpool_limits(threads)
    share_memory(workers)
    parent = multiprocessing.parent_process()
    assert parent is not None
    end_with(lambda: wait([parent.sentinel]))
    while True:
        answer: Ended | Exception
        try:
            answer = run_job(pipe.recv())
        except EOFError:
            return
        except Exception as error:
            answer = error
        pipe.send(answer)


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

"""Cells as tasks of a Ray cluster; only this module imports ray.

Ray places the tasks and repeats those whose worker died. The study's folder has to be one that all
machines of the cluster see.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from typing import Any, Self

from subkern.errors import UserError

from .work import ATTEMPTS, Ended, Job, lost, run_job

ANSWER = 5.0
"""Seconds that an address has to answer at all."""
GREETING = 60.0
"""Seconds that a cluster has to let a process join; one that is none never would."""
_JOIN = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
_SMALL = {"object_store_memory": 2**27}  # cells leave files, hardly any objects


class Ray:
    """A Ray cluster.

    Args:
        address: of one that runs (``host:6379``, ``ray://host:10001``, ``auto``); None starts one
            on this machine, whatever else runs there, and ends it.
        gpus: that each cell needs, besides one core.

    Raises:
        UserError: Ray is not installed, or nothing answers at the address.
    """

    slots: int | None = None  # Ray queues what it has no room for

    def __init__(self, address: str | None = None, gpus: int = 0) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its future default
        try:
            import ray
        except ImportError:
            raise UserError("--executor ray needs ray: pip install 'subkern[ray]'") from None
        self._ray: Any = ray
        self._address, self._gpus = address, gpus
        self._jobs: dict[Any, Job] = {}
        self._started = False
        if address is not None:
            if address != "auto":
                _knock(address)
            _greet(address)

    def __enter__(self) -> Self:
        ray = self._ray
        if not ray.is_initialized():
            here: dict[str, Any] = {} if self._address else {"include_dashboard": False, **_SMALL}
            try:
                ray.init(
                    address=self._address or "local",  # None would join one left from elsewhere
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=True,
                    **here,
                )
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise _silent(self._address, str(error)) from error
            self._started = True
        there = int(ray.cluster_resources().get("GPU", 0))
        if there < self._gpus:  # Ray would wait for one without a word
            self.__exit__()
            raise UserError(
                f"a cell needs {self._gpus} GPU and the Ray cluster has {there}: give --device cpu,"
                " or an --address with GPUs"
            )
        needed = {"num_cpus": 1, "num_gpus": self._gpus}
        self._task = ray.remote(max_retries=ATTEMPTS - 1, **needed)(run_job)
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._jobs:
            self._ray.cancel(task, force=True)
        self._jobs = {}
        if self._started:
            self._ray.shutdown()

    def submit(self, job: Job) -> None:
        """Take a job."""
        self._jobs[self._task.remote(job)] = job

    def ended(self) -> list[Ended]:
        """Wait for a task; one whose worker died, and died again, has failed."""
        finished, _ = self._ray.wait(list(self._jobs), num_returns=1)
        return [self._take(task) for task in finished]

    def _take(self, task: Any) -> Ended:
        """Return how a task ended."""
        job = self._jobs.pop(task)
        errors = self._ray.exceptions
        try:
            end: Ended = self._ray.get(task)
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
            why = type(error).__name__
            return lost(job, f"its worker died {ATTEMPTS} times ({why}): out of memory?")
        return end


def _knock(address: str) -> None:
    """Raise `UserError` unless something answers at an address; Ray itself takes a minute."""
    place = address.removeprefix("ray://")
    host, colon, port = place.rpartition(":")
    if not colon or not port.isdigit() or not host:
        raise UserError(f"--address '{address}' is no host:port: give one like 10.0.0.1:6379")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER):
            return
    except (OSError, OverflowError) as error:
        raise _silent(address, str(error)) from error


def _greet(address: str) -> None:
    """Raise `UserError` unless a process can join; Ray itself waits minutes, and then exits."""
    command = [sys.executable, "-c", _JOIN, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GREETING)
    except subprocess.TimeoutExpired:
        raise _silent(address, f"not within {GREETING:g} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise _silent(address, lines[-1] if lines else f"status {done.returncode}")


def _silent(address: str | None, why: str) -> UserError:
    """Return the error for a cluster that does not answer."""
    reason = why.strip().splitlines()[0][:160] if why.strip() else "no reason given"
    return UserError(
        f"no Ray cluster answers at '{address or 'this machine'}' ({reason}): start one with"
        " 'ray start --head', or give another --address"
    )

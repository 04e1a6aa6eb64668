"""One run at a time in one place: a lock that goes with the process, on a file that stays."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from subkern.errors import UserError

LOCK = ".lock"
"""The file in a folder whose lock its run has."""

_TRIES = 1000  # some places never take a file: /proc
_LACKING = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS)


def hold(lock: int, place: Path, otherwise: str) -> None:
    """Lock an open file (its descriptor) that stands for ``place``, until it is closed.

    Raises:
        UserError: another process holds it; says to wait, or ``otherwise``.
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"another run is at work in '{place}': wait for it, or {otherwise}"
        ) from None


@contextmanager
def only_run(
    place: str | Path | None, *, beside: bool = False, otherwise: str = "choose another --out"
) -> Iterator[None]:
    """Be the only run at ``place``, if there is one; the lock goes with the process.

    Its file lies in the folder ``place``, or ``beside`` it where that is replaced as a whole, and
    stays, but for that of a run which was refused what lies there. A folder is made if there is
    none, and removed again if nothing was written to it. Where nothing can be written or the file
    system has no locks there is none.

    Raises:
        UserError: another run is at work there.
    """
    if place is None or (not beside and Path(place).exists() and not Path(place).is_dir()):
        yield  # who reads a file there says what is wrong with it
        return
    place = Path(place)
    file = place.with_name(f".{place.name}{LOCK}") if beside else place / LOCK
    made, first, refused = not file.parent.exists(), not file.exists(), False
    handle = _acquire(file, place, otherwise)
    try:
        yield
    except UserError:
        refused = first
        raise
    finally:
        if not beside or not place.exists() or refused:
            _leave(file, made, alone=not beside)
        if handle is not None:
            os.close(handle)


def _acquire(file: Path, place: Path, otherwise: str) -> int | None:
    """Return the descriptor of the locked file, which is there under its name."""
    tries = 0
    while True:
        tries += 1
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if error.errno in _LACKING:
                return None
            if error.errno == errno.ENOENT and tries < _TRIES:  # whoever made it left just now
                continue
            raise
        try:
            hold(handle, place, otherwise)
            if _is(handle, file):
                return handle
        except OSError as error:
            if error.errno in _LACKING:
                return handle
            os.close(handle)
            raise
        except UserError:
            os.close(handle)
            raise
        os.close(handle)


def _is(handle: int, file: Path) -> bool:
    """Whether an open file is still the one of this name."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(handle), file.stat())
    return False


def _leave(file: Path, made: bool, alone: bool) -> None:
    """Remove the file (if it is ``alone``) and a folder that was made for it and is empty.

    Who opened it meanwhile sees that it is gone (`_is`).
    """
    with suppress(OSError):
        if not alone or all(path == file for path in file.parent.iterdir()):
            file.unlink()
        if made:
            file.parent.rmdir()

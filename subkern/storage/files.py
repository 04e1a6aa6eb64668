"""Files that are written whole or not at all, and folders that one run works in at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subkern.errors import NoSpaceError, UserError
from subkern.storage.provenance import normalize

if TYPE_CHECKING:
    from torch import Tensor

PART = ".part"  # in the names of files that are being written
_FULL = (errno.ENOSPC, errno.EDQUOT)
# As libraries say it that are not written in Python.
_FULL_TEXTS = [os.strerror(code) for code in _FULL] + [f"(os error {code})" for code in _FULL]


def is_full(error: BaseException) -> bool:
    """Say if an error, or one that led to it, is that the disk (or the quota) is full."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.errno in _FULL:
            return True
        if isinstance(chain, NoSpaceError) or any(text in str(chain) for text in _FULL_TEXTS):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name beside ``path`` to write to; on leaving, move what is there to ``path``.

    After an exception, or a killed process, ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}{PART}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def scratch_root() -> Path:
    """Where temporary files of gigabytes go: ``/tmp`` may be memory, ``/var/tmp`` is a disk.

    Who sets ``TMPDIR`` is obeyed.
    """
    told = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    large = Path("/var/tmp")
    return Path(tempfile.gettempdir()) if told or not os.access(large, os.W_OK) else large


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder there.

    A file that is mapped into memory can be read when the folder is gone; then no kill leaves it.
    """
    return tempfile.TemporaryDirectory(
        prefix="subkern-", dir=scratch_root(), ignore_cleanup_errors=True
    )


def hold(lock: int, folder: Path, otherwise: str) -> None:
    """Lock an open file (its descriptor) that stands for ``folder``, until it is closed.

    Raises:
        UserError: another process holds it; says to wait, or ``otherwise``.
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"another run is at work in '{folder}': wait for it, or {otherwise}"
        ) from None


@contextmanager
def only_run(folder: str | Path | None) -> Iterator[None]:
    """Be the only run in ``folder`` if any; the lock goes with the process, however it ends.

    The folder is made if there is none, and removed again if nothing was written to it. Where the
    file system has no locks there is none.

    Raises:
        UserError: another run is at work there.
    """
    if folder is None or (Path(folder).exists() and not Path(folder).is_dir()):
        yield  # who reads a file there says what is wrong with it
        return
    folder = Path(folder)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            hold(lock, folder, "choose another --out")
        yield
    finally:
        os.close(lock)
        if made:
            with suppress(OSError):
                folder.rmdir()


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write safetensors, whole or not at all.

    Raises:
        OSError: they cannot be written (no space left, say).
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file  # late: it imports torch, and a start needs neither

    named = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
    with replacing(path) as part:
        try:
            save_file(named, part, dict(metadata or {}))
        except SafetensorError as error:
            raise OSError(f"'{path}' cannot be written: {error}") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(normalize(value), indent=2) + "\n", encoding="utf-8")


def read_fields(path: Path, what: str, page: str) -> dict[str, Any]:
    """Return the fields of a TOML file (by its suffix) or of a YAML one.

    Args:
        path: the file.
        what: its name in errors: ``task file``.
        page: of the documentation, which says what stands in it.

    Raises:
        UserError: missing or unreadable file, or no fields in it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"no {what} '{path}': check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {what} '{path}': {error}") from None
    if path.suffix.lower() == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"{path} is not valid TOML: {error}") from None
    import yaml

    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold 'name: value' lines, see {page}")
    return data

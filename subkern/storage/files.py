"""Files and folders that are written whole or not at all, and carry checksums (`checksums`)."""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from subkern.errors import DamagedError, NoSpaceError, UserError
from subkern.storage.checksums import AGAIN, note, require_sound
from subkern.storage.lock import hold
from subkern.storage.provenance import normalize

if TYPE_CHECKING:
    from torch import Tensor

PART = ".part"  # in the names of files that are being written
STAGE = ".tmp"  # at the end of those of folders
_NEW, _OLD = "new", "old"  # in these
_FULL = (errno.ENOSPC, errno.EDQUOT)
# How numpy's and safetensors' readers fail on what they did not write, beside ValueError.
UNREADABLE = (EOFError, zipfile.BadZipFile, zlib.error, SafetensorError)
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
def replacing(path: Path, *, kept: bool = True) -> Iterator[Path]:
    """Yield a name beside ``path`` to write to; on leaving, move what is there to ``path``.

    After an exception, or a killed process, ``path`` is as it was. What is ``kept``, to be read
    again by another process, is on the disk before it gets its name, and its checksum is noted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}{PART}{path.suffix}")
    try:
        yield temporary
        if kept:
            sync(temporary)
            note(path, temporary)
        temporary.replace(path)
        if kept:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a name to make a folder at; on leaving, it takes the place of what is at ``path``.

    No reader sees half of it. What killed processes left beside ``path`` is removed, and where one
    was killed as it put the new folder in place of the old, the old one is back.
    """
    recover(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=STAGE, dir=path.parent))
    mine = os.open(stage, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            hold(mine, stage, "")
        new = stage / _NEW
        yield new
        for each in (*new.rglob("*"), new):
            sync(each)
        _swap(new, path, stage / _OLD)
        sync(path.parent)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        os.close(mine)


def recover(path: Path) -> None:
    """Put right what a process left that was killed while it put a folder at ``path``."""
    for stage in path.parent.glob(f".{glob.escape(path.name)}.*{STAGE}"):
        with suppress(OSError, UserError):
            theirs = os.open(stage, os.O_RDONLY)
            try:
                hold(theirs, stage, "")
                if not path.exists() and (stage / _OLD).exists():
                    whole = (stage / _NEW).exists()  # it was about to get its name
                    (stage / (_NEW if whole else _OLD)).rename(path)
                shutil.rmtree(stage, ignore_errors=True)
            finally:
                os.close(theirs)


def _swap(new: Path, path: Path, old: Path) -> None:
    """Put ``new`` at ``path``; what was there goes to ``old``, and comes back if that fails."""
    if not path.exists():
        new.rename(path)
        return
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        if not path.exists():
            old.rename(path)
        raise


def sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write safetensors, whole or not at all.

    Raises:
        OSError: they cannot be written (no space left, say).
    """
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


def keep_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file, or leave it alone where it holds this already: a disk may be read-only."""
    with suppress(OSError, DamagedError):
        if read_json(path) == normalize(value):
            return
    write_json(path, value)


def remove(path: Path) -> None:
    """Remove a file if it is there; where nothing is, a read-only disk is no error."""
    if path.exists() or path.is_symlink():
        path.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Read a JSON file that `write_json` or `replacing` wrote.

    Raises:
        DamagedError: it is not what was written, or no JSON.
        OSError: it cannot be read.
    """
    try:
        return json.loads(require_sound(path).read_text(encoding="utf-8"))
    except UserError:
        raise
    except ValueError as error:
        raise DamagedError(f"'{path}' is damaged (no JSON: {error}): {AGAIN}") from error


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
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not valid TOML: {error}") from None
    import yaml

    try:
        data = yaml.safe_load(text)
    # A date that is none is a ValueError, nesting without end a RecursionError.
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold 'name: value' lines, see {page}")
    return data

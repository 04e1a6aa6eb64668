"""The checksums of a folder's files, in one hidden file among them.

Whatever is read again is written by `subkern.storage.files.replacing`, which notes the checksum of
its bytes here before it gives them their name: so at every instant a file's bytes are among those
noted, whenever the process is killed. Damage is then seen when the file is read, whatever its
format. ``.sha256`` is a text of ``<checksum>  <name>`` lines, as ``sha256sum`` writes them; it
grows, and the last line of a name is the newest. What has no line (written by an older version) is
taken as it is.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from subkern.errors import DamagedError

SUMS = ".sha256"
AGAIN = "compute it again (--overwrite)"
_LONG = 1 << 16  # bytes of a list that is tidied
_one_at_a_time = threading.Lock()


def note(path: Path, content: Path, *, sync: bool = True) -> None:
    """Note that `path` will hold the bytes of the file `content`."""
    _append(path.parent, [(_digest(content), path.name)], sync)


def is_sound(path: Path, sealed: Path | None = None) -> bool:
    """Whether a file holds bytes that were noted for it (in a folder that was sealed), or none."""
    folder = sealed or path.parent
    return _is_sound(path, _noted(folder).get(path.relative_to(folder).as_posix()))


def is_noted(path: Path) -> bool:
    """Whether a file of this name was ever written here; if not, a damaged one may be another's."""
    return path.name in _noted(path.parent)


def require_sound(path: Path, instead: str = AGAIN) -> Path:
    """Return `path`.

    Raises:
        DamagedError: it holds something else than what was written; says ``instead``.
    """
    if not is_sound(path):
        raise DamagedError(f"'{path}' is damaged (not the bytes that were written): {instead}")
    return path


def unsound(folder: Path) -> Iterator[Path]:
    """Yield every damaged or missing file below a folder; of sealed ones (`seal`) only are missed.

    A whole subfolder of a sealed one may be gone: who needs it no more removed it.
    """
    for sums in sorted(folder.rglob(SUMS)):
        for name, digests in _noted(sums.parent).items():
            path = sums.parent / name
            top = sums.parent / name.partition("/")[0]
            sealed = "/" in name and top.exists()
            if (path.exists() or sealed) and not _is_sound(path, digests):
                yield path


def seal(folder: Path) -> None:
    """Note the checksums of all files below a folder that have none yet."""
    known = set(_noted(folder))
    found = []
    for path in sorted(folder.rglob("*")):
        own = any((each / SUMS).exists() for each in _between(path, folder))
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not own and name not in known and path.name != SUMS:
            found.append((_digest(path), name))
    _append(folder, found, sync=False)


def _between(path: Path, folder: Path) -> Iterator[Path]:
    """Yield the folders that hold `path`, below `folder`."""
    for parent in path.parents:
        if parent == folder:
            return
        yield parent


def _is_sound(path: Path, digests: Sequence[str] | None) -> bool:
    if not digests:
        return True
    try:
        return _digest(path) in digests
    except OSError:
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _noted(folder: Path) -> dict[str, list[str]]:
    """Return the checksums of every name, the newest last."""
    found: dict[str, list[str]] = {}
    try:
        text = (folder / SUMS).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return found
    for line in text.splitlines():
        digest, space, name = line.partition("  ")
        if space and name:
            found.setdefault(name, []).append(digest)
    return found


def _append(folder: Path, lines: Sequence[tuple[str, str]], sync: bool) -> None:
    """Add lines: one write that no other thread's or process's comes between."""
    if not lines:
        return
    text = "".join(f"{digest}  {name}\n" for digest, name in lines).encode()
    with _one_at_a_time:
        path = folder / SUMS
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":  # a write that was cut short
                text = b"\n" + text
            if os.write(handle, text) < len(text):
                raise OSError(28, os.strerror(28), str(path))
            if sync:
                os.fsync(handle)
        finally:
            os.close(handle)
        if size > _LONG:
            _tidy(folder, {name for _, name in lines})


def _tidy(folder: Path, fresh: set[str]) -> None:
    """Leave out checksums of former contents; the names just written are in between two."""
    kept = []
    for name, digests in _noted(folder).items():
        path = folder / name
        if name in fresh or len(set(digests)) == 1:
            now = digests[-2:] if name in fresh else digests[-1:]
        elif path.exists():
            now = [each for each in digests if each == _digest(path)][-1:] or digests[-1:]
        else:
            continue
        kept += [f"{each}  {name}\n" for each in now]
    part = folder / f"{SUMS}.part"
    part.write_text("".join(kept), encoding="utf-8")
    part.replace(folder / SUMS)

"""What lies in folders."""

from __future__ import annotations

from pathlib import Path

from subkern.storage.checksums import SUMS
from subkern.storage.lock import LOCK


def names(folder: Path) -> set[str]:
    """Return the names in a folder but for its checksums and its lock; none if it is not there."""
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    locks = {name for name in found if name.startswith(".") and name.endswith(LOCK)}
    return found - {SUMS} - locks

"""A folder that holds work keeps it: who asks for other work there is told what is in the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from subkern.errors import UserError
from subkern.storage.checksums import SUMS
from subkern.storage.files import PART
from subkern.storage.lock import LOCK
from subkern.storage.provenance import summary

REPLACE = "--overwrite replaces it, another --out keeps it"


def refuse_other(
    place: str | Path, what: str, changes: Sequence[str], instead: str = REPLACE
) -> None:
    """Raise `UserError` if what is asked for is not what is stored.

    Args:
        place: where it is stored.
        what: it is: ``a kernel``.
        changes: from what is asked for to what is stored, both values each, as `differences` gives.
        instead: what the user can do.
    """
    if changes:
        raise UserError(f"'{place}' holds {what} of other settings ({summary(changes)}): {instead}")


def refuse_foreign(folder: Path, what: str, instead: str = "give another folder") -> None:
    """Raise `UserError` if a folder in which no ``what`` was begun holds something, or is a file.

    What a killed process left of a file that it was writing does not count, nor locks (of stores in
    the folder, too) or checksums.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"'{folder}' is a file: {instead}")
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        hidden = path.name.startswith(".")
        if not (path.name == SUMS or (hidden and (PART in path.name or path.name.endswith(LOCK)))):
            raise UserError(f"'{folder}' holds '{path.name}' and no {what}: {instead}")

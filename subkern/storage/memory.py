"""How much memory may be used."""

from __future__ import annotations

import psutil

from subkern.errors import UserError

_sharing = 1


def share_memory(processes: int) -> None:
    """Say that so many processes compute on this machine: each takes its share by default."""
    global _sharing
    _sharing = max(1, processes)


def parse_memory(memory: str | float | None) -> float:
    """Bytes of a number or text like ``3GiB``; None: half of what is free, at most 4 GiB.

    Of that half a process takes its share where several compute side by side (`share_memory`).
    """
    if memory is None:
        return min(4.0 * 2**30, psutil.virtual_memory().available / 2 / _sharing)
    units = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    text = str(memory).strip()
    number = text.rstrip("KMGTiBbkmgt ")
    unit = text[len(number) :].strip().upper().removesuffix("B").removesuffix("I")
    try:
        value = float(number) * units[unit]
    except (ValueError, KeyError):
        raise UserError(f"memory '{memory}' is not a size: write it like 3GiB or 800MiB") from None
    if not 0 < value < float("inf"):
        raise UserError(f"memory '{memory}' is not a size: write it like 3GiB or 800MiB")
    return value

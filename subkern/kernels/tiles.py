"""Cut a left × right kernel into tiles that fit in memory, and keep the finished ones.

Every example is captured as rarely as the memory budget allows; examples that stand on both sides
are captured once and their tile of the kernel is computed once, by symmetry.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from subkern.errors import DamagedError, UserError
from subkern.gradients.batches import cut
from subkern.storage.checksums import SUMS, is_noted, is_sound
from subkern.storage.claim import refuse_foreign, refuse_other
from subkern.storage.files import PART, UNREADABLE, read_json, replacing
from subkern.storage.provenance import OLDER, decisive, differences, fingerprint

Tile = tuple[str, int, int]
"""A tile: of the ``"left"`` or ``"right"`` columns, row i, column k."""


@dataclass(frozen=True)
class Tiling:
    """How the left and the right examples are cut: bounds of consecutive chunks.

    Attributes:
        left: positions among the left examples.
        right: positions among the right examples that are not on the left too.
    """

    left: tuple[slice, ...]
    right: tuple[slice, ...]

    def tasks(self, symmetric: bool) -> Iterator[Tile]:
        """Tiles in the order that captures least: ``("left" | "right", i, k)``.

        With `symmetric` the left × left tiles on and above the diagonal come too.
        """
        for i in range(len(self.left)):
            if symmetric:
                yield from (("left", i, k) for k in range(i, len(self.left)))
            yield from (("right", i, k) for k in range(len(self.right)))


def choose_tiling(
    left_bytes: Sequence[float], right_bytes: Sequence[float], budget: float
) -> Tiling:
    """The tiling that captures and forms least within `budget` bytes of factors.

    Args:
        left_bytes: factor bytes of every left example.
        right_bytes: of every right example that is not on the left too.
        budget: bytes that a left and a right chunk may hold together.

    Raises:
        UserError: not even two single examples fit.
    """
    need = max(left_bytes) + max([*right_bytes, *left_bytes])
    if need > budget:
        raise UserError(
            f"--memory of {budget / 2**20:.5g} MiB for gradient factors is less than the"
            f" {need / 2**20:.5g} MiB of two examples: raise --memory or shorten the examples"
        )
    best: tuple[float, Tiling] | None = None
    for share in (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9):
        mine = max(budget * share, max(left_bytes))
        rest = budget - mine
        if right_bytes and rest < max(right_bytes):
            continue
        # Left × left tiles hold two left chunks: halve them unless one chunk takes all.
        whole = sum(left_bytes) <= mine
        tiling = Tiling(
            cut(left_bytes, mine if whole else min(mine, budget / 2)),
            cut(right_bytes, rest),
        )
        rows, columns = len(tiling.left), max(1, len(tiling.right))
        # Capturing costs about twice what forming explicit gradients does.
        cost = 3.0 * rows * len(right_bytes) + 1.0 * columns * len(left_bytes)
        cost += 1.5 * (rows - 1) * len(left_bytes)
        if best is None or cost < best[0]:
            best = cost, tiling
    assert best is not None
    return best[1]


_RECORD = "tiling.json"
_REMOVE = "remove the folder, or write elsewhere"
_SECONDS = "seconds"  # in a tile's file: those since the one before
_SPENT = "spent-"  # before the names of what else it took


class TileStore:
    """Finished tiles, kept in a folder so that a killed run goes on where it was.

    Args:
        folder: where; None keeps nothing.
        identity: everything that decides the numbers; tiles of other numbers are refused.

    Attributes:
        earlier: seconds that earlier runs took for the tiles they left, as far as they were asked
            for; what is reported as a kernel's time is of all runs.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self.identity = decisive(identity)
        self.earlier = 0.0
        self._spent: dict[str, float] = {}
        self._counters: list[Callable[[], Mapping[str, float]]] = []
        self._noted: dict[str, float] = {}
        self._counted = time.perf_counter()

    def tiling(self, choose: Callable[[], Tiling]) -> Tiling:
        """The tiling the folder was begun with, else a new one from `choose`.

        Tiles of which the record is damaged are removed.

        Raises:
            UserError: the folder holds tiles of other settings, or other files.
        """
        if self.folder is None:
            return choose()
        saved = self._saved()
        if saved is not None:
            refuse_other(self.folder, "unfinished tiles", self._changes(saved), _REMOVE)
            return Tiling(*(tuple(slice(*s) for s in saved[side]) for side in ("left", "right")))
        self._remove_all()
        refuse_foreign(self.folder, "record of tiles", "name a checkpoint folder of its own")
        tiling = choose()
        self.folder.mkdir(parents=True, exist_ok=True)
        bounds = {
            side: [[s.start, s.stop] for s in getattr(tiling, side)] for side in ("left", "right")
        }
        text = json.dumps(
            {"fingerprint": fingerprint(self.identity), "identity": self.identity, **bounds}
        )
        with replacing(self.folder / _RECORD) as path:
            path.write_text(text)
        return tiling

    def _saved(self) -> dict[str, Any] | None:
        """What was begun in the folder; None if nothing was, or nobody knows what."""
        if self.folder is None or not (self.folder / _RECORD).exists():
            return None
        try:
            saved: dict[str, Any] = read_json(self.folder / _RECORD)
            return saved
        except DamagedError:
            if not is_noted(self.folder / _RECORD):
                raise
            return None

    def _changes(self, saved: Mapping[str, Any]) -> list[str]:
        """How what is asked for differs from what was begun."""
        if saved["fingerprint"] == fingerprint(self.identity):
            return []
        stored = saved.get("identity")
        return [OLDER] if stored is None else differences(self.identity, stored)

    def drop_others(self) -> None:
        """Remove tiles of other settings."""
        saved = self._saved()
        if saved is not None and self._changes(saved):
            self._remove_all()

    def get(self, key: str | Tile) -> dict[str, np.ndarray] | None:
        """The arrays saved under `key`, or None, also if they are damaged."""
        if self.folder is None or not (path := self.folder / _file(key)).exists():
            return None
        if not is_sound(path):
            return None
        try:
            with np.load(path, allow_pickle=False) as saved:
                arrays = {name: saved[name] for name in saved.files}
        except (OSError, ValueError, KeyError, AttributeError, *UNREADABLE):
            return None
        self.earlier += float(arrays.pop(_SECONDS, 0.0))
        for name in [name for name in arrays if name.startswith(_SPENT)]:
            what = name.removeprefix(_SPENT)
            self._spent[what] = self._spent.get(what, 0.0) + float(arrays.pop(name))
        return arrays

    def put(self, key: str | Tile, arrays: dict[str, np.ndarray]) -> None:
        """Save `arrays` under `key`, whole or not at all, and what was counted since the last."""
        if self.folder is None:
            return
        now = time.perf_counter()
        timed = arrays | {_SECONDS: np.array(now - self._counted)}
        counted = self._counts()
        for name, value in counted.items():
            timed[f"{_SPENT}{name}"] = np.array(value - self._noted.get(name, 0.0))
        self._noted = counted
        with replacing(self.folder / _file(key)) as path, path.open("wb") as file:
            np.savez(file, **timed)  # type: ignore[arg-type]
        self._counted = now

    def count(self, counter: Callable[[], Mapping[str, float]]) -> None:
        """Keep with every tile what `counter` counted for it: seconds, pairs, by name."""
        self._counters.append(counter)

    def counted(self) -> dict[str, float]:
        """What was counted, by this run and by those whose tiles were asked for."""
        now = self._counts()
        names = dict.fromkeys([*now, *self._spent])
        return {name: now.get(name, 0.0) + self._spent.get(name, 0.0) for name in names}

    def _counts(self) -> dict[str, float]:
        return {name: value for counter in self._counters for name, value in counter().items()}

    def drop(self, pattern: str) -> None:
        """Remove files that are no longer wanted."""
        if self.folder is not None and self.folder.exists():
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what a kernel left in the folder: it is safe elsewhere; and the folder, if empty.

        The record of whose tiles they are goes last, so that no kill leaves some without it.
        """
        if self.folder is None or not self.folder.exists():
            return
        self._remove_all()
        with suppress(OSError):  # the user's own files stay
            self.folder.rmdir()

    def _remove_all(self) -> None:
        if self.folder is not None and (self.folder / _RECORD).exists():
            for pattern in ("*.npz", "*.safetensors", f".*{PART}*", SUMS, _RECORD):
                self.drop(pattern)


def _file(key: str | Tile) -> str:
    return f"{key if isinstance(key, str) else '-'.join(map(str, key))}.npz"

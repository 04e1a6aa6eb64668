"""Run a left × right job tile by tile: capture, contract, keep, assemble.

Chunks of examples that several tiles need are captured once, onto files, where the disk has room.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from subkern.errors import NoMemoryError
from subkern.gradients.batches import CaptureJob, capture_all, cut, factor_bytes, fill
from subkern.gradients.capture import Captured
from subkern.gradients.factor_files import FACTORS, FactorFiles
from subkern.kernels.tiles import TileStore, Tiling, choose_tiling
from subkern.storage.files import is_full
from subkern.storage.progress import Progress

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample


_FACTOR_SHARE = 0.6  # of the memory budget; the rest is the graph of a batch and workspace
_PARTS = 4  # of a chunk that goes to files, captured and written one after the other


@dataclass(frozen=True)
class Outcome:
    """Kernels and initial logits of a job.

    Attributes:
        values: ``[…, n, c, m, c]``, float64.
        left_logits: f₀ ``[n, c]``.
        right_logits: f₀ ``[m, c]``.
        kept: what `CaptureJob.kept` gave, summed over all examples; one that stands on both
            sides counts once where all left examples do.
    """

    values: np.ndarray
    left_logits: np.ndarray
    right_logits: np.ndarray
    kept: Mapping[str, np.ndarray] = field(default_factory=dict)


def run(
    job: CaptureJob,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample],
    store: TileStore,
    progress: Progress | None = None,
) -> Outcome:
    """Compute `job` for all pairs; finished tiles of `store` are not computed again."""
    places = {e.id: i for i, e in enumerate(left)}
    both = [e for e in right if e.id in places]
    mirror = len(both) == len(left)
    extra = [e for e in right if not (mirror and e.id in places)]
    tiling = store.tiling(lambda: _tiling(job, left, extra))
    total = len(left) * (len(extra) + (len(left) if mirror else 0))
    done = 0
    tiles: dict[str, dict[str, np.ndarray]] = {}
    source = _Source(job, tiling, (left, extra), mirror, store)
    for side, i, k in tiling.tasks(mirror):
        key = f"{side}-{i}-{k}"
        tile = store.get(key)
        if tile is None:
            with _naming_memory():
                tile = source.tile(side, i, k)
            store.put(key, tile)
        tiles[key] = tile
        twice = 2 if side == "left" and i != k else 1
        done += twice * len(tile["left"]) * len(tile["right"])
        if progress is not None:
            progress(done, total)
    store.drop(FACTORS)
    picks = [places.get(e.id, -1) for e in right]
    outcome = assemble(tiles, tiling, mirror, picks, job.directions)
    return replace(outcome, kept=_sums(tiles, tiling))


def _sums(tiles: dict[str, dict[str, np.ndarray]], tiling: Tiling) -> dict[str, np.ndarray]:
    """What tiles keep of their examples, added up: of every group once, whatever it met."""
    rows = [_of_row(tiles, i) for i in range(len(tiling.left))]
    columns = [tiles[f"right-0-{k}"] for k in range(len(tiling.right))]
    names = [key.removeprefix("left_") for key in rows[0] if key.startswith("left_")]
    return {
        name: np.sum([t[f"left_{name}"] for t in rows] + [t[f"right_{name}"] for t in columns], 0)
        for name in names
    }


class _Source:
    """Factors of chunks of examples, at most one left and one right chunk in memory."""

    def __init__(
        self,
        job: CaptureJob,
        tiling: Tiling,
        sides: tuple[Sequence[EncodedExample], Sequence[EncodedExample]],
        mirror: bool,
        store: TileStore,
    ) -> None:
        self.job, self.store = job, store
        left, right = sides
        self.chunks = {
            "left": [left[s] for s in tiling.left],
            "right": [right[s] for s in tiling.right],
        }
        # Row 0 is captured once; its columns are wanted by every row, the left ones as rows too.
        again = range(1, len(tiling.left)) if mirror else ()
        self.again = {("left", k) for k in again}
        if len(tiling.left) > 1:
            self.again |= {("right", k) for k in range(len(tiling.right))}
        self.shelves: dict[tuple[str, int], FactorFiles] = {}
        self.row: tuple[int, Captured] | None = None

    def tile(self, side: str, i: int, k: int) -> dict[str, np.ndarray]:
        """One tile: kernel block and the logits of its examples."""
        if self.row is None or self.row[0] != i:
            self.row = None  # let go of the old chunk before the new one is captured
            self.row = i, self.chunk("left", i)
        mine = self.row[1]
        other = mine if (side, k) == ("left", i) else self.chunk(side, k)
        block = self.job.block(mine, other)
        arrays = {"values": block, "left": mine.logits, "right": other.logits}
        kept = {} if self.job.kept is None else self.job.kept()
        return {name: value.cpu().numpy() for name, value in arrays.items()} | kept

    def chunk(self, side: str, k: int) -> Captured:
        """Factors of a chunk: read from its files, or captured, onto files if wanted again."""
        if (side, k) in self.again:
            shelf = self.shelf(side, k)
            if shelf is not None:
                return shelf.captured()
            self.again.discard((side, k))
        return capture_all(self.job, self.chunks[side][k])

    def shelf(self, side: str, k: int) -> FactorFiles | None:
        """Files of a chunk's factors; None where the disk has no room for them."""
        if (side, k) in self.shelves:
            return self.shelves[side, k]
        examples, device = self.chunks[side][k], self.job.model.device
        shelf = FactorFiles(self.store.folder, True, device, f"factors-{side}-{k}")
        sizes = factor_bytes(self.job, examples)
        groups = cut(sizes, sum(sizes) / _PARTS)
        fill(shelf, self.job, examples, groups, capturing=False)
        rest = sizes[len(shelf) :]
        if rest and not shelf.has_room(sum(rest)):
            return None
        try:
            fill(shelf, self.job, examples, groups)
        except Exception as error:
            if not is_full(error):
                raise
            return None
        self.shelves[side, k] = shelf
        return shelf


def _tiling(
    job: CaptureJob, left: Sequence[EncodedExample], extra: Sequence[EncodedExample]
) -> Tiling:
    sizes = [factor_bytes(job, side) for side in (left, extra)]
    return choose_tiling(sizes[0], sizes[1], _FACTOR_SHARE * job.memory)


@contextmanager
def _naming_memory() -> Iterator[None]:
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, RuntimeError) and "memory" not in text.lower():
            raise
        raise NoMemoryError(
            f"out of memory ({text.splitlines()[0][:80]}): lower --memory or --batch-size"
        ) from error


def assemble(
    tiles: dict[str, dict[str, np.ndarray]],
    tiling: Tiling,
    mirror: bool,
    places: Sequence[int],
    directions: int = 1,
) -> Outcome:
    """Put the tiles together, and the columns in the order of the right examples."""
    rows = len(tiling.left)
    pieces: list[np.ndarray] = []
    left_logits = np.concatenate([_of_row(tiles, i)["left"] for i in range(rows)])
    right_logits: list[np.ndarray] = []
    if mirror:
        pieces.append(_mirrored(tiles, rows, directions))
        right_logits.append(left_logits)
    for k in range(len(tiling.right)):
        column = [tiles[f"right-{i}-{k}"] for i in range(rows)]
        pieces.append(np.concatenate([t["values"] for t in column], axis=-4))
        right_logits.append(column[0]["right"])
    values = np.concatenate(pieces, axis=-2)
    logits = np.concatenate(right_logits)
    if mirror:
        others = iter(range(len(left_logits), values.shape[-2]))
        order = [p if p >= 0 else next(others) for p in places]
        values, logits = values[..., order, :], logits[order]
    return Outcome(values, left_logits, logits)


def _of_row(tiles: dict[str, dict[str, np.ndarray]], i: int) -> dict[str, np.ndarray]:
    """A tile whose left examples are those of row i."""
    return next(t for key, t in tiles.items() if key.split("-")[1] == str(i))


def _mirrored(tiles: dict[str, dict[str, np.ndarray]], rows: int, directions: int) -> np.ndarray:
    """The left × left part from its tiles on and above the diagonal."""

    def swap(values: np.ndarray) -> np.ndarray:
        swapped = np.moveaxis(values, (-2, -1), (-4, -3))
        return swapped[::-1] if directions == 2 else swapped

    def block(i: int, k: int) -> np.ndarray:
        if i <= k:
            return tiles[f"left-{i}-{k}"]["values"]
        return swap(tiles[f"left-{k}-{i}"]["values"])

    bands = [np.concatenate([block(i, k) for k in range(rows)], axis=-2) for i in range(rows)]
    whole = np.concatenate(bands, axis=-4)
    return (whole + swap(whole)) / 2  # to the last bit

"""Run left × right tile by tile: capture, contract, keep, assemble.

Chunks of examples that several tiles need are captured once, onto files, where the disk has room.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from subkern.gradients.batches import CaptureJob, Capturing, Observer, cut, fill
from subkern.gradients.capture import Captured
from subkern.gradients.contract import contract
from subkern.gradients.factor_files import FACTORS, FactorFiles
from subkern.kernels.request import Request
from subkern.kernels.sides import Outcome, Sides, tile_of_row
from subkern.kernels.tiles import Tile, TileStore, Tiling, choose_tiling
from subkern.storage.files import is_full
from subkern.subspaces.base import Coordinates

Block = Callable[[Captured, Captured], dict[str, Tensor]]
"""What a tile holds of the factors of n and of m examples (the same ones on the diagonal):

``values``, a kernel ``[d, n, c, m, c]`` or k kernels ``[d, k, n, c, m, c]``, symmetric or with each
direction the other's transpose; and, of rules that drop noise, ``left_zeroed`` and
``right_zeroed``, how many entries of either side were noise in every kernel ``[k]``.
"""

FACTOR_SHARE = 0.6  # of the memory budget; the rest is the graph of a batch and workspace
_PARTS = 4  # of a chunk that goes to files, captured and written one after the other


class Tiled:
    """Kernels of blocks of pairs.

    Args:
        block: what to compute of a tile; None: the sgd kernel over all coordinates.
        observer: sees all that is captured.
    """

    def __init__(self, block: Block | None = None, observer: Observer | None = None) -> None:
        self.block, self.observer = block, observer

    def run(self, request: Request, sides: Sides, store: TileStore) -> list[Outcome]:
        """As `Engine.run`: one outcome for each kernel of a block."""
        job, progress = request.job, request.options.progress
        left, extra = (job.sizes(side) for side in (sides.left, sides.extra))
        tiling = store.tiling(lambda: choose_tiling(left, extra, FACTOR_SHARE * job.memory))
        block = _Timed(self.block or full_block(request.coordinates))
        store.count(block.cost)
        source = _Source(job, request.capturing(self.observer), block, tiling, sides, store)
        done = 0
        tiles: dict[Tile, dict[str, np.ndarray]] = {}
        for key in tiling.tasks(sides.mirrored):
            tile = store.get(key)
            if tile is None:
                tile = source.tile(*key)
                store.put(key, tile)
            tiles[key] = tile
            side, i, k = key
            twice = 2 if side == "left" and i != k else 1
            done += twice * len(tile["left"]) * len(tile["right"])
            if progress is not None:
                progress(done, sides.entries)
        store.drop(FACTORS)
        spent = store.counted()
        values, *logits = sides.assemble(tiles, tiling)
        if values.ndim == 5:
            return [Outcome(values, logits[0], logits[1], spent)]
        zeroed = _zeroed(tiles, tiling)
        return [
            Outcome(values[:, k], logits[0], logits[1], spent | cost)
            for k, cost in enumerate(zeroed or [{}] * values.shape[1])
        ]


def full_block(coordinates: Coordinates) -> Block:
    """The sgd kernel over all coordinates."""
    shapes = {n: p.shape for n, p in coordinates.parameters.items()}
    c = coordinates.model.num_logits
    return lambda left, right: {"values": contract(left, right, shapes, c)[None]}


def _zeroed(
    tiles: dict[Tile, dict[str, np.ndarray]], tiling: Tiling
) -> list[dict[str, float]] | None:
    """Noise of every kernel: of every group of examples once, whatever it met."""
    rows = [tile_of_row(tiles, i) for i in range(len(tiling.left))]
    columns = [tiles["right", 0, k] for k in range(len(tiling.right))]
    if "left_zeroed" not in rows[0]:
        return None
    both = [t["left_zeroed"] for t in rows] + [t["right_zeroed"] for t in columns]
    return [{"zeroed_entries": int(count)} for count in np.sum(both, 0)]


class _Timed:
    """A block function that adds up its seconds and entries."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.seconds = 0.0
        self.entries = 0

    def __call__(self, left: Captured, right: Captured) -> dict[str, Tensor]:
        """The block, timed."""
        started = time.perf_counter()
        out = self.block(left, right)
        if out["values"].is_cuda:
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - started
        self.entries += len(left) * len(right)
        return out

    def cost(self) -> dict[str, float]:
        """What provenance records of it."""
        return {"contraction_seconds": self.seconds, "pairs": float(self.entries)}


def wanted_again(tiling: Tiling, mirrored: bool) -> set[tuple[str, int]]:
    """Chunks that several tiles need, (side, number): where there is room they go to files.

    Row 0 is captured once; its columns are wanted by every row, the left ones as rows too.
    """
    again = {("left", k) for k in (range(1, len(tiling.left)) if mirrored else ())}
    if len(tiling.left) > 1:
        again |= {("right", k) for k in range(len(tiling.right))}
    return again


def written_groups(sizes: Sequence[float]) -> tuple[slice, ...]:
    """How a chunk that goes to files is captured: groups of examples of so many bytes."""
    return cut(sizes, sum(sizes) / _PARTS)


class _Source:
    """Factors of chunks of examples, at most one left and one right chunk in memory."""

    def __init__(
        self,
        job: CaptureJob,
        capturing: Capturing,
        block: Block,
        tiling: Tiling,
        sides: Sides,
        store: TileStore,
    ) -> None:
        self.job, self.capturing, self.block, self.store = job, capturing, block, store
        self.chunks = {
            "left": [sides.left[s] for s in tiling.left],
            "right": [sides.extra[s] for s in tiling.right],
        }
        self.again = wanted_again(tiling, sides.mirrored)
        self.files: dict[tuple[str, int], FactorFiles] = {}
        self.row: tuple[int, Captured] | None = None

    def tile(self, side: str, i: int, k: int) -> dict[str, np.ndarray]:
        """One tile: what the block gives, and the logits of its examples."""
        if self.row is None or self.row[0] != i:
            self.row = None  # let go of the old chunk before the new one is captured
            self.row = i, self.chunk("left", i)
        mine = self.row[1]
        other = mine if (side, k) == ("left", i) else self.chunk(side, k)
        arrays = self.block(mine, other) | {"left": mine.logits, "right": other.logits}
        return {name: value.cpu().numpy() for name, value in arrays.items()}

    def chunk(self, side: str, k: int) -> Captured:
        """Factors of a chunk: read from its files, or captured, onto files if wanted again."""
        if (side, k) in self.again:
            files = self.on_files(side, k)
            if files is not None:
                return files.captured()
            self.again.discard((side, k))
        return self.capturing(self.chunks[side][k])

    def on_files(self, side: str, k: int) -> FactorFiles | None:
        """Files of a chunk's factors; None where the disk has no room for them."""
        if (side, k) in self.files:
            return self.files[side, k]
        examples, device = self.chunks[side][k], self.job.model.device
        files = FactorFiles(self.store.folder, True, device, f"factors-{side}-{k}")
        sizes = self.job.sizes(examples)
        groups = written_groups(sizes)
        fill(files, examples, groups, None)
        rest = sizes[len(files) :]
        if rest and not files.has_room(sum(rest)):
            return None
        try:
            fill(files, examples, groups, self.capturing)
        except Exception as error:
            if not is_full(error):
                raise
            return None
        self.files[side, k] = files
        return files

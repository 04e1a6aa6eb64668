"""The signgd kernel, example by example: every gradient is formed once and kept as packed signs.

Groups of examples are captured, their signs packed and the factors dropped. The rows' examples are
kept, in memory or, over the budget or with a checkpoint, in files that are mapped when read; the
columns' stay only until they have met all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from subkern.gradients.batches import CaptureJob, Capturing, Observer, cut
from subkern.kernels.engines.signs.pack import pack
from subkern.kernels.engines.signs.products import product
from subkern.kernels.engines.signs.rows import Planes, SignRows, read_rows
from subkern.kernels.engines.threads import side_by_side
from subkern.kernels.request import Request
from subkern.kernels.rules import UpdateRule
from subkern.kernels.sides import Outcome, Sides
from subkern.kernels.tiles import Tile, TileStore, Tiling
from subkern.storage.checksums import is_sound
from subkern.storage.files import scratch_folder
from subkern.storage.progress import Progress

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample

_GROUP_SHARE = 0.35  # of the memory budget, for the factors of a group
_KEPT_SHARE = 0.4  # for packed rows
_GROUP = 32  # most examples of a group


class Signs:
    """The kernel ⟨sign g, sign g'⟩ of the one rule ``signgd``.

    Args:
        observer: sees all that is captured.
    """

    def __init__(self, observer: Observer | None = None) -> None:
        self.observer = observer

    def run(self, request: Request, sides: Sides, store: TileStore) -> list[Outcome]:
        """As `Engine.run`."""
        if len(sides.right) < len(sides.left):  # fewer rows to keep
            return [outcome.swapped for outcome in self.run(request, sides.swapped, store)]
        job, (rule,) = request.job, request.rules
        tiling = store.tiling(lambda: _groups(job, sides))
        signs = _Signs(job, request.capturing(self.observer), rule, store)
        tiles = _tiles(signs, tiling, sides, request.options.progress)
        return [Outcome(*sides.assemble(tiles, tiling), signs.cost(tiles))]


def _tiles(
    signs: _Signs, tiling: Tiling, sides: Sides, progress: Progress | None
) -> dict[Tile, dict[str, np.ndarray]]:
    """All tiles: a group meets every group of rows when it is formed."""
    done = 0
    tiles: dict[Tile, dict[str, np.ndarray]] = {}
    columns = [("left", k, sides.left[s]) for k, s in enumerate(tiling.left)]
    columns += [("right", k, sides.extra[s]) for k, s in enumerate(tiling.right)]
    rows: list[SignRows] = []
    for side, k, examples in columns:
        own = side == "left"
        keys = [(side, i, k) for i in range(k + 1 if own else len(tiling.left))]
        keys = keys if sides.mirrored or not own else []
        finished = {key: tile for key in keys if (tile := signs.store.get(key)) is not None}
        group = None
        if own:
            rows.append(group := signs.kept(k, examples))
        for i, key in enumerate(keys):
            if key not in finished:
                group = group or signs.form(examples)
                finished[key] = signs.tile(rows[i], group)
                signs.store.put(key, finished[key])
            done += len(examples) * len(rows[i].logits) * (2 if own and i != k else 1)
            if progress is not None:
                progress(done, sides.entries)
        tiles |= finished
    return tiles


class _Signs:
    """Forms the sign rows of groups, and keeps those of the rows' examples."""

    def __init__(
        self, job: CaptureJob, capturing: Capturing, rule: UpdateRule, store: TileStore
    ) -> None:
        self.job, self.capturing, self.rule, self.store = job, capturing, rule, store
        self.folder = store.folder
        self.held = 0.0
        self.rows: list[SignRows] = []

    def kept(self, k: int, examples: Sequence[EncodedExample]) -> SignRows:
        """Rows of group k of the left examples, now and later."""
        path = None if self.folder is None else self.folder / f"signs-{k}.safetensors"
        if path is not None and path.exists() and is_sound(path):
            rows = read_rows(path)
        else:
            rows = self.form(examples)
            if path is not None:
                rows = rows.save(path)
            elif self.held + rows.nbytes > _KEPT_SHARE * self.job.memory:
                with scratch_folder() as scratch:  # it stays mapped
                    rows = rows.save(Path(scratch) / "signs.safetensors", kept=False)
            else:
                self.held += rows.nbytes
        self.rows.append(rows)
        return rows

    def form(self, examples: Sequence[EncodedExample]) -> SignRows:
        """Capture `examples` and pack the signs of their gradients."""
        captured = self.capturing(examples)
        c = captured.logits.shape[1]

        def packed(name: str) -> tuple[Planes | None, int]:
            factors = captured.factors.pop(name)
            shape = self.job.parameters[name].shape
            return pack(factors, shape, c, self.rule.zero_tolerance)

        names = [name for name in self.job.parameters if name in captured.factors]
        found = list(side_by_side(packed, names, self.job.model.device.type == "cpu"))
        planes = {name: p for name, (p, _) in zip(names, found, strict=True) if p is not None}
        zeroed = sum(count for _, count in found)
        nbytes = sum(p.nbytes for p in planes.values())
        return SignRows(planes, captured.logits.cpu().numpy(), zeroed, nbytes)

    def tile(self, left: SignRows, right: SignRows) -> dict[str, np.ndarray]:
        """One tile: kernel block ``[1, n, c, m, c]`` and the logits of its examples."""
        (n, c), m = left.logits.shape, len(right.logits)
        values = product(left, right, self.job.model.device).reshape(1, n, c, m, c)
        return {
            "values": values,
            "left": left.logits,
            "right": right.logits,
            "zeroed": np.array(right.zeroed),
        }

    def cost(self, tiles: dict[Tile, dict[str, np.ndarray]]) -> dict[str, float]:
        """Entries set to 0 as noise, and bytes of a kept row."""
        zeroed = sum(rows.zeroed for rows in self.rows)
        columns = [tile for (side, i, _), tile in tiles.items() if (side, i) == ("right", 0)]
        zeroed += sum(int(tile["zeroed"]) for tile in columns)
        count = sum(rows.logits.size for rows in self.rows)
        nbytes = sum(rows.nbytes for rows in self.rows)
        return {"zeroed_entries": zeroed, "sign_row_bytes": nbytes / count}


def _groups(job: CaptureJob, sides: Sides) -> Tiling:
    """Groups of examples whose factors fit into their share of the budget."""
    budget = _GROUP_SHARE * job.memory
    left, extra = (
        [max(size, budget / _GROUP) for size in job.sizes(side)]
        for side in (sides.left, sides.extra)
    )
    return Tiling(cut(left, budget), cut(extra, budget))

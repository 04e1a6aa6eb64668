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

from subkern.gradients.batches import CaptureJob, capture_all, cut
from subkern.kernels.engines.signs.pack import pack
from subkern.kernels.engines.signs.products import product
from subkern.kernels.engines.signs.rows import Planes, SignRows, read_rows
from subkern.kernels.engines.tiled import Outcome, assemble
from subkern.kernels.rules import UpdateRule
from subkern.kernels.threads import side_by_side
from subkern.kernels.tiles import TileStore, Tiling
from subkern.storage.files import scratch_folder
from subkern.storage.progress import Progress

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample

_GROUP_SHARE = 0.35  # of the memory budget, for the factors of a group
_KEPT_SHARE = 0.4  # for packed rows
_GROUP = 32  # most examples of a group


def run_signs(
    job: CaptureJob,
    rule: UpdateRule,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample],
    store: TileStore,
    progress: Progress | None = None,
) -> tuple[Outcome, dict[str, float]]:
    """The kernel ⟨sign g, sign g'⟩ ``[1, n, c, m, c]``, and what it took (for the record)."""
    if len(right) < len(left):  # fewer rows to keep
        found, cost = run_signs(job, rule, right, left, store, progress)
        values = np.moveaxis(found.values, (-2, -1), (-4, -3))
        return Outcome(values, found.right_logits, found.left_logits), cost
    places = {e.id: i for i, e in enumerate(left)}
    mirror = sum(e.id in places for e in right) == len(left)
    extra = [e for e in right if not (mirror and e.id in places)]
    tiling = store.tiling(lambda: _groups(job, left, extra))
    signs = _Signs(job, rule, store)
    tiles = _tiles(signs, tiling, left, extra, mirror, progress)
    outcome = assemble(tiles, tiling, mirror, [places.get(e.id, -1) for e in right])
    return outcome, signs.cost(tiles)


def _tiles(
    signs: _Signs,
    tiling: Tiling,
    left: Sequence[EncodedExample],
    extra: Sequence[EncodedExample],
    mirror: bool,
    progress: Progress | None,
) -> dict[str, dict[str, np.ndarray]]:
    """All tiles: a group meets every group of rows when it is formed."""
    total = len(left) * (len(extra) + (len(left) if mirror else 0))
    done = 0
    tiles: dict[str, dict[str, np.ndarray]] = {}
    columns = [("left", k, left[s]) for k, s in enumerate(tiling.left)]
    columns += [("right", k, extra[s]) for k, s in enumerate(tiling.right)]
    rows: list[SignRows] = []
    for side, k, examples in columns:
        own = side == "left"
        keys = [f"{side}-{i}-{k}" for i in range(k + 1 if own else len(tiling.left))]
        keys = keys if mirror or not own else []
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
                progress(done, total)
        tiles |= finished
    return tiles


class _Signs:
    """Forms the sign rows of groups, and keeps those of the rows' examples."""

    def __init__(self, job: CaptureJob, rule: UpdateRule, store: TileStore) -> None:
        self.job, self.rule, self.store = job, rule, store
        self.folder = store.folder
        self.held = 0.0
        self.rows: list[SignRows] = []

    def kept(self, k: int, examples: Sequence[EncodedExample]) -> SignRows:
        """Rows of group k of the left examples, now and later."""
        path = None if self.folder is None else self.folder / f"signs-{k}.safetensors"
        if path is not None and path.exists():
            rows = read_rows(path)
        else:
            rows = self.form(examples)
            if path is not None:
                rows = rows.save(path)
            elif self.held + rows.nbytes > _KEPT_SHARE * self.job.memory:
                with scratch_folder() as scratch:  # it stays mapped
                    rows = rows.save(Path(scratch) / "signs.safetensors")
            else:
                self.held += rows.nbytes
        self.rows.append(rows)
        return rows

    def form(self, examples: Sequence[EncodedExample]) -> SignRows:
        """Capture `examples` and pack the signs of their gradients."""
        captured = capture_all(self.job, examples)
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

    def cost(self, tiles: dict[str, dict[str, np.ndarray]]) -> dict[str, float]:
        """Entries set to 0 as noise, and bytes of a kept row."""
        zeroed = sum(rows.zeroed for rows in self.rows)
        columns = {k: t for k, t in tiles.items() if k.startswith("right-0-")}
        zeroed += sum(int(t["zeroed"]) for t in columns.values())
        count = sum(rows.logits.size for rows in self.rows)
        nbytes = sum(rows.nbytes for rows in self.rows)
        return {"zeroed_entries": zeroed, "sign_row_bytes": nbytes / count}


def _groups(
    job: CaptureJob, left: Sequence[EncodedExample], extra: Sequence[EncodedExample]
) -> Tiling:
    """Groups of examples whose factors fit into their share of the budget."""
    rate = max(job.plan.bytes_per_token, 1.0)
    budget = _GROUP_SHARE * job.memory
    sides = [[max(rate * len(e.input_ids), budget / _GROUP) for e in s] for s in (left, extra)]
    return Tiling(cut(sides[0], budget), cut(sides[1], budget))

"""The two sides of a kernel: mirrors, overlaps, order, and tiles put together.

An example that stands on both sides is captured once. Where all left examples stand on the right
too, the left × left part is computed once a pair and mirrored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np

from subkern.errors import UserError
from subkern.kernels.tiles import Tile, Tiling

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample

Tiles = Mapping[Tile, Mapping[str, np.ndarray]]
"""Finished tiles: ``values``, and the logits of their ``left`` and ``right`` examples."""


@dataclass(frozen=True)
class Outcome:
    """What an engine finds: the kernel of one rule over one subspace, and what it took.

    Attributes:
        values: ``[d, n, c, m, c]``, float64: one direction, or two of a rule that acts on one side,
            with the update on the left and on the right.
        left_logits: f₀ ``[n, c]``.
        right_logits: f₀ ``[m, c]``.
        cost: what the engine counted or timed, for the record.
    """

    values: np.ndarray
    left_logits: np.ndarray
    right_logits: np.ndarray
    cost: dict[str, float] = field(default_factory=dict)

    @property
    def swapped(self) -> Outcome:
        """The same with the sides exchanged."""
        return Outcome(_swap(self.values), self.right_logits, self.left_logits, self.cost)


@dataclass(frozen=True)
class Sides:
    """Left and right examples (rows and columns) of a kernel.

    Raises:
        UserError: a side is empty, or an id repeats or names two texts.
    """

    left: tuple[EncodedExample, ...]
    right: tuple[EncodedExample, ...]

    def __post_init__(self) -> None:
        for side, examples in (("left", self.left), ("right", self.right)):
            if not examples:
                raise UserError(f"there are no examples on the {side}: give at least one")
            ids = [e.id for e in examples]
            if len(set(ids)) < len(ids):
                twice = next(i for i in ids if ids.count(i) > 1)
                raise UserError(
                    f"example id '{twice}' stands twice on the {side}: ids must be unique"
                )
        known = {e.id: e.seen for e in self.left}
        for e in self.right:
            if e.id in known and known[e.id] != e.seen:
                raise UserError(
                    f"example id '{e.id}' names different texts left and right: rename one"
                )

    @classmethod
    def of(
        cls, left: Sequence[EncodedExample], right: Sequence[EncodedExample] | None = None
    ) -> Self:
        """The sides of a kernel; without `right`, of a set with itself."""
        return cls(tuple(left), tuple(left if right is None else right))

    @cached_property
    def every(self) -> tuple[EncodedExample, ...]:
        """Each example once: the left ones, then those that stand on the right alone."""
        known = {e.id for e in self.left}
        return (*self.left, *(e for e in self.right if e.id not in known))

    def places(self, side: Sequence[EncodedExample]) -> list[int]:
        """Positions among `every` of the examples of a side."""
        at = {e.id: i for i, e in enumerate(self.every)}
        return [at[e.id] for e in side]

    @property
    def overlap(self) -> bool:
        """Whether any example stands on both sides."""
        return len(self.every) < len(self.left) + len(self.right)

    @property
    def mirrored(self) -> bool:
        """Whether all left examples stand on the right too."""
        return len(self.every) == len(self.right)

    @property
    def extra(self) -> tuple[EncodedExample, ...]:
        """Right examples whose columns mirroring does not give."""
        return self.every[len(self.left) :] if self.mirrored else self.right

    @property
    def entries(self) -> int:
        """Pairs of examples."""
        return len(self.left) * len(self.right)

    @property
    def swapped(self) -> Sides:
        """The sides exchanged."""
        return Sides(self.right, self.left)

    @property
    def by_length(self) -> Sides:
        """The same examples, the shortest of each side first: neighbors are of like length."""
        left, right = (
            tuple(sorted(side, key=lambda e: len(e.input_ids))) for side in (self.left, self.right)
        )
        return Sides(left, right)

    def assemble(self, tiles: Tiles, tiling: Tiling) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Put the tiles of left × `extra`, and of left × left where mirrored, together.

        Returns:
            Values ``[d, …, n, c, m, c]``, symmetric to the last bit where they may be (d = 2: the
            directions each other's transpose), and the logits of both sides.
        """
        rows = range(len(tiling.left))
        pieces: list[np.ndarray] = []
        left_logits = np.concatenate([tile_of_row(tiles, i)["left"] for i in rows])
        right_logits: list[np.ndarray] = []
        if self.mirrored:
            pieces.append(_mirror(tiles, rows))
            right_logits.append(left_logits)
        for k in range(len(tiling.right)):
            column = [tiles["right", i, k] for i in rows]
            pieces.append(np.concatenate([t["values"] for t in column], axis=-4))
            right_logits.append(column[0]["right"])
        values = np.concatenate(pieces, axis=-2)
        logits = np.concatenate(right_logits)
        if self.mirrored:
            order = self.places(self.right)
            values, logits = values[..., order, :], logits[order]
        return values, left_logits, logits


def tile_of_row(tiles: Tiles, i: int) -> Mapping[str, np.ndarray]:
    """A tile whose left examples are those of row i."""
    return next(tile for key, tile in tiles.items() if key[1] == i)


def _swap(values: np.ndarray) -> np.ndarray:
    """``[d, …, n, c, m, c]`` with the sides exchanged, and with them the directions."""
    swapped = np.moveaxis(values, (-2, -1), (-4, -3))
    return swapped[::-1] if len(values) == 2 else swapped


def _mirror(tiles: Tiles, rows: range) -> np.ndarray:
    """The left × left part from its tiles on and above the diagonal."""

    def block(i: int, k: int) -> np.ndarray:
        if i <= k:
            return tiles["left", i, k]["values"]
        return _swap(tiles["left", k, i]["values"])

    bands = [np.concatenate([block(i, k) for k in rows], axis=-2) for i in rows]
    whole = np.concatenate(bands, axis=-4)
    return (whole + _swap(whole)) / 2  # to the last bit

"""Some of the examples, by their ids or by a slice of their positions."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from subkern.errors import UserError

__all__ = ["Selection", "positions"]

Selection = Sequence[str] | slice | None
"""Which examples to keep: ids in the wanted order, a slice of positions, or None for all."""


def positions(known: Sequence[str], wanted: Selection, what: str = "example") -> list[int]:
    """Positions in `known` of the wanted examples, in the wanted order.

    Args:
        known: ids of all examples.
        wanted: which of them.
        what: how a message calls one of them.

    Raises:
        UserError: an id is not there, or nothing is left.
    """
    if wanted is None:
        return list(range(len(known)))
    if isinstance(wanted, slice):
        found = list(range(len(known)))[wanted]
        if not found:
            raise UserError(f"{wanted} leaves none of the {len(known)} {what}s: widen it")
        return found
    places = {name: i for i, name in enumerate(known)}
    for name in wanted:
        if name not in places:
            close = difflib.get_close_matches(str(name), known, n=3) or known[:3]
            raise UserError(f"no {what} has the id {name!r}: try {', '.join(close)}")
    return [places[name] for name in wanted]

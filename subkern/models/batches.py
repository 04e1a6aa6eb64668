"""Which examples run together, so that padding wastes little."""

from __future__ import annotations

from collections.abc import Sequence


def token_batches(lengths: Sequence[int], tokens: int, most: int | None = None) -> list[slice]:
    """Consecutive slices of ascending `lengths` whose padded sizes stay within `tokens`.

    Args:
        lengths: tokens of each example, the shortest first.
        tokens: of one padded batch; a longer example stands alone.
        most: examples of one batch, if that is bounded too.
    """
    out, begin = [], 0
    for i, length in enumerate(lengths):
        held = i - begin
        if held and (held == most or (held + 1) * length > tokens):
            out.append(slice(begin, i))
            begin = i
    return [*out, slice(begin, len(lengths))] if lengths else []

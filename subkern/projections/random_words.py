"""Random words that are looked up, not drawn: the same wherever, whenever and however often.

Philox is counter-based (Salmon et al., 2011): word number i of a stream is a function of the
stream's key and i alone. So a random matrix need not be stored: any part of it can be made again,
in tiles of any size, in any order, on any thread or machine, to the same bits.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_PER_TICK = 4  # 64-bit words that one step of Philox4x64's counter gives

Words = npt.NDArray[np.uint64]


class Stream:
    """An endless sequence of random 64-bit words, read at any place.

    Args:
        labels: what the stream is for, such as a seed and a parameter's name; streams of other
            labels are independent.
    """

    def __init__(self, *labels: str | int) -> None:
        text = "\0".join(f"{type(label).__name__}:{label}" for label in labels)
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        self._key = int.from_bytes(digest, "little")

    def words(self, start: int, count: int) -> Words:
        """Words number ``start`` to ``start + count``, ``[count]``, little-endian in memory."""
        tick, skip = divmod(start, _PER_TICK)
        generator = np.random.Philox(key=self._key, counter=tick)
        drawn = generator.random_raw(skip + count)[skip:]
        return np.ascontiguousarray(drawn, dtype="<u8")

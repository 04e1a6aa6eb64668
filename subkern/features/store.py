"""Features on disk: a Zarr store that grows chunk by chunk and tells which chunks are whole.

A chunk holds consecutive examples. Its digest is written last, so a chunk whose digest is missing
or wrong was not finished, whatever else is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from subkern.errors import UserError
from subkern.storage.files import replacing

FORMAT = "subkern-features"
VERSION = 1
_HEAD = "features.json"


class FeatureStore:
    """Rows ``[N, c, d]`` float32 and logits ``[N, c]`` float64 of N examples, in chunks.

    Args:
        path: folder of the store, one that `create` made.
        writable: whether chunks will be put into it.

    Raises:
        UserError: no features there, of another format, or they cannot be read (says why).
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path = path
        self._whole: set[int] = set()  # chunks that were seen to be
        if not path.exists():
            raise UserError(f"{path} does not exist: compute it with `subkern features`")
        if not holds_features(path):
            raise UserError(f"{path} holds no features: choose another path")
        try:
            self.head = json.loads((path / _HEAD).read_text(encoding="utf-8"))
            group: Any = zarr.open_group(path, mode="r+" if writable else "r")
            self._values, self._logits = group["values"], group["logits"]
        except (OSError, ValueError, KeyError) as error:
            why = f"{type(error).__name__}: {error}"
            raise UserError(
                f"the features in {path} cannot be {'written' if writable else 'read'} ({why}):"
                " make them readable, or compute them anew with --overwrite"
            ) from error
        if self.head.get("version") != VERSION:
            raise UserError(
                f"{path} has features of format {self.head.get('version')}, this subkern reads"
                f" {VERSION}: use the subkern that wrote it"
            )

    @classmethod
    def create(cls, path: Path, shape: tuple[int, int, int], head: Mapping[str, Any]) -> None:
        """Begin an empty store of rows of `shape`.

        Args:
            path: folder; what stands there must be features or nothing.
            shape: ``(N, c, d)``.
            head: JSON-able, with ``chunk``, the examples of a chunk.
        """
        path.mkdir(parents=True, exist_ok=True)
        group = zarr.open_group(path, mode="w")
        step = int(head["chunk"])
        group.create_array("values", shape=shape, chunks=(step, *shape[1:]), dtype="float32")
        group.create_array("logits", shape=shape[:2], chunks=(step, shape[1]), dtype="float64")
        with replacing(path / _HEAD) as part:  # last: without it there is no store
            part.write_text(json.dumps({"format": FORMAT, "version": VERSION, **head}))

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(N, c, d)``."""
        n, c, d = self._values.shape
        return n, c, d

    @property
    def chunks(self) -> list[slice]:
        """The examples of every chunk."""
        count, step = self.shape[0], int(self.head["chunk"])
        return [slice(i, min(i + step, count)) for i in range(0, count, step)]

    def put(self, k: int, values: np.ndarray, logits: np.ndarray) -> None:
        """Write chunk `k`: rows ``[b, c, d]``, logits ``[b, c]``."""
        picks = self.chunks[k]
        values, logits = values.astype(np.float32), logits.astype(np.float64)
        self._values[picks] = values
        self._logits[picks] = logits
        with replacing(self._mark(k)) as part:
            part.write_text(_digest(values, logits))
        self._whole.add(k)

    def has(self, k: int) -> bool:
        """Whether chunk `k` was finished and is as it was written; read and hashed once."""
        if k not in self._whole:
            try:
                marked = self._mark(k).read_text()
            except OSError:
                return False
            picks = self.chunks[k]
            if marked == _digest(self._values[picks], self._logits[picks]):
                self._whole.add(k)
        return k in self._whole

    def values(self, picks: slice | Sequence[int]) -> np.ndarray:
        """Rows of some examples, ``[k, c, d]`` float32."""
        if isinstance(picks, slice):
            return np.asarray(self._values[picks])
        return np.asarray(self._values.oindex[np.asarray(picks, dtype=np.int64)])

    def logits(self) -> np.ndarray:
        """f₀ ``[N, c]``, float64."""
        return np.asarray(self._logits[:])

    def _mark(self, k: int) -> Path:
        return self.path / "done" / f"{k}.sha256"


def holds_features(path: Path) -> bool:
    """Whether features (finished or not) are stored at `path`."""
    return (path / _HEAD).exists()


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()

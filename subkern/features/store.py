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

from subkern.errors import DamagedError, UserError
from subkern.storage.checksums import is_sound, seal
from subkern.storage.files import read_json, replacing, staged

FORMAT = "subkern-features"
VERSION = 1
_HEAD = "features.json"
_DESCRIBED = ("zarr.json", "values/zarr.json", "logits/zarr.json")


class FeatureStore:
    """Rows ``[N, c, d]`` float32 and logits ``[N, c]`` float64 of N examples, in chunks.

    Args:
        path: folder of the store, one that `create` made.
        writable: whether chunks will be put into it.

    Raises:
        UserError: no features there, of another format, or they cannot be read (says why).
        DamagedError: what they are of is damaged.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path = path
        self._whole: set[int] = set()  # chunks that were seen to be
        if not path.exists():
            raise UserError(f"{path} does not exist: compute it with `subkern features`")
        if not holds_features(path):
            raise UserError(f"{path} holds no features: choose another path")
        try:
            for name in _DESCRIBED:
                if not is_sound(path / name, sealed=path):
                    raise DamagedError(f"{name} is damaged")
            self.head = read_json(path / _HEAD)
            if self.head.get("format") != FORMAT:
                raise DamagedError(f"{_HEAD} is damaged")
            group: Any = zarr.open_group(path, mode="r+" if writable else "r")
            self._values, self._logits = group["values"], group["logits"]
            if writable:
                for left in path.glob("*/**/*.partial"):  # of a killed process
                    left.unlink()
        except PermissionError as error:
            raise UserError(
                f"the features in {path} cannot be {'written' if writable else 'read'} ({error}):"
                " make them so, or give another --out"
            ) from error
        except Exception as error:  # zarr's readers fail in as many ways as there is damage
            kind = "" if isinstance(error, DamagedError) else f"{type(error).__name__}: "
            raise DamagedError(
                f"the features in {path} cannot be read ({kind}{error}): compute them anew"
                " (--overwrite)"
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
        step = int(head["chunk"])
        with staged(path) as new:
            group = zarr.open_group(new, mode="w")
            group.create_array("values", shape=shape, chunks=(step, *shape[1:]), dtype="float32")
            group.create_array("logits", shape=shape[:2], chunks=(step, shape[1]), dtype="float64")
            text = json.dumps({"format": FORMAT, "version": VERSION, **head})
            (new / _HEAD).write_text(text, encoding="utf-8")
            seal(new)

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
        with replacing(self._mark(k), kept=False) as part:  # it is a checksum itself
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
            try:
                values, logits = self._values[picks], self._logits[picks]
            except Exception:  # as many ways as there are codecs
                return False
            if marked == _digest(values, logits):
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


def is_begun(path: Path) -> bool:
    """Whether fewer chunks are marked as finished than the rows at `path` have; or who knows."""
    try:
        values: Any = zarr.open_group(path, mode="r")["values"]
        # Not every name: a mark that a killed process was writing is not one yet.
        return len(list((path / "done").glob("[0-9]*.sha256"))) < values.cdata_shape[0]
    except Exception:
        return False


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()

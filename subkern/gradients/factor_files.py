"""Captured factors of many examples in memory or mapped files, whole or a parameter at a time.

Factors over the memory budget go to safetensors files, whose pages the system reads when they are
needed and drops when memory is short: cheaper than capturing again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from subkern.errors import NoSpaceError
from subkern.gradients.capture import Captured
from subkern.gradients.factors import (
    DenseFactor,
    Factor,
    HeadFactor,
    OuterFactor,
    RowFactor,
    zero_like,
)
from subkern.storage.checksums import is_sound
from subkern.storage.files import replacing, scratch_folder, scratch_root

_KINDS = {"outer": OuterFactor, "rows": RowFactor, "head": HeadFactor, "dense": DenseFactor}
_FIELDS = {
    "head": ("inputs", "cotangents", "targets", "logsumexp", "weight", "bias"),
    "outer": ("inputs", "cotangents"),
    "rows": ("ids", "rows", "bound"),
    "dense": ("grad", "bound"),
}

_SPARE = 4 * 2**30  # bytes of a disk that factors leave free: they can be captured again


class Group(Protocol):
    """Factors of a few examples."""

    logits: Tensor

    @property
    def names(self) -> Sequence[str]:
        """Parameters that have factors."""
        ...

    def get(self, name: str) -> list[Factor] | None:
        """Factors of one parameter, one an example; None where its gradients are zero."""
        ...


class Held:
    """A group in memory."""

    def __init__(self, captured: Captured) -> None:
        self.factors, self.logits = captured.factors, captured.logits

    @property
    def names(self) -> Sequence[str]:
        """As in `Group`."""
        return list(self.factors)

    def get(self, name: str) -> list[Factor] | None:
        """As in `Group`."""
        return self.factors.get(name)


class Stored:
    """A group in a file that `save_factors` wrote; what factors share they share again."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.file = safe_open(path, framework="pt", device=str(device))
        self.index: dict[str, list[dict[str, Any]]] = json.loads(self.file.metadata()["index"])
        self.logits = self.file.get_tensor("logits")
        self._shared: WeakValueDictionary[str, Tensor] = WeakValueDictionary()

    @property
    def names(self) -> Sequence[str]:
        """As in `Group`."""
        return list(self.index)

    def get(self, name: str) -> list[Factor] | None:
        """As in `Group`."""
        entries = self.index.get(name)
        if entries is None:
            return None
        return [self._factor(dict(entry)) for entry in entries]

    def _factor(self, entry: dict[str, Any]) -> Factor:
        kind = entry.pop("kind")
        tensors = {f: self._tensor(entry[f]) for f in _FIELDS[kind] if f in entry}
        rest = {k: v for k, v in entry.items() if k not in tensors}
        if "added" in rest:
            rest["added"] = self._factor(dict(rest["added"]))
        factor: Factor = _KINDS[kind](**tensors, **rest)
        return factor

    def _tensor(self, key: str) -> Tensor:
        found = self._shared.get(key)
        if found is None:
            found = self._shared[key] = self.file.get_tensor(key)
        return found


def save_factors(captured: Captured, path: Path, *, kept: bool = True) -> None:
    """Write factors to `path`, whole or not at all; what several share is written once.

    Unless they are ``kept``, they serve this process only.
    """
    tensors: dict[str, Tensor] = {"logits": captured.logits}
    known: dict[tuple[Any, ...], str] = {}

    def key(tensor: Tensor) -> str:
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if identity not in known:
            known[identity] = f"t{len(known)}"
            tensors[known[identity]] = tensor.contiguous().clone()
        return known[identity]

    def entry(factor: Factor) -> dict[str, Any]:
        kind = next(k for k, cls in _KINDS.items() if isinstance(factor, cls))
        held = {f: getattr(factor, f) for f in _FIELDS[kind]}
        named: dict[str, Any] = {f: key(t) for f, t in held.items() if t is not None}
        turned = {"transposed": factor.transposed} if isinstance(factor, OuterFactor) else {}
        if isinstance(factor, HeadFactor) and factor.added is not None:
            named["added"] = entry(factor.added)
        return {"kind": kind, **named, **turned}

    index = {name: [entry(f) for f in factors] for name, factors in captured.factors.items()}
    with replacing(path, kept=kept) as partial:
        save_file(tensors, partial, {"index": json.dumps(index)})


class FactorFiles:
    """Factors of examples that are captured group by group, in order.

    Args:
        folder: where files go that a killed run finds again; None for temporary ones.
        spill: whether the factors go to files.
        device: where they are wanted.
        name: what the files are called.
    """

    def __init__(
        self, folder: Path | None, spill: bool, device: torch.device, name: str = "factors"
    ) -> None:
        self.folder, self.spill, self.device, self.name = folder, spill, device, name
        self.groups: list[Group] = []

    def __len__(self) -> int:
        return sum(len(group.logits) for group in self.groups)

    def find(self) -> bool:
        """Add the next group if an earlier run left it, undamaged; say whether it did."""
        if not self.spill or self.folder is None or not self._path(self.folder).exists():
            return False
        path = self._path(self.folder)
        if not is_sound(path):
            return False
        self.groups.append(Stored(path, self.device))
        return True

    def add(self, captured: Captured) -> None:
        """Add the next group."""
        if not self.spill:
            self.groups.append(Held(captured))
        elif self.folder is not None:
            self.groups.append(self._store(captured, self.folder))
        else:
            with scratch_folder() as folder:  # the file stays mapped
                self.groups.append(self._store(captured, Path(folder)))

    def _store(self, captured: Captured, folder: Path) -> Stored:
        path = self._path(folder)
        save_factors(captured, path, kept=self.folder is not None)
        return Stored(path, self.device)

    def _path(self, folder: Path) -> Path:
        return folder / f"{self.name}-{len(self.groups)}.safetensors"

    def has_room(self, nbytes: float) -> bool:
        """Whether so many bytes more leave enough of the disk free for others."""
        return self._free() - nbytes >= _SPARE

    def require_room(self, nbytes: float) -> None:
        """Raise `NoSpaceError` unless it has room."""
        if not self.has_room(nbytes):
            where = f"'{self.folder or scratch_root()}'"
            raise NoSpaceError(
                f"gradient factors take {nbytes / 2**30:.1f} GiB of files in {where}, where"
                f" {self._free() / 2**30:.1f} GiB are free and {_SPARE / 2**30:.0f} are left to"
                f" others: make room{'' if self.folder else ', set TMPDIR'} or raise --memory"
            )

    def _free(self) -> int:
        return shutil.disk_usage(self.folder or scratch_root()).free

    def logits(self) -> Tensor:
        """Of all examples, ``[n, c]``."""
        return torch.cat([group.logits for group in self.groups])

    def factors(self, name: str) -> list[Factor] | None:
        """Factors of one parameter of all examples; None where no group has it."""
        found = [group.get(name) for group in self.groups]
        known = next((factors[0] for factors in found if factors), None)
        if known is None:
            return None
        empty = zero_like(known)
        sizes = [len(group.logits) for group in self.groups]
        both: Sequence[tuple[list[Factor] | None, int]] = list(zip(found, sizes, strict=True))
        return [f for factors, size in both for f in (factors or [empty] * size)]

    def captured(self) -> Captured:
        """Factors of all parameters of all examples."""
        names = dict.fromkeys(name for group in self.groups for name in group.names)
        both = {name: self.factors(name) for name in names}
        return Captured({name: f for name, f in both.items() if f is not None}, self.logits())


FACTORS = "factors-*.safetensors"
"""What the files of factors are called that lie beside tiles (`subkern.gradients.factor_files`)."""

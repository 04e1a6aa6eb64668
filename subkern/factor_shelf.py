"""Captured factors of many examples, read one parameter at a time, in memory or from mapped files.

Rules that see gradient entries on both sides go parameter by parameter over all examples, so that
each gradient is formed once. Factors over the memory budget go to safetensors files, whose pages
the system reads when they are needed and drops when memory is short.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from subkern.capture import Captured
from subkern.factors import Dense, Factor, Outer, Rows, zero_like
from subkern.files import replacing

_KINDS = {"outer": Outer, "rows": Rows, "dense": Dense}
_FIELDS = {
    "outer": ("inputs", "cotangents"),
    "rows": ("ids", "rows", "bound"),
    "dense": ("grad", "bound"),
}


class Group(Protocol):
    """Factors of a few examples."""

    logits: Tensor

    def get(self, name: str) -> list[Factor] | None:
        """Factors of one parameter, one an example; None where its gradients are zero."""
        ...


class Held:
    """A group in memory."""

    def __init__(self, captured: Captured) -> None:
        self.factors, self.logits = captured.factors, captured.logits

    def get(self, name: str) -> list[Factor] | None:
        """As in `Group`."""
        return self.factors.get(name)


class Stored:
    """A group in a file that `save_factors` wrote."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.file = safe_open(path, framework="pt", device=str(device))
        self.index: dict[str, list[dict[str, Any]]] = json.loads(self.file.metadata()["index"])
        self.logits = self.file.get_tensor("logits")

    def get(self, name: str) -> list[Factor] | None:
        """As in `Group`."""
        entries = self.index.get(name)
        if entries is None:
            return None
        return [self._factor(dict(entry)) for entry in entries]

    def _factor(self, entry: dict[str, Any]) -> Factor:
        kind = entry.pop("kind")
        tensors = {f: self.file.get_tensor(entry[f]) for f in _FIELDS[kind] if f in entry}
        rest = {k: v for k, v in entry.items() if k not in tensors}
        factor: Factor = _KINDS[kind](**tensors, **rest)
        return factor


def save_factors(captured: Captured, path: Path) -> None:
    """Write factors to `path`, whole or not at all; what several share is written once."""
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
        named = {f: key(t) for f, t in held.items() if t is not None}
        turned = {"transposed": factor.transposed} if isinstance(factor, Outer) else {}
        return {"kind": kind, **named, **turned}

    index = {name: [entry(f) for f in factors] for name, factors in captured.factors.items()}
    with replacing(path) as partial:
        save_file(tensors, partial, {"index": json.dumps(index)})


class Shelf:
    """Factors of all examples of a job, in groups.

    Args:
        folder: where files go that a killed run finds again; None for a temporary folder.
        spill: whether the factors go to files.
        device: where they are wanted.
        stack: closes the temporary folder.
    """

    def __init__(
        self, folder: Path | None, spill: bool, device: torch.device, stack: ExitStack
    ) -> None:
        self.device, self.spill = device, spill
        if spill and folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="subkern-")))
        self.folder = folder
        self.groups: list[Group] = []

    def find(self) -> bool:
        """Add the next group if an earlier run left it; say whether it did."""
        path = self._path()
        if path is None or not path.exists():
            return False
        self.groups.append(Stored(path, self.device))
        return True

    def add(self, captured: Captured) -> None:
        """Add the next group."""
        path = self._path()
        if path is None:
            self.groups.append(Held(captured))
            return
        save_factors(captured, path)
        self.groups.append(Stored(path, self.device))

    def _path(self) -> Path | None:
        if not self.spill or self.folder is None:
            return None
        return self.folder / f"factors-{len(self.groups)}.safetensors"

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

"""Kernels on disk: one Zarr v3 store each, written whole or not at all, checked when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from subkern.errors import DamagedError, NoSpaceError, UserError
from subkern.storage.files import is_full, recover, staged
from subkern.storage.provenance import canonical_json

__all__ = ["FORMAT", "FORMAT_VERSION", "damaged", "holds_kernel", "read", "write"]

FORMAT = "subkern-kernel"
FORMAT_VERSION = 1
_ATTRIBUTES = "attributes_checksum"  # since 0.3
_NAMES = {
    *("zarr.json", "kernel", "reverse", "left", "right"),
    *(f"{side}_{what}" for side in ("left", "right") for what in ("label", "logits", "content")),
}


def holds_kernel(path: Path) -> bool:
    """Return whether a kernel (whole or damaged) is stored at ``path``."""
    if _attributes(path).get("format") == FORMAT:
        return True
    # Its attributes may be what is damaged: then it is known by its arrays.
    names = {each.name for each in path.iterdir()} if path.is_dir() else set()
    return {"zarr.json", "kernel", "left", "right"} <= names and names <= _NAMES


def damaged(path: Path, why: str) -> DamagedError:
    """Return the error for a store that is a kernel's but cannot be trusted."""
    return DamagedError(
        f"{path} is a damaged kernel ({why}): compute it again and give --overwrite"
    )


def write(path: Path, data: xr.Dataset, attributes: Mapping[str, Any]) -> None:
    """Store ``data`` at ``path`` in place of a kernel that is there; no reader sees half of it.

    Raises:
        UserError: ``path`` exists and is no kernel, or cannot be written.
    """
    if path.exists() and not holds_kernel(path) and not _is_empty(path):
        raise UserError(f"{path} exists and is not a kernel: choose another path")
    marked = data.assign_attrs(
        attributes,
        format=FORMAT,
        format_version=FORMAT_VERSION,
        checksums={str(name): _checksum(data[name]) for name in data.variables},
    )
    marked.attrs[_ATTRIBUTES] = _digest_of(marked.attrs)
    try:
        with staged(path) as new:
            marked.to_zarr(new, mode="w", zarr_format=3, consolidated=False)
    except OSError as error:
        why = f"{path} cannot be written: {error.strerror or error}"
        if is_full(error):
            raise NoSpaceError(f"{why}; make room and run the same command again") from error
        raise UserError(why) from error


def read(path: Path) -> xr.Dataset:
    """Return the dataset at ``path``, in memory, its format and every checksum verified.

    Raises:
        UserError: nothing there, not a kernel, of a newer format, incomplete or altered.
    """
    if not path.exists():
        recover(path)
    if not path.exists():
        raise UserError(f"{path} does not exist: compute it with `subkern kernel --out {path}`")
    attributes = _attributes(path)
    if holds_kernel(path) and attributes.get("format") != FORMAT:
        raise damaged(path, "its zarr.json")
    if attributes.get("format") != FORMAT:
        raise UserError(f"{path} is not a kernel: give a store that `subkern kernel` wrote")
    if attributes.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has kernel format {attributes.get('format_version')}, this subkern reads"
            f" {FORMAT_VERSION}: use the subkern that wrote it"
        )
    try:
        with xr.open_zarr(path, consolidated=False, chunks=None, mask_and_scale=False) as stored:
            data = stored.load()
    # A damaged store fails in as many ways as there are codecs.
    except Exception as error:
        raise damaged(path, str(error).partition("\n")[0] or type(error).__name__) from error
    if data.attrs.get(_ATTRIBUTES) not in (None, _digest_of(data.attrs)):
        raise damaged(path, "its attributes do not match their checksum")
    _verify(path, data, data.attrs.get("checksums"))
    return data


def _verify(path: Path, data: xr.Dataset, checksums: Any) -> None:
    """Raise unless ``data`` has exactly the variables of ``checksums`` with those contents.

    Zarr itself reads a missing chunk as fill values without a word.
    """
    if not isinstance(checksums, dict):
        raise damaged(path, "no checksums")
    for name in sorted(checksums.keys() | {str(name) for name in data.variables}):
        if name not in data.variables:
            raise damaged(path, f"'{name}' is missing")
        if _checksum(data[name]) != checksums.get(name):
            raise damaged(path, f"'{name}' does not match its checksum")


def _checksum(variable: xr.DataArray) -> str:
    """Return the SHA-256 of a variable's contents, the same whatever string type holds its ids."""
    values = variable.values
    if values.dtype.kind in "fi":
        little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
        return hashlib.sha256(little.data).hexdigest()
    return hashlib.sha256(json.dumps(values.tolist()).encode("ascii")).hexdigest()


def _digest_of(attributes: Mapping[str, Any]) -> str:
    """Return the SHA-256 of attributes, but for that of their own checksum."""
    plain = {name: value for name, value in attributes.items() if name != _ATTRIBUTES}
    return hashlib.sha256(canonical_json(plain).encode("ascii")).hexdigest()


def _attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of the Zarr group at ``path``; empty if there is no readable one."""
    try:
        group = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        found = group["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_empty(path: Path) -> bool:
    """Return whether ``path`` is a folder with nothing in it."""
    return path.is_dir() and not any(path.iterdir())

"""Where numbers come from: the environment, canonical JSON, fingerprints and readable differences.

A provenance is a dict of plain JSON values. Two results may be exchanged if and only if the fields
that decide their numbers are equal; `fingerprint` hashes exactly those fields and `differences`
names the ones that are not.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "NUMERICS",
    "OLDER",
    "RECORDED_ONLY",
    "canonical_json",
    "decisive",
    "differences",
    "environment",
    "fingerprint",
    "normalize",
    "summary",
    "versions",
]

RECORDED_ONLY = (
    ("recorded",),
    ("environment", "machine"),
    ("environment", "code", "version"),
    ("environment", "code", "commit"),
    ("environment", "code", "dirty"),
)
"""Fields that are kept for the reader but do not enter a fingerprint: free notes under ``recorded``
(times, costs, command line), the machine, and which release and commit ran. Code enters through
`NUMERICS`."""

NUMERICS = 1
"""Version of the numbers that the library computes: raised by hand when, and only when, a kernel,
feature, sweep or fine-tuning of the same model and examples comes out otherwise than before beyond
rounding. Version 0.1.0 computed those of 1.

Files may move and comments change without touching what users have stored. A test recomputes
stored reference kernels (``tests/subkern/kernels/reference_kernels.json``) and fails if numbers
changed and this did not."""

OLDER = "made by an older subkern, which knew code and weights by other digests"
"""What `differences` says instead of comparing those of version 0.1.0 with later ones."""
_INCOMPARABLE = (
    *(("environment", "code"), ("environment", "versions", "subkern")),
    *(("weights",), ("study",)),
)

_PACKAGES = ("torch", "transformers", "peft", "numpy")
_ABSENT = "(absent)"
_SHOWN = 60  # characters of a value that a difference shows


def normalize(value: Any, _where: str = "provenance") -> Any:
    """Return ``value`` as plain JSON: dict, list, str, int, finite float, bool, None.

    Tuples become lists, paths strings, NumPy scalars Python ones; keys must be strings.

    Raises:
        TypeError: a value, named by its place, has no exact JSON form.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and np.isfinite(value):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{_where} has a key that is not a string: {key!r}")
        return {key: normalize(item, f"{_where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [normalize(item, f"{_where}[{i}]") for i, item in enumerate(value)]
    raise TypeError(f"{_where} has no exact JSON form: {value!r} ({type(value).__name__})")


def canonical_json(value: Any) -> str:
    """Return the one JSON text of ``value``: keys sorted, no spaces, ASCII only, no NaN."""
    return json.dumps(
        normalize(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def decisive(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``provenance``, normalized, without the fields of `RECORDED_ONLY`."""
    return _without(RECORDED_ONLY, provenance)


def _without(places: Sequence[tuple[str, ...]], provenance: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = normalize(provenance)
    for *parents, name in places:
        place: Any = kept
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.pop(name, None)
    return kept


def fingerprint(provenance: Mapping[str, Any]) -> str:
    """Return the SHA-256 (64 hex digits) of the canonical JSON of what decides the numbers."""
    return hashlib.sha256(canonical_json(decisive(provenance)).encode("ascii")).hexdigest()


def differences(
    asked: Mapping[str, Any],
    stored: Mapping[str, Any],
    *,
    only_asked: bool = False,
    whose: tuple[str, str] = ("asked for", "stored"),
) -> list[str]:
    """Return a readable line per decisive field that differs: ``rule: "sgd" asked for, ...``.

    The list is empty if and only if the fingerprints are equal (without ``only_asked``).

    Args:
        asked: what the caller wants.
        stored: what exists.
        only_asked: compare only the top-level fields that ``asked`` names; each of them wholly.
        whose: words after a value of the one and of the other.
    """
    want, have = decisive(asked), decisive(stored)
    if only_asked:
        have = {key: value for key, value in have.items() if key in want}
    older = _is_older(want) != _is_older(have)
    if older:
        want, have = (_without(_INCOMPARABLE, each) for each in (want, have))
    found = _walk("", want, have)
    lines = [f"{place}: {mine} {whose[0]}, {theirs} {whose[1]}" for place, mine, theirs in found]
    return [OLDER, *lines] if older else lines


def _is_older(identity: Mapping[str, Any]) -> bool:
    """Say if an identity is of version 0.1.0, which digested every byte of the library."""
    environment = identity.get("environment")
    code = environment.get("code") if isinstance(environment, dict) else None
    return isinstance(code, dict) and "digest" in code


def summary(lines: Sequence[str], limit: int = 4) -> str:
    """Join the lines of `differences` into one, the first ``limit`` of them written out."""
    more = len(lines) - limit
    return "; ".join(lines[:limit]) + (f"; and {more} more" if more > 0 else "")


def _walk(place: str, mine: Any, theirs: Any) -> Iterator[tuple[str, str, str]]:
    """Yield (place, text, text) for every leaf in which two normalized values differ."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in sorted(mine.keys() | theirs.keys()):
            inner = f"{place}.{key}" if place else key
            if key not in mine:
                yield inner, _ABSENT, _brief(theirs[key])
            elif key not in theirs:
                yield inner, _brief(mine[key]), _ABSENT
            else:
                yield from _walk(inner, mine[key], theirs[key])
    elif isinstance(mine, list) and isinstance(theirs, list):
        if len(mine) != len(theirs):
            yield place, _list_brief(mine), _list_brief(theirs)
        else:
            for i, (one, other) in enumerate(zip(mine, theirs, strict=True)):
                yield from _walk(f"{place}[{i}]", one, other)
    # Compare the JSON, not the values: to Python 1 == 1.0 == True, to a fingerprint they differ.
    elif canonical_json(mine) != canonical_json(theirs):
        yield place, *_brief_pair(mine, theirs)


def _brief_pair(mine: Any, theirs: Any) -> tuple[str, str]:
    """Return the JSON of two values, long ones cut to where they begin to differ."""
    pairs = zip(canonical_json(mine), canonical_json(theirs), strict=False)
    at = next((i for i, (one, other) in enumerate(pairs) if one != other), 0)
    return _brief(mine, at), _brief(theirs, at)


def _brief(value: Any, at: int = 0) -> str:
    """Return the JSON of ``value``, cut to a window that shows character ``at``."""
    text = canonical_json(value)
    if len(text) <= _SHOWN:
        return text
    start = max(0, min(at - _SHOWN // 3, len(text) - _SHOWN))
    end = start + _SHOWN
    return ("..." if start else "") + text[start:end] + ("..." if end < len(text) else "")


def _list_brief(items: list[Any]) -> str:
    """Return a list as JSON if it is short, else its length and ends."""
    text = canonical_json(items)
    if len(text) <= _SHOWN:
        return text
    return f"{len(items)} items ({_brief(items[0])} ... {_brief(items[-1])})"


def environment() -> dict[str, Any]:
    """Return what is installed, which code runs and on what: ``versions``, ``code``, ``machine``.

    ``code.numerics`` is `NUMERICS`; ``version`` is the release, ``commit`` and ``dirty`` are None
    outside a git checkout.
    """
    return {"versions": versions(*_PACKAGES), "code": dict(_code()), "machine": _machine()}


def versions(*packages: str) -> dict[str, str | None]:
    """Return the version of every package as at first use, None for one that is not installed."""
    return {package: _version(package) for package in packages}


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _code() -> dict[str, Any]:
    """Return what the running library is, as it was at first use."""
    commit, dirty = _checkout(Path(__file__).resolve().parents[2])
    release = _version("subkern")
    return {"numerics": NUMERICS, "version": release, "commit": commit, "dirty": dirty}


def _checkout(root: Path) -> tuple[str | None, bool | None]:
    """Return commit and dirty flag if ``root`` is the top of a git checkout, else (None, None).

    The top, because site-packages often lies inside somebody else's repository.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return None, None
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    status = _git(root, "status", "--porcelain", "--untracked-files=no")
    return commit, None if status is None else bool(status)


def _git(root: Path, *arguments: str) -> str | None:
    """Return what a git command prints, or None if there is no git, no repository or no answer."""
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _machine() -> dict[str, Any]:
    """Return Python, system, processor, accelerator and the threads torch computes with."""
    import torch  # late: fingerprints and differences need none of it

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


@cache
def _processor() -> str:
    """Return the processor's name; Linux keeps it where `platform` does not look."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

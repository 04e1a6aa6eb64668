"""What a study was computed with: the library's own environment, and the other libraries in it.

Kernels and training of a model, but for random subspaces and probed heads, do not depend on
scikit-learn and scipy, so the library's fingerprints leave them out; classifiers do.
"""

from __future__ import annotations

from typing import Any

from subkern.storage import provenance

__all__ = ["environment", "libraries"]

_LIBRARIES = ("scikit-learn", "scipy")


def libraries() -> dict[str, str | None]:
    """Return the versions of the libraries that only some numbers depend on."""
    return provenance.versions(*_LIBRARIES)


def environment() -> dict[str, Any]:
    """Return `provenance.environment`, with the versions of all libraries."""
    found = provenance.environment()
    return {**found, "versions": {**found["versions"], **libraries()}}

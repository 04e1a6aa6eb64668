"""What a study was computed with: the library's own environment, and what its classifiers run on.

Kernels and training do not depend on scikit-learn and scipy, so the library's fingerprints leave
them out: hours of kernels outlive their upgrades. Classifiers, probes and flows do.
"""

from __future__ import annotations

from typing import Any

from subkern import provenance

__all__ = ["environment", "of_classifiers"]

_CLASSIFIERS = ("scikit-learn", "scipy")


def of_classifiers() -> dict[str, str | None]:
    """Return the versions of the libraries that solve classifiers."""
    return provenance.versions(*_CLASSIFIERS)


def environment() -> dict[str, Any]:
    """Return `provenance.environment`, with the versions of all libraries."""
    found = provenance.environment()
    return {**found, "versions": {**found["versions"], **of_classifiers()}}

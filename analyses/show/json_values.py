"""What answers of studies are made of as JSON: numbers that JSON has, means with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..engine.pooling import Pooled

__all__ = ["plain", "pooled"]


def plain(value: Any) -> Any:
    """Return a value with None for what is no finite number."""
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def pooled(found: Pooled | None) -> dict[str, float] | None:
    """Return a mean with its interval."""
    return None if found is None else {"mean": found.mean, "low": found.low, "high": found.high}

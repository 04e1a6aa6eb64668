"""How many dimensions a task needs, by kernels of random subspaces, LoRA and other methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subkern.public_names import public_names

if TYPE_CHECKING:
    from analyses.subspace.analysis import (
        Config,
        Outcome,
        Trial,
        advice,
        analyze,
        caveats,
        plot,
        run,
        sentence,
        summary,
        verify,
    )

__all__ = [
    "Config",
    "Outcome",
    "Trial",
    "advice",
    "analyze",
    "caveats",
    "plot",
    "run",
    "sentence",
    "summary",
    "verify",
]

__getattr__, __dir__ = public_names(__name__, dict.fromkeys(__all__, "analysis"))

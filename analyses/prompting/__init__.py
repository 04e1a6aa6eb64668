"""Which prompt fine-tunes best, and does the kernel tell before any training?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subkern.public_names import public_names

if TYPE_CHECKING:
    from analyses.prompting.analysis import (
        Config,
        Outcome,
        analyze,
        caveats,
        plot,
        run,
        sentence,
        summary,
    )

__all__ = ["Config", "Outcome", "analyze", "caveats", "plot", "run", "sentence", "summary"]

__getattr__, __dir__ = public_names(__name__, dict.fromkeys(__all__, "analysis"))

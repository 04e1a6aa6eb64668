"""How far LoRA of each rank preserves the kernel of full fine-tuning, and which rank to take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subkern.public_names import public_names

if TYPE_CHECKING:
    from analyses.lora.analysis import (
        Config,
        Outcome,
        Recommendation,
        Trial,
        advice,
        analyze,
        caveats,
        plot,
        recommend,
        recommend_configuration,
        run,
        sentence,
        summary,
        verify,
    )

__all__ = [
    "Config",
    "Outcome",
    "Recommendation",
    "Trial",
    "advice",
    "analyze",
    "caveats",
    "plot",
    "recommend",
    "recommend_configuration",
    "run",
    "sentence",
    "summary",
    "verify",
]

__getattr__, __dir__ = public_names(__name__, dict.fromkeys(__all__, "analysis"))

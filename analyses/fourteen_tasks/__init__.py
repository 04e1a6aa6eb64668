"""Does the kernel predict what fine-tuning does? Every method on every task, as cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subkern.public_names import public_names

if TYPE_CHECKING:
    from analyses.fourteen_tasks.analysis import Config, Done, Study, Work, analyze

__all__ = ["Config", "Done", "Study", "Work", "analyze"]

__getattr__, __dir__ = public_names(__name__, dict.fromkeys(__all__, "analysis"))

"""Does fine-tuning on a task show kernel behaviour? Real runs beside what their kernel predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subkern.public_names import public_names

if TYPE_CHECKING:
    from analyses.behavior.analysis import Config, Outcome, analyze, plot, run, sentence, summary

__all__ = ["Config", "Outcome", "analyze", "plot", "run", "sentence", "summary"]

__getattr__, __dir__ = public_names(__name__, dict.fromkeys(__all__, "analysis"))

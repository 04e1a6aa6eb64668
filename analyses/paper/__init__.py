"""``subkern figures``: the paper's tables, figures and report, from a study's saved table alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subkern.public_names import public_names

if TYPE_CHECKING:
    from analyses.paper.drawing import combine, draw, tables, write_tables

__all__ = ["combine", "draw", "tables", "write_tables"]

__getattr__, __dir__ = public_names(__name__, dict.fromkeys(__all__, "drawing"))

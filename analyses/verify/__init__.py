"""Proof of a recommendation: fine-tune what the kernels judged, and set the two side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subkern.public_names import public_names

if TYPE_CHECKING:
    from analyses.verify.proof import Trial, prove

__all__ = ["Trial", "prove"]

__getattr__, __dir__ = public_names(__name__, dict.fromkeys(__all__, "proof"))

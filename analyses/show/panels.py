"""Dashes under their former place, for the studies that take them from here still."""

from __future__ import annotations

from .axes import DASHES, DOTS

__all__ = ["DASHES", "DOTS"]

"""How far a long computation is, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with how many are done and how many there are: kernel entries, training steps, trials."""

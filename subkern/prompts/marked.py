"""A sequence of tokens some of which are marked: f adds up their log-likelihoods."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MISSING", "Marked"]

MISSING = -1e4
"""The logit of an option that an example does not have: its probability is 0, and so is every
derivative."""


@dataclass(frozen=True)
class Marked:
    """``weight · Σ_t log p(targets_t | …)``, a part of one logit of an example.

    Attributes:
        input_ids: token ids.
        reads: positions whose output gives each marked token's probability: the one before it, or
            the mask in its place.
        targets: the marked tokens.
        weight: 1 for a sum, 1/n for a mean over n tokens, ±β for preferences.
        logit: which logit it adds to.
    """

    input_ids: tuple[int, ...]
    reads: tuple[int, ...]
    targets: tuple[int, ...]
    weight: float = 1.0
    logit: int = 0

"""Factors of many examples: captured in batches, kept in memory or on files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from subkern.gradients.capture import Captured, capture
from subkern.gradients.factor_files import FactorFiles
from subkern.gradients.factors import zero_like
from subkern.gradients.plan import CapturePlan
from subkern.models.batches import token_batches
from subkern.models.logit_model import LogitModel

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample

Observer = Callable[[Sequence["EncodedExample"], Captured], None]
"""Told of all examples that are captured, with their factors."""

Capturing = Callable[[Sequence["EncodedExample"]], Captured]
"""From examples to their factors, in order."""

# Tokens of one batch: enough for full-speed products, and no more than the graph's share allows.
_FEW_TOKENS, _MANY_TOKENS = 192, 1024
_GRAPH_SHARE = 0.15
_GRAPH_FACTOR = 2.5  # bytes of a batch's graph over those of its factors


@dataclass(frozen=True)
class CaptureJob:
    """Whose gradients are captured, and how.

    Attributes:
        model: f.
        parameters: name → parameter.
        plan: how to capture them.
        memory: bytes that may be used beyond the model.
    """

    model: LogitModel
    parameters: Mapping[str, Tensor]
    plan: CapturePlan
    memory: float

    def capture(self, examples: Sequence[EncodedExample], bounded: bool = False) -> Captured:
        """Factors of `examples`, captured in batches of similar length and put back in order.

        Args:
            examples: any.
            bounded: with the bounds of gradient entries (see `factors`).
        """
        batches = self.batches(examples)
        parts = [
            capture(
                self.model,
                self.parameters,
                [examples[i] for i in picks],
                list(self.plan.uncovered),
                bounded,
            )
            for picks in batches
        ]
        back = np.argsort([i for picks in batches for i in picks]).tolist()
        factors = {}
        for name in dict.fromkeys(n for part in parts for n in part.factors):
            known = next(part.factors[name][0] for part in parts if name in part.factors)
            empty = zero_like(known)
            listed = [f for part in parts for f in part.factors.get(name, [empty] * len(part))]
            factors[name] = [listed[i] for i in back]
        return Captured(factors, torch.cat([part.logits for part in parts])[back])

    def batches(self, examples: Sequence[EncodedExample]) -> list[list[int]]:
        """Positions among `examples` of those that run together, the shortest first."""
        order = sorted(range(len(examples)), key=lambda i: len(examples[i].input_ids))
        lengths = [len(examples[i].input_ids) for i in order]
        cuts = token_batches(lengths, self._batch_tokens(), self.plan.batch_size)
        return [order[picks] for picks in cuts]

    def sizes(self, examples: Sequence[EncodedExample]) -> list[float]:
        """Bytes that the factors of each example take."""
        return [max(self.plan.bytes_per_token, 1.0) * len(e.input_ids) for e in examples]

    def _batch_tokens(self) -> int:
        rate = _GRAPH_FACTOR * max(self.plan.bytes_per_token, 1.0)
        allowed = _GRAPH_SHARE * self.memory / rate
        return int(min(max(allowed, _FEW_TOKENS), _MANY_TOKENS))


def fill(
    files: FactorFiles,
    examples: Sequence[EncodedExample],
    groups: Sequence[slice],
    capturing: Capturing | None,
) -> None:
    """Put the factors of all `examples` to `files` by groups: found, or else captured.

    Without `capturing` it stops where nothing is found.
    """
    for group in groups[len(files.groups) :]:
        if files.find():
            continue
        if capturing is None:
            return
        files.add(capturing(examples[group]))


def cut(sizes: Sequence[float], budget: float) -> tuple[slice, ...]:
    """Consecutive chunks of at most `budget`, each of one element at least."""
    bounds, held = [0], 0.0
    for i, size in enumerate(sizes):
        if held + size > budget and i > bounds[-1]:
            bounds.append(i)
            held = 0.0
        held += size
    if sizes:
        bounds.append(len(sizes))
    return tuple(slice(a, b) for a, b in pairwise(bounds))

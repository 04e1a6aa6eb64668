"""Factors of many examples: captured in batches, kept in memory or on files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from subkern.models.logit_model import LogitModel

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample


Block = Callable[[Captured, Captured], Tensor]
"""A kernel block ``[…, n, c, m, c]`` from the factors of n and of m examples."""


# Tokens of one batch: enough for full-speed products, and no more than the graph's share allows.
_FEW_TOKENS, _MANY_TOKENS = 192, 1024


_GRAPH_SHARE = 0.15


_GRAPH_FACTOR = 2.5  # bytes of a batch's graph over those of its factors


@dataclass(frozen=True)
class CaptureJob:
    """What to compute for every pair of examples.

    Attributes:
        model: f.
        parameters: name → parameter.
        plan: how to capture them.
        block: factors × factors → kernel blocks ``[…, n, c, m, c]``: symmetric ones, or with a
            leading axis of two directions, each the transpose of the other with sides swapped.
        memory: bytes that may be used beyond the model.
        bounded: whether the block reads the bounds of gradient entries (see `factors`).
        directions: length of that leading axis; 1 where there is none.
        seen: called with all examples and factors that are captured, if given.
        kept: asked after every block for sums over its left and its right examples
            (``left_…``, ``right_…``) that go with it, if given.
    """

    model: LogitModel
    parameters: Mapping[str, Tensor]
    plan: CapturePlan
    block: Block
    memory: float
    bounded: bool = False
    directions: int = 1
    seen: Callable[[Sequence[EncodedExample], Captured], None] | None = None
    kept: Callable[[], dict[str, np.ndarray]] | None = None


def fill(
    shelf: FactorFiles,
    job: CaptureJob,
    examples: Sequence[EncodedExample],
    groups: Sequence[slice],
    capturing: bool = True,
) -> None:
    """Put the factors of all `examples` on a shelf by groups: found, or `capturing` them."""
    for group in groups[len(shelf.groups) :]:
        if shelf.find():
            continue
        if not capturing:
            return
        shelf.add(capture_all(job, examples[group]))


def factor_bytes(job: CaptureJob, examples: Sequence[EncodedExample]) -> list[float]:
    """Bytes that the factors of each example take."""
    return [max(job.plan.bytes_per_token, 1.0) * len(e.input_ids) for e in examples]


def capture_all(job: CaptureJob, examples: Sequence[EncodedExample]) -> Captured:
    """Factors of `examples`, captured in batches of similar length and put back in order."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].input_ids))
    parts = [
        capture(
            job.model,
            job.parameters,
            [examples[i] for i in picks],
            list(job.plan.uncovered),
            job.bounded,
        )
        for picks in _batches(order, examples, job.plan.batch_size, _batch_tokens(job))
    ]
    back = np.argsort(order).tolist()
    factors = {}
    for name in dict.fromkeys(n for part in parts for n in part.factors):
        known = next(part.factors[name][0] for part in parts if name in part.factors)
        empty = zero_like(known)
        listed = [f for part in parts for f in part.factors.get(name, [empty] * len(part))]
        factors[name] = [listed[i] for i in back]
    captured = Captured(factors, torch.cat([part.logits for part in parts])[back])
    if job.seen is not None:
        job.seen(examples, captured)
    return captured


def _batch_tokens(job: CaptureJob) -> int:
    allowed = _GRAPH_SHARE * job.memory / (_GRAPH_FACTOR * max(job.plan.bytes_per_token, 1.0))
    return int(min(max(allowed, _FEW_TOKENS), _MANY_TOKENS))


def _batches(
    order: Sequence[int], examples: Sequence[EncodedExample], most: int, most_tokens: int
) -> Iterator[list[int]]:
    batch: list[int] = []
    for i in order:
        tokens = (len(batch) + 1) * len(examples[i].input_ids)  # padded: i is the longest
        if batch and (len(batch) == most or tokens > most_tokens):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


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

"""Vectors as examples: one token an example, whose features are the vector."""

from __future__ import annotations

import torch

from subkern.models.logit_model import Batch
from subkern.prompts.prompt import EncodedExample


def batch_of(n: int) -> Batch:
    """Return the vectors 0 to n − 1 as one batch."""
    ids = torch.arange(n)[:, None]
    return Batch(ids, torch.ones_like(ids), torch.zeros(n, dtype=torch.long))


def vector_examples(n: int) -> list[EncodedExample]:
    """Return them as examples, with labels in turn."""
    return [EncodedExample(f"v{i}", i % 2, (i,), 0) for i in range(n)]

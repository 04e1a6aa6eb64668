"""A made-up search: the last layer's head start moves the logits towards the labels."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.training.grid_search import TrainingGrid


def search(
    model: LogitModel,
    splits: Mapping[str, Sequence[EncodedExample]],
    *,
    grid: Any,
    training: Any,
    out: Path | None,
    **_: Any,
) -> Any:
    """Stand in for `search`: logits that know most labels, always the same."""
    if callable(grid):  # which suggests, and that takes time
        grid = TrainingGrid((1e-5, 5e-5, 2e-4))
    if out is not None:
        out.mkdir(parents=True)
        (out / "weights").write_bytes(b"large")
    logits = {}
    for name, examples in splits.items():
        with torch.no_grad():
            start = model(model.collate(examples)).double().numpy()
        logits[name] = start + _push(examples, start.shape[1])
    chosen = {"learning_rate": grid.learning_rates[-1], "batch_size": grid.batch_sizes[0]}
    settings = {"training": chosen}
    best = SimpleNamespace(best_logits=logits, best_step=training.steps // 2, settings=settings)
    edge = grid.edge(chosen["learning_rate"])
    warning = edge and f"the best rate is the {edge} of the grid"
    return SimpleNamespace(best=best, warning=warning, table=pd.DataFrame({"seconds": [2.0, 3.0]}))


def _push(examples: Sequence[EncodedExample], c: int) -> np.ndarray:
    """Return steps ``[n, c]`` towards the label, for some examples smaller than others."""
    rows = []
    for example in examples:
        size = 2 * np.random.default_rng(zlib.crc32(example.id.encode())).random()
        sign = 2 * example.label - 1
        rows.append([size * sign] if c == 1 else np.eye(c)[example.label] * size)
    return np.array(rows)

"""A made-up LoRA study on random features: analyses are tested in milliseconds."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from subkern.kernels.kernel import Kernel
from subkern.kernels.request import RunOptions
from subkern.kernels.sweeps.lora import LoraGrid, LoraSweep
from subkern.prompts.prompt import EncodedExample
from subkern.subspaces.lora_targets import Resolved, Targets

FEATURES, ADAPTED = 600, 480  # parameters of the made-up model, and how many of them LoRA adapts
SETS = {"qv": (0, 60), "attention": (0, 160), "mlp": (160, 480)}  # of targets not listed: all


def gradients(examples: Sequence[Any], num_logits: int) -> np.ndarray:
    """Return gradients [n, c, FEATURES]: a constant, a part that the label decides, and noise."""
    shared = np.random.default_rng(0)
    constant = shared.normal(size=(num_logits, FEATURES))
    direction = shared.normal(size=(max(num_logits, 2), num_logits, FEATURES)) * 0.25
    rows = []
    for example in examples:
        rng = np.random.default_rng(zlib.crc32(example.id.encode()))
        decay = np.linspace(2.0, 0.3, FEATURES)
        noise = rng.normal(size=(num_logits, FEATURES)) * decay
        rows.append(constant + direction[example.label] + noise)
    return np.array(rows)


def f0(examples: Sequence[Any], num_logits: int) -> np.ndarray:
    """Return initial logits [n, c], somewhat right."""
    rows = []
    for example in examples:
        logits = np.random.default_rng(zlib.crc32(b"f0" + example.id.encode())).normal(
            size=num_logits
        )
        if num_logits == 1:
            logits[0] += 0.8 * (2 * example.label - 1)
        else:
            logits[example.label] += 0.8
        rows.append(logits)
    return np.array(rows)


@dataclass
class FakeModel:
    """As much of a LogitModel as an analysis touches."""

    num_logits: int
    task: Any
    description: dict[str, Any] = field(default_factory=lambda: {"source": "made up"})

    @property
    def prompt(self) -> Any:
        """A prompt that encodes nothing."""
        description = {"template": "*sent_0*_It_was", "label_words": list(self.task.label_words)}
        return SimpleNamespace(
            description=description,
            label_words=self.task.label_words,
            encode_all=lambda examples: [
                EncodedExample(e.id, e.label, (1, 2), 1) for e in examples
            ],
        )


def load_model(spec: str, *, task: Any, logits: str = "all", **_: Any) -> FakeModel:
    """Stand in for `subkern.models.load.load_model`."""
    return FakeModel(1 if logits == "binary" else len(task.labels), task)


def resolve(model: FakeModel, targets: Targets) -> Resolved:
    """Stand in for `subkern.subspaces.lora_targets.resolve`."""
    return Resolved(targets, note="query, key and value are one layer" if targets == "qv" else "")


def sweep_targets(
    model: FakeModel,
    left: Sequence[Any],
    right: Sequence[Any],
    *,
    sets: Mapping[str, Targets],
    grid: LoraGrid,
    rule: str,
    options: RunOptions,
) -> dict[str, LoraSweep]:
    """Stand in for `sweep_targets`: LoRA kernels are random sketches of a set's features."""
    if options.progress is not None:
        options.progress(len(left) * len(right), len(left) * len(right))
    return {name: _sweep(model, left, right, name, grid) for name in sets}


def _sweep(
    model: FakeModel, left: Sequence[Any], right: Sequence[Any], name: str, grid: LoraGrid
) -> LoraSweep:
    """Return the sweep of one target set; ``all`` trains the features that are not adapted too."""
    first, last = SETS.get(name, (0, ADAPTED))
    rest = np.eye(FEATURES)[:, ADAPTED:] if name == "all" else np.zeros((FEATURES, 0))
    c = model.num_logits
    sides = gradients(left, c), gradients(right, c)

    def kernel(maps: np.ndarray, **subspace: Any) -> Kernel:
        one, other = (side @ maps for side in sides)
        return Kernel(
            np.einsum("iap,jbp->iajb", one, other),
            [e.id for e in left],
            [e.id for e in right],
            [e.label for e in left],
            [e.label for e in right],
            {"rule": "sgd", **subspace},
            f0(left, c),
            f0(right, c),
        )

    identity = np.eye(FEATURES)
    kernels = {}
    for seed in grid.seeds:
        drawn = np.random.default_rng(seed).normal(size=(last - first, 32 * max(grid.ranks)))
        for rank in grid.ranks:
            maps = np.zeros((FEATURES, 32 * rank))
            maps[first:last] = drawn[:, : 32 * rank] / rank
            both = np.concatenate([maps, rest], 1)
            kernels[seed, rank] = kernel(both, subspace="lora", rank=rank, seed=seed)
    return LoraSweep(
        full=kernel(identity, subspace="full"),
        targets_full=kernel(np.concatenate([identity[:, first:last], rest], 1), subspace="targets"),
        kernels=kernels,
        trainable={rank: (last - first) * rank // 24 + rest.shape[1] for rank in grid.ranks},
        trainable_full=FEATURES,
        cost={
            "capture_seconds": 0.02,
            "contraction_seconds": 1.5,
            "total_seconds": 72.0,
            "entries": float(len(left) * len(right)),
            "flops": 2.5e12,
            "peak_bytes": 3e8,
        },
    )

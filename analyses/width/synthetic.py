"""A target that needs no files: do more tokens of a sequence come from the first half?"""

from __future__ import annotations

import numpy as np

from subkern.tasks.catalogue import Task
from subkern.tasks.examples import SPLITS, Example

from ..engine.inputs import Inputs
from .config import SYNTHETIC, Config

__all__ = ["TOKENS", "synthetic_inputs", "tokens_of"]

TOKENS, LENGTH = 32, 9  # an odd length: no ties
TASK = Task(
    name=SYNTHETIC, labels=("second", "first"), label_words=("second", "first"),
    template="*cls**sent_0**sep+*",
)  # fmt: skip


def synthetic_inputs(config: Config) -> Inputs:
    """Return `shots` sequences a label and split, drawn from the data seed, within the limits."""
    limits = {split: getattr(config, f"{split}_limit") for split in SPLITS}
    splits = {
        seed: {name: found[: limits[name]] for name, found in _splits(seed, config.shots).items()}
        for seed in config.data_seeds
    }
    return Inputs(TASK, "binary", splits)


def tokens_of(example: Example) -> tuple[int, ...]:
    """Return the tokens of a sequence."""
    return tuple(int(token) for token in example.texts[0].split())


def _splits(seed: int, shots: int) -> dict[str, list[Example]]:
    rng = np.random.default_rng([seed, TOKENS, LENGTH])
    return {split: _split(rng, split, shots) for split in SPLITS}


def _split(rng: np.random.Generator, split: str, shots: int) -> list[Example]:
    found: list[Example] = []
    left = {0: shots, 1: shots}
    while any(left.values()):
        tokens = rng.integers(TOKENS, size=LENGTH)
        label = int((tokens < TOKENS // 2).sum() > LENGTH // 2)
        if left[label]:
            left[label] -= 1
            text = " ".join(map(str, tokens.tolist()))
            found.append(Example(f"{split}-{len(found)}", (text,), label))
    return found

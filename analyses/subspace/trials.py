"""A subspace study's configurations as they are fine-tuned, and its advice to be proved."""

from __future__ import annotations

import math
from collections.abc import Iterator

from subkern.kernels.sweeps.lora import LoraGrid
from subkern.subspaces.base import Full
from subkern.subspaces.random import RandomSubspace
from subkern.subspaces.text import as_subspace

from ..verify.trial import FULL, USUAL_RANK, USUAL_TARGETS, Advice, Candidate, Trial
from .compute import random_name
from .config import Config
from .findings import Findings


def candidates(config: Config, found: Findings, trial: Trial) -> Iterator[Candidate]:
    """Yield full fine-tuning, random subspaces of the first kind, LoRA and the other methods."""
    yield Candidate(FULL, "full fine-tuning", FULL, Full(), found.trained_in_full)
    kind = config.kinds[0]
    for dim in config.dims_of(kind):
        for seed in config.projection_seeds[: trial.draws]:
            subspace = RandomSubspace(dim, kind, seed, config.allocation)
            kinds = f"random, {kind.replace('_', ' ')}"
            yield Candidate(random_name(kind, dim), kinds, str(dim), subspace, dim, seed)
    if config.ranks:
        seeds = config.adapter_seeds[: trial.draws]
        grid = LoraGrid(config.ranks, seeds, config.targets)
        (family,) = found.lora
        for rank, size in zip(config.ranks, family.sizes, strict=True):
            for seed in seeds:
                lora = grid.lora(seed, rank)
                yield Candidate(f"LoRA rank {rank}", "LoRA", str(rank), lora, size, seed)
    for method in found.methods:
        yield Candidate(
            method.name, method.name, method.name, as_subspace(method.name), method.sizes[0]
        )


def advice(found: Findings) -> Advice:
    """Return the smallest dimension tried that reaches the share of the full score, and that share.

    The largest one tried where none does. It is compared with the other dimensions only.
    """
    kind, size = found.first, found.needed.size
    dim = next((each for each in kind.sizes if each >= size), kind.sizes[-1])
    return Advice(
        random_name(kind.name, dim),
        qualifies=math.isfinite(size),
        share=found.config.share,
        rivals=[random_name(kind.name, each) for each in kind.sizes],
        usual=f"LoRA rank {USUAL_RANK}" if found.config.targets == USUAL_TARGETS else None,
    )

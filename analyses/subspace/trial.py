"""A subspace study's configurations as they are fine-tuned, and its advice to be proved."""

from __future__ import annotations

import math

from subkern.kernels.sweeps.lora import LoraGrid
from subkern.subspaces.base import Full
from subkern.subspaces.random import RandomSubspace
from subkern.subspaces.text import as_subspace

from ..engine.long_table import cells
from ..engine.run_folder import Results
from ..verify.advice import FULL, Advice
from ..verify.trial import Candidate, Trial
from .config import Config
from .dimension import needed
from .measure import random_name
from .numbers import kinds, scores, trained_in_full

__all__ = ["advice", "candidates"]


def candidates(config: Config, results: Results, trial: Trial) -> list[Candidate]:
    """Return full fine-tuning, random subspaces of the first kind, LoRA and the other methods."""
    found = [Candidate(FULL, "full fine-tuning", FULL, Full(), trained_in_full(results))]
    return [
        *found,
        *_random(config, trial),
        *_lora(config, results, trial),
        *(
            Candidate(method, method, method, as_subspace(method), size)
            for method, size in results.inputs["methods"].items()
        ),
    ]


def _random(config: Config, trial: Trial) -> list[Candidate]:
    """Return the random subspaces of the kind that gives the answer."""
    kind = config.kinds[0]
    return [
        Candidate(
            random_name(kind, dim),
            f"random, {kind.replace('_', ' ')}",
            str(dim),
            RandomSubspace(dim, kind, seed, config.allocation),
            dim,
            seed,
        )
        for dim in config.dims_of(kind)
        for seed in config.projection_seeds[: trial.draws]
    ]


def _lora(config: Config, results: Results, trial: Trial) -> list[Candidate]:
    """Return LoRA at every rank."""
    if not config.ranks:
        return []
    seeds = config.adapter_seeds[: trial.draws]
    grid = LoraGrid(config.ranks, seeds, config.targets)
    rows = cells(results.table, kernel="lora")
    return [
        Candidate(
            f"LoRA rank {rank}",
            "LoRA",
            str(rank),
            grid.lora(seed, rank),
            int(cells(rows, method=f"rank {rank}")["parameters"].iloc[0]),
            seed,
        )
        for rank in config.ranks
        for seed in seeds
    ]


def advice(results: Results) -> Advice:
    """Return the smallest dimension tried that reaches the share of the full score, and that share.

    The largest one tried where none does. It is compared with the other dimensions only.
    """
    kind, config = kinds(results)[0], results.config
    size = needed(results, kind).size
    dims = sorted(scores(results, kind))
    dim = next((each for each in dims if each >= size), dims[-1])
    return Advice(
        random_name(str(kind.method), dim),
        qualifies=math.isfinite(size),
        share=float(config["share"]),
        rivals=[random_name(str(kind.method), each) for each in dims],
    )

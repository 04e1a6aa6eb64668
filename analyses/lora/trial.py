"""A LoRA study's configurations as they are fine-tuned, and its advice as training judges it."""

from __future__ import annotations

from subkern.kernels.sweeps.lora import LoraGrid
from subkern.subspaces.base import Full

from ..engine.long_table import cells
from ..engine.run_folder import Results
from ..verify.advice import FULL, Advice
from ..verify.trial import Candidate, Trial
from .config import Config
from .grid import recommend_configuration
from .numbers import trained
from .targets import configuration_name, is_grid
from .verdict import recommend

__all__ = ["advice", "candidates"]


def candidates(config: Config, results: Results, trial: Trial) -> list[Candidate]:
    """Return full fine-tuning, and every rank of every target set with the first adapter seeds."""
    several, seeds = bool(config.target_sets), config.adapter_seeds[: trial.draws]
    found = [Candidate(FULL, "full fine-tuning", FULL, Full(), round(trained(results)))]
    sizes = cells(results.table, kernel="lora", metric="trainable_parameters")
    for name, targets in config.sets.items():
        grid = LoraGrid(config.ranks, seeds, targets, config.alpha, config.rslora)
        for rank in config.ranks:
            size = cells(sizes, targets=name, rank=rank)["value"].iloc[0]
            found += [
                Candidate(
                    configuration_name(config.as_dict(), name, rank),
                    name if several else "LoRA",
                    str(rank),
                    grid.lora(seed, rank),
                    int(size),
                    seed,
                )
                for seed in seeds
            ]
    return found


def advice(results: Results) -> Advice:
    """Return which configuration the study advises, and its tolerance."""
    drop, agreement = (float(results.config[name]) for name in ("max_drop", "min_agreement"))
    if not is_grid(results):
        found = recommend(results)
        name = f"rank {found.closest}"
        return Advice(name, qualifies=found.rank is not None, drop=drop, agreement=agreement)
    grid = recommend_configuration(results)
    called = {
        each: configuration_name(results.config, each.targets, each.rank) for each in grid.every
    }
    rivals = [called[each] for each in grid.candidates]
    return Advice(
        called[grid.best],
        qualifies=grid.qualifies,
        drop=drop,
        agreement=agreement,
        rivals=rivals,
    )

"""A LoRA study's configurations as they are fine-tuned, and its advice as training judges it."""

from __future__ import annotations

from dataclasses import replace

from subkern.subspaces.base import Full

from ..engine.long_table import cells
from ..engine.run_folder import Results
from ..verify.trial import FULL, USUAL_RANK, USUAL_TARGETS, Advice, Candidate, Trial
from .config import Config
from .findings import Findings


def candidates(config: Config, results: Results, trial: Trial) -> list[Candidate]:
    """Return full fine-tuning, and every rank of every target set with the first adapter seeds."""
    seeds = config.adapter_seeds[: trial.draws]
    sizes = cells(results.table, metric="trainable_parameters")
    whole = cells(sizes, kernel="full")["value"].iloc[0]
    found = [Candidate(FULL, "full fine-tuning", FULL, Full(), round(whole))]
    for name, targets in config.sets.items():
        grid = replace(config.grid, targets=targets)
        for rank in config.ranks:
            size = cells(sizes, kernel="lora", targets=name, rank=rank)["value"].iloc[0]
            found += [
                Candidate(
                    config.configuration(name, rank),
                    name if config.target_sets else "LoRA",
                    str(rank),
                    grid.lora(seed, rank),
                    int(size),
                    seed,
                )
                for seed in seeds
            ]
    return found


def advice(found: Findings) -> Advice:
    """Return which configuration the study advises, and its tolerance."""
    usual = found.config.configuration(USUAL_TARGETS, USUAL_RANK)
    return Advice(
        found.best.name,
        qualifies=found.qualifies,
        drop=found.config.max_drop,
        agreement=found.config.min_agreement,
        rivals=[each.name for each in found.answer.candidates],
        usual=usual if USUAL_TARGETS in found.config.sets else None,
    )

"""The answer of ``analyze prompting`` as plain JSON values, for other programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..engine.run_folder import Results
from ..show.json_values import plain, pooled
from .numbers import (
    Trial,
    alignment,
    best,
    chance,
    kernel_choice,
    learned,
    predictions,
    trials,
    value,
)
from .text import caveats, sentence

__all__ = ["as_json"]


def as_json(results: Results) -> dict[str, Any]:
    """Return answer, caveats and the tables it is read from; what is not known is None.

    Regrets are of the prompts put first on each data seed, on average over data seeds.
    """
    choice, predictors = kernel_choice(results), predictions(results)
    found = {
        "answer": sentence(results),
        "caveats": caveats(results),
        "kernel_choice": list(choice),
        "kernel_choice_seeds": {prompt: list(seeds) for prompt, seeds in choice.items()},
        "kernel_choice_regret": predictors[0].regret if predictors else None,
        "best_finetuned": best(results) if learned(results) else None,
        "predictors": [
            {"predictor": each.name, "puts_first": list(each.choice), "regret": each.regret}
            | asdict(each.correlation)
            for each in predictors
        ],
        "regret_without": chance(results) if learned(results) else {},
        "trials": [_trial(results, trial) for trial in trials(results)],
        "skipped": dict(results.inputs["skipped"]),
    }
    return {name: plain(each) for name, each in found.items()}


def _trial(results: Results, trial: Trial) -> dict[str, Any]:
    """Return what a trial is and all its numbers."""
    methods = ("zero-shot", "probe", "kernel", "finetune")
    scores = {
        f"{method.replace('-', '_')}_{split}": pooled(value(results, trial, method, split))
        for method in methods
        for split in ("dev", "test")
    }
    prompt = results.inputs["prompts"].get(trial.prompt, {})
    return {**trial.cell, **prompt, "alignment": pooled(alignment(results, trial)), **scores}

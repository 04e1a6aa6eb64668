"""The answer of ``analyze lora`` as plain JSON values, for other programs."""

from __future__ import annotations

from typing import Any

from ..engine.run_folder import Results
from ..show.json_values import plain, pooled
from ..verify import report as verify_report
from ..verify.numbers import is_verified
from .answer import caveats, sentence
from .grid import Configuration, configurations, recommend_configuration
from .numbers import full_score, zero_shot
from .targets import is_grid
from .trial import advice
from .verdict import recommend

__all__ = ["as_json"]


def as_json(results: Results) -> dict[str, Any]:
    """Return answer, caveats and the table it is read from; no number stands as None.

    ``recommended`` is None where nothing is within tolerance; ``closest`` then misses it by least.
    ``verification`` is there if it was asked for.
    """
    solver = results.config["solvers"][0]
    every = configurations(results)
    if is_grid(results):
        found = recommend_configuration(results)
        closest, holds = (found.best.targets, found.best.rank), found.qualifies
    else:
        chosen = recommend(results)
        closest, holds = (every[0].targets, chosen.closest), chosen.rank is not None
    named = dict(zip(("targets", "rank"), closest, strict=True))
    answer = {
        "answer": sentence(results),
        "caveats": caveats(results),
        "recommended": named if holds else None,
        "closest": named,
        "solver": solver,
        "full_score": pooled(full_score(results, solver)),
        "zero_shot": pooled(zero_shot(results)),
        "configurations": [_configuration(each) for each in every],
    }
    if is_verified(results):
        answer["verification"] = verify_report.as_json(results, advice(results))
    return {name: plain(value) for name, value in answer.items()}


def _configuration(each: Configuration) -> dict[str, Any]:
    """Return one rank of one target set."""
    verdict = each.verdict
    return {
        "targets": each.targets,
        "rank": each.rank,
        "parameters": each.trained,
        "cka": pooled(each.cka),
        "prediction_agreement": pooled(verdict.agreement),
        "score": pooled(verdict.score),
        "drop": pooled(verdict.drop),
        "within": verdict.ok,
        "affordable": each.affordable,
    }

"""The answer of ``analyze subspace`` as plain JSON values, for other programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..engine.run_folder import Results
from ..show.json_values import plain, pooled
from ..verify import report as verify_report
from ..verify.numbers import is_verified
from .cautions import caveats
from .dimension import GOALS, needed
from .numbers import (
    agreement,
    families,
    full_score,
    kinds,
    lora,
    same_predictions,
    scores,
    zero_shot,
)
from .text import sentence
from .trial import advice
from .verdict import calibrate, fewest

__all__ = ["as_json"]


def as_json(results: Results) -> dict[str, Any]:
    """Return answer, caveats and the tables it is read from; no number stands as None.

    ``verification`` is there if it was asked for.

    A number of parameters that no size tried reaches is None too: ``last`` says what was tried.
    """
    found = {
        "answer": sentence(results),
        "caveats": caveats(results),
        "full_score": pooled(full_score(results)),
        "zero_shot": pooled(zero_shot(results)),
        "needed": [
            {"method": family.name, "goal": goal, **asdict(needed(results, family, goal))}
            for family in [*kinds(results), *lora(results)]
            for goal in GOALS
        ],
        "preserved": [
            {"method": each.family.name, "parameters": each.size, "last": each.last}
            for each in fewest(results)
        ],
        "methods": [
            {
                "method": family.name,
                "parameters": size,
                "cka": pooled(cka),
                "prediction_agreement": pooled(same_predictions(results, family)[size]),
                "score": pooled(scores(results, family)[size]),
            }
            for family in families(results)
            for size, cka in agreement(results, family).items()
        ],
        "distortion": [
            {"method": kind.name, "centred": centred, "holds": each.holds, **asdict(each)}
            for kind in kinds(results)
            for centred in (False, True)
            if (each := calibrate(results, kind, centred=centred)) is not None
        ],
    }
    if is_verified(results):
        found["verification"] = verify_report.as_json(results, advice(results))
    return {name: plain(value) for name, value in found.items()}

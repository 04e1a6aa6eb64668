"""What ``analyze subspace`` found, in words."""

from __future__ import annotations

import math

from ..engine.run_folder import Results
from ..show import numbers as fmt
from .dimension import Needed, needed
from .numbers import (
    baseline,
    full_score,
    judge,
    kinds,
    score_name,
)
from .verdict import Calibration, Preserves, calibrate, fewest
from .words import between, ratio

__all__ = ["dimensions", "preserved", "sentence", "theory"]


def sentence(results: Results) -> str:
    """Return the answer: the dimension needed, the thriftiest method, whether theory holds."""
    return " ".join(filter(None, [dimensions(results), preserved(results), theory(results)]))


def dimensions(results: Results) -> str:
    """Return in how many dimensions the targets are reached."""
    kind, share = kinds(results)[0], fmt.percent(results.config["share"], 0)
    full, score = full_score(results).mean, score_name(results)
    whole, gain = (needed(results, kind, goal) for goal in ("score", "gain"))
    said = (
        f"{share} of the full kernel's test {score} ({fmt.percent(whole.target)} of"
        f" {fmt.percent(full)}) {_takes(whole)}"
    )
    base = fmt.percent(baseline(results).mean)
    if math.isnan(gain.size):
        said += f"; the full kernel gains nothing over no training ({base})"
    else:
        said += f"; {share} of its gain over no training ({base}) {_takes(gain)}"
    return f"By the {judge(results, None)} classifier in {kind.name} random subspaces, {said}."


def _takes(found: Needed) -> str:
    """Return how many dimensions that is."""
    if not found.found:
        text = f"takes more than the {fmt.count(found.last)} dimensions tried"
    elif found.size <= found.first:
        text = f"is there with the fewest dimensions tried, {found.first}"
    else:
        text = f"takes {fmt.count(found.size)} dimensions"
    if math.isnan(found.low) or math.isinf(found.low):
        return text
    return f"{text} (interval {between(found)})"


def preserved(results: Results) -> str:
    """Return which method preserves the kernel with the fewest trained parameters."""
    found, level = fewest(results), fmt.decimal(results.config["min_cka"], 2)
    best = _best_of_each(found)
    reached, never = ([each for each in best if each.found is wanted] for wanted in (True, False))
    if not reached:
        return f"No method tried reaches a CKA of {level} with the full kernel."
    first, *others = reached
    said = (
        f"Per trained parameter {_called(first)} preserves the kernel best: a CKA of {level} with"
        f" the full one takes {_count(first)} parameters"
    )
    if others:
        said += f", against {fmt.joined([f'{_count(e)} in {_called(e)}' for e in others])}"
    if never:
        said += f"; not reached by {fmt.joined([f'{_called(e)} ({_tried(e)})' for e in never])}"
    return said + "."


def _best_of_each(found: list[Preserves]) -> list[Preserves]:
    """Return the thriftiest random subspace, LoRA, and each other method, least first."""
    best: dict[str, Preserves] = {}
    for each in found:
        key = each.family.name if each.family.kernel == "method" else each.family.kernel
        best.setdefault(key, each)
    return list(best.values())


def _called(found: Preserves) -> str:
    """Return what a family is called in a sentence."""
    if found.family.kernel == "random":
        return f"a random subspace ({found.family.name})"
    return found.family.name


def _count(found: Preserves) -> str:
    """Return how many parameters it takes."""
    at_most = "at most " if found.size <= found.first and found.first < found.last else ""
    return at_most + fmt.count(found.size)


def _tried(found: Preserves) -> str:
    """Return how many parameters were tried."""
    upto = "up to " if found.first < found.last else ""
    return upto + fmt.count(found.last)


def theory(results: Results) -> str:
    """Return whether the variance formula holds, for which kinds; empty if it was not measured."""
    by_kind = {
        kind.name: [calibrate(results, kind, centred=centred) for centred in (False, True)]
        for kind in kinds(results)
    }
    found = {k: [c for c in both if c is not None] for k, both in by_kind.items()}
    if not any(found.values()):
        return ""
    failing = [name for name, both in found.items() if not all(each.holds for each in both)]
    if not failing:
        return "The variance formula holds for every kind of projection, raw and centred."
    wrong = fmt.joined([f"{name} ({_how_wrong(found[name])})" for name in failing])
    holding = [name for name in found if name not in failing]
    if not holding:
        return f"The variance formula is off for every kind: measured over predicted {wrong}."
    return (
        f"The variance formula holds for {fmt.joined(holding)}; it is off for {wrong}: measured"
        " over predicted spread, and what chance allows."
    )


def _how_wrong(both: list[Calibration]) -> str:
    """Return measured over predicted spread, and what chance allows, where the formula is off."""
    parts = [
        f"{name} {ratio(each)}"
        for name, each in zip(("raw", "centred"), both, strict=True)
        if not each.holds
    ]
    return ", ".join(parts)

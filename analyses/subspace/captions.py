"""What each figure of ``analyze subspace`` shows, in words computed from the same numbers."""

from __future__ import annotations

import math

from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.page import Caption
from .dimension import needed
from .numbers import (
    Family,
    agreement,
    constant,
    distortion,
    full_score,
    judge,
    kinds,
    lora,
    methods,
    same_predictions,
    score_name,
    scores,
    zero_shot,
)
from .verdict import calibrate, front
from .words import intervals, ratio, sizes

__all__ = ["captions"]


def captions(results: Results) -> dict[str, Caption]:
    """Return title, caption and text alternative of every figure, by its name."""
    found = {"preservation": _preservation(results), "dimension": _dimension(results)}
    return found | ({"distortion": _distortion(results)} if results.config["rule"] == "sgd" else {})


def _preservation(results: Results) -> Caption:
    shown = [kinds(results)[0], *lora(results), *methods(results)]
    ends = fmt.joined([_ends(results, family) for family in shown])
    best = list(dict.fromkeys(family.name for family, _ in front(results)))
    text = (
        f"All methods on one axis of trained parameters. CKA with the full kernel: {ends}. No"
        f" smaller method tried agrees better than {fmt.joined(best)} at their place on the curve"
        " (Pareto front). Equal predictions and scores are those of the"
        f" {judge(results, None)} classifier. Bands are {intervals(results)}; of the kinds of"
        f" random subspace only {kinds(results)[0].name} shows its own."
    )
    alt = f"Three line charts over the number of trained parameters. CKA: {ends}."
    return Caption("Agreement with full fine-tuning, by trained parameters", text, alt)


def _ends(results: Results, family: Family) -> str:
    """Return CKA and equal predictions at both ends of a family."""
    cka, same = agreement(results, family), same_predictions(results, family)
    first, last = min(cka), max(cka)
    if first == last:
        return (
            f"{family.name} {fmt.decimal(cka[last].mean, 2)} with {fmt.count(last)} parameters"
            f" ({fmt.percent(same[last].mean, 0)} equal predictions)"
        )
    return (
        f"{family.name} {fmt.decimal(cka[first].mean, 2)} with {fmt.count(first)} to"
        f" {fmt.decimal(cka[last].mean, 2)} with {fmt.count(last)}"
        f" ({fmt.percent(same[first].mean, 0)} to {fmt.percent(same[last].mean, 0)} equal"
        " predictions)"
    )


def _dimension(results: Results) -> Caption:
    score, first = score_name(results), kinds(results)[0]
    curve = scores(results, first)
    low, high = (fmt.percent(curve[end].mean) for end in (min(curve), max(curve)))
    found = {
        goal: fmt.joined(
            [f"{kind.name} {sizes(needed(results, kind, goal))}" for kind in kinds(results)]
        )
        for goal in ("score", "gain")
    }
    share = fmt.percent(results.config["share"], 0)
    text = (
        f"Test {score} of the {judge(results, None)} classifier in random subspaces: {first.name}"
        f" {low} in {min(curve)} dimensions to {high} in {fmt.count(max(curve))}. The full kernel"
        f" has {fmt.percent(full_score(results).mean)}, zero-shot"
        f" {fmt.percent(zero_shot(results).mean)}, the best constant answer"
        f" {fmt.percent(constant(results).mean)}. Below, where the mean over draws first reaches"
        f" {share} of the full kernel's score ({found['score']}) and of its gain over no training"
        f" ({found['gain']}), linear in log dimension between those tried. In brackets bootstrap"
        " intervals over seeds; a triangle at the edge: not reached."
    )
    alt = f"Line chart of test {score} over the dimension: from {low} to {high}. {share} of the"
    alt += f" full score: {found['score']}."
    return Caption(f"Test {score}, by dimension", text, alt)


def _distortion(results: Results) -> Caption:
    parts = []
    for kind in kinds(results):
        raw, centred = (calibrate(results, kind, centred=each) for each in (False, True))
        if raw is not None and centred is not None:
            parts.append(f"{kind.name} {ratio(raw)} raw, {ratio(centred)} centred")
    first = kinds(results)[0]
    low, high, epsilon = (
        distortion(results, first, name, centred=True) for name in ("q05", "q95", "epsilon")
    )
    last = max(low)
    bound = "the Johnson-Lindenstrauss lemma bounds nothing at so few"
    if not math.isnan(epsilon[last].mean):
        epsilon_here = fmt.decimal(epsilon[last].mean, 3)
        bound = f"the Johnson-Lindenstrauss bound for one pair at 95 % is ±{epsilon_here}"
    text = (
        "How far inner products of the training examples' gradients move: (projected − full) over"
        " the product of the norms, raw and with gradients centred over the examples. Measured"
        " spread over the variance formula's, over all dimensions (in brackets what chance allows):"
        f" {fmt.joined(parts)}. At {fmt.count(last)} dimensions 90 % of the centred pairs lie"
        f" between {fmt.decimal(low[last].mean)} and {fmt.decimal(high[last].mean)}"
        f" ({first.name}); {bound}. The"
        " vertical axis is logarithmic away from 0."
    )  # fmt: skip
    alt = f"Quantile fans narrowing with the dimension, as 1/√d. {fmt.joined(parts)}."
    return Caption("Distortion of inner products, measured and predicted", text, alt)

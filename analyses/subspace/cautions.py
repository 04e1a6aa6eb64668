"""What limits the answer of ``analyze subspace``, in words."""

from __future__ import annotations

import math

from ..engine.heads import start_note
from ..engine.long_table import cells
from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.study_numbers import score_error
from .dimension import needed
from .numbers import (
    baseline,
    distortion,
    full_score,
    judge,
    kinds,
    score_metric,
    score_name,
    tested,
)
from .verdict import calibrate
from .words import size

__all__ = ["caveats"]


def caveats(results: Results) -> list[str]:
    """Return what limits the answer, one item each; only what the numbers show."""
    noted = (
        _nothing_learned(results),
        _free_lunch(results),
        _relapse(results),
        _kinds_differ(results),
        _solvers_differ(results),
        _few_tests(results),
        _few_seeds(results),
        _shared(results),
        _loose_bound(results),
        _fewer_dims(results),
        _left_out(results),
        start_note(results.config),
        _not_gradients(results),
    )
    return [text for text in noted if text]


def _nothing_learned(results: Results) -> str:
    """Say if the full kernel's classifier learns nothing."""
    full, base = full_score(results).mean, baseline(results).mean
    if full > base:
        return ""
    return (
        f"The full kernel itself does not improve on no training ({fmt.percent(full)} against"
        f" {fmt.percent(base)}): how many dimensions reach that says little. Look at the prompt,"
        " the number of shots or the model first."
    )


def _free_lunch(results: Results) -> str:
    """Say if no training at all reaches the target score."""
    target, base = needed(results, kinds(results)[0]).target, baseline(results).mean
    if base < target or full_score(results).mean <= base:
        return ""
    return (
        f"No training at all reaches {fmt.percent(base)}, the target is {fmt.percent(target)}: the"
        " dimension for that share of the score says little here, that for the gain says more."
    )


def _relapse(results: Results) -> str:
    """Say if a higher dimension falls below the target again."""
    found = needed(results, kinds(results)[0])
    if not found.relapses:
        return ""
    dims = fmt.joined([fmt.count(dim) for dim in found.relapses])
    return (
        f"At {dims} dimensions the mean score is below the target again: noise between draws is as"
        " large as what separates the dimensions."
    )


def _kinds_differ(results: Results) -> str:
    """Say how far the other kinds' dimensions lie from the first one's interval."""
    first, *others = kinds(results)
    answer = needed(results, first)
    low = answer.size if math.isnan(answer.low) else answer.low
    high = answer.size if math.isnan(answer.high) else answer.high
    outside = [
        f"{kind.name} {size(found.size, found.last)}"
        for kind in others
        if not low <= (found := needed(results, kind)).size <= high
    ]
    if not outside:
        return ""
    return f"Outside the interval of {first.name} lie {fmt.joined(outside)} dimensions."


def _solvers_differ(results: Results) -> str:
    """Say what the other classifiers find."""
    kind = kinds(results)[0]
    judged, *others = results.config["solvers"]
    found = {solver: needed(results, kind, "score", solver) for solver in others}
    if not found:
        return ""
    said = [f"{size(each.size, each.last)} ({solver})" for solver, each in found.items()]
    return (
        f"The {judged} classifier gave the answer; others, each against its own score on the full"
        f" kernel, need {fmt.joined(said)} dimensions."
    )


def _few_tests(results: Results) -> str:
    """Say if the test set is too small for the margin that the target leaves."""
    about = {"kernel": "full", "solver": judge(results, None), "split": "test"}
    error = score_error(results, cells(results.table, metric=score_metric(results), **about))
    margin = (1 - results.config["share"]) * full_score(results).mean
    if not error > margin / 2:
        return ""
    return (
        f"{tested(results)} test examples are few: one standard error of the full kernel's"
        f" {score_name(results)} is {fmt.points(error)} points, the target lies"
        f" {fmt.points(margin)} points below it."
    )


def _few_seeds(results: Results) -> str:
    """Say how little a few seeds tell."""
    data, draws = (len(results.config[f"{name}_seeds"]) for name in ("data", "projection"))
    if max(data, draws) == 1:
        return "One draw and one data seed: how much the answer varies with them is not known."
    if data == 1:
        return (
            f"One data split: intervals are over {draws} draws of the subspace and hold for this"
            " split. Bootstraps of so few draws come out somewhat narrow."
        )
    return ""


def _shared(results: Results) -> str:
    """Say how much of the raw distortion is one factor of the whole kernel."""
    kind = kinds(results)[0]
    found = calibrate(results, kind)
    if found is None or found.shared < 0.5:
        return ""
    cosine = _mean_cosine(results)
    return (
        f"{fmt.percent(found.shared, 0)} of the squared raw distortion ({kind.name}) is common to"
        f" all pairs of a draw: gradients are nearly parallel{cosine}, so a draw scales the whole"
        " kernel, which no classifier sees. Raw distortions of a draw are therefore hardly more"
        " than one number, and agree with theory only as far as so few can; centred ones are"
        " what matters."
    )


def _mean_cosine(results: Results) -> str:
    """Return the root mean square cosine of the gradients, read from σ² d = 1 + cos²."""
    sigmas = distortion(results, kinds(results)[0], "sigma")
    dim, sigma = next(iter(sigmas.items()))
    cosine = math.sqrt(max(sigma.mean**2 * dim - 1.0, 0.0))
    return f" (root mean square cosine {fmt.fixed(cosine, 2)})"


def _loose_bound(results: Results) -> str:
    """Say how much wider than needed the Johnson-Lindenstrauss bound is."""
    found = calibrate(results, kinds(results)[0], centred=True)
    if found is None or math.isnan(found.slack):
        return ""
    return (
        "The Johnson-Lindenstrauss bound holds but is loose: at 95 % it allows at least"
        f" {fmt.fixed(found.slack, 1)} times the distortion that 90 % of the centred pairs keep to"
        f" ({kinds(results)[0].name}); it promises nothing below about 120 dimensions."
    )


def _fewer_dims(results: Results) -> str:
    """Say which kinds were not tried in all dimensions."""
    last = {kind.name: needed(results, kind).last for kind in kinds(results)}
    fewer = [name for name, dim in last.items() if dim < max(last.values())]
    if not fewer:
        return ""
    return (
        f"To save time {fmt.joined(fewer)} projections were tried up to {last[fewer[0]]} dimensions"
        f" only, the others up to {fmt.count(max(last.values()))} (--max-dense)."
    )


def _left_out(results: Results) -> str:
    """Say which default methods the model cannot take."""
    left_out = results.inputs["left_out"]
    if not left_out:
        return ""
    return f"Left out: {'; '.join(f'{method} ({why})' for method, why in left_out.items())}."


def _not_gradients(results: Results) -> str:
    """Say why there are no distortions under a rule other than SGD."""
    if results.config["rule"] == "sgd":
        return ""
    return (
        f"Under {results.config['rule']} the update is taken in the coordinates that are trained:"
        " the kernel of a random subspace is not an estimate of the full one, and the theory of"
        " random projections says nothing about it. Distortions were not measured."
    )

"""What each figure of ``analyze behavior`` shows, in words computed from the same numbers."""

from __future__ import annotations

import numpy as np

from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.page import Caption
from ..show.study_numbers import score_name
from .numbers import (
    end_errors,
    evidence,
    feature,
    looked,
    margins,
    seeds,
    subspaces,
)
from .text import rate

__all__ = ["captions"]


def captions(results: Results) -> dict[str, Caption]:
    """Return title, caption and text alternative of every figure, by its name."""
    if not looked(results):
        gone = Caption("Nothing to draw", "Every run diverged.", "Every run diverged.")
        return dict.fromkeys(("linearization", "features", "trajectories", "errors"), gone)
    return {
        "linearization": _linearization(results),
        "features": _features(results),
        "trajectories": _trajectories(results),
        "errors": _errors(results),
    }


def _linearization(results: Results) -> Caption:
    seen = evidence(results)
    assert seen is not None
    values = (
        f"zero-shot {fmt.percent(seen.zero_shot)}, kernel {fmt.percent(seen.kernel)}, linearized"
        f" {fmt.percent(seen.linearized)}, fine-tuned {fmt.percent(seen.trained)}"
    )
    over = "data seeds" if len(looked(results)) > 1 else "test examples"
    text = (
        f"Test {score_name(results)}: {values}. Lines are {results.config['confidence']:.0%}"
        f" intervals over {over}; dotted, zero-shot. Linearized is f_lin evaluated at the trained"
        " z, not trained itself."
    )
    return Caption("What the kernel and the linearization reach", text, f"Bars: {values}.")


def _features(results: Results) -> Caption:
    run = looked(results)[0]
    cka, change = (
        [value.mean for value in feature(results, name, run.data_seed).values()]
        for name in ("cka", "relative_frobenius")
    )
    text = (
        f"The kernel of the training examples over training, data seed {run.data_seed}, learning"
        f" rate {rate(run.learning_rate)}, against the one at the start: CKA"
        f" {fmt.moves(cka[0], cka[-1], 3)}, relative difference"
        f" {fmt.moves(change[0], change[-1])}. Best scale asks whether the kernel only grew;"
        " centred leaves out what all examples share. Bands are bootstrap intervals over examples."
    )
    alt = f"Two line charts over steps. CKA {fmt.moves(cka[0], cka[-1], 3)}."
    return Caption("Do features stay fixed?", text, alt)


def _trajectories(results: Results) -> Caption:
    run = looked(results)[0]
    found = margins(results, run, ends=True)
    said = []
    for kind, name in ((found.predicted, "the kernel"), (found.linearized, "training f_lin")):
        names = [each for each in kind if each in found.real]
        x = np.array([found.real[each][-1] - found.real[each][0] for each in names])
        y = np.array([kind[each][-1] - kind[each][0] for each in names])
        if len(names) > 2 and x.std() > 0 and y.std() > 0:
            said.append(f"{fmt.fixed(float(np.corrcoef(x, y)[0, 1]), 2)} for {name}")
    correlation = f" Correlation of the changes: {fmt.joined(said)}." if said else ""
    text = (
        "Margin: the logit of the true label less the largest other; above 0 is right. Above, a"
        " few test examples over the steps, solid real, dotted as the kernel predicts"
        f"{', dashed f_lin trained by the same optimizer' if found.linearized else ''}. Below, all"
        f" {len(found.real)} test examples at the last step, on the diagonal where the prediction"
        f" is right.{correlation} Data seed {run.data_seed}, learning rate"
        f" {rate(run.learning_rate)}."
    )
    alt = f"Lines over steps, and a scatter plot with the diagonal.{correlation}"
    return Caption("Predicted against real logits", text, alt)


def _errors(results: Results) -> Caption:
    seed = seeds(results)[0]
    ends = []
    for name, size in subspaces(results).items():
        found = end_errors(results, seed, name)
        if found:
            low, high = min(found), max(found)
            said = f"{fmt.percent(found[low], 0)} at {rate(low)}"
            if high > low:
                said += f" to {fmt.percent(found[high], 0)} at {rate(high)}"
            ends.append(f"{name} ({fmt.count(size)} parameters) {said}")
    joined = fmt.joined(ends) or "no run and its prediction both ended"
    text = (
        "How far the kernel's prediction is off, as a share of how far the test logits moved, by"
        f" step, by learning rate and by width of what is trained, data seed {seed}. At the last"
        f" step: {joined}. Missing points: training or its prediction diverged."
    )
    return Caption("Error of the prediction", text, f"Line charts of the error: {joined}.")

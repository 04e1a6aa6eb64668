"""What a verification found, in words: how good the advice was, and what limits the proof."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..engine.optimizer_rules import foreign_rule
from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.page import Caption
from ..show.study_numbers import score_name, tested
from .advice import FULL, Advice
from .numbers import (
    Cost,
    Proof,
    cheapest,
    costs,
    failed,
    is_compared,
    names,
    on_edge,
    proof,
    ranking,
    trained_error,
    trial_of,
    value,
)

__all__ = ["caption", "caveats", "sentence", "title", "uncounted", "verdict"]


def title(name: str) -> str:
    """Return what readers call a configuration."""
    return "full fine-tuning" if name == FULL else name


def sentence(results: Results, advice: Advice) -> str:
    """Return how the advice fared when everything was trained, with its numbers."""
    found = proof(results, advice)
    if found is None:
        return _nothing_proved(results, advice)
    scores = {n: fmt.percent(value(results, n, "trained").mean) for n in names(results)}
    return (
        f"{verdict(results, advice)} Fine-tuned, {_called(advice)} reaches a test"
        f" {score_name(results)} of {scores[found.advised]}, the best of the configurations"
        f" ({title(found.best)}) {scores[found.best]}, full fine-tuning {scores[FULL]}."
        f" {_counts(found, advice)}{_labels(results, advice)} {_order(results)} {_cost(results)}"
    )


def _nothing_proved(results: Results, advice: Advice) -> str:
    """Return what could not be trained, of the two that a proof takes."""
    if not is_compared(results):
        return (
            "Training diverged for every configuration, at every setting in some run: nothing could"
            " be compared."
        )
    trained = names(results)
    lost = [title(name) for name in dict.fromkeys((advice.name, FULL)) if name not in trained]
    return f"{_capital(fmt.joined(lost))} could not be trained: nothing is proved."


def _called(advice: Advice) -> str:
    """Return the advice, and whether it was one."""
    if advice.qualifies:
        return f"the advised {title(advice.name)}"
    return f"{title(advice.name)}, which missed the tolerance by kernels and was called closest,"


def verdict(results: Results, advice: Advice) -> str:
    """Return how good the advice was: about full fine-tuning, and in what it chose."""
    found = proof(results, advice)
    if found is None:
        return "The advice could not be tested."
    return f"{_about_full(found, advice)} {_choice(found)}"


def _about_full(found: Proof, advice: Advice) -> str:
    """Return whether what the kernels said of full fine-tuning was so."""
    named = title(advice.name)
    if found.right is None:
        return (
            "Whether the kernels were right about full fine-tuning is not known: its predictions,"
            " which they were asked about, were not kept."
        )
    if advice.qualifies:
        yes = f"the advised {named} trained within tolerance of it"
        no = f"the advised {named} {_how_it_missed(found)}"
    else:
        yes = "as the kernels said, no configuration trained within tolerance of it"
        no = "the kernels said that no configuration is within tolerance of it, and one trained so"
    if found.right == found.runs:
        return f"Right about full fine-tuning: {yes}."
    if found.right == 0:
        return f"Wrong about full fine-tuning: {no}."
    return f"Right about full fine-tuning in {found.right} of {found.runs} runs."


def _how_it_missed(found: Proof) -> str:
    """Return what kept an advised configuration from full fine-tuning: score or predictions."""
    if found.of_full == found.runs:
        return "scores within tolerance of it, but their predictions differ more than tolerated"
    if found.of_full == 0:
        return "trained below the tolerance of it"
    return "trained below the tolerance of it, or to predictions that differ more than tolerated"


def _choice(found: Proof) -> str:
    """Return what choosing this configuration among the others was worth."""
    if found.blind > 1 - 1e-9:
        return (
            "Which configuration to take did not matter: every one trained within tolerance of the"
            " best of them."
        )
    if found.of_best == found.runs:
        times = "" if found.runs == 1 else f" in {found.runs} of {found.runs} runs"
        return f"The choice among the configurations held{times}."
    if found.of_best / found.runs > found.blind:
        return "Its choice among the configurations held more often than a blind one, not always."
    return "Its choice among the configurations did not help: a blind one does as well."


def _counts(found: Proof, advice: Advice) -> str:
    """Return how often it was within tolerance."""
    runs = "the one run" if found.runs == 1 else f"{found.runs} runs"
    return (
        f"Its score is {advice.tolerance} that of the best of them in {found.of_best} of {runs},"
        f" and that of full fine-tuning in {found.of_full}; a configuration taken blindly is"
        f" within that of the best in {fmt.percent(found.blind, 0)} of cases."
    )


def _labels(results: Results, advice: Advice) -> str:
    """Return how many test examples get the label of full fine-tuning, where that was asked."""
    share = value(results, advice.name, "full_agreement").mean
    if advice.agreement is None or math.isnan(share):
        return ""
    return (
        f" It gives {fmt.percent(share)} of the test examples full fine-tuning's label (asked for:"
        f" {fmt.percent(advice.agreement, 0)})."
    )


def _order(results: Results) -> str:
    """Return whether the kernels order the configurations as training does."""
    found = ranking(results)
    if math.isnan(found.rho):
        return (
            f"With {found.count} configurations, or scores all alike, there is no order to compare."
        )
    number = (
        f"Spearman's rank correlation of predicted and trained scores over {found.count}"
        f" configurations is {fmt.fixed(found.rho, 2)} ({fmt.fixed(found.low, 2)} to"
        f" {fmt.fixed(found.high, 2)})"
    )
    if found.low <= 0 <= found.high:
        return f"{number}: that does not show that the kernels order them as training does."
    way = "as training does" if found.low > 0 else "the wrong way round"
    noise = 2 * found.error
    if not found.spread >= noise:
        why = (
            "how far chance moves a score is not known"
            if math.isnan(noise)
            else f"their trained scores lie within {fmt.points(found.spread)} points, less than two"
            f" standard errors of one ({fmt.points(noise)})"
        )
        return f"{number}, as if the kernels ordered them {way}; but {why}: no order is shown."
    return f"{number}: the kernels order them {way}."


def _cost(results: Results) -> str:
    """Return what predicting and what trying took."""
    found = costs(results)
    text = (
        f"Predicting took {fmt.duration(found.predicting)}, trying everything"
        f" {fmt.duration(found.trying)}"
    )
    if found.predicting > 0:
        factor = found.trying / found.predicting
        text += f", {fmt.fixed(factor, 1 if factor < 10 else 0)} times as long"
    return f"{text}{uncounted(found)}."


def uncounted(found: Cost) -> str:
    """Return what the time of trying leaves out, in brackets; nothing if it is whole."""
    if not found.lost:
        return ""
    what = "1 fine-tuning" if found.lost == 1 else f"{found.lost} fine-tunings"
    return f" (not counting {what} that diverged: it took longer)"


def caveats(results: Results, advice: Advice) -> list[str]:
    """Return what limits the proof, one item each; only what the numbers show."""
    noted = (
        _diverged(results),
        _edges(results),
        foreign_rule(str(results.config["rule"]), trial_of(results)["optimizer"]),
        _learned_nothing(results),
        _few_tests(results, advice),
        _one_run(results, advice),
        _hindsight(results, advice),
    )
    return [text for text in noted if text]


def _diverged(results: Results) -> str:
    lost = [title(name) for name in failed(results)]
    if not lost:
        return ""
    which = fmt.joined(lost) if is_compared(results) else "all configurations"
    return (
        f"At every setting training diverged for {which}: left out. Lower learning rates"
        " (--verify-learning-rates) would train."
    )


def _edges(results: Results) -> str:
    """Say which configurations chose a learning rate at an end of the grid."""
    at_edge = [title(n) for n in names(results) if on_edge(results, n)]
    if not at_edge:
        return ""
    every = len(at_edge) == len(names(results))
    return (
        "The best learning rate is at an end of the grid for"
        f" {'all configurations' if every else fmt.joined(at_edge)}: these might train better with"
        " a wider one (--verify-learning-rates)."
    )


def _learned_nothing(results: Results) -> str:
    """Say if full fine-tuning does not improve on no training."""
    if FULL not in names(results):
        return ""
    full, start = (value(results, FULL, metric).mean for metric in ("trained", "start"))
    if full > start:
        return ""
    return (
        f"Full fine-tuning does not improve on no training ({fmt.percent(full)} against"
        f" {fmt.percent(start)}): more steps or other learning rates first."
    )


def _few_tests(results: Results, advice: Advice) -> str:
    """Say if the test set is too small to see the differences that matter."""
    if advice.name not in names(results):
        return ""
    score = value(results, advice.name, "trained").mean
    error = trained_error(results, [advice.name])
    margin = advice.drop if advice.drop is not None else (1 - (advice.share or 1.0)) * score
    if not error > margin:
        return ""
    return (
        f"{tested(results)} test examples: one standard error of a score is {fmt.points(error)}"
        f" points, more than the {fmt.points(margin)} points tolerated."
    )


def _one_run(results: Results, advice: Advice) -> str:
    found = proof(results, advice)
    if found is None or found.runs > 1:
        return ""
    return (
        "One data seed and one draw: how often the advice holds is not known. More --seed or"
        " --verify-draws would tell."
    )


def _hindsight(results: Results, advice: Advice) -> str:
    """Say what would have been advised, had the outcome of training been known."""
    if FULL not in names(results):
        return ""
    best = cheapest(results, advice)
    if best == advice.name:
        return ""
    if best is None:
        return "In hindsight no configuration trained within tolerance of full fine-tuning."
    return (
        f"In hindsight the cheapest within tolerance of full fine-tuning was {title(best)}, not"
        f" {title(advice.name)}."
    )


def caption(results: Results, advice: Advice) -> Caption:
    """Return title, caption and text alternative of the figure."""
    shown = {
        name: (value(results, name, "predicted").mean, value(results, name, "trained").mean)
        for name in names(results)
    }
    above = sum(trained > predicted for predicted, trained in shown.values())
    gap = sum(trained - predicted for predicted, trained in shown.values()) / len(shown)
    score = score_name(results)
    text = (
        f"Test {score} of each configuration, as its kernel predicted it and after fine-tuning"
        f" ({_how(trial_of(results))}). On the diagonal both agree; {above} of {len(shown)} lie"
        f" above it, training being {fmt.points(abs(gap))} points"
        f" {'better' if gap >= 0 else 'worse'} on average. Ringed: the advice"
        f" ({title(advice.name)}). The dotted line is the score before training. Bars, where"
        " they fit, are intervals over seeds, or over test examples where there is one run."
    )
    alt = ", ".join(
        f"{title(name)} {fmt.percent(one)} predicted, {fmt.percent(other)} trained"
        for name, (one, other) in shown.items()
    )
    return Caption("Predicted and fine-tuned, side by side", text, f"Scatter plot: {alt}.")


def _how(trial: Mapping[str, Any]) -> str:
    """Return how everything was trained."""
    rates = ", ".join(f"{rate:g}" for rate in trial["learning_rates"])
    sizes = ", ".join(map(str, trial["batch_sizes"]))
    return (
        f"{trial['optimizer']}, {trial['steps']} steps of batch size {sizes}, learning rates"
        f" {rates}, chosen on dev"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

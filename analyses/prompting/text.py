"""Question, answer and caveats of ``analyze prompting``, in words computed from the results."""

from __future__ import annotations

import math

from ..engine.optimizer_rules import foreign_rule
from ..engine.ranking import FEWEST, Correlation
from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.study_numbers import model_name, score_error, score_name, tested
from .numbers import (
    Prediction,
    Trial,
    best,
    chance,
    compared,
    kernel_choice,
    learned,
    lost,
    predictions,
    promised,
    prompts,
    seconds,
    settings,
    trained_rows,
    trials,
    value,
)

__all__ = ["caveats", "choice", "correlation", "question", "sentence"]


def question(results: Results) -> str:
    """Return what was asked."""
    task = results.inputs["task"]["name"]
    return (
        f"Which prompt should {model_name(results)} be fine-tuned with on {task}, and does the"
        " kernel of the model before training tell?"
    )


def sentence(results: Results) -> str:
    """Return the answer, with numbers."""
    several = len(results.config["data_seeds"]) > 1
    average = " on average" if several else ""
    chosen, score = choice(results), score_name(results)
    if not learned(results):
        reach = f"{fmt.percent(promised(results))} test {score}{average}"
        unchecked = "fewer than two prompts could be fine-tuned to check that"
        if not results.config["finetune"]:
            unchecked = "nothing was fine-tuned to check that (--finetune does)"
        return f"The kernel puts {chosen} first ({reach}); {unchecked}."
    kernel = predictions(results)[0]
    top = best(results)
    trained = value(results, _trial(results, top[0]), "finetune")
    assert trained is not None
    among = f" of the {len(compared(results))} prompts that trained" if lost(results) else ""
    against = "each seed's best prompt" if several else "the best prompt"
    return (
        f"Fine-tuned, {fmt.joined(top)} {'is' if len(top) == 1 else 'are'} best{among}{average}"
        f" ({fmt.percent(trained.mean)} test {score}). Before training the kernel puts {chosen}"
        f" first, which costs {_points(results, kernel.regret)}{average} against {against}"
        f" ({_points(results, chance(results)['a prompt at random'])} for a prompt at random)."
        f" {_order(results, kernel)}"
    )


def choice(results: Results) -> str:
    """Return what the kernel puts first, and on how many data seeds where they differ."""
    found, seeds = kernel_choice(results), len(results.config["data_seeds"])
    if all(len(on) == seeds for on in found.values()):
        return fmt.joined(list(found))
    return fmt.joined([f"{name} ({len(on)} of {seeds} data seeds)" for name, on in found.items()])


def _order(results: Results, kernel: Prediction) -> str:
    """Return how well the order of the prompts was known before training."""
    if all(math.isnan(each.correlation.value) for each in predictions(results)):
        return "There is no order to predict: the prompts tie."
    return (
        f"Its dev {score_name(results)} orders the {kernel.correlation.count} prompts with a rank"
        f" correlation of {correlation(kernel.correlation)} with fine-tuning; {_others(results)}."
    )


def correlation(found: Correlation) -> str:
    """Return a rank correlation with its interval."""
    if math.isnan(found.value):
        return "– (all tie)"
    value = fmt.decimal(found.value, 2)
    if math.isnan(found.low):
        return value
    return f"{value} ({fmt.decimal(found.low, 2)} to {fmt.decimal(found.high, 2)})"


def _others(results: Results) -> str:
    """Return the rank correlations of the other predictors known before training."""
    names = {
        "kernel alignment, train": "kernel-target alignment",
        "zero-shot, dev": "zero-shot score",
    }
    found = []
    for each in predictions(results):
        if each.name in names:
            rho = each.correlation.value
            says = "ties on all" if math.isnan(rho) else f"has {fmt.decimal(rho, 2)}"
            found.append(f"the {names[each.name]} {says}")
    return fmt.joined(found)


def _points(results: Results, regret: float) -> str:
    """Return a loss of score in points."""
    unit = "points" if score_name(results) == "accuracy" else f"points of {score_name(results)}"
    return f"{fmt.points(regret)} {unit}"


def _trial(results: Results, prompt: str) -> Trial:
    """Return the prompt of this name on pretrained weights."""
    return next(trial for trial in prompts(results) if trial.prompt == prompt)


def caveats(results: Results) -> list[str]:
    """Return what limits the answer; each computed from the numbers."""
    notes = [
        f"Prompt {name} was left out: {reason}."
        for name, reason in results.inputs["skipped"].items()
    ]
    notes += _on_training(results)
    if learned(results):
        notes += _on_ranking(results)
    if len(results.config["data_seeds"]) == 1:
        notes.append(
            "One data split: another draw of training examples may order the prompts differently."
        )
    if len(results.inputs["prompts"]) - len(results.inputs["skipped"]) == 1:
        notes.append("One prompt only: there is nothing to order.")
    return notes


def _on_training(results: Results) -> list[str]:
    """Return what is to be said of the fine-tuning."""
    notes: list[str] = []
    if results.config["finetune"]:
        notes += filter(None, [foreign_rule(results.config["rule"], results.config["optimizer"])])
    for trial in lost(results):
        rows = results.table[results.table["note"].notna()]
        rows = rows[(rows["prompt"] == trial.prompt) & (rows["method"] == "finetune")]
        rows = rows[rows["weights"] == "pretrained"]
        why = rows["note"].iloc[0] if len(rows) else "no number"
        notes.append(f"Prompt {trial.prompt} is not compared, its training failed: {why}.")
    edges = [
        trial.label
        for trial in trials(results)
        if any(note for _, note in settings(results, trial, "learning_rate"))
    ]
    if edges:
        notes.append(
            "The best learning rate is at the edge of the grid, so a wider grid may train better:"
            f" {fmt.joined(edges)}."
        )
    return notes


def _on_ranking(results: Results) -> list[str]:
    """Return what is to be said of the rank correlation."""
    notes = []
    found: Prediction = predictions(results)[0]
    count = found.correlation.count
    if count < FEWEST:
        notes.append(f"With {count} prompts a rank correlation says little, and has no interval.")
    elif not math.isnan(found.correlation.low) and found.correlation.low <= 0:
        notes.append(
            "The interval of the kernel's rank correlation holds 0: these prompts do not show that"
            " the kernel tells them apart."
        )
    scores = [value(results, trial, "finetune") for trial in compared(results)]
    known = [each.mean for each in scores if each is not None]
    noise = 2 * score_error(results, trained_rows(results))
    if max(known) - min(known) < noise:
        notes.append(
            f"Fine-tuned, the prompts lie within {fmt.points(max(known) - min(known))} points;"
            f" two standard errors of a score on {tested(results)} test examples are"
            f" {fmt.points(noise)}: their order is mostly noise."
        )
    if seconds(results, "kernel") > seconds(results, "finetune"):
        notes.append("The kernels took longer than the fine-tuning that they predict.")
    return notes

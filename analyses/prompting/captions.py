"""What each figure of ``analyze prompting`` shows, in words computed from the same numbers."""

from __future__ import annotations

from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.page import Caption
from ..show.study_numbers import score_name
from .figures import ranked
from .numbers import Trial, chance, constant, predictions, prompts, trials, value
from .text import correlation

__all__ = ["captions"]

_WORDS = {
    "zero-shot": "zero-shot",
    "probe": "linear probe",
    "kernel": "kernel",
    "finetune": "fine-tuned",
}


def captions(results: Results) -> dict[str, Caption]:
    """Return title, caption and text alternative of every figure, by its name."""
    found = {"prompts": _prompts(results)}
    if results.config["finetune"]:
        found |= {"trained": _trained(results), "ranking": _ranking(results)}
    if results.config["linear"] or results.config["random"]:
        found["heads"] = _heads(results)
    return found


def _methods(results: Results) -> list[str]:
    return [m for m in _WORDS if m != "finetune" or results.config["finetune"]]


def _scores(results: Results, trial: Trial) -> str:
    """Return all scores of one trial: 51.0 % zero-shot, 68.0 % kernel, ..."""
    parts = []
    for method in _methods(results):
        found = value(results, trial, method)
        if found is not None:
            parts.append(f"{fmt.percent(found.mean)} {_WORDS[method]}")
    return ", ".join(parts)


def _prompts(results: Results) -> Caption:
    order = ranked(results)
    score, intervals = score_name(results), _intervals(results)
    level = fmt.percent(constant(results).mean)
    text = (
        f"Test {score} of every prompt, best first: without training, by the classifier solved on"
        f" its kernel, and {'fine-tuned' if results.config['finetune'] else 'nothing else'}."
        f" First is {order[0].prompt} ({_scores(results, order[0])}), last {order[-1].prompt}"
        f" ({_scores(results, order[-1])}). The dotted line is the best answer that is the same"
        f" for all examples, {level}. Lines are {intervals}."
    )
    alt = f"Dot chart of test {score}, a row a prompt."
    alt += "".join(f" {trial.prompt}: {_scores(results, trial)}." for trial in order)
    return Caption(f"Test {score}, by prompt", text, alt)


def _trained(results: Results) -> Caption:
    score = score_name(results)
    gaps = []
    for trial in prompts(results):
        kernel, found = value(results, trial, "kernel"), value(results, trial, "finetune")
        if kernel is not None and found is not None:
            gaps.append(found.mean - kernel.mean)
    above = sum(gap > 0 for gap in gaps)
    text = (
        f"Fine-tuned test {score} over that of the kernel's classifier, both chosen on dev. Discs"
        " are prompts, with the numbers of the figure above; on the dashed diagonal training"
        f" does what the kernel says. {above} of {len(gaps)} prompts lie above it."
    )
    alt = f"Scatter of fine-tuned over kernel {score}; {above} of {len(gaps)} prompts lie above"
    return Caption("Predicted and fine-tuned", text, f"{alt} the diagonal.")


def _ranking(results: Results) -> Caption:
    found = predictions(results)
    title = "Which number tells the better prompt?"
    if not found:
        return Caption(title, "Fewer than two prompts were fine-tuned.", "Nothing is drawn.")
    rho = fmt.joined([f"{each.name} {correlation(each.correlation)}" for each in found])
    loss = fmt.joined(
        [f"{each.name} {fmt.points(each.regret)}" for each in found]
        + [f"{name} {fmt.points(regret)}" for name, regret in chance(results).items()]
    )
    seeds = " on each data seed, on average" if len(results.config["data_seeds"]) > 1 else ""
    text = (
        "Above, Spearman's rank correlation over prompts of numbers known before training with"
        f" the fine-tuned test score: {rho}. Lines are bootstrap intervals over prompts. Below,"
        f" how many points of test {score_name(results)} one loses by fine-tuning with the prompt"
        f" that each puts first{seeds}: {loss}. Kernel, test is not known in practice: it shows"
        " what the small dev set costs."
    )
    return Caption(title, text, f"Two dot charts. Rank correlations: {rho}. Points lost: {loss}.")


def _heads(results: Results) -> Caption:
    first = prompts(results)[0].prompt
    shown = [t for t in trials(results) if t.head == "linear" or t.prompt == first]
    each = "; ".join(f"{trial.label}: {_scores(results, trial)}" for trial in shown)
    text = (
        f"Test {score_name(results)} of the prompt {first} and of a linear head on the encoder,"
        f" with pretrained and with random weights.{_head_start(results)} {each}. Lines are"
        f" {_intervals(results)}."
    )
    return Caption("Prompt and linear head, pretrained and random", text, f"Dot chart. {each}.")


def _head_start(results: Results) -> str:
    """Return where the linear head starts."""
    if not results.config["linear"]:
        return ""
    if results.config["head_init"] == "probe":
        return (
            " The linear head starts at the linear probe of the training examples, for kernels and"
            " fine-tuning alike."
        )
    return " The linear head starts at random, for kernels and fine-tuning alike."


def _intervals(results: Results) -> str:
    """Return what the intervals are."""
    level = fmt.percent(results.config["confidence"], 0)
    if len(results.config["data_seeds"]) > 1:
        return f"{level} intervals over data seeds (Student's t)"
    return f"{level} bootstrap intervals over the test examples"

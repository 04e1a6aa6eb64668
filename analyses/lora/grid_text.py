"""What a study of several target sets found, in words: rank, targets, and the limits of both."""

from __future__ import annotations

from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.study_numbers import model_name
from . import text as lora_text
from .budget import parse_budget
from .grid import Configuration, Found, by_targets, recommend_configuration
from .numbers import full_score, score_name, tested, trained
from .targets import names

__all__ = ["called", "caveats", "question", "sentence", "size"]


def question(results: Results) -> str:
    """Return what was asked, in one sentence."""
    task, shots = results.inputs["task"]["name"], results.config["shots"]
    budget = results.config["budget"]
    within = f" within {parse_budget(budget)}" if budget is not None else ""
    return (
        f"Which LoRA rank and which targets{within} learn {task}, from {shots} examples a label, as"
        f" full fine-tuning of {model_name(results)} would? Judged before any training,"
        " from kernels."
    )


def sentence(results: Results) -> str:
    """Return the recommendation with its numbers, and why it is that one."""
    found = recommend_configuration(results)
    best, full = found.best, full_score(results, found.solver).mean
    drop = lora_text.drop_words(best.verdict.drop.mean)
    numbers = (
        f"{size(results, best)}, test {score_name(results)} {fmt.percent(best.verdict.score.mean)}"
        f" against {fmt.percent(full)} ({drop}; at most {fmt.points(found.max_drop)} lower allowed)"
        f" and {fmt.percent(best.verdict.agreement.mean)} of the {tested(results)} test predictions"
        f" equal (at least {fmt.percent(found.min_agreement, 0)} asked for)"
    )
    how = f"By the {found.solver} classifier, {lora_text.averaged(results)}."
    return f"{_take(results, found)}: {numbers}.{_why(results, found)} {how}"


def size(results: Results, each: Configuration) -> str:
    """Return how many parameters a configuration trains, and of how many."""
    share = fmt.percent(each.trained / trained(results), 2)
    return f"it trains {fmt.count(each.trained)} parameters ({share})"


def called(each: Configuration) -> str:
    """Return a configuration as ``rank 4 on attention``."""
    return f"rank {each.rank} on {each.targets}"


def caveats(results: Results) -> list[str]:
    """Return what limits the recommendation, one item each; only what the numbers show."""
    found = recommend_configuration(results)
    view = found.view(results)
    sets = results.inputs.get("target_sets", {})
    notes = [f"Targets {name}: {each['note']}." for name, each in sets.items() if each["note"]]
    own = [_near_rivals(found), _other_solvers(results, found), *notes]
    return lora_text.caveats_of_set(view, *own)


def _take(results: Results, found: Found) -> str:
    """Return what to take, or that nothing is good enough."""
    several = len(found.candidates) > 1
    budget = results.config["budget"]
    within = f" and {parse_budget(budget)}" if budget is not None else ""
    if found.qualifies:
        which = "the cheapest" if several else "the one"
        return f"Take {called(found.best)}, {which} within tolerance of full fine-tuning{within}"
    closest = called(found.best).capitalize()
    if not found.best.affordable:
        return f"Nothing fits into {parse_budget(budget)}. {closest} is the cheapest"
    tried = f"No rank of {fmt.joined(names(results))}"
    if len(names(results)) == 1:
        tried = f"No rank on {names(results)[0]}"
    bounded = f" that fits into {parse_budget(budget)}" if budget is not None else ""
    return f"{tried}{bounded} is within tolerance of full fine-tuning. {closest} is closest"


def _why(results: Results, found: Found) -> str:
    """Return what the best configuration misses, and what would not miss it."""
    text = ""
    if not found.best.verdict.ok:
        text += f" It fails on {lora_text.failures(found.best.verdict)}."
    if found.beyond is not None:
        more = found.beyond.trained / trained(results)
        text += (
            f" The cheapest within tolerance, {called(found.beyond)}, trains"
            f" {fmt.count(found.beyond.trained)} ({fmt.percent(more, 2)})."
        )
    return text


def _near_rivals(found: Found) -> str:
    """Say which other target sets do as well, and at what cost."""
    if not found.qualifies:
        return ""
    firsts = [
        next((each for each in line if each.verdict.ok and each.affordable), None)
        for name, line in by_targets(found.every).items()
        if name != found.best.targets
    ]
    rivals = [each for each in firsts if each and each.trained <= 1.25 * found.best.trained]
    if not rivals:
        return ""
    said = [f"{called(r)} ({fmt.count(r.trained)} parameters)" for r in rivals]
    verb = "are" if len(said) > 1 else "is"
    return f"{fmt.joined(said).capitalize()} {verb} within tolerance too, at nearly the same cost."


def _other_solvers(results: Results, found: Found) -> str:
    """Say what the other classifiers would recommend, if they differ."""
    said = []
    for solver in results.config["solvers"]:
        other = recommend_configuration(results, solver)
        if solver != found.solver and _answer(other) != _answer(found):
            said.append(f"{_answer(other) or 'nothing within tolerance'} ({solver})")
    return f"Judged by another classifier the answer is {fmt.joined(said)}." if said else ""


def _answer(found: Found) -> str:
    """Return the recommended configuration; an empty string where none qualifies."""
    return called(found.best) if found.qualifies else ""

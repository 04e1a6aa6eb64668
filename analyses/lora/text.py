"""What ``analyze lora`` found, in words: the recommendation and its limits."""

from __future__ import annotations

from ..engine.heads import start_note
from ..engine.long_table import cells
from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.study_numbers import model_name, score_error
from .numbers import (
    adapted_only,
    full_score,
    limit,
    score_metric,
    score_name,
    tested,
    zero_shot,
)
from .verdict import Recommendation, Verdict, recommend

__all__ = [
    "averaged",
    "caveats",
    "caveats_of_set",
    "drop_words",
    "failures",
    "question",
    "sentence",
]


def question(results: Results) -> str:
    """Return what was asked, in one sentence."""
    task, shots = results.inputs["task"]["name"], results.config["shots"]
    return (
        f"Which LoRA rank learns {task}, from {shots} examples a label, as full fine-tuning of"
        f" {model_name(results)} would? Judged before any training, from kernels."
    )


def sentence(results: Results) -> str:
    """Return the recommendation with its numbers."""
    found = recommend(results)
    best, ranks = found.chosen, [verdict.rank for verdict in found.verdicts]
    full = full_score(results, found.solver).mean
    numbers = (
        f"test {score_name(results)} {fmt.percent(best.score.mean)} against {fmt.percent(full)}"
        f" ({drop_words(best.drop.mean)}; at most {fmt.points(found.max_drop)} lower allowed) and"
        f" {fmt.percent(best.agreement.mean)} of the {tested(results)} test predictions equal (at"
        f" least {fmt.percent(found.min_agreement, 0)} asked for)"
    )
    how = f"By the {found.solver} classifier, {averaged(results)}."
    if found.rank is not None:
        which = "the smallest rank" if len(ranks) > 1 else "the one rank tried,"
        take = f"Take rank {found.rank}, {which} within tolerance of full fine-tuning"
        return f"{take}: {numbers}. {how}"
    tried = f"from {ranks[0]} to {ranks[-1]}" if len(ranks) > 1 else f"tried ({ranks[0]})"
    return (
        f"No rank {tried} is within tolerance of full fine-tuning. Rank {best.rank} is closest:"
        f" {numbers}. It fails on {failures(best)}. {how}"
    )


def caveats(results: Results) -> list[str]:
    """Return what limits the recommendation, one item each; only what the numbers show."""
    found = recommend(results)
    return caveats_of_set(results, _other_solvers(results, found), _named_targets(results))


def caveats_of_set(results: Results, *others: str) -> list[str]:
    """Return the limits that one target set has by itself, and ``others`` in their place."""
    found = recommend(results)
    noted = (
        _nothing_learned(results, found),
        _close_call(found),
        _relapse(found),
        *others,
        _few_tests(results, found),
        _adapted_weights(results, found),
        _judge(results, found),
        start_note(results.config),
        _one_seed(results),
    )
    return [text for text in noted if text]


def averaged(results: Results) -> str:
    """Return what the means are over."""
    counts = {name: len(results.config[f"{name}_seeds"]) for name in ("adapter", "data")}
    seeds = [f"{n} {name} seed{'s' if n > 1 else ''}" for name, n in counts.items()]
    return ("mean of " if max(counts.values()) > 1 else "") + fmt.joined(seeds)


def drop_words(drop: float) -> str:
    """Return a drop as ``0.8 points lower``, ``0.8 points higher`` or ``no difference``."""
    if fmt.points(drop) == fmt.points(0.0):
        return "no difference"
    return f"{fmt.points(abs(drop))} points {'lower' if drop > 0 else 'higher'}"


def failures(verdict: Verdict) -> str:
    """Return which tolerance a rank misses."""
    missed = [] if verdict.drop_ok else ["the score"]
    missed += [] if verdict.agreement_ok else ["the predictions"]
    return fmt.joined(missed)


def _nothing_learned(results: Results, found: Recommendation) -> str:
    """Say if the full kernel's classifier learns nothing: matching it then means little."""
    full, zero = full_score(results, found.solver).mean, zero_shot(results).mean
    if full > zero:
        return ""
    return (
        f"The full kernel itself does not improve on zero-shot ({fmt.percent(full)} against"
        f" {fmt.percent(zero)}). A rank that matches it matches a classifier that learned nothing"
        " useful: look at the prompt, the number of shots or the model first."
    )


def _close_call(found: Recommendation) -> str:
    """Say if an interval of the recommended rank reaches beyond its tolerance."""
    best, beyond = found.chosen, []
    if found.rank is None:
        return ""
    if best.drop.high > found.max_drop:
        reach = f"{fmt.points(best.drop.low)} to {fmt.points(best.drop.high)} points"
        beyond.append(f"of the drop in score ({reach})")
    if best.agreement.low < found.min_agreement:
        low, high = max(best.agreement.low, 0.0), min(best.agreement.high, 1.0)
        beyond.append(f"of equal predictions ({fmt.percent(low)} to {fmt.percent(high)})")
    if not beyond:
        return ""
    return (
        f"A close call: at rank {found.rank} the interval {fmt.joined(beyond)}, over"
        f" {best.drop.over}, reaches beyond the tolerance. More seeds would settle it."
    )


def _relapse(found: Recommendation) -> str:
    """Say if a higher rank fails where the recommended one does not."""
    if not found.relapses:
        return ""
    ranks = fmt.joined([str(rank) for rank in found.relapses])
    who = f"Ranks {ranks}, though higher, are" if len(found.relapses) > 1 else ""
    return (
        f"{who or f'Rank {ranks}, though higher, is'} not within tolerance: noise between seeds is"
        f" as large as the tolerance, and rank {found.rank} may owe its place to luck."
    )


def _other_solvers(results: Results, found: Recommendation) -> str:
    """Say what the other classifiers would recommend, if they differ."""
    solvers = [solver for solver in results.config["solvers"] if solver != found.solver]
    ranks = {solver: recommend(results, solver).rank for solver in solvers}
    if all(rank == found.rank for rank in ranks.values()):
        return ""
    said = [f"{'no rank' if rank is None else f'rank {rank}'} ({s})" for s, rank in ranks.items()]
    return f"Judged by another classifier the answer is {fmt.joined(said)}."


def _few_tests(results: Results, found: Recommendation) -> str:
    """Say if the test set is too small to see a drop of the size that is tolerated."""
    about = {"kernel": "full", "solver": found.solver, "split": "test"}
    error = score_error(results, cells(results.table, metric=score_metric(results), **about))
    if not error > found.max_drop:
        return ""
    return (
        f"{tested(results)} test examples are few: one standard error of the full kernel's"
        f" {score_name(results)} is {fmt.points(error)} points, more than the"
        f" {fmt.points(found.max_drop)} points tolerated. Comparing on the same examples is sharper"
        " than that, but not sharp."
    )


def _adapted_weights(results: Results, found: Recommendation) -> str:
    """Say if even full fine-tuning of the adapted weights is not within tolerance."""
    drop, same = adapted_only(results, found.solver)
    if drop.mean <= found.max_drop and same.mean >= found.min_agreement:
        return ""
    return (
        "Full fine-tuning of only the adapted weights is itself not within tolerance of full"
        f" fine-tuning of the model ({drop_words(drop.mean)}, {fmt.percent(same.mean)} of the"
        f" predictions equal, CKA {fmt.decimal(limit(results, 'cka'), 2)}), and LoRA tends to that"
        " as the rank grows: more targets would bring it closer, a higher rank need not."
    )


def _judge(results: Results, found: Recommendation) -> str:
    """Say why an unusual classifier judges."""
    rule = results.config["rule"]
    if not rule.startswith("asymmetric"):
        return ""
    return (
        f"Rule {rule} has kernels that are not symmetric, from which logistic, ridge and support"
        f" vector classifiers do not learn: the {found.solver} classifier judges instead."
    )


def _named_targets(results: Results) -> str:
    """Say how a named target set was understood, where that is not plain."""
    sets = results.inputs.get("target_sets", {})
    notes = [f"Targets {name}: {each['note']}." for name, each in sets.items() if each["note"]]
    return " ".join(notes)


def _one_seed(results: Results) -> str:
    """Say if there is nothing to see the randomness of the adapter by."""
    if max(len(results.config[f"{name}_seeds"]) for name in ("adapter", "data")) > 1:
        return ""
    return "One adapter seed and one data seed: how much the answer varies with them is not known."

"""The report page and the terminal summary of ``analyze lora``."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.page import Image, Page
from ..show.study_numbers import model_name
from ..show.study_page import TUNING, cost_table, flat, settings
from . import tables
from .captions import captions, intervals
from .numbers import (
    full_score,
    kernel_agreement,
    score_name,
    tested,
    trained,
    zero_shot,
)
from .text import caveats, question, sentence
from .verdict import Recommendation, recommend

__all__ = ["COST_NOTE", "page", "summary"]

COST_NOTE = "The kernels of all ranks and adapter seeds of a data seed come from one pass."


def summary(results: Results) -> Group:
    """Return table, recommendation and caveats for a terminal of 80 columns."""
    found, cka = recommend(results), kernel_agreement(results, "cka")
    where = f"{model_name(results)} on {results.inputs['task']['name']}"
    title = f"LoRA of {where}, {found.solver} classifier"
    table = RichTable(title=title, title_justify="left")
    names = ("rank", "trained", "CKA", "equal predictions", f"test {score_name(results)}", "within")
    for name in names:
        table.add_column(name, justify="left" if name == "rank" else "right")
    whole = trained(results)
    for verdict in found.verdicts:
        table.add_row(
            str(verdict.rank),
            fmt.percent(trained(results, verdict.rank) / whole, 2),
            fmt.decimal(cka[verdict.rank].mean),
            fmt.percent(verdict.agreement.mean),
            fmt.percent(verdict.score.mean),
            "yes" if verdict.ok else "no",
            style="bold" if verdict.rank == found.rank else None,
            end_section=verdict is found.verdicts[-1],
        )
    full = full_score(results, found.solver).mean
    table.add_row(
        "full", fmt.percent(1.0, 0), fmt.decimal(1.0), fmt.percent(1.0), fmt.percent(full)
    )
    table.add_row("zero-shot", "", "", "", fmt.percent(zero_shot(results).mean))
    notes = [Text(f"Note: {text}") for text in caveats(results)]
    return Group(table, Text(sentence(results), style="bold"), *notes)


def page(results: Results, pictures: Mapping[str, bytes]) -> Page:
    """Return the report of ``results``; ``pictures`` are its figures as PNG, by name."""
    found, words = recommend(results), captions(results)
    return Page(
        title=f"LoRA rank for {model_name(results)} on {results.inputs['task']['name']}",
        question=question(results),
        answer=sentence(results),
        facts=_facts(results, found),
        caveats=caveats(results),
        reading=_reading(results, found),
        images=[Image(name, words[name], picture) for name, picture in pictures.items()],
        tables=[
            tables.verdict_table(results, found),
            tables.solver_table(results),
            tables.agreement_table(results, "full"),
            tables.agreement_table(results, "targets"),
        ],
        cost=[tables.trained_table(results), cost_table(results, COST_NOTE)],
        settings=settings(results),
        command=results.command,
        environment=flat(results.environment),
    )


def _facts(results: Results, found: Recommendation) -> dict[str, str]:
    """Return the few numbers to show large."""
    best, score = found.chosen, score_name(results)
    share = trained(results, best.rank) / trained(results)
    return {
        "Recommended rank" if found.rank else "Closest rank": str(best.rank),
        f"Test {score} at rank {best.rank}": fmt.percent(best.score.mean),
        f"Test {score}, full kernel": fmt.percent(full_score(results, found.solver).mean),
        f"Equal predictions at rank {best.rank}": fmt.percent(best.agreement.mean),
        f"CKA with full at rank {best.rank}": fmt.decimal(
            kernel_agreement(results, "cka")[best.rank].mean
        ),
        "Parameters trained": fmt.percent(share, 2),
    }


def _reading(results: Results, found: Recommendation) -> list[str]:
    """Return how to read the page."""
    sizes = next(iter(results.inputs["examples"].values()))
    return [
        *_what_kernels_are(str(results.config["rule"])),
        f"Classifiers are solved on the {sizes['train']} training examples; they measure"
        " regularisation in units of each kernel's mean eigenvalue, so that all kernels are on"
        f" one scale. The {sizes['dev']} dev examples choose it and the scale of the initial"
        f" logits {TUNING[results.config['tuning']]}. Scores are of the {tested(results)} test"
        f" examples. The {found.solver} classifier judges: a rank qualifies if its score is at most"
        f" {fmt.points(found.max_drop)} points below the full kernel's and at least"
        f" {fmt.percent(found.min_agreement, 0)} of its test predictions are the full kernel's, on"
        " the mean over all seeds. The other classifiers are a cross-check.",
        f"Intervals are {intervals(results)}. Those of single runs, over examples, are in the"
        " Parquet table.",
    ]


def _what_kernels_are(rule: str) -> list[str]:
    """Return what the kernels of an update rule are and how LoRA's relates to the full one."""
    kernel = (
        "A kernel here is the empirical neural tangent kernel of the pretrained model with its"
        " prompt: for every two examples, the inner product of the gradients of their logits. While"
        " fine-tuning stays near the pretrained model, it learns what a linear classifier on this"
        " kernel learns. LoRA has a kernel of its own. Where that is the full kernel up to scale,"
        " LoRA learns the same."
    )
    if rule != "sgd":
        return [
            kernel,
            f"The update rule is {rule}: before the inner product, gradients are replaced by the"
            " step that the rule makes of them, entry by entry in the coordinates that are trained."
            " These are LoRA's own for LoRA, so its kernel is no sketch of full fine-tuning's, and"
            " how near they come is for the numbers to say.",
        ]
    return [
        kernel,
        "At its start, LoRA's kernel is a random sketch of the kernel of full fine-tuning of the"
        " adapted weights, and layer by layer proportional to it on average (E[K_LoRA] ∝ K of the"
        " layer). A constant factor is only a learning rate, so read the comparisons that are"
        " free of scale or made at the best scale. LoRA is compared with both: full fine-tuning"
        " of the model, and of the adapted weights only.",
    ]

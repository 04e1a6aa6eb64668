"""The report page and the terminal summary of ``analyze subspace``."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.page import Image, Page
from ..show.study_numbers import costs, model_name
from ..show.study_page import TUNING, cost_table, flat, settings
from . import tables
from .captions import captions
from .cautions import caveats
from .dimension import needed
from .numbers import (
    Family,
    agreement,
    full_score,
    judge,
    kinds,
    lora,
    methods,
    same_predictions,
    score_name,
    scores,
    tested,
    trained_in_full,
    zero_shot,
)
from .text import sentence
from .verdict import calibrate, fewest
from .words import intervals, question, size

__all__ = ["page", "summary"]


def summary(results: Results) -> Group:
    """Return table, answer and caveats for a terminal of 80 columns."""
    where = f"{model_name(results)} on {results.inputs['task']['name']}"
    table = RichTable(
        title=f"Subspaces of {where}, {judge(results, None)} classifier", title_justify="left"
    )
    names = ("method", "trained", "CKA", "equal predictions", f"test {score_name(results)}")
    for name in names:
        table.add_column(name, justify="left" if name == "method" else "right", overflow="fold")
    for family in [kinds(results)[0], *lora(results), *methods(results)]:
        for i, cells in enumerate(_summary_rows(results, family)):
            table.add_row(family.name if i == 0 else "", *cells)
        table.add_section()
    full = fmt.percent(full_score(results).mean)
    whole = fmt.count(trained_in_full(results))
    table.add_row("full", whole, fmt.decimal(1.0), fmt.percent(1.0), full)
    table.add_row("zero-shot", "0", "", "", fmt.percent(zero_shot(results).mean))
    notes = [Text(f"Note: {text}") for text in caveats(results)]
    return Group(table, Text(sentence(results), style="bold"), *notes)


def _summary_rows(results: Results, family: Family) -> list[list[str]]:
    """Return parameters, CKA, equal predictions and score at each size of a family."""
    same, score = same_predictions(results, family), scores(results, family)
    return [
        [
            fmt.count(trained),
            fmt.decimal(cka.mean),
            fmt.percent(same[trained].mean),
            fmt.percent(score[trained].mean),
        ]
        for trained, cka in agreement(results, family).items()
    ]


def page(results: Results, pictures: Mapping[str, bytes]) -> Page:
    """Return the report of ``results``; ``pictures`` are its figures as PNG, by name."""
    words = captions(results)
    found = [
        tables.dimension_table(results),
        tables.fewest_table(results),
        tables.methods_table(results),
        tables.agreement_table(results),
    ]
    if results.config["rule"] == "sgd":
        found += [
            tables.theory_table(results),
            *(tables.distortion_table(results, centred=centred) for centred in (True, False)),
        ]
    return Page(
        title=f"Subspaces for {model_name(results)} on {results.inputs['task']['name']}",
        question=question(results),
        answer=sentence(results),
        facts=_facts(results),
        caveats=caveats(results),
        reading=_reading(results),
        images=[Image(name, words[name], picture) for name, picture in pictures.items()],
        tables=found,
        cost=[cost_table(costs(results))],
        settings=settings(results),
        command=results.command,
        environment=flat(results.environment),
    )


def _facts(results: Results) -> dict[str, str]:
    """Return the few numbers to show large."""
    kind, share = kinds(results)[0], fmt.percent(results.config["share"], 0)
    whole, gain = (needed(results, kind, goal) for goal in ("score", "gain"))
    best = fewest(results)[0]
    facts = {
        f"Dimensions for {share} of full's {score_name(results)}": size(whole.size, whole.last),
        f"Dimensions for {share} of full's gain": (
            "–" if math.isnan(gain.size) else size(gain.size, gain.last)
        ),
        f"Test {score_name(results)}, full kernel": fmt.percent(full_score(results).mean),
        f"Parameters for CKA {fmt.decimal(results.config['min_cka'], 2)}, {best.family.name}": size(
            best.size, best.last
        ),
        "Parameters of full fine-tuning": fmt.count(trained_in_full(results)),
    }
    if (found := calibrate(results, kind, centred=True)) is not None:
        facts["Distortion, measured ÷ formula"] = fmt.fixed(found.ratio, 2)
    return facts


def _reading(results: Results) -> list[str]:
    """Return how to read the page."""
    sizes = next(iter(results.inputs["examples"].values()))
    share, config = fmt.percent(results.config["share"], 0), results.config
    return [
        "A kernel here is the empirical neural tangent kernel of the pretrained model with its"
        " prompt: for every two examples, the inner product of the gradients of their logits in the"
        " coordinates that are trained. While fine-tuning stays near the pretrained model, it"
        " learns what a linear classifier on this kernel learns.",
        "A random subspace trains z in θ = θ₀ + P z with random P of d columns, so its kernel is a"
        " random projection of the full one: unbiased, and the closer the more dimensions. Its"
        " agreement with the full kernel depends on d and hardly on the model's size, which is"
        " what Johnson and Lindenstrauss promise. LoRA's kernels are random too, but not"
        " projections of all parameters.",
        f"The dimension needed is the least in which the classifier has {share} of the full"
        " kernel's test score. Aghajanyan et al. (2021) find it by training and call it d90; this"
        " one is predicted without training. As guessing may come close to that score, the same"
        " share of the full kernel's gain over no training (the better of zero-shot and the best"
        " constant answer) is given beside it.",
        f"Classifiers are solved on the {sizes['train']} training examples; they measure"
        " regularisation in units of each kernel's mean eigenvalue, so that all kernels are on one"
        f" scale. The {sizes['dev']} dev examples choose it and the scale of the initial logits"
        f" {TUNING[config['tuning']]}. Scores are of the {tested(results)} test examples. The"
        f" {config['solvers'][0]} classifier in {kinds(results)[0].name} subspaces gives the"
        " answer; the others are a cross-check.",
        f"Bands and brackets are {intervals(results)}; those of the dimension needed are"
        " percentile bootstraps over the same seeds.",
    ]

"""How a verification is shown: in the report, in the terminal, and to other programs."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.page import Proof, Table
from ..show.study_numbers import score_name
from ..show.table import EDGE
from .advice import FULL, Advice
from .numbers import (
    cheapest,
    costs,
    is_compared,
    names,
    on_edge,
    parameters,
    proof,
    ranking,
    trial_of,
    value,
    values,
)
from .text import caption, caveats, sentence, title, uncounted, verdict

_BEYOND = f"{EDGE} The best learning rate is at an end of the grid: a wider one may train better."


def shown(results: Results, advice: Advice) -> Proof:
    """Return what the study's report says of what fine-tuning made of its advice."""
    tables = [_configurations(results, advice)] if is_compared(results) else []
    trial = {
        f"verify {name.replace('_', ' ')}": ", ".join(f"{each:g}" for each in given)
        if isinstance(given, list)
        else str(given)
        for name, given in trial_of(results).items()
    }
    return Proof(
        verdict=verdict(results, advice),
        facts=_trained(results, advice),
        caveats=caveats(results, advice),
        reading=sentence(results, advice),
        caption=caption(results, advice) if is_compared(results) else None,
        tables=tables,
        cost=[_cost(results)],
        settings=trial,
    )


def _trained(results: Results, advice: Advice) -> dict[str, str]:
    """Return what the advice and full fine-tuning reached, as far as they could be trained."""
    return {
        f"Fine-tuned {score_name(results)}, {name}": fmt.percent(
            value(results, name, "trained").mean
        )
        for name in (advice.name, FULL)
        if name in names(results)
    }


def _configurations(results: Results, advice: Advice) -> Table:
    """Return every configuration: predicted, trained, and how alike."""
    shown = names(results)
    rows = []
    for name in shown:
        predicted, trained = (value(results, name, m) for m in ("predicted", "trained"))
        rows.append(
            [
                title(name),
                fmt.count(parameters(results, name)),
                fmt.share_between(predicted),
                fmt.share_between(trained) + _mark(results, name),
                fmt.points(trained.mean - predicted.mean),
                fmt.percent(value(results, name, "prediction_agreement").mean),
                fmt.percent(value(results, name, "full_agreement").mean),
                _correlation(results, name, "logit_correlation"),
                _correlation(results, name, "change_correlation"),
                _distinct(values(results, name, "learning_rate")),
                _distinct(values(results, name, "best_step")),
            ]
        )
    score = score_name(results)
    return Table(
        "Put to the proof: predicted and fine-tuned",
        f"Test {score} of the judge's classifier on the kernel, and of the fine-tuned model at the"
        " step and setting that dev chose; by how many points training is above. Share of test"
        " examples to which both give one label, and to which training gives that of full"
        " fine-tuning; correlation of predicted and trained logits, and of what each adds to the"
        " initial ones. Then what dev chose, run by run. Intervals in brackets. Predictions"
        " and training share their test examples: chance in those favours the advice somewhat."
        + (f" {_BEYOND}" if any(on_edge(results, name) for name in shown) else ""),
        ["", "parameters", "predicted", "fine-tuned", "points above", "equal predictions",
         "as full fine-tuning", "r of logits", "r of changes", "learning rate", "best step"],
        rows,
        marked=[i for i, name in enumerate(shown) if name == advice.name],
    )  # fmt: skip


def _mark(results: Results, name: str) -> str:
    """Return the mark of a score that a wider grid might raise, or nothing."""
    return EDGE if on_edge(results, name) else ""


def _correlation(results: Results, name: str, metric: str) -> str:
    """Return a mean correlation, a dash where one side never moved."""
    found = value(results, name, metric).mean
    return "–" if math.isnan(found) else fmt.fixed(found, 2)


def _distinct(found: list[float]) -> str:
    """Return the different values of runs, in order."""
    return ", ".join(f"{each:g}" for each in sorted(set(found)))


def _cost(results: Results) -> Table:
    """Return what predicting cost beside trying."""
    found = costs(results)
    factor = found.trying / found.predicting if found.predicting > 0 else math.nan
    return Table(
        "Predicting against trying",
        "Measured in this run, over all data seeds: kernels and classifiers of every configuration"
        " and draw of the study, against fine-tuning those that were tried, at every setting of the"
        f" grid{uncounted(found)}.",
        ["", "seconds", "times predicting"],
        [
            ["predicting", fmt.duration(found.predicting), "1.0"],
            [
                f"trying ({found.runs} searches)",
                fmt.duration(found.trying),
                "–" if math.isnan(factor) else fmt.fixed(factor, 1),
            ],
        ],
    )


def summary(results: Results, advice: Advice) -> Group:
    """Return table, verdict and limits for a terminal of 80 columns; no table of nothing."""
    notes = [Text(f"Note: {text}") for text in caveats(results, advice)]
    answer = Text(sentence(results, advice), style="bold")
    if not is_compared(results):
        return Group(answer, *notes)
    table = RichTable(title="Put to the proof by fine-tuning", title_justify="left")
    columns = ("configuration", "parameters", "predicted", "fine-tuned", "equal", "r logits")
    for name in columns:
        table.add_column(
            name, justify="left" if name == "configuration" else "right", overflow="fold"
        )
    for name in names(results):
        table.add_row(
            title(name),
            fmt.count(parameters(results, name)),
            fmt.percent(value(results, name, "predicted").mean),
            fmt.percent(value(results, name, "trained").mean) + _mark(results, name),
            fmt.percent(value(results, name, "prediction_agreement").mean),
            _correlation(results, name, "logit_correlation"),
            style="bold" if name == advice.name else None,
        )
    if any(on_edge(results, name) for name in names(results)):
        table.caption, table.caption_justify = _BEYOND, "left"
    return Group(table, answer, *notes)


def as_json(results: Results, advice: Advice) -> dict[str, Any]:
    """Return the verification as plain values; what is no number may stand as NaN."""
    found = proof(results, advice)
    metrics = (
        *("predicted", "trained", "start", "prediction_agreement", "full_agreement"),
        *("logit_correlation", "change_correlation"),
    )
    return {
        "answer": sentence(results, advice),
        "caveats": caveats(results, advice),
        "advised": advice.name,
        "cheapest": cheapest(results, advice),
        "proof": None if found is None else asdict(found),
        "ranking": asdict(ranking(results)),
        "cost": asdict(costs(results)),
        "trial": trial_of(results),
        "configurations": [
            {
                "name": name,
                "parameters": parameters(results, name),
                **{metric: value(results, name, metric).mean for metric in metrics},
            }
            for name in names(results)
        ],
    }

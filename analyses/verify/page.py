"""How a verification is shown: in the report, in the terminal, and to other programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from ..show import numbers as fmt
from ..show.page import Caption, Proof, Table, words
from ..show.table import DASH, EDGE
from ..show.terminal import notes, rich_table
from .findings import Configuration, Findings
from .trial import FULL

_BEYOND = f"{EDGE} The best learning rate is at an end of its grid: a wider one may train better."
_OWN = " Learning rates are suggested for each configuration."
_NUMBERS = (
    *("predicted", "after_step", "trained", "start", "prediction_agreement", "full_agreement"),
    *("logit_correlation", "change_correlation"),
)

_TEMPLATE = Path(__file__).with_name("proof.html.j2")


def say(found: Findings, block: str) -> str:
    """Return one of the texts of the template; empty if it has nothing to say."""
    return " ".join(words(_TEMPLATE, block, found))


def caveats(found: Findings) -> list[str]:
    """Return what limits the proof, one item each; only what the numbers show."""
    return words(_TEMPLATE, "caveats", found)


def shown(found: Findings) -> Proof:
    """Return what the study's report says of what training made of its advice."""
    caption = None
    if found.is_compared:
        title = "Predicted and fine-tuned, side by side"
        caption = Caption(title, say(found, "caption"), say(found, "alt"))
    return Proof(
        verdict=say(found, "verdict"),
        facts={
            f"Fine-tuned {found.score}, {each.name}": fmt.percent(each.trained.mean)
            for each in (found.advised, found.full)
            if each is not None
        },
        caveats=caveats(found),
        reading=say(found, "answer"),
        caption=caption,
        tables=[predictors_table(found), configurations_table(found)] if found.is_compared else [],
        cost=[cost_table(found)],
        settings={
            f"verify {name.replace('_', ' ')}": _listed(given)
            if isinstance(given, list)
            else str(given)
            for name, given in found.trial.items()
        },
    )


def configurations_table(found: Findings) -> Table:
    """Return every configuration: predicted, trained, and how alike."""
    rows = [
        [
            each.title,
            fmt.count(each.parameters),
            fmt.share_between(each.predicted),
            fmt.share_between(each.trained) + _mark(each),
            fmt.points(each.gain),
            fmt.percent(each.prediction_agreement),
            fmt.percent(each.full_agreement),
            _correlation(each.logit_correlation),
            _correlation(each.change_correlation),
            _listed(each.learning_rates),
            _listed(each.best_steps),
        ]
        for each in found.configurations
    ]
    return Table(
        "Put to the proof: predicted and fine-tuned",
        f"Test {found.score} of the judge's classifier on the kernel, and of the fine-tuned model"
        " at the step and setting that dev chose; by how many points training is above. Share of"
        " test examples to which both give one label, and to which training gives that of full"
        " fine-tuning; correlation of predicted and trained logits, and of what each adds to the"
        " initial ones. Then what dev chose, run by run. Intervals in brackets. Predictions"
        " and training share their test examples: chance in those favors the advice somewhat."
        + (_OWN if found.is_auto else "")
        + (f" {_BEYOND}" if found.on_edge else ""),
        ["", "parameters", "predicted", "fine-tuned", "points above", "equal predictions",
         "as full fine-tuning", "r of logits", "r of changes", "learning rate", "best step"],
        rows,
        marked=_advised(found),
    )  # fmt: skip


def predictors_table(found: Findings, *, brief: bool = False) -> Table:
    """Return how well each kind of kernel foretold training, beside what is always taken.

    Args:
        found: what training made of the advice.
        brief: leave out what a terminal has no room for.
    """
    made = {"start": "kernels at the start", "step": "kernels after one step"}
    rows = []
    for each in found.predictors:
        ranking, order = each.ranking, DASH
        if ranking.order != "none":
            order = fmt.fixed(ranking.rho, 2)
            if not brief:
                order += f" ({fmt.fixed(ranking.low, 2)} to {fmt.fixed(ranking.high, 2)})"
        rows.append(
            [
                made[each.kernels],
                order,
                fmt.points(each.error) if each.first else DASH,
                f"{each.covered} of {each.told}, ±{fmt.points(each.reach)}" if each.told else DASH,
                each.title if each.first else DASH,
                fmt.points(each.lost) if each.first else DASH,
            ]
        )
    best = max((e.trained.mean for e in found.configurations if e.name != FULL), default=math.nan)
    if found.advised is not None and found.advised.name != FULL:
        lost = fmt.points(best - found.advised.trained.mean)
        rows.append(["the advice", DASH, DASH, DASH, found.advised.title, lost])
    if found.usual is not None:
        name, lost = found.usual.title, fmt.points(found.usual.lost)
        rows.append(["always rank 16, all linear", DASH, DASH, DASH, name, lost])
    return Table(
        "How well training was foretold",
        ""
        if brief
        else "Over the configurations but full fine-tuning: Spearman's rank correlation of"
        " predicted and trained scores; root mean square of their difference, in points; how many"
        " trained scores lie in the interval stated of the predicted one, and how wide those are on"
        " average. Then what each would"
        " take, kernels what they predict best, and how many points that trained below the best.",
        ["", "rank r", "points off", "inside", "takes", "lost"]
        if brief
        else ["", "rank correlation", "points off", "in interval", "takes", "points lost"],
        rows,
    )


def cost_table(found: Findings) -> Table:
    """Return what predicting cost beside trying."""
    spent = found.cost
    return Table(
        "Predicting against trying",
        "Measured in this run, over all data seeds: kernels and classifiers of every configuration"
        " and draw of the study, against fine-tuning those that were tried, at every setting of the"
        f" grid {say(found, 'uncounted')}".rstrip()
        + ".",
        ["", "seconds", "times predicting"],
        [
            ["predicting", fmt.duration(spent.predicting), "1.0"],
            [
                f"trying ({spent.runs} searches)",
                fmt.duration(spent.trying),
                fmt.fixed(spent.factor, 1) if spent.known else DASH,
            ],
            *_extra(found),
        ],
    )


def _extra(found: Findings) -> list[list[str]]:
    """Return the rows of what the proof itself took beyond trying."""
    took = {}
    if found.yardstick is not None:
        took[f"repeating full fine-tuning ({found.yardstick.repeats})"] = found.yardstick.seconds
    if found.cost.stepping:
        took["kernels after one step"] = found.cost.stepping
    return [
        [
            name,
            fmt.duration(seconds),
            fmt.fixed(seconds / found.cost.predicting, 1) if found.cost.known else DASH,
        ]
        for name, seconds in took.items()
    ]


def summary(found: Findings) -> Group:
    """Return table, verdict and limits for a terminal of 80 columns; no table of nothing."""
    parts: list[RenderableType] = []
    if found.is_compared:
        rows = [
            [
                each.title,
                fmt.count(each.parameters),
                fmt.percent(each.predicted.mean),
                fmt.percent(each.trained.mean) + _mark(each),
                fmt.percent(each.prediction_agreement),
                _correlation(each.logit_correlation),
            ]
            for each in found.configurations
        ]
        table = Table(
            "Put to the proof by fine-tuning",
            _BEYOND if found.on_edge else "",
            ["configuration", "parameters", "predicted", "fine-tuned", "equal", "r logits"],
            rows,
            marked=_advised(found),
        )
        parts += [rich_table(table), rich_table(predictors_table(found, brief=True))]
    return Group(*parts, *notes(say(found, "answer"), [], caveats(found)))


def as_json(found: Findings) -> dict[str, Any]:
    """Return the verification as plain values; what is no number may stand as NaN."""
    values = [asdict(each) for each in found.configurations]
    return {
        "answer": say(found, "answer"),
        "caveats": caveats(found),
        "advised": found.advice.name,
        "cheapest": found.cheapest,
        "proof": None if found.proof is None else asdict(found.proof),
        "ranking": asdict(found.ranking),
        "predictors": [asdict(each) for each in found.predictors],
        "evidence": found.evidence,
        "usual": None if found.usual is None else asdict(found.usual),
        "yardstick": None if found.yardstick is None else asdict(found.yardstick),
        "cost": asdict(found.cost),
        "trial": found.trial,
        "configurations": [
            {
                "name": each["name"],
                "parameters": each["parameters"],
                **{name: _mean(each[name]) for name in _NUMBERS},
            }
            for each in values
        ],
    }


def _mean(value: Any) -> float:
    """Return the mean of a pooled number, or a plain one."""
    return float(value["mean"] if isinstance(value, dict) else value)


def _advised(found: Findings) -> list[int]:
    """Return where the advice stands."""
    return [i for i, each in enumerate(found.configurations) if each is found.advised]


def _mark(each: Configuration) -> str:
    """Return the mark of a score that a wider grid might raise, or nothing."""
    return EDGE if each.on_edge else ""


def _correlation(value: float) -> str:
    """Return a mean correlation, a dash where one side never moved."""
    return DASH if math.isnan(value) else fmt.fixed(value, 2)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{each:g}" for each in values)

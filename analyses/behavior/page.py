"""The tables of ``analyze behavior``, for its report and for a terminal."""

from __future__ import annotations

import math

from subkern.agreement import METRICS

from ..show import numbers as fmt
from ..show.page import Table
from ..show.table import EDGE
from .findings import Findings, Inside

NAMES = {
    "zero-shot": "Zero-shot",
    "kernel": "Kernel classifier",
    "linearized": "Linearized at the end",
    "trained": "Fine-tuned",
}
_BEYOND = "The best learning rate is at an end of those tried: a better one may lie beyond."


def tables(found: Findings) -> tuple[list[Table], list[Table]]:
    """Return the report's tables, and those of what it took."""
    inside = found.inside
    own = [] if inside is None else [_linearization(found, inside), _features(inside)]
    return [*own, _runs(found)], [_cost(found)]


def summary(found: Findings) -> Table:
    """Return test scores, for a terminal."""
    rows = []
    if found.inside is not None:
        for what, name in NAMES.items():
            mark = EDGE if what == "trained" and found.edges else ""
            rows.append([name, fmt.percent(found.inside.scores[what].mean) + mark])
    return Table(
        f"Kernel behavior of {found.model} on {found.task}",
        f"{EDGE} {_BEYOND}" if found.edges else "",
        ["", f"test {found.score_name}"],
        rows,
    )


def _linearization(found: Findings, inside: Inside) -> Table:
    """Return what linearization keeps, a row a data seed and split."""
    rows = [
        [
            f"seed {seed}, {split}",
            *(fmt.percent(value[what]) for what in ("zero_shot", "linearized", "trained")),
            fmt.percent(value["recovered"], 0),
            fmt.decimal(value["distance"], 2),
            fmt.percent(value["same_predictions"]),
        ]
        for (seed, split), value in inside.linearization.items()
    ]
    header = ["", "zero-shot", "linearized", "fine-tuned", "recovered", "distance", "same labels"]
    note = (
        "f_lin at the best step on dev. Recovered: share of the gain in score. Distance:"
        " ‖f_lin − f‖ over ‖f − start‖ of the logits."
    )
    return Table(f"Linearization, {found.score_name}", note, header, rows)


def _features(inside: Inside) -> Table:
    """Return every agreement metric against the start, a column a step, of the first seed."""
    run = inside.runs[0]
    own = inside.features[run.data_seed]
    rows = [
        [METRICS[name].title, *(fmt.decimal(value.mean) for value in steps.values())]
        for name, steps in own.items()
    ]
    header = ["", *(f"step {at}{' *' if at == run.best_step else ''}" for at in own["cka"])]
    note = (
        "The kernel of the training examples at that step against the one at the start, data seed"
        f" {run.data_seed}; step 0 shows what no change is. * the best step on dev."
    )
    return Table("Features: the kernel over training", note, header, rows)


def _runs(found: Findings) -> Table:
    """Return every run: score, and how far the prediction is off."""
    rows = []
    for run in found.runs:
        said = [fmt.percent(value) for value in (run.dev, run.test, run.end_error)]
        if run.diverged is not None:
            said = [
                f"diverged at step {run.diverged}",
                fmt.percent(math.nan),
                fmt.percent(math.nan),
            ]
        mark = EDGE if run.edge else ""
        rate = fmt.rate(run.learning_rate) + mark
        rows.append(
            [f"{run.subspace}, seed {run.data_seed}", fmt.count(run.parameters), rate, *said]
        )
    name = found.score_name
    header = ["", "parameters", "learning rate", f"dev {name}", f"test {name}", "test error"]
    note = (
        "Scores at the best step on dev; the error of the kernel's prediction at the last step."
        " Marked: looked into."
    ) + (f" {EDGE} {_BEYOND}" if found.edges else "")
    marked = [at for at, run in enumerate(found.runs) if run.chosen]
    return Table("Runs", note, header, rows, marked=marked)


def _cost(found: Findings) -> Table:
    """Return how long the runs took."""
    rows = [
        [name, str(len(each)), fmt.duration(sum(each)) if each else fmt.percent(math.nan)]
        for name, each in found.cost.items()
    ]
    return Table("Real training", "", ["", "runs", "in all"], rows)

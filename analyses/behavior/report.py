"""The report page and the terminal summary of ``analyze behavior``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from subkern.agreement import METRICS
from subkern.kernel_behavior import share_of_gain

from ..engine.long_table import cells
from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.page import Image, Page, Table
from ..show.study_numbers import model_name, score_name
from ..show.study_page import flat, settings
from ..show.table import EDGE
from .captions import captions
from .config import SHARES
from .figures import NAMES
from .numbers import (
    Looked,
    at_edge,
    critical_rates,
    curve,
    end_errors,
    evidence,
    feature,
    looked,
    rates,
    score,
    seeds,
    steps_of_kernels,
    subspaces,
    verdict,
)
from .text import approximations, caveats, question, rate, sentence

__all__ = ["page", "summary"]

NONE = "–"
_BEYOND = "The best learning rate is at an end of those tried: a better one may lie beyond."


def summary(results: Results) -> Group:
    """Return table, answer, reasons and caveats for a terminal of 80 columns."""
    where = f"{model_name(results)} on {results.inputs['task']['name']}"
    table = RichTable(title=f"Kernel behaviour of {where}", title_justify="left")
    table.add_column("")
    table.add_column(f"test {score_name(results)}", justify="right")
    if looked(results):
        for what, name in NAMES.items():
            mark = EDGE if what == "trained" and _edges(results) else ""
            table.add_row(name, fmt.percent(score(results, what).mean) + mark)
        if _edges(results):
            table.caption, table.caption_justify = f"{EDGE} {_BEYOND}", "left"
    found = verdict(results)
    reasons = [Text(f"- {reason}") for reason in (found.reasons if found else ())]
    notes = [Text(f"Note: {text}") for text in caveats(results)]
    answer = Text(sentence(results), style="bold")
    return Group(*([table] if looked(results) else []), answer, *reasons, *notes)


def page(results: Results, pictures: Mapping[str, bytes]) -> Page:
    """Return the report of ``results``; ``pictures`` are its figures as PNG, by name."""
    words = captions(results)
    found = verdict(results)
    tables = [_runs_table(results)]
    if looked(results):
        tables = [_linearization_table(results), _features_table(results), *tables]
    return Page(
        title=f"Kernel behaviour of {model_name(results)} on {results.inputs['task']['name']}",
        question=question(results),
        answer=sentence(results),
        facts=_facts(results),
        caveats=caveats(results),
        reading=[*(found.reasons if found else ()), *_reading(results)],
        images=[Image(name, words[name], picture) for name, picture in pictures.items()],
        tables=tables,
        cost=[_cost_table(results)],
        settings=settings(results),
        command=results.command,
        environment=flat(results.environment),
    )


def _facts(results: Results) -> dict[str, str]:
    """Return the few numbers to show large."""
    found, seen = verdict(results), evidence(results)
    if found is None or seen is None:
        return {"Kernel behaviour": "undecided"}

    def of_gain(value: float) -> str:
        share = share_of_gain(seen.zero_shot, value, seen.trained)
        return NONE if math.isnan(share) else fmt.percent(share, 0)

    return {
        "Kernel behaviour": found.behaviour,
        "Share of the gain, kernel": of_gain(seen.kernel),
        "Share of the gain, linearized": of_gain(seen.linearized),
        "CKA of the kernel, after and before": fmt.decimal(seen.cka),
        f"Test {score_name(results)}, fine-tuned": fmt.percent(seen.trained),
    }


def _reading(results: Results) -> list[str]:
    """Return how to read the page."""
    config = results.config
    return [
        "Fine-tuning shows kernel behaviour if the pretrained model's kernel solves the task, if"
        " f_lin(x) = f(x; z₀) + ⟨∇f(x; z₀), z − z₀⟩ keeps most of what training gained when it is"
        " evaluated at the trained z, and if the kernel after training is about the one before"
        " (Malladi et al., 2023). The thresholds are settings.",
        f"Each run trains {config['subspace']} for {config['steps']} steps of"
        f" {config['optimizer']} with batches of {config['train_batch_size']}; the learning rate"
        " and the step that are looked into are the best on dev. The prediction sees the kernel,"
        " the labels, the initial logits and the order of the batches, never the model.",
        _exactness(results),
        *_critical(results),
        "Errors are ‖predicted − real‖ over ‖real − start‖ of the test logits: 0 % is perfect,"
        " 100 % is what predicting no change at all would get.",
    ]


def _critical(results: Results) -> list[str]:
    """Return the learning rate beyond which gradient descent on the kernel's model diverges."""
    found = critical_rates(results)
    if not found:
        return []
    shares = fmt.joined([f"{share:g}" for share in SHARES])
    said = fmt.joined([f"{rate(value)} (seed {seed})" for seed, value in found.items()])
    return [
        "The kernel's critical learning rate 2n/λ_max, beyond which full-batch steps on the squared"
        f" loss diverge, is {said}. Unless rates are given, {shares} times it are tried."
    ]


def _exactness(results: Results) -> str:
    """Return what the kernel's prediction leaves out, and what shows that beside it."""
    optimizer = {"sgd": "SGD", "signgd": "SignGD", "adam": "Adam"}[results.config["optimizer"]]
    taken = approximations(results)
    if not taken:
        what = "" if optimizer == "SGD" else " with batches of one example and one logit"
        return (
            f"For {optimizer}{what} this is exactly what training the linearized model gives,"
            " mini-batch by mini-batch, so every difference is the model's curvature."
        )
    said = f"For {optimizer} the kernel's prediction is not exact: it takes {taken}."
    if not results.config["linear_training"]:
        return (
            f"{said} --linear-training also trains the linearized model itself, and so tells this"
            " from the model's curvature; it was not asked for."
        )
    return (
        f"{said} The linearized model is therefore also trained itself, by the same optimizer; what"
        " still differs from the real run is the model's curvature."
    )


def _edges(results: Results) -> list[Looked]:
    """Return the runs looked into whose learning rate is at an end of those tried."""
    return [run for run in looked(results) if at_edge(results, run)]


def _linearization_table(results: Results) -> Table:
    """Return what linearization keeps, a row a data seed and split."""
    rows = []
    for run in looked(results):
        for split in ("train", "test"):
            value = {
                what: curve(results, f"linearization.{what}", split=split, **run.cell)[
                    run.best_step
                ]
                for what in (
                    "zero_shot", "linearized", "trained", "recovered", "distance",
                    "same_predictions",
                )
            }  # fmt: skip
            rows.append(
                [
                    f"seed {run.data_seed}, {split}",
                    *(fmt.percent(value[w]) for w in ("zero_shot", "linearized", "trained")),
                    fmt.percent(value["recovered"], 0),
                    fmt.decimal(value["distance"], 2),
                    fmt.percent(value["same_predictions"]),
                ]
            )
    header = ["", "zero-shot", "linearized", "fine-tuned", "recovered", "distance", "same labels"]
    note = (
        "f_lin at the best step on dev. Recovered: share of the gain in score. Distance:"
        " ‖f_lin − f‖ over ‖f − start‖ of the logits."
    )
    return Table(f"Linearization, {score_name(results)}", note, header, rows)


def _features_table(results: Results) -> Table:
    """Return every agreement metric against the start, a column a step, of the first seed."""
    run = looked(results)[0]
    steps = steps_of_kernels(results, run.data_seed)
    known = set(results.table["metric"].unique())
    rows = [
        [
            metric.title,
            *(fmt.decimal(value.mean) for value in feature(results, name, run.data_seed).values()),
        ]
        for name, metric in METRICS.items()
        if f"features.{name}" in known
    ]
    header = ["", *(f"step {step}{' *' if step == run.best_step else ''}" for step in steps)]
    note = (
        f"The kernel of the training examples at that step against the one at the start, data seed"
        f" {run.data_seed}; step 0 shows what no change is. * the best step on dev."
    )
    return Table("Features: the kernel over training", note, header, rows)


def _runs_table(results: Results) -> Table:
    """Return every run: score, and how far the prediction is off."""
    rows: list[list[str]] = []
    marked: list[int] = []
    best = {(run.data_seed, run.subspace, run.learning_rate) for run in looked(results)}
    edges = {(run.data_seed, run.subspace, run.learning_rate) for run in _edges(results)}
    for seed in seeds(results):
        for name, size in subspaces(results).items():
            errors = end_errors(results, seed, name)
            for each in rates(results, seed, name):
                cell: dict[str, Any] = {
                    "data_seed": seed, "subspace": name, "learning_rate": each,
                }  # fmt: skip
                if (seed, name, each) in best:
                    marked.append(len(rows))
                gone = cells(results.table, metric="diverged", **cell)
                said = [
                    _one(results, "score", split="dev", **cell),
                    _one(results, "score", split="test", **cell),
                    fmt.percent(errors[each]) if each in errors else NONE,
                ]
                if len(gone):
                    said = [f"diverged at step {gone['value'].iloc[0]:.0f}", NONE, NONE]
                mark = EDGE if (seed, name, each) in edges else ""
                rows.append([f"{name}, seed {seed}", fmt.count(size), rate(each) + mark, *said])
    name = score_name(results)
    header = ["", "parameters", "learning rate", f"dev {name}", f"test {name}", "test error"]
    note = (
        "Scores at the best step on dev; the error of the kernel's prediction at the last step."
        " Marked: looked into."
    ) + (f" {EDGE} {_BEYOND}" if edges else "")
    return Table("Runs", note, header, rows, marked=marked)


def _one(results: Results, metric: str, **cell: Any) -> str:
    """Return the one number of a cell in per cent."""
    rows = cells(results.table, metric=metric, **cell)
    return fmt.percent(float(rows["value"].iloc[0])) if len(rows) else NONE


def _cost_table(results: Results) -> Table:
    """Return how long the runs took."""
    rows = []
    for name in subspaces(results):
        found = cells(results.table, metric="cost.training_seconds", subspace=name)["value"]
        total = float(found.sum()) if len(found) else math.nan
        text = NONE if math.isnan(total) else fmt.duration(total)
        rows.append([name, str(len(found)), text])
    return Table("Real training", "", ["", "runs", "in all"], rows)

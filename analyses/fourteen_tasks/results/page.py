"""The report page of a study: question, what was run, figures, tables, verdicts, gaps."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...show import numbers as fmt
from ...show.page import Image, Page, Table
from ...show.study_numbers import model_name
from ...show.study_page import flat, settings
from ...show.table import Grid
from .captions import rank_correlation
from .combine import differences
from .figures import Drawable
from .methods import METHODS, method
from .read import Study
from .render import as_html
from .summary import compared, gap, pairs
from .tables import HEADS
from .verdict import Thresholds, Verdict, verdicts

_ANSWERS = {
    "yes": "seen on {}",
    "partly": "in part on {}",
    "no": "not on {}",
    "undecided": "not to be judged on {}",
    "open": "not measured in full on {}",
}
_QUESTION = (
    "Does the neural tangent kernel of the pretrained model predict what fine-tuning does: on which"
    " tasks, with which prompt, for which optimizer and subspace?"
)


def page(
    study: Study,
    grids: Sequence[Grid],
    figures: Sequence[Drawable],
    left_out: Sequence[Drawable],
    pictures: Mapping[str, bytes],
    thresholds: Thresholds,
) -> Page:
    """Return the report of a study.

    Args:
        study: the numbers.
        grids: its tables.
        figures: the figures that were drawn.
        left_out: those whose cells are missing.
        pictures: the drawn ones as PNG, by name.
        thresholds: of the verdicts.
    """
    found = verdicts(study, thresholds)
    results = study.results
    model = model_name(results)
    return Page(
        title=f"Kernels and fine-tuning of {model} on {_count(study.tasks, 'task')}",
        question=_QUESTION,
        answer=_answer(study, found),
        facts=_facts(study, found),
        caveats=_caveats(study, grids, left_out, thresholds),
        reading=_reading(study),
        images=[Image(each.name, each.caption(study), pictures[each.name]) for each in figures],
        tables=[*(table for grid in grids for table in as_html(grid)), *_absent(study, grids)],
        cost=[_cost(study)],
        settings=settings(results),
        command=_commands(study),
        environment=flat(results.environment),
    )


def _count(items: Sequence[object], word: str) -> str:
    return f"{len(items)} {word}{'' if len(items) == 1 else 's'}"


def _main(found: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdicts the answer is about: those of the first head, optimizer and shots."""
    if not found:
        return []
    first = found[0]
    place = (first.head, first.optimizer, min(v.k for v in found if v.head == first.head))
    return [v for v in found if (v.head, v.optimizer, v.k) == place]


def _answer(study: Study, found: Sequence[Verdict]) -> str:
    """Return the answer in two sentences with numbers."""
    said, head = [], study.heads[0]
    for first, second in compared(study, head)[:1]:
        points = pairs(study, first, second, head=head)
        rho = rank_correlation(points)
        known = "" if math.isnan(rho) else f" (rank correlation {fmt.decimal(rho, 2)})"
        said.append(
            f"The {method(second).label} lies {fmt.points(gap(points))} points from"
            f" {method(first).label} on average{known}."
        )
    if main := _main(found):
        counts = Counter[str](v.answer for v in main)
        tuned = method(f"finetune-{main[0].optimizer}").label
        parts = [words.format(counts[each]) for each, words in _ANSWERS.items() if counts[each]]
        said.append(
            f"Kernel behaviour of {tuned} ({HEADS.get(main[0].head, main[0].head)}, {main[0].k}"
            f" shots) on {_count(main, 'task')}: {fmt.joined(parts)}."
        )
    return " ".join(said) or "No kernel stands beside its fine-tuning yet: see what is missing."


def _facts(study: Study, found: Sequence[Verdict]) -> dict[str, str]:
    """Return the few numbers to show large."""
    facts = {}
    for first, second in compared(study, study.heads[0]):
        points = pairs(study, first, second, head=study.heads[0])
        name = f"{method(second).label} to {method(first).label}, points"
        facts[name] = fmt.points(gap(points))
    if main := _main(found):
        yes = sum(v.answer == "yes" for v in main)
        facts[f"Kernel behaviour, {method(f'finetune-{main[0].optimizer}').label}"] = (
            f"{yes} of {_count(main, 'task')}"
        )
    done = study.table["cell"].nunique()
    return {**facts, "Cells done": fmt.count(done), "Cells failed": fmt.count(len(study.failed))}


def _caveats(
    study: Study, grids: Sequence[Grid], left_out: Sequence[Drawable], thresholds: Thresholds
) -> list[str]:
    """Return what limits the answer."""
    found = []
    if len(study.seeds) == 1:
        found.append("One data seed: differences may be those of the split; there is no spread.")
    found += [
        text for text in (_few_tests(study, thresholds), _rules(study), _versions(study)) if text
    ]
    if len(study.failed):
        names = list(study.failed["cell"])
        listed = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        found.append(f"{_count(names, 'cell')} failed and left no numbers: {listed}.")
    if study.at_edge:
        tuned = sorted({method(name).label for name, *_ in study.at_edge})
        found.append(
            f"The best learning rate was at the edge of its grid for {len(study.at_edge)} rows of"
            f" fine-tuning ({fmt.joined(tuned)}): a wider grid may do better."
        )
    if gaps := sum(grid.missing for grid in grids):
        found.append(f"The tables have {gaps} dashes: what was not run, failed or is not done.")
    found += [f"No figure “{each.name}”: it needs the cells {each.needs}." for each in left_out]
    return found


def _few_tests(study: Study, thresholds: Thresholds) -> str:
    """Say if the test sets are too small for the differences that verdicts rest on."""
    limit = study.results.config.get("test_limit")
    accurate = study.scores["task"].map(study.metrics) == "accuracy"  # F1 has no binomial error
    if limit is None or not accurate.any():
        return ""
    scores = study.scores.loc[accurate, "value"]
    error = float(np.sqrt(scores * (1 - scores) / int(limit)).median())
    if not error > thresholds.min_gain:
        return ""
    return (
        f"At most {limit} test examples a task: one standard error of an accuracy is about"
        f" {fmt.points(error)} points, more than the {fmt.points(thresholds.min_gain, 0)} that"
        " count as a gain. Verdicts on small gains may be chance."
    )


def _rules(study: Study) -> str:
    """Say that kernels of subspaces stand beside another optimizer's training."""
    kinds = {method(name).kind for name in study.table["method"]}
    if not {"subspace kernel", "subspace finetuning"} <= kinds:
        return ""
    return (
        "Kernels of LoRA and other subspaces are those of SGD, their fine-tuning is Adam's: theory"
        " ties a kernel to its own optimizer."
    )


def _versions(study: Study) -> str:
    """Say in which versions the parts of a study that was put together differ."""
    differing = differences(study.results.environment)
    if not differing:
        return ""
    return (
        f"The parts of this study were run with different versions ({fmt.joined(differing)}):"
        " where they share no cells, nothing tells whether that changed a number."
    )


def _reading(study: Study) -> list[str]:
    """Return what was run and how to read it."""
    present = [m.label for key, m in METHODS.items() if key in set(study.table["method"])]
    heads = fmt.joined([HEADS.get(head, head) for head in study.heads])
    seeds = fmt.joined([str(seed) for seed in study.seeds])
    f1 = [task for task in study.tasks if study.metrics[task] == "f1"]
    score = "test accuracy" + (f" (F1 for {fmt.joined(f1)})" if f1 else "")
    return [
        f"What was run: {model_name(study.results)} on {_count(study.tasks, 'task')}"
        f" ({', '.join(study.tasks)}), {fmt.joined([str(k) for k in study.shots])} shots a label,"
        f" data {'seed' if len(study.seeds) == 1 else 'seeds'} {seeds}, read through {heads};"
        f" {', '.join(present)}. Not every combination need be there: a dash is one that is not.",
        f"Scores are {score} in per cent. Kernels are solved on the training examples; of several"
        " solvers the dev examples choose one for each run. Fine-tuned models are the best on dev"
        " of their grid. Means and sample standard deviations are over data seeds, comparisons"
        " over the seeds that both sides have.",
        "A kernel stands for an optimizer: the SGD kernel ⟨∇f, ∇f′⟩ for gradient descent; the"
        " SignGD kernel ⟨sign ∇f, sign ∇f′⟩, the A-SignGD kernel ⟨sign ∇f, ∇f′⟩ and the Adam kernel"
        " (its sign smoothed by Adam's ε) for early Adam. While training shows kernel behaviour,"
        " the kernel of the pretrained model, solved, predicts the trained model.",
        "Kernel behaviour has three signs: the kernel solves the task, the linearized model"
        " recovers what training improved, and the features (seen through the kernel) stay fixed."
        " The table of verdicts says what counts as each.",
    ]


def _absent(study: Study, grids: Sequence[Grid]) -> list[Table]:
    """Return the tables of missing and failed cells, if there are any."""
    found = []
    rows = [
        [grid.title, row.label, row.block, *_gaps(grid, row)]
        for grid in grids
        for row in grid.rows
        if any(cell.missing for cell in row.cells) and grid.name != "behaviour"
    ]
    if rows:
        header = ["Table", "Method", "Shots", "Missing", "Where"]
        found.append(Table("Missing cells", "Dashes of the tables above.", header, rows))
    if len(study.failed):
        names = ("cell", "task", "k", "data_seed", "head", "method")
        lines = [[str(value) for value in row] for row in study.failed[list(names)].to_numpy()]
        header = ["Cell", "Task", "Shots", "Data seed", "Head", "Method"]
        note = "Tracebacks are kept in failed/ by cell; --retry-failed tries these cells again."
        found.append(Table("Failed cells", note, header, lines))
    return found


def _gaps(grid: Grid, row: Any) -> list[str]:
    names = [n for n, cell in zip(grid.header, row.cells, strict=True) if cell.missing]
    return [str(len(names)), "all" if len(names) == len(grid.header) else ", ".join(names)]


def _cost(study: Study) -> Table:
    """Return cells and seconds by method."""
    cells = study.table.drop_duplicates("cell")
    known = [*METHODS, *sorted(set(cells["method"]) - set(METHODS))]
    rows = []
    for key in known:
        seconds = cells.loc[cells["method"] == key, "seconds"]
        if len(seconds):
            total = seconds.sum()
            rows.append(
                [method(key).label, fmt.count(len(seconds)), fmt.duration(float(total)),
                 fmt.duration(float(seconds.median()))]
            )  # fmt: skip
    total = cells["seconds"].sum()
    rows.append(["All", fmt.count(len(cells)), fmt.duration(float(total)), ""])
    header = ["Method", "Cells", "Time", "Median of a cell"]
    return Table("Time of the finished cells", "Wall time, one after the other.", header, rows)


def _commands(study: Study) -> str:
    """Return the command of the study, and that of this page."""
    return f"{study.results.command}\nsubkern figures {shlex.quote(str(study.where))}"

"""The report page and the terminal summary of a study of several target sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.page import Image, Page
from ..show.study_numbers import model_name
from ..show.study_page import cost_table, settings
from . import report as lora_report
from .captions import captions
from .grid import Configuration, Found, by_targets, recommend_configuration
from .grid_tables import configuration_table, matrix, target_table
from .grid_text import called, caveats, question, sentence
from .numbers import full_score, score_name, trained, zero_shot
from .pareto import caption

__all__ = ["page", "summary"]

_MEANING = {
    "qv": "the query and value projections of attention",
    "attention": "every linear layer of attention",
    "mlp": "the other linear layers of the repeated blocks",
    "all-linear": "every linear layer but the decoder",
    "all": "every linear layer, and every other parameter (embeddings, norms, biases) trained"
    " directly: these count as trained",
}


def summary(results: Results) -> Group:
    """Return a row a target set, recommendation and caveats for a terminal of 80 columns."""
    found, whole = recommend_configuration(results), trained(results)
    where = f"{model_name(results)} on {results.inputs['task']['name']}"
    title = f"LoRA of {where}, {found.solver} classifier: best rank of each target set"
    table = RichTable(title=title, title_justify="left")
    table.add_column("targets", overflow="fold", max_width=16)
    names = ("rank", "trained", "CKA", "equal", f"test {score_name(results)}", "within")
    for name in names:
        table.add_column(name, justify="right")
    best = _best_of_sets(found)
    for each in best:
        table.add_row(
            each.targets,
            str(each.rank),
            fmt.percent(each.trained / whole, 2),
            fmt.decimal(each.cka.mean),
            fmt.percent(each.verdict.agreement.mean),
            fmt.percent(each.verdict.score.mean),
            _within(each.verdict.ok, each.affordable),
            style="bold" if each is found.best else None,
            end_section=each is best[-1],
        )
    full = fmt.percent(full_score(results, found.solver).mean)
    table.add_row("full", "", fmt.percent(1.0, 0), fmt.decimal(1.0), fmt.percent(1.0), full)
    table.add_row("zero-shot", "", "", "", "", fmt.percent(zero_shot(results).mean))
    notes = [Text(f"Note: {text}") for text in caveats(results)]
    return Group(table, Text(sentence(results), style="bold"), *notes)


def page(results: Results, pictures: Mapping[str, bytes]) -> Page:
    """Return the report of ``results``; ``pictures`` are its figures as PNG, by name.

    The front and the tables of all target sets come first; what follows is the best one's own.
    """
    found = recommend_configuration(results)
    view = found.view(results)
    own = lora_report.page(view, {})
    words = {"pareto": caption(results)} | {
        name: replace(each, title=f"{each.title}: targets {found.best.targets}")
        for name, each in captions(view).items()
    }
    lasting = [replace(t, title=f"{t.title}: targets {found.best.targets}") for t in own.tables]
    return replace(
        own,
        title=f"LoRA rank and targets for {model_name(results)} on"
        f" {results.inputs['task']['name']}",
        question=question(results),
        answer=sentence(results),
        facts=_facts(results, found),
        caveats=caveats(results),
        reading=[_what_is_compared(results, found), *own.reading],
        images=[Image(name, words[name], picture) for name, picture in pictures.items()],
        tables=[
            configuration_table(results, found),
            matrix(results, found, "score"),
            matrix(results, found, "equal predictions"),
            target_table(results, found),
            *lasting,
        ],
        cost=[cost_table(results, lora_report.COST_NOTE)],
        settings=settings(results),
        command=results.command,
    )


def _best_of_sets(found: Found) -> list[Configuration]:
    """Return of each target set the configuration it would be taken for, or its closest."""

    def distance(each: Configuration) -> tuple[bool, float, float]:
        shortfall = each.verdict.shortfall(found.max_drop, found.min_agreement)
        return (not each.affordable, shortfall, each.trained)

    return [min(line, key=distance) for line in by_targets(found.every).values()]


def _within(ok: bool, affordable: bool) -> str:
    """Return whether tolerance and budget are kept."""
    if not affordable:
        return "over budget"
    return "yes" if ok else "no"


def _facts(results: Results, found: Found) -> dict[str, str]:
    """Return the few numbers to show large."""
    best, score = found.best, score_name(results)
    return {
        "Recommended" if found.qualifies else "Closest": called(best),
        f"Test {score}": fmt.percent(best.verdict.score.mean),
        f"Test {score}, full kernel": fmt.percent(full_score(results, found.solver).mean),
        "Equal predictions": fmt.percent(best.verdict.agreement.mean),
        "CKA with full": fmt.decimal(best.cka.mean),
        "Parameters trained": fmt.percent(best.trained / trained(results), 2),
    }


def _what_is_compared(results: Results, found: Found) -> str:
    """Return what the target sets are, and what the page shows of which of them."""
    sets = by_targets(found.every)
    known = [f"{name} ({_MEANING[name]})" for name in sets if name in _MEANING]
    others = [name for name in sets if name not in _MEANING]
    return (
        f"Target sets compared: {fmt.joined([*known, *others])}. Cheap means few trained"
        " parameters; a rank costs more on more or wider layers. The first figure and the first"
        " tables are of"
        f" all of them, what follows is of the targets {found.best.targets}."
    )

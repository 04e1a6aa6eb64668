"""The report page and the terminal summary of ``analyze prompting``."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from ..engine.pooling import Pooled
from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.page import Image, Page
from ..show.study_numbers import model_name, score_name, tested
from ..show.study_page import flat, settings
from . import tables
from .captions import captions
from .figures import ranked
from .numbers import (
    Trial,
    alignment,
    best,
    learned,
    predictions,
    prompts,
    start,
    trials,
    value,
)
from .text import caveats, choice, question, sentence

__all__ = ["page", "summary"]


def summary(results: Results) -> Group:
    """Return table, answer and caveats for a terminal of 80 columns."""
    where = f"{model_name(results)} on {results.inputs['task']['name']}"
    title = f"Prompts for {where}, test {score_name(results)}"
    table = RichTable(title=title, title_justify="left")
    names = ["prompt", "start", "align-\nment", "kernel\ndev", "kernel\ntest"]
    if results.config["finetune"]:
        names.append("fine-\ntuned")
    for name in names:
        table.add_column(name, justify="left" if name == "prompt" else "right", overflow="fold")
    order = ranked(results)
    for group in (order, [trial for trial in trials(results) if trial not in order]):
        for trial in group:
            table.add_row(*_summary_row(results, trial))
        table.add_section()
    notes = [Text(f"Note: {text}") for text in caveats(results)]
    return Group(table, Text(sentence(results), style="bold"), *notes)


def _summary_row(results: Results, trial: Trial) -> list[str]:
    """Return the cells of one trial."""
    aligned = alignment(results, trial)
    cells = [
        trial.label,
        _percent(start(results, trial)),
        "–" if aligned is None else fmt.decimal(aligned.mean),
        _percent(value(results, trial, "kernel", "dev")),
        _percent(value(results, trial, "kernel")),
    ]
    if results.config["finetune"]:
        cells.append(_percent(value(results, trial, "finetune")))
    return cells


def _percent(found: Pooled | None) -> str:
    return "–" if found is None else fmt.percent(found.mean)


def page(results: Results, pictures: Mapping[str, bytes]) -> Page:
    """Return the report of ``results``; ``pictures`` are its figures as PNG, by name."""
    words = captions(results)
    found = [tables.score_table(results)]
    if results.config["finetune"]:
        found += [tables.ranking_table(results), tables.training_table(results)]
    return Page(
        title=f"Prompts for {model_name(results)} on {results.inputs['task']['name']}",
        question=question(results),
        answer=sentence(results),
        facts=_facts(results),
        caveats=caveats(results),
        reading=_reading(results),
        images=[Image(name, words[name], picture) for name, picture in pictures.items()],
        tables=[*found, tables.prompt_table(results)],
        cost=[tables.cost_table(results)],
        settings=_settings(results),
        command=results.command,
        environment=flat(results.environment),
    )


def _facts(results: Results) -> dict[str, str]:
    """Return the few numbers to show large."""
    facts = {"Prompts": str(len(prompts(results)))}
    facts["The kernel's choice"] = choice(results)
    if learned(results):
        kernel = predictions(results)[0]
        facts["Best fine-tuned"] = ", ".join(best(results))
        facts["Rank correlation, kernel on dev"] = fmt.decimal(kernel.correlation.value, 2)
        several = ", mean of data seeds" if len(results.config["data_seeds"]) > 1 else ""
        facts[f"Points lost by the kernel's choice{several}"] = fmt.points(kernel.regret)
    return facts


def _reading(results: Results) -> list[str]:
    """Return how to read the page."""
    sizes = next(iter(results.inputs["examples"].values()))
    config = results.config
    found = [
        "A kernel here is the empirical neural tangent kernel of the model with a prompt before"
        " any training: for every two examples, the inner product of the gradients of their"
        " logits. Another template or other label words give another kernel. While fine-tuning"
        " stays near the model it starts from, it learns what a classifier on this kernel learns.",
        f"The {config['solvers'][0]} classifier is solved on the {sizes['train']} training"
        f" examples; the {sizes['dev']} dev examples choose its regularisation and the scale of"
        f" the initial logits, for each prompt by itself. Test scores are of {tested(results)}"
        " examples. Kernel-target alignment is the centred cosine between the kernel and the one"
        " that the labels make; it needs no classifier.",
    ]
    if config["finetune"]:
        rates = ", ".join(f"{rate:g}" for rate in config["learning_rates"])
        sizes_ = ", ".join(map(str, config["batch_sizes"]))
        found.append(
            f"Fine-tuning: {config['optimizer']}, {config['loss']} loss,"
            f" {config['steps']} steps, learning rates {rates}, batch sizes {sizes_},"
            f" subspace {config['subspace']}; dev chooses among them and the best step."
        )
        found.append(
            "A prediction is worth its rank correlation with fine-tuning over the prompts, and"
            " what one loses by following it. Only prompts on pretrained weights count there:"
            " that a linear head or random weights are worse needs no prediction."
        )
    return found


def _settings(results: Results) -> dict[str, str]:
    """Return the settings as text, without what tables have."""
    shown = settings(results)
    left_out = tuple(f"resolved {name}" for name in ("prompts", "arms", "skipped"))
    return {name: text for name, text in shown.items() if not name.startswith(left_out)}

"""The tables of the report of ``analyze prompting``."""

from __future__ import annotations

from ..engine.pooling import Pooled
from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.page import Table
from ..show.study_numbers import score_name
from .figures import numbered
from .numbers import (
    Trial,
    alignment,
    chance,
    kernel_choice,
    predictions,
    prompts,
    seconds,
    settings,
    start,
    trials,
    value,
)
from .text import correlation

__all__ = ["cost_table", "prompt_table", "ranking_table", "score_table", "training_table"]


def prompt_table(results: Results) -> Table:
    """What each prompt is, and why some were left out."""
    numbers = {trial.prompt: str(n) for trial, n in numbered(results).items()}
    skipped = results.inputs["skipped"]
    rows = [
        [
            name,
            numbers.get(name, "–"),
            prompt["template"],
            ", ".join(prompt["label_words"]),
            f"left out: {skipped[name]}" if name in skipped else "",
        ]
        for name, prompt in results.inputs["prompts"].items()
    ]
    note = "Templates in LM-BFF's notation; label words in label order."
    return Table("Prompts", note, ["prompt", "number", "template", "label words", "note"], rows)


def score_table(results: Results) -> Table:
    """Every number of every trial."""
    score = score_name(results)
    header = [
        "", f"start dev {score}", f"start test {score}", "kernel-target alignment",
        f"kernel dev {score}", f"kernel test {score}",
    ]  # fmt: skip
    if results.config["finetune"]:
        header += [f"fine-tuned dev {score}", f"fine-tuned test {score}"]
    ordered = [*numbered(results), *(t for t in trials(results) if t not in numbered(results))]
    chosen = kernel_choice(results)
    marked = [i for i, trial in enumerate(ordered) if _is_prompt(trial) and trial.prompt in chosen]
    note = (
        "Start: zero-shot, or the linear probe where a linear head begins. Marked: what the kernel"
        " puts first on dev, on some data seed. Alignment is centred, on the"
        " training examples. In brackets intervals of test scores."
    )
    rows = [_scores(results, trial) for trial in ordered]
    return Table("Numbers before and after training", note, header, rows, marked)


def _is_prompt(trial: Trial) -> bool:
    return trial.head == "prompt" and trial.weights == "pretrained"


def _scores(results: Results, trial: Trial) -> list[str]:
    """Return the cells of one trial."""
    methods = ["kernel", *(["finetune"] if results.config["finetune"] else [])]
    aligned = alignment(results, trial)
    row = [trial.label, *(_cell(start(results, trial, s), s) for s in ("dev", "test"))]
    row.append("–" if aligned is None else fmt.decimal(aligned.mean))
    for method in methods:
        row += [_cell(value(results, trial, method, split), split) for split in ("dev", "test")]
    return row


def _cell(found: Pooled | None, split: str) -> str:
    """Return a score, with its interval on test."""
    if found is None:
        return "–"
    if split == "dev":
        return fmt.percent(found.mean)
    low, high = (fmt.points(end) for end in (found.low, found.high))
    return f"{fmt.percent(found.mean)} ({low} to {high})"


def ranking_table(results: Results) -> Table:
    """How well each predictor orders the prompts, and what its choice loses."""
    rows = [
        [
            each.name,
            correlation(each.correlation),
            "all" if len(each.choice) == each.correlation.count else ", ".join(each.choice),
            fmt.points(each.regret),
        ]
        for each in predictions(results)
    ]
    if rows:
        rows += [[name, "–", "–", fmt.points(regret)] for name, regret in chance(results).items()]
    note = (
        "Spearman's rank correlation over prompts with the fine-tuned test score, on each data"
        " seed and averaged; the prompts that come first on some data seed; and the points that"
        " fine-tuning with each seed's first loses against that seed's best, averaged likewise."
    )
    header = ["predictor", "rank correlation", "puts first", "points lost"]
    return Table("Telling the better prompt before training", note, header, rows)


def training_table(results: Results) -> Table:
    """What dev chose for each training."""
    names = ("learning_rate", "batch_size", "best_step")
    rows = []
    for trial in trials(results):
        cells = []
        for name in names:
            found = [f"{number:g}" for number, _ in settings(results, trial, name)]
            cells.append(", ".join(found) or "–")
        notes = dict.fromkeys(n for _, n in settings(results, trial, "learning_rate") if n)
        rows.append([trial.label, *cells, "; ".join(notes)])
    note = "One value a data seed."
    header = ["", "learning rate", "batch size", "best step", "note"]
    return Table("What dev chose in training", note, header, rows)


def cost_table(results: Results) -> Table:
    """What predicting and what trying took."""
    rows = [["Kernels and classifiers", fmt.duration(seconds(results, "kernel"))]]
    if results.config["finetune"]:
        rows.append(["Fine-tuning, all points of the grid that finished", _trained(results)])
    return Table("Seconds", f"Of {len(prompts(results))} prompts and the rest.", ["", "took"], rows)


def _trained(results: Results) -> str:
    kernel, training = (seconds(results, method) for method in ("kernel", "finetune"))
    times = f", {training / kernel:.3g} times the kernels" if kernel > 0 else ""
    return fmt.duration(training) + times

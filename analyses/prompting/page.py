"""The tables of ``analyze prompting``, for its report and for a terminal."""

from __future__ import annotations

from ..engine.pooling import Pooled
from ..show import numbers as fmt
from ..show.page import Table
from .findings import CHOSEN, Findings, Trial

_NONE = "–"


def tables(found: Findings) -> tuple[list[Table], list[Table]]:
    """Return the report's tables, and those of what it took."""
    trained = [_ranking(found), _training(found)] if found.config.finetune else []
    return [_scores(found), *trained, _prompts(found)], [_cost(found)]


def summary(found: Findings) -> Table:
    """Return the scores of all that was tried, for a terminal."""
    header = ["prompt", "start", "align-\nment", "kernel\ndev", "kernel\ntest"]
    methods = [("kernel", "dev"), ("kernel", "test")]
    if found.config.finetune:
        header.append("fine-\ntuned")
        methods.append(("finetune", "test"))
    rows = [
        [
            trial.label,
            _percent(trial.start()),
            _alignment(trial),
            *(_percent(trial.score(*each)) for each in methods),
        ]
        for trial in (*found.ranked, *found.others)
    ]
    title = f"Prompts for {found.model} on {found.task}, test {found.score_name}"
    return Table(title, "", header, rows, sections={len(found.ranked)})


def _scores(found: Findings) -> Table:
    """Every number of every trial."""
    score = found.score_name
    methods = ["kernel", *(["finetune"] if found.config.finetune else [])]
    header = [
        "", f"start dev {score}", f"start test {score}", "kernel-target alignment",
        f"kernel dev {score}", f"kernel test {score}",
    ]  # fmt: skip
    if found.config.finetune:
        header += [f"fine-tuned dev {score}", f"fine-tuned test {score}"]
    ordered = [*found.ranked, *found.others]
    rows = [
        [
            trial.label,
            *(_cell(trial.start(split), split) for split in ("dev", "test")),
            _alignment(trial),
            *(_cell(trial.score(m, split), split) for m in methods for split in ("dev", "test")),
        ]
        for trial in ordered
    ]
    note = (
        "Start: zero-shot, or the linear probe where a linear head begins. Marked: what the kernel"
        " puts first on dev, on some data seed. Alignment is centered, on the"
        " training examples. In brackets intervals of test scores."
    )
    marked = [at for at, trial in enumerate(ordered) if trial.picked]
    return Table("Numbers before and after training", note, header, rows, marked)


def _ranking(found: Findings) -> Table:
    """How well each predictor orders the prompts, and what its choice loses."""
    rows = []
    if found.checked is not None:
        rows = [
            [
                each.name,
                fmt.correlation(each.correlation),
                "all" if len(each.choice) == each.correlation.count else ", ".join(each.choice),
                fmt.points(each.regret),
            ]
            for each in found.checked.predictions
        ]
        chance = found.checked.chance.items()
        rows += [[name, _NONE, _NONE, fmt.points(regret)] for name, regret in chance]
    note = (
        "Spearman's rank correlation over prompts with the fine-tuned test score, on each data"
        " seed and averaged; the prompts that come first on some data seed; and the points that"
        " fine-tuning with each seed's first loses against that seed's best, averaged likewise."
    )
    header = ["predictor", "rank correlation", "puts first", "points lost"]
    return Table("Telling the better prompt before training", note, header, rows)


def _training(found: Findings) -> Table:
    """What dev chose for each training."""
    rows = [
        [
            trial.label,
            *(", ".join(f"{x:g}" for x, _ in trial.chosen[name]) or _NONE for name in CHOSEN),
            "; ".join(dict.fromkeys(note for _, note in trial.chosen["learning_rate"] if note)),
        ]
        for trial in found.trials
    ]
    header = ["", "learning rate", "batch size", "best step", "note"]
    return Table("What dev chose in training", "One value a data seed.", header, rows)


def _prompts(found: Findings) -> Table:
    """What each prompt is, and why some were left out."""
    numbers = {trial.prompt: str(trial.number) for trial in found.ranked}
    rows = [
        [
            name,
            numbers.get(name, _NONE),
            prompt["template"],
            ", ".join(prompt["label_words"]),
            f"left out: {found.skipped[name]}" if name in found.skipped else "",
        ]
        for name, prompt in found.prompts.items()
    ]
    note = "Templates in LM-BFF's notation; label words in label order."
    return Table("Prompts", note, ["prompt", "number", "template", "label words", "note"], rows)


def _cost(found: Findings) -> Table:
    """What predicting and what trying took."""
    kernel, training = found.seconds["kernel"], found.seconds["finetune"]
    rows = [["Kernels and classifiers", fmt.duration(kernel)]]
    if found.config.finetune:
        times = f", {training / kernel:.3g} times the kernels" if kernel > 0 else ""
        rows.append(
            ["Fine-tuning, all points of the grid that finished", fmt.duration(training) + times]
        )
    return Table("Seconds", f"Of {len(found.ranked)} prompts and the rest.", ["", "took"], rows)


def _alignment(trial: Trial) -> str:
    return _NONE if trial.alignment is None else fmt.decimal(trial.alignment.mean)


def _percent(found: Pooled | None) -> str:
    return _NONE if found is None else fmt.percent(found.mean)


def _cell(found: Pooled | None, split: str) -> str:
    """Return a score, with its interval on test."""
    if found is None or split == "dev":
        return _percent(found)
    low, high = (fmt.points(end) for end in (found.low, found.high))
    return f"{fmt.percent(found.mean)} ({low} to {high})"

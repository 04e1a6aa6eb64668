"""The paper's tables: kernels beside fine-tuning, subspaces, prompts, verdicts, what is missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from subkern.kernel_behavior import Thresholds
from subkern.tasks.catalogue import TASKS

from ...show import numbers as fmt
from ...show.table import DASH, EDGE, Table
from .methods import HEADS, METHODS, finetuning, head_name, method, size, task_heading, variant
from .read import SavedStudy
from .summary import Summary, means
from .verdict import CHANGES, CKA, FEATURE_METRICS, SIGNS, Verdict

BEHAVIOR = "behaviour"
"""Name of the table of verdicts, spelled as studies that are drawn already have it."""

_GROUPS = ("Single sentences", "Sentence pairs", "Other tasks")
_BASICS = ("kernel", "finetuning")
_OF_HEADS = "accuracy", "subspaces", "preservation"
NAMES = (*(f"{name}-{head}" for name in _OF_HEADS for head in HEADS), "prompting", BEHAVIOR)
"""Of every table that a study may have."""

Key = tuple[str, str]  # method, subspace
Place = tuple[str, str, int, str]  # method, subspace, shots, task


def tables(study: SavedStudy, verdicts: Sequence[Verdict], thresholds: Thresholds) -> list[Table]:
    """Return every table that the study has numbers for: scores, then the verdict per task."""
    found = score_tables(study)
    return [*found, behavior_table(study, verdicts, thresholds)] if verdicts else found


def score_tables(study: SavedStudy) -> list[Table]:
    """Return every table of scores that the study has numbers for."""
    makers = (accuracy, subspaces, preservation)
    found = [maker(study, head) for maker in makers for head in study.heads]
    return [table for table in [*found, prompting(study)] if table is not None]


def mean_scores(study: SavedStudy) -> pd.DataFrame:
    """Return mean, sd and seeds of the test score of every cell of the tables."""
    return means(study.scores, ["task", "k", "head", "method", "subspace", "optimizer"])


def accuracy(study: SavedStudy, head: str) -> Table | None:
    """Kernels beside full fine-tuning, as the paper's Table 1; the best of either is marked."""
    scores = mean_scores(study)
    scores = scores[scores["head"] == head]
    wanted = [key for key, m in METHODS.items() if m.kind in ("baseline", *_BASICS)]
    wanted += sorted({*scores["method"]} - {*METHODS})
    rows = [(key, "") for key in wanted if key in set(scores["method"])]
    if not any(method(key).kind in _BASICS for key, _ in rows):
        return None
    return _table(
        study,
        f"accuracy-{head}",
        f"Kernels and fine-tuning, {head_name(head)}",
        scores.assign(subspace=""),
        rows,
        lambda key: method(key[0]).label,
        note="Bold: the best fine-tuning and the best kernel of each column. ",
    )


def subspaces(study: SavedStudy, head: str) -> Table | None:
    """LoRA, BitFit and random subspaces: their kernels and their fine-tuning, beside full ones."""
    scores = mean_scores(study)
    scores = scores[scores["head"] == head]
    full = scores["method"].isin(("kernel-sgd", "finetune-adam"))
    small = scores["method"].map(lambda key: method(key).kind.startswith("subspace"))
    if not small.any():
        return None
    return _table(
        study,
        f"subspaces-{head}",
        f"Subspaces, {head_name(head)}",
        scores[full | small],
        _variants(scores[full | small]),
        lambda key: variant(*key),
        note="Full kernel and fine-tuning for comparison. Bold: the best fine-tuning in a subspace"
        " and the best subspace kernel of each column. ",
        marked=("subspace kernel", "subspace finetuning"),
    )


def preservation(study: SavedStudy, head: str) -> Table | None:
    """Agreement (CKA) of subspace kernels with the full kernel."""
    small = [key for key, m in METHODS.items() if m.kind == "subspace kernel"]
    found = study.measured(["cka"], small)
    found = means(found[found["head"] == head], ["task", "k", "head", "method", "subspace"])
    if found.empty:
        return None
    return _table(
        study,
        f"preservation-{head}",
        f"CKA with the full kernel, {head_name(head)}",
        found,
        _variants(found),
        lambda key: variant(*key),
        note="Centered kernel alignment × 100: 100 is the full kernel up to its scale. ",
        marked=(),
        scored=False,
    )


def prompting(study: SavedStudy) -> Table | None:
    """Prompt against linear head, for every method that has both."""
    scores = mean_scores(study)
    full = scores["method"].map(lambda key: method(key).kind in _BASICS)
    both = scores[full & scores["head"].isin(HEADS)].assign(subspace=lambda rows: rows["head"])
    heads = both.groupby("method")["head"].nunique()
    shared = [key for key in METHODS if heads.get(key, 0) == len(HEADS)]
    if not shared:
        return None
    return _table(
        study,
        "prompting",
        "Prompt and linear head",
        both[both["method"].isin(shared)],
        [(key, head) for key in shared for head in HEADS],
        lambda key: f"{method(key[0]).label}, {HEADS[key[1]]}",
        note="",
        marked=(),
    )


def _variants(scores: pd.DataFrame) -> list[Key]:
    """Return (method, subspace) in the order of the tables, small subspaces first."""
    keys = {(str(a), str(b)) for a, b in zip(scores["method"], scores["subspace"], strict=True)}
    order = list(METHODS)

    def place(key: Key) -> tuple[bool, int, int, str]:
        kind = method(key[0]).kind
        at = order.index(key[0]) if key[0] in order else len(order)
        return not kind.endswith("kernel"), at, size(key[1]) or 0, key[1]

    return sorted(keys, key=place)


def _table(
    study: SavedStudy,
    name: str,
    title: str,
    scores: pd.DataFrame,
    keys: Sequence[Key],
    label: Callable[[Key], str],
    *,
    note: str,
    marked: Sequence[str] = _BASICS,
    scored: bool = True,
) -> Table:
    """Return tasks as columns and ``keys`` as rows, in a block for every number of shots."""
    found: dict[Place, Summary] = {
        (str(r.method), str(r.subspace), int(r.k), str(r.task)): Summary(r.mean, r.sd, int(r.seeds))
        for r in scores.itertuples()
    }
    shots, tasks = sorted({place[2] for place in found}), study.tasks
    most = max(each.seeds for each in found.values())
    edges = _edges(study, scores) if scored else set()
    best = _best(found, marked)
    places = [[(*key, k, task) for task in tasks] for k in shots for key in keys]
    places = [row for row in places if any(place in found for place in row)]
    rows = [
        [label(row[0][:2]), str(row[0][2]), *(_text(found.get(p), most, p in edges) for p in row)]
        for row in places
    ]
    names = [task_heading(t, study.metrics[t] if scored else "accuracy") for t in tasks]
    table = Table(
        title,
        "",
        ["Method", "Shots", *names],
        rows,
        best={(i, 2 + j) for i, row in enumerate(places) for j, p in enumerate(row) if p in best},
        sections={i for i in range(1, len(rows)) if rows[i][1] != rows[i - 1][1]},
        name=name,
        blocks=True,
        groups=_groups(tasks),
        frame=_tidy(scores, best),
    )
    return replace(table, note=_note(table, note, most, scored))


def _text(found: Summary | None, seeds: int, at_edge: bool) -> str:
    """Return a score's cell.

    A number of seeds below ``seeds`` is written behind it, and `EDGE` where the grid of its
    learning rates was too narrow.
    """
    if found is None:
        return DASH
    few = f" [{found.seeds}]" if found.seeds < seeds else ""
    return found.text + few + (EDGE if at_edge else "")


def _edges(study: SavedStudy, scores: pd.DataFrame) -> set[Place]:
    """Return the cells of fine-tuning whose grid of learning rates was too narrow.

    The table may name subspaces by something else (heads), so the place is found by the rest.
    """
    names = (scores[name] for name in ("method", "subspace", "head", "k", "task"))
    return {
        (str(m), str(s), int(k), str(t))
        for m, s, h, k, t in zip(*names, strict=True)
        if (m, h, int(k), t) in study.edge_places
    }


def _note(table: Table, note: str, seeds: int, scored: bool) -> str:
    """Return what a reader must know, dashes counted."""
    texts = [text for row in table.rows for text in row[2:]]
    said = "Test accuracy in % (F1 where marked). " if scored else ""
    if seeds > 1:
        said += f"Mean and, in brackets, standard deviation over {seeds} data seeds"
        said += " ([n]: over n only). " if any("[" in text for text in texts) else ". "
    else:
        said += "One data seed. "
    if any(EDGE in text for text in texts):
        note += f"{EDGE}: in some seed the best learning rate was at the edge of its grid. "
    gaps = (
        f"A dash: no result ({table.missing} in all)." if table.missing else "No cell is missing."
    )
    return said + note + gaps


def _best(cells: Mapping[Place, Summary], marked: Sequence[str]) -> set[Place]:
    """Return the best cells of each marked kind, task and shots; all that round to the best.

    The best of one is no best: a kind of which a column has one method only is left unmarked.
    """
    rivals: dict[tuple[str, int, str], list[Place]] = {}
    for place in cells:
        rivals.setdefault((method(place[0]).kind, place[2], place[3]), []).append(place)
    best = set()
    for (kind, _, _), places in rivals.items():
        if kind in marked and len(places) > 1:
            shown = {place: fmt.points(cells[place].mean) for place in places}
            top = shown[max(places, key=lambda place: cells[place].mean)]
            best |= {place for place in places if shown[place] == top}
    return best


def _groups(tasks: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Return the columns of single sentences, of pairs, and of tasks of the user's own."""
    kinds = [_GROUPS[TASKS[t].num_texts - 1] if t in TASKS else _GROUPS[-1] for t in tasks]
    found = [(name, [2 + i for i, kind in enumerate(kinds) if kind == name]) for name in _GROUPS]
    return [(name, columns) for name, columns in found if columns]


def _tidy(scores: pd.DataFrame, best: set[Place]) -> pd.DataFrame:
    """Return the table's numbers, one a row, with the marks."""
    names = ["task", "k", "head", "method", "subspace", "mean", "sd", "seeds"]
    frame = scores[names].reset_index(drop=True)
    places = zip(frame["method"], frame["subspace"], frame["k"], frame["task"], strict=True)
    marks = [(str(m), str(s), int(k), str(t)) in best for m, s, k, t in places]
    return frame.assign(best=marks, k=frame["k"].astype("int64"))


# --- verdicts ---


def behavior_table(study: SavedStudy, verdicts: Sequence[Verdict], thresholds: Thresholds) -> Table:
    """Return verdicts as a table: a row a task, a part for head, optimizer and shots."""
    seen = {name for v in verdicts for name in v.features}
    metrics = [name for name in (*CHANGES, *CKA) if name in seen]
    metrics += sorted(seen - set(metrics))
    ordered = sorted(
        verdicts, key=lambda v: (v.head != "prompt", v.optimizer != "sgd", v.optimizer, v.k)
    )
    rows = [_row(study, each, metrics) for each in ordered]
    table = Table(
        "Verdict per task",
        "",
        [
            *("Task", "Run", "Verdict", "Why", "Kernel", "Start", "Kernel score", "Linearized"),
            *("Fine-tuned", "Share recovered", *(FEATURE_METRICS[name] for name in metrics)),
            "Data seeds",
        ],
        rows,
        best={(i, 2) for i, each in enumerate(ordered) if each.answer == "yes"},
        sections={i for i in range(1, len(rows)) if rows[i][1] != rows[i - 1][1]},
        name=BEHAVIOR,
        blocks=True,
        apart=True,
        frame=_tidy_verdicts(verdicts),
    )
    return replace(table, note=_behavior_note(table, seen, thresholds))


def _row(study: SavedStudy, each: Verdict, metrics: Sequence[str]) -> list[str]:
    """Return one verdict as a row."""
    seen = each.evidence
    scores = [_percent(x) for x in (seen.zero_shot, seen.kernel, seen.linearized, seen.trained)]
    tuned = (f"finetune-{each.optimizer}", each.head, each.k, each.task)
    scores[-1] += EDGE if tuned in study.edge_places else ""
    return [
        task_heading(each.task, study.metrics[each.task]),
        f"{head_name(each.head)}, {finetuning(each.optimizer).label}, {each.k} shots",
        each.answer,
        each.reason,
        method(each.kernel).label if each.kernel else DASH,
        *scores,
        _percent(each.share, 0),
        *(fmt.decimal(each.features.get(name, math.nan), 2) for name in metrics),
        str(each.seeds),
    ]


def _percent(share: float, digits: int = 1) -> str:
    return DASH if math.isnan(share) else fmt.fixed(100 * share, digits)


def _behavior_note(table: Table, seen: set[str], asked: Thresholds) -> str:
    """Return what the verdict means."""
    fixed = [f"CKA at least {fmt.decimal(asked.cka, 2)}"] if seen & set(CKA) else []
    if seen & set(CHANGES):
        fixed.append(f"relative change at most {fmt.decimal(asked.relative_change, 2)}")
    marked = any(EDGE in text for row in table.rows for text in row)
    edges = f" {EDGE}: in some seed the best learning rate was at the edge of its grid."
    dashes = f" A dash: not measured, or no gain to share ({table.missing} in all)."
    return (
        "Signs of kernel behavior: of what fine-tuning gains over its start the kernel reaches"
        f" {fmt.percent(asked.kernel_share, 0)} and linearization recovers"
        f" {fmt.percent(asked.recovered, 0)}, and features stay fixed"
        f" ({fmt.joined(fixed) or 'not measured'}). “Yes”: all three; “partly”: some; “no”: none;"
        f" “undecided”: training gained less than {fmt.points(asked.min_gain, 0)} points; “open”:"
        " a sign was not measured. The start is zero-shot, or the linear probe where a linear"
        " head begins there."
        " The kernel is, of those that describe the optimizer, the best on dev."
        " Features are seen through the SGD kernel, whatever the optimizer. Means are over the data"
        f" seeds that have all of it. Scores and shares in %.{edges if marked else ''}"
        f"{dashes if table.missing else ''}"
    )


def _tidy_verdicts(found: Sequence[Verdict]) -> pd.DataFrame:
    """Return the verdicts, one a row."""
    rows = [
        {
            "task": v.task, "k": v.k, "head": v.head, "optimizer": v.optimizer,
            "verdict": v.answer, "kernel": v.kernel, "start": v.evidence.zero_shot,
            "kernel score": v.evidence.kernel, "linearized": v.evidence.linearized,
            "fine-tuned": v.evidence.trained, "share recovered": v.share, **v.features, **v.holds,
            "reason": v.reason, "data_seeds": v.seeds,
        }
        for v in found
    ]  # fmt: skip
    return pd.DataFrame(rows).astype(dict.fromkeys(SIGNS, "boolean"))


# --- what is missing, what it took ---


def missing_cells(found: Sequence[Table]) -> Table | None:
    """Return where tables of scores have dashes."""
    rows = []
    for table in found:
        for row in table.rows if table.name != BEHAVIOR else ():
            names = [table.header[i] for i in table.columns if row[i] == DASH]
            if names:
                where = "all" if len(names) == len(table.columns) else ", ".join(names)
                rows.append([table.title, row[0], row[1], str(len(names)), where])
    header = ["Table", "Method", "Shots", "Missing", "Where"]
    return Table("Missing cells", "Dashes of the tables above.", header, rows) if rows else None


def failed_cells(study: SavedStudy) -> Table | None:
    """Return the cells that failed."""
    names = {"cell": "Cell", "task": "Task", "k": "Shots", "data_seed": "Data seed"}
    names |= {"head": "Head", "method": "Method"}
    rows = [[str(value) for value in row] for row in study.failed[list(names)].to_numpy()]
    note = "Tracebacks are kept in failed/ by cell; --retry-failed tries these cells again."
    return Table("Failed cells", note, list(names.values()), rows) if rows else None


def cost(study: SavedStudy) -> Table:
    """Return cells and seconds by method."""
    cells = study.table.drop_duplicates("cell")
    order = [*METHODS, *sorted(set(cells["method"]) - set(METHODS))]
    rows = []
    for key in order:
        seconds = cells.loc[cells["method"] == key, "seconds"]
        if len(seconds):
            times = [fmt.duration(float(x)) for x in (seconds.sum(), seconds.median())]
            rows.append([method(key).label, fmt.count(len(seconds)), *times])
    rows.append(["All", fmt.count(len(cells)), fmt.duration(float(cells["seconds"].sum())), ""])
    header = ["Method", "Cells", "Time", "Median of a cell"]
    return Table("Time of the finished cells", "Wall time, one after the other.", header, rows)

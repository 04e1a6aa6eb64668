"""The paper's tables of scores: kernels beside fine-tuning, subspaces, prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from subkern.tasks.catalogue import TASKS

from ...show import numbers as fmt
from ...show.table import EDGE, Cell, Grid, Row, Summary
from .methods import METHODS, method, size, variant
from .read import Study
from .summary import mean_scores, means

HEADS = {"prompt": "prompt", "linear": "linear head"}
_GROUPS = ("Single sentences", "Sentence pairs", "Other tasks")
_BASICS = ("kernel", "finetuning")
Key = tuple[str, str]  # method, subspace


_OF_HEADS = "accuracy", "subspaces", "preservation"
NAMES = (*(f"{name}-{head}" for name in _OF_HEADS for head in HEADS), "prompting", "behaviour")
"""Of every table that a study may have."""


def score_tables(study: Study) -> list[Grid]:
    """Return every table of scores that the study has numbers for."""
    found = [accuracy(study, head) for head in study.heads]
    found += [subspaces(study, head) for head in study.heads]
    found += [preservation(study, head) for head in study.heads]
    return [grid for grid in [*found, prompting(study)] if grid is not None]


def accuracy(study: Study, head: str) -> Grid | None:
    """Kernels beside full fine-tuning, as the paper's Table 1; the best of either is marked."""
    scores = mean_scores(study)
    scores = scores[scores["head"] == head]
    wanted = [key for key, m in METHODS.items() if m.kind in ("baseline", *_BASICS)]
    wanted += sorted({*scores["method"]} - {*METHODS})
    rows = [(key, "") for key in wanted if key in set(scores["method"])]
    if not any(method(key).kind in _BASICS for key, _ in rows):
        return None
    return _grid(
        study,
        f"accuracy-{head}",
        f"Kernels and fine-tuning, {HEADS.get(head, head)}",
        scores.assign(subspace=""),
        rows,
        lambda key: method(key[0]).label,
        note="Bold: the best fine-tuning and the best kernel of each column. ",
    )


def subspaces(study: Study, head: str) -> Grid | None:
    """LoRA, BitFit and random subspaces: their kernels and their fine-tuning, beside full ones."""
    scores = mean_scores(study)
    scores = scores[scores["head"] == head]
    full = scores["method"].isin(("kernel-sgd", "finetune-adam"))
    small = scores["method"].map(lambda key: method(key).kind.startswith("subspace"))
    if not small.any():
        return None
    return _grid(
        study,
        f"subspaces-{head}",
        f"Subspaces, {HEADS.get(head, head)}",
        scores[full | small],
        _variants(scores[full | small]),
        lambda key: variant(*key),
        note="Full kernel and fine-tuning for comparison. Bold: the best fine-tuning in a subspace"
        " and the best subspace kernel of each column. ",
        marked=("subspace kernel", "subspace finetuning"),
    )


def preservation(study: Study, head: str) -> Grid | None:
    """Agreement (CKA) of subspace kernels with the full kernel."""
    small = [key for key, m in METHODS.items() if m.kind == "subspace kernel"]
    found = study.measured(["cka"], small)
    found = means(found[found["head"] == head], ["task", "k", "head", "method", "subspace"])
    if found.empty:
        return None
    return _grid(
        study,
        f"preservation-{head}",
        f"CKA with the full kernel, {HEADS.get(head, head)}",
        found,
        _variants(found),
        lambda key: variant(*key),
        note="Centred kernel alignment × 100: 100 is the full kernel up to its scale. ",
        marked=(),
        scored=False,
    )


def prompting(study: Study) -> Grid | None:
    """Prompt against linear head, for every method that has both."""
    scores = mean_scores(study)
    full = scores["method"].map(lambda key: method(key).kind in _BASICS)
    both = scores[full & scores["head"].isin(HEADS)].assign(subspace=lambda rows: rows["head"])
    heads = both.groupby("method")["head"].nunique()
    shared = [key for key in METHODS if heads.get(key, 0) == len(HEADS)]
    if not shared:
        return None
    return _grid(
        study,
        "prompting",
        "Prompt and linear head",
        both[both["method"].isin(shared)],
        [(key, head) for key in shared for head in HEADS],
        lambda key: f"{method(key[0]).label}, {HEADS[key[1]]}",
        note="",
        marked=(),
    )


def task_heading(task: str, metric: str) -> str:
    """Return a task's column heading, with its metric where that is not accuracy."""
    return task if metric == "accuracy" else f"{task} ({metric.upper()})"


def _variants(scores: pd.DataFrame) -> list[Key]:
    """Return (method, subspace) in the order of the tables, small subspaces first."""
    keys = {(str(a), str(b)) for a, b in zip(scores["method"], scores["subspace"], strict=True)}
    order = list(METHODS)

    def place(key: Key) -> tuple[bool, int, int, str]:
        kind = method(key[0]).kind
        at = order.index(key[0]) if key[0] in order else len(order)
        return not kind.endswith("kernel"), at, size(key[1]) or 0, key[1]

    return sorted(keys, key=place)


def _grid(
    study: Study,
    name: str,
    title: str,
    scores: pd.DataFrame,
    keys: Sequence[Key],
    label: Callable[[Key], str],
    *,
    note: str,
    marked: Sequence[str] = _BASICS,
    scored: bool = True,
) -> Grid:
    """Return tasks as columns and ``keys`` as rows, in a block for every number of shots."""
    cells = {
        (str(r.method), str(r.subspace), int(r.k), str(r.task)): Summary(r.mean, r.sd, int(r.seeds))
        for r in scores.itertuples()
    }
    shots, tasks = sorted({key[2] for key in cells}), study.tasks
    best = _best(cells, marked)
    most = max(found.seeds for found in cells.values())
    edges = _edges(study, scores) if scored else set()
    rows = []
    for k in shots:
        for key in keys:
            places = [(*key, k, task) for task in tasks]
            if not any(place in cells for place in places):
                continue
            line = [
                Cell.of(cells.get(p), best=p in best, seeds=most, edge=p in edges) for p in places
            ]
            rows.append(Row(label(key), tuple(line), str(k)))
    header = tuple(task_heading(t, study.metrics[t] if scored else "accuracy") for t in tasks)
    grid = Grid(
        name, title, "", "Method", header, tuple(rows), _groups(tasks), _tidy(scores, best),
        block="Shots",
    )  # fmt: skip
    return _noted(grid, note, most, scored)


def _edges(study: Study, scores: pd.DataFrame) -> set[tuple[str, str, int, str]]:
    """Return the cells of fine-tuning whose grid of learning rates was too narrow.

    The table may name subspaces by something else (heads), so the place is found by the rest.
    """
    names = (scores[name] for name in ("method", "subspace", "head", "k", "task"))
    return {
        (str(m), str(s), int(k), str(t))
        for m, s, h, k, t in zip(*names, strict=True)
        if (m, h, int(k), t) in study.edge_places
    }


def _noted(grid: Grid, note: str, seeds: int, scored: bool) -> Grid:
    """Return the grid with what a reader must know, dashes counted."""
    said = "Test accuracy in % (F1 where marked). " if scored else ""
    if seeds > 1:
        said += f"Mean and, in brackets, standard deviation over {seeds} data seeds"
        said += " ([n]: over n only). " if any("[" in text for text in _texts(grid)) else ". "
    else:
        said += "One data seed. "
    if any(EDGE in text for text in _texts(grid)):
        note += f"{EDGE}: in some seed the best learning rate was at the edge of its grid. "
    gaps = f"A dash: no result ({grid.missing} in all)." if grid.missing else "No cell is missing."
    return replace(grid, note=said + note + gaps)


def _texts(grid: Grid) -> list[str]:
    return [cell.text for row in grid.rows for cell in row.cells]


def _best(
    cells: Mapping[tuple[str, str, int, str], Summary], marked: Sequence[str]
) -> set[tuple[str, str, int, str]]:
    """Return the best cells of each marked kind, task and shots; all that round to the best.

    The best of one is no best: a kind of which a column has one method only is left unmarked.
    """
    rivals: dict[tuple[str, int, str], list[tuple[str, str, int, str]]] = {}
    for place in cells:
        rivals.setdefault((method(place[0]).kind, place[2], place[3]), []).append(place)
    best = set()
    for (kind, _, _), places in rivals.items():
        if kind in marked and len(places) > 1:
            shown = {place: fmt.points(cells[place].mean) for place in places}
            top = shown[max(places, key=lambda place: cells[place].mean)]
            best |= {place for place in places if shown[place] == top}
    return best


def _groups(tasks: Sequence[str]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the columns of single sentences, of pairs, and of tasks of the user's own."""
    kinds = [_GROUPS[TASKS[t].num_texts - 1] if t in TASKS else _GROUPS[-1] for t in tasks]
    found = ((name, tuple(i for i, k in enumerate(kinds) if k == name)) for name in _GROUPS)
    return tuple((name, columns) for name, columns in found if columns)


def _tidy(scores: pd.DataFrame, best: set[tuple[str, str, int, str]]) -> pd.DataFrame:
    """Return the table's numbers, one a row, with the marks."""
    names = ["task", "k", "head", "method", "subspace", "mean", "sd", "seeds"]
    frame = scores[names].reset_index(drop=True)
    places = zip(frame["method"], frame["subspace"], frame["k"], frame["task"], strict=True)
    marks = [(str(m), str(s), int(k), str(t)) in best for m, s, k, t in places]
    return frame.assign(best=marks, k=frame["k"].astype("int64"))

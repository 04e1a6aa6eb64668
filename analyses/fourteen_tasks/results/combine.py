"""Several studies as one: parts that were run apart, on other days, machines or commits.

A part keeps what it was run with. Together they are a study folder of their own, whose record names
every part with its command and environment; its table is theirs, one after the other.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subkern.errors import UserError

from ...engine.run_folder import RunDirectory
from ..config import Config
from ..table import FINETUNING, KERNELS, SCHEMA
from .read import SavedStudy, load

_NUMBERS = (
    "revision", "logits", "pooling", "tie", "dtype", "seed", "epsilon", "test_limit",
)  # fmt: skip
"""Settings that must not differ."""
_TRAINING = ("steps", "eval_every", "loss", "batch_sizes")
"""Those that must not where both trained; nor may the learning rates of a method of both."""
_SOLVED = ("solvers", "asymmetric_solvers")
"""Those that must not where both parts have classifiers on kernels."""
_LINEAR = ("head_init",)
"""Those that must not where both parts have a linear head."""
_ROW = ["split", "metric", "solver", "rule", "subspace", "optimizer"]  # what names a row of a cell
_EQUAL = 1e-5  # relative difference of a number that two machines found


def combine(
    directories: Sequence[str | Path], out: str | Path, *, across_versions: bool = False
) -> Path:
    """Write the study of all results in several studies' folders; return its folder.

    Cells that stand in several parts have to have the same numbers there; the first one's stay.
    Failed cells that another part finished are left out.

    Args:
        directories: folders of studies of one model, with the same settings but for what is run.
        out: the folder to write; one of an earlier combination is replaced.
        across_versions: join parts that different code or libraries computed; the report says so.

    Raises:
        UserError: as `.read.load`, of each part; two parts differ in a setting,
            in a cell or in a version, which is named with both values; ``out`` holds something
            else.
    """
    place = Path(out)
    parts = [load(directory) for directory in directories]
    names = _names(parts)
    run = RunDirectory(place, "fourteen-tasks", {"parts": names})
    _check_place(run, parts)
    for one, other in combinations(parts, 2):
        _check_settings(one, other)
    environments = _environments(parts)
    if (found := differences({"parts": environments})) and not across_versions:
        raise UserError(
            f"the parts were computed by different versions ({'; '.join(found)}): --across-versions"
            " joins them all the same, and the report will say so"
        )
    table = _together(parts)
    command = " ".join(["subkern figures", *map(shlex.quote, names), "--out", str(place)])
    command += " --across-versions" if found else ""
    commands = [*(part.results.command for part in parts), command]
    models = [part.results.inputs.get("model") or {} for part in parts]
    inputs = {
        "schema": SCHEMA,
        "cells": table["cell"].nunique(),
        "model": next((each for each in models if each.get("files") is not None), models[0]),
        "examples": {k: digest for part in parts for k, digest in _examples(part).items()},
    }
    run.claim(_config(parts), {**parts[0].results.inputs, **inputs}, "\n".join(commands))
    run.finish(table, {"parts": environments})
    return place


def differences(environment: Mapping[str, Any]) -> list[str]:
    """Return what differs between the parts of a study: ``torch 2.12, 2.13``.

    Empty for a study that was run as one, and where all parts have the same code and versions.
    """
    parts = list(environment.get("parts", {}).values())
    codes = [part.get("code", {}) for part in parts]
    commits = {str(code.get("digest")): str(code.get("commit"))[:7] for code in codes}
    found = []
    if len(commits) > 1:
        found.append(f"code of subkern {', '.join(commits.values())}")
    libraries = [part.get("versions", {}) for part in parts]
    for name in dict.fromkeys(name for part in libraries for name in part):
        # Earlier studies did not write down the libraries of their classifiers.
        versions = dict.fromkeys(str(part[name]) for part in libraries if name in part)
        if len(versions) > 1:
            found.append(f"{name} {', '.join(versions)}")
    return found


def _names(parts: Sequence[SavedStudy]) -> list[str]:
    """Return the parts as they were given.

    Raises:
        UserError: one stands there twice.
    """
    names = [str(part.where) for part in parts]
    places = [part.where.resolve() for part in parts]
    for i, each in enumerate(places):
        if each in places[:i]:
            raise UserError(f"'{names[i]}' is given twice: name each study once")
    return names


def _environments(parts: Sequence[SavedStudy]) -> dict[str, Any]:
    """Return every part's environment; those of its own parts, where it is a whole itself."""
    found: dict[str, Any] = {}
    for part in parts:
        environment = part.results.environment
        found |= environment.get("parts", {str(part.where): environment})
    return found


def _check_place(run: RunDirectory, parts: Sequence[SavedStudy]) -> None:
    """Raise `UserError` if the folder is a part, or holds what is no combination."""
    if run.path.resolve() in [part.where.resolve() for part in parts]:
        raise UserError(f"'{run.path}' is one of the studies: give another --out for all of them")
    run.state(overwrite=True)  # refuses a folder of something else
    if run.record is not None and "parts" not in run.record["asked"]:
        raise UserError(f"'{run.path}' holds a run of its own: give another --out")


def _check_settings(one: SavedStudy, other: SavedStudy) -> None:
    """Raise `UserError` if a setting that decides numbers of both differs."""
    mine, theirs = (dict(_deciding(part)) for part in (one, other))
    for name in mine:
        if name in theirs and mine[name] != theirs[name]:
            raise UserError(
                f"'{one.where}' and '{other.where}' are not of one study: {name} is"
                f" {mine[name]!r} in the first and {theirs[name]!r} in the second"
            )


def _deciding(part: SavedStudy) -> Iterator[tuple[str, Any]]:
    """Yield the settings that decide a part's numbers."""
    settings, model = part.config.as_dict(), part.results.inputs.get("model", {})
    yield "model", Path(part.config.model).name
    if model.get("files") is not None:  # earlier studies did not know those of the hub and demos
        yield "the model's files", model["files"]
    unused = _unused(part)
    for name in (*_NUMBERS, *_TRAINING, *_SOLVED, *_LINEAR):
        if name not in unused:
            yield name, settings[name]
    for method, rates in _rates(part).items():
        yield f"learning_rates of {method}", rates
    for name, digest in _examples(part).items():
        yield f"the digest of the examples of {name}", digest


def _rates(part: SavedStudy) -> dict[str, list[float] | str]:
    """Return the learning rates of the methods that a part trained."""
    found = {method: part.config.rates(method) for method in _trained(part)}
    return {name: rates if isinstance(rates, str) else [*rates] for name, rates in found.items()}


def _examples(part: SavedStudy) -> dict[str, str]:
    """Return the digests of the examples that a part has numbers of, by task, shots and seed."""
    known: dict[str, str] = part.results.inputs.get("examples", {})
    columns = part.table[["task", "k", "data_seed"]].drop_duplicates()
    having = {f"{task}/{k}-{seed}" for task, k, seed in columns.itertuples(index=False)}
    return {name: digest for name, digest in known.items() if name in having}


def _trained(part: SavedStudy) -> list[str]:
    """Return the fine-tuning methods that a part has."""
    return sorted(FINETUNING.keys() & set(part.table["method"]))


def _together(parts: Sequence[SavedStudy]) -> pd.DataFrame:
    """Return the rows of all parts, each cell's once."""
    owner: dict[str, SavedStudy] = {}
    for part in parts:
        done = set(part.table["cell"])
        for cell in sorted(done & owner.keys()):
            _check_cell(cell, owner[cell], part)
        owner |= dict.fromkeys(done - owner.keys(), part)
    for part in parts:
        owner |= dict.fromkeys(set(part.failed["cell"]) - owner.keys(), part)
    rows = [part.results.table for part in parts]
    kept = [
        each[each["cell"].map(owner.get) == part] for part, each in zip(parts, rows, strict=True)
    ]
    return pd.concat(kept, ignore_index=True)


def _check_cell(cell: str, one: SavedStudy, other: SavedStudy) -> None:
    """Raise `UserError` if two parts have other numbers of a cell."""
    mine, theirs = (
        part.table[part.table["cell"] == cell].set_index(_ROW)["value"].sort_index()
        for part in (one, other)
    )
    same = mine.index.equals(theirs.index)
    if same and np.allclose(mine, theirs, rtol=_EQUAL, atol=0, equal_nan=True):
        return
    shown = [f"{side.iloc[0]:g}" if same else f"{len(side)} numbers" for side in (mine, theirs)]
    if same:
        at = int(np.argmax(~np.isclose(mine, theirs, rtol=_EQUAL, atol=0, equal_nan=True)))
        shown = [f"{mine.index[at][1]} {side.iloc[at]:g}" for side in (mine, theirs)]
    raise UserError(
        f"cell '{cell}' stands in '{one.where}' with {shown[0]} and in '{other.where}' with"
        f" {shown[1]}: leave one of them out"
    )


def _config(parts: Sequence[SavedStudy]) -> dict[str, Any]:
    """Return the settings of the whole: of the parts that use them, lists hold what any has."""
    settings = [(part.config.as_dict(), _unused(part)) for part in parts]
    found = {}
    for name in Config.model_fields:
        using = [each[name] for each, unused in settings if name not in unused]
        found[name] = reduce(_union, using or [each[name] for each, _ in settings])
    if any(map(_trained, parts)):
        found["learning_rates"] = reduce(_union, map(_rates, parts))
    return found


def _unused(part: SavedStudy) -> set[str]:
    """Return the settings that decide nothing of a part."""
    methods = set(part.table["method"])
    kinds = {kind for name, (_, kind) in {**KERNELS, **FINETUNING}.items() if name in methods}
    found = set() if _trained(part) else {*_TRAINING, "learning_rates"}
    found |= set() if KERNELS.keys() & methods else set(_SOLVED)
    found |= set() if "linear" in part.heads else set(_LINEAR)
    return found | ({"lora", "random"} - kinds)


def _union(one: Any, other: Any) -> Any:
    if isinstance(one, list) and isinstance(other, list):
        return list(dict.fromkeys([*one, *other]))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return {**other, **one}
    return one

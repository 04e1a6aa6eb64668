"""A made-up fourteen-task study: the long table, the same numbers at every call, in milliseconds.

Scores follow simple laws (fine-tuning is a little better than its kernel, prompts than linear
heads, tasks differ in how far they are from kernel behavior) so that figures look as real ones do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.engine.run_folder import RunDirectory
from analyses.fourteen_tasks.table import COLUMNS, tidy
from subkern.tasks.catalogue import TASKS

GAIN = {
    "linear-probe": 0.55, "kernel-sgd": 0.85, "kernel-signgd": 0.82, "kernel-adam": 0.86,
    "kernel-asymmetric_signgd": 0.9, "kernel-lora": 0.8, "kernel-random": 0.7,
    "finetune-sgd": 0.95, "finetune-adam": 1.0, "finetune-signgd": 0.97, "lora-adam": 0.93,
    "bitfit-adam": 0.9, "random-adam": 0.75, "zero-shot": 0.0,
}  # fmt: skip
RULES = {
    "kernel-sgd": "sgd", "kernel-signgd": "signgd", "kernel-adam": "adam",
    "kernel-asymmetric_signgd": "asymmetric_signgd", "kernel-lora": "sgd", "kernel-random": "sgd",
}  # fmt: skip
SUBSPACES = {
    "kernel-lora": ("lora:r=1", "lora:r=8", "lora:r=32"), "lora-adam": ("lora:r=8",),
    "kernel-random": ("random:dim=100", "random:dim=1000"), "random-adam": ("random:dim=1000",),
    "bitfit-adam": ("bias",),
}  # fmt: skip
METHODS = tuple(GAIN)


def table(
    *,
    tasks: Sequence[str] = tuple(TASKS),
    shots: Sequence[int] = (16, 64),
    seeds: Sequence[int] = (13, 21, 42),
    heads: Sequence[str] = ("prompt", "linear"),
    methods: Sequence[str] = METHODS,
    behavior: bool = True,
) -> pd.DataFrame:
    """Return the long table of a study in which every cell is done."""
    rows: list[dict[str, Any]] = []
    for task in tasks:
        for k in shots:
            for seed in seeds:
                for head in heads:
                    rows += _cells(task, k, seed, head, methods, behavior)
    return tidy(rows)


def score(method: str, value: float, **about: Any) -> dict[str, Any]:
    """Return one row: a test score of one cell, unless ``about`` says otherwise."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {
        "task": "SST-2", "k": 16, "data_seed": 13, "head": "prompt", "method": method,
        "rule": RULES.get(method), "split": "test", "metric": "accuracy", "value": value,
        "seconds": 2.0, "status": "done",
        "solver": "logistic" if method.startswith("kernel") else None,
    }  # fmt: skip
    row |= about
    key = [row[name] for name in ("task", "k", "data_seed", "head", "method", "subspace")]
    return {"cell": "/".join(map(str, key)), **row} | {"cell": about.get("cell", _key(key))}


def _key(parts: Sequence[object]) -> str:
    return "/".join(str(part) for part in parts if part is not None)


def _cells(
    task: str, k: int, seed: int, head: str, methods: Sequence[str], behavior: bool
) -> Iterator[dict[str, Any]]:
    """Yield the rows of all cells of a task, shots, seed and head."""
    number = list(TASKS).index(task)
    metric = TASKS[task].metric
    lazy = (number * 5 % 14) / 13  # how far from kernel behavior, 0 to 1
    start = 0.5 + 0.02 * (number % 4) if head == "prompt" else 1 / len(TASKS[task].labels)
    best = 0.93 - 0.025 * number + (0.03 if k > 16 else 0.0) - (0.1 if head == "linear" else 0.0)
    rng = np.random.default_rng([number, k, seed, len(head)])
    about = {"task": task, "k": k, "data_seed": seed, "head": head}
    found: dict[str, float] = {}
    for method in methods:
        if (method, head) == ("zero-shot", "linear"):
            continue  # a linear head starts from the probe
        for subspace in SUBSPACES.get(method, ("full",)):
            size = float(subspace.rpartition("=")[2]) if "=" in subspace else 1000.0
            share = GAIN[method] * (1 - 0.25 * lazy * method.startswith("kernel"))
            share *= 1 - 0.3 / (1 + size) if "lora" in method else 1 - 3 / (10 + size)
            value = start + share * (best - start) + 0.012 * rng.standard_normal()
            found.setdefault(method, value)
            optimizer = method.partition("-")[2] if RULES.get(method) is None else None
            where = {"subspace": subspace, "optimizer": optimizer}
            solvers = ("logistic", "ridge") if method.startswith("kernel") else (None,)
            for solver in solvers:
                worse = 0.02 * (solver == "ridge")
                for split in ("dev", "test"):
                    yield score(
                        method, float(np.clip(value - worse, 0, 1)), metric=metric, split=split,
                        solver=solver, **about, **where,
                    )  # fmt: skip
            if method in ("kernel-lora", "kernel-random"):
                cka = 1 - (0.35 + 0.1 * rng.random()) / (1 + size ** (0.5 if size < 64 else 0.3))
                yield score(method, cka, metric="cka", split="train", solver=None, **about, **where)
    if behavior and "finetune-sgd" in found and "finetune-adam" in found:
        for optimizer in ("sgd", "adam"):
            yield from _behavior(
                {**about, "optimizer": optimizer, "subspace": "full"},
                metric, (start, found[f"finetune-{optimizer}"]), lazy, rng,
            )  # fmt: skip


def _behavior(
    about: dict[str, Any], metric: str, ends: tuple[float, float], lazy: float, rng: Any
) -> Iterator[dict[str, Any]]:
    """Yield what a fine-tuned model's linearization and features say."""
    share = 1.0 - 0.7 * lazy + 0.04 * rng.standard_normal()
    linear = ends[0] + share * (ends[1] - ends[0])
    one = {"cell": _key([*about.values(), "linearized"]), "solver": None}
    yield score("linearized", linear, metric=f"linearized {metric}", **about, **one)
    yield score("linearized", share, metric="recovered share", **about, **one)
    other = {"cell": _key([*about.values(), "features"]), "solver": None, "split": "train"}
    change = 0.2 + 1.6 * lazy + 0.05 * abs(rng.standard_normal())
    yield score("features", change, metric="relative change", **about, **other)
    cka = 1 - 0.45 * lazy - 0.01 * abs(rng.standard_normal())
    yield score("features", cka, metric="cka with start", **about, **other)


def write(directory: Path, found: pd.DataFrame | None = None, **inputs: Any) -> Path:
    """Write a finished study to ``directory`` and return it."""
    config = {"model": "tiny", "shots": [16, 64]}
    run = RunDirectory(directory, "fourteen-tasks", {"config": config})
    run.claim(config, inputs, "subkern analyze fourteen-tasks --preset quick --out runs/study")
    environment = {
        "versions": {"subkern": "1", "torch": "2"}, "machine": {"cores": 2},
        "started": "2026-01-01T10:00:00+00:00", "finished": "2026-01-01T12:00:00+00:00",
    }  # fmt: skip
    run.finish(table() if found is None else found, environment)
    return directory

"""The commands that are tried: small ones, that leave every kind of file, and what they find."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.engine.run_folder import Results
from subkern.features.features import Features
from subkern.kernels.kernel import Kernel
from subkern.training.result import FineTuned
from tests.support import tiny_folder

Read = Callable[[Path], list[Any]]


@dataclass(frozen=True)
class Command:
    """A command line without ``--out``.

    Attributes:
        words: of the line.
        out: what is named after ``--out``, in a folder of its own.
        read: its numbers, but for times.
    """

    words: tuple[str, ...]
    out: str
    read: Read

    def line(self, folder: Path, *more: str) -> list[str]:
        """Return the words, for a result in ``folder``."""
        return [*self.words, "--out", str(folder / self.out), *more]

    def digest(self, folder: Path) -> str:
        """Return a digest of the numbers that lie in ``folder``."""
        digest = hashlib.sha256()
        for value in self.read(folder / self.out):
            if isinstance(value, np.ndarray):
                digest.update(np.ascontiguousarray(value).tobytes())
            else:
                digest.update(json.dumps(value, sort_keys=True, default=str).encode())
        return digest.hexdigest()


def make_commands(root: Path) -> dict[str, Command]:
    """Return the commands by name; their model and data are made below ``root``."""
    model = tiny_folder.masked_model(root / "model")
    data = tiny_folder.reviews(root / "data", test=16)
    given = ("--model", str(model), "--task", "mr", "--data", str(data))
    few = (*given, "--shots", "4")
    kernel = ("kernel", *few, "--right", "test")
    tight, tighter = ("--memory", "120KiB"), ("--memory", "60KiB")
    training = ("--steps", "6", "--eval-every", "2", "--learning-rates", "1e-3,1e-2")
    lora = ("--ranks", "1,2", "--adapter-seeds", "2", "--solvers", "ridge")
    paper = (
        *("--tasks", "mr", "--shots", "4", "--seed", "13", "--solvers", "ridge", *training[:4]),
        *("--methods", "zero-shot,kernel-sgd,finetune-sgd", "--batch-sizes", "2"),
        *("--learning-rates", "finetune-sgd=1e-3,1e-2"),
    )
    return {
        "kernel": Command((*kernel, *tight), "K.zarr", _kernel),
        "kernel signgd": Command((*kernel, "--rule", "signgd", *tight), "K.zarr", _kernel),
        "kernel adam": Command((*kernel, "--rule", "asymmetric_adam", *tighter), "K.zarr", _kernel),
        "features": Command(
            ("features", *few, "--split", "test", "--dim", "16", *tight),
            "F.zarr",
            _features,
        ),
        "finetune": Command(
            ("finetune", *few, "--subspace", "lora:r=2", *training, "--keep-steps", "2"),
            "run",
            _finetuned,
        ),
        "analyze lora": Command(("analyze", "lora", *few, *lora), "run", _study),
        "analyze behavior": Command(
            ("analyze", "behavior", *few, "--steps", "4", "--learning-rates", "1e-2"),
            "run",
            _study,
        ),
        "analyze prompting": Command(
            ("analyze", "prompting", *few, "--prompt", "lm-bff", "--prompt", "minimal", *training),
            "run",
            _study,
        ),
        "analyze fourteen-tasks": Command(
            ("analyze", "fourteen-tasks", "--model", str(model), "--data", str(data), *paper),
            "run",
            _study,
        ),
    }


def _kernel(path: Path) -> list[Any]:
    kernel = Kernel.load(path)
    return [kernel.fingerprint, kernel.values, kernel.reverse, kernel.left_logits]


def _features(path: Path) -> list[Any]:
    found = Features.load(path)
    return [list(found.ids), found.labels, found.logits, found.values]


def _finetuned(path: Path) -> list[Any]:
    best = FineTuned.load(path / "best")
    table = json.loads((path / "grid.json").read_text())
    points = [{k: v for k, v in each.items() if k != "seconds"} for each in table["points"]]
    moved = [tensor.numpy() for _, tensor in sorted(best.shift.items())]
    return [points, best.best_step, dict(best.scores), *moved, *best.best_logits.values()]


def _study(path: Path) -> list[Any]:
    results = Results.load(path)
    kernels = [results.kernels[name].values for name in sorted(results.kernels)]
    tables = [_untimed(results.table), *(_untimed(each) for each in results.beside.values())]
    return [*(table.to_csv(index=False) for table in tables), *kernels]


def _untimed(table: pd.DataFrame) -> pd.DataFrame:
    if "metric" in table:
        timed = table["metric"].astype(str).str.contains("seconds|cost|peak")
        table = table[~timed]
    return table.drop(columns=[name for name in ("seconds",) if name in table])

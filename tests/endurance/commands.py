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
from subkern.kernels.lm_kernel_ft import import_lmk
from subkern.training.result import FineTuned
from tests.support import tiny_folder

ROOT = Path(__file__).resolve().parents[2]
Read = Callable[[Path], list[Any]]


@dataclass(frozen=True)
class Command:
    """A command line without ``--out``.

    Attributes:
        words: of the line; ``FOLDER`` in them is where its results lie.
        out: what is named after ``--out``, in a folder of its own.
        read: its numbers, but for times.
        replaces: whether it takes ``--overwrite``.
        has_workers: whether others compute for it.
        after: a command line that has to be done before.
    """

    words: tuple[str, ...]
    out: str
    read: Read
    replaces: bool = True
    has_workers: bool = False
    after: tuple[str, ...] = ()

    def line(self, folder: Path, *more: str) -> list[str]:
        """Return the words, for a result in ``folder``."""
        words = [word.replace("FOLDER", str(folder)) for word in self.words]
        return [*words, "--out", str(folder / self.out), *more]

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
    (root / "few.yaml").write_text("resamples: 20\n", encoding="utf-8")
    brief = (*few, "--config", str(root / "few.yaml"), "--solvers", "ridge")
    lora = ("analyze", "lora", *brief, "--ranks", "1,2", "--adapter-seeds", "2")
    subspace = (
        *("analyze", "subspace", *brief, "--dims", "2,8", "--kinds", "srht,gaussian"),
        *("--projection-seeds", "2", "--ranks", "1", "--adapter-seeds", "1", "--method", "bias"),
    )
    verify = (
        *("--verify", "--verify-steps", "4", "--verify-learning-rates", "1e-3,1e-2"),
        *("--verify-batch-sizes", "4"),
    )
    paper = (
        *("analyze", "fourteen-tasks", "--model", str(model), "--data", str(data)),
        *("--tasks", "mr", "--shots", "4", "--seed", "13", *brief[-2:], *training[:4]),
        *("--methods", "zero-shot,kernel-sgd,finetune-sgd", "--batch-sizes", "2"),
        *("--learning-rates", "finetune-sgd=1e-3,1e-2"),
    )
    study = str(root / "study")
    return {
        "kernel": Command((*kernel, *tight), "K.zarr", _kernel),
        "kernel signgd": Command((*kernel, "--rule", "signgd", *tight), "K.zarr", _kernel),
        "kernel adam": Command((*kernel, "--rule", "asymmetric_adam", *tighter), "K.zarr", _kernel),
        "kernel export": Command(
            (*kernel, "--export-lmk", "FOLDER/test_kernels_mr.pt"), "K.zarr", _exported
        ),
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
        "figures": Command(
            ("figures", study), "drawn", _tables, replaces=False, after=(*paper, "--out", study)
        ),
        "analyze lora --verify": Command((*lora, *verify), "run", _study),
        "analyze subspace --verify": Command((*subspace, *verify), "run", _study),
        "analyze behavior": Command(
            ("analyze", "behavior", *brief, "--steps", "4", "--learning-rates", "1e-2"),
            "run",
            _study,
        ),
        "analyze prompting": Command(
            (*("analyze", "prompting", *brief, *training), "--prompt", "lm-bff", "--no-random"),
            "run",
            _study,
        ),
        "analyze learning-rate": Command(
            (
                *("analyze", "learning-rate", *few, "--subspace", "lora:r=2", "--steps", "4"),
                *("--factors", "0.5,1.0", "--probe-steps", "2", "--no-kernel"),
            ),
            "run",
            _study,
        ),
        "analyze width": Command(
            (
                *("analyze", "width", "--widths", "16,32,48", "--parametrizations", "ntp"),
                *("--optimizers", "adam", "--seeds", "1", "--steps", "2", "--factors", "1.0"),
                *("--shots", "4", "--no-kernel"),
            ),
            "run",
            _study,
        ),
        "analyze fourteen-tasks": Command(paper, "run", _study),
        "analyze fourteen-tasks --workers": Command(
            (*paper, "--workers", "2"), "run", _study, has_workers=True
        ),
    }


def _kernel(path: Path) -> list[Any]:
    kernel = Kernel.load(path)
    return [kernel.fingerprint, kernel.values, kernel.reverse, kernel.left_logits]


def _exported(path: Path) -> list[Any]:
    return [*_kernel(path), import_lmk(path.with_name("test_kernels_mr.pt")).values]


def _tables(path: Path) -> list[Any]:
    tables = [pd.read_parquet(each) for each in sorted(path.rglob("*.parquet"))]
    return [(path / "report.html").is_file(), *(each.to_csv(index=False) for each in tables)]


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

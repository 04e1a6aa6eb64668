"""Random projections of the same gradients: ours, TRAK's `BasicProjector` and bergson's.

All map rows ``[k, P]``, float32, to ``[k, d]``, with E[⟨projected⟩] = ⟨gradients⟩. The others' are
their published code, imported if it is there (`make bench-deps`).
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subkern.projections.project import Projections
from subkern.projections.spec import KINDS, ProjectionSpec

DEPS = Path(os.environ.get("SUBKERN_BENCH_DEPS", "runs/bench-deps"))
"""Where `make bench-deps` puts what is compared with and nothing here depends on."""

Gradients = Mapping[str, Tensor]
"""Parameter name → gradients of k examples, flat, ``[k, size]``."""
Project = Callable[[], Tensor]
"""Gives the projected gradients ``[k, d]``."""
Prepare = Callable[[Gradients, int, int], Project]
"""From gradients, dimension and seed."""


class Missing(Exception):  # noqa: N818  (a finding for the table, not a fault)
    """A package that is compared with cannot be imported here."""


def ours(kind: str) -> Prepare:
    """`subkern.projections.project.Projections`."""

    def prepare(gradients: Gradients, dim: int, seed: int) -> Project:
        cell = ProjectionSpec(kind, seed, dim)
        projections = Projections([cell], {n: g.shape[1] for n, g in gradients.items()})
        return lambda: projections.project(gradients)[cell]

    return prepare


def trak(kind: str) -> Prepare:
    """TRAK's `BasicProjector`, blocks of 100 columns as it comes; it leaves 1/√d to its user.

    What it does as it is built (its matrix is P × 100 numbers) is not timed.
    """
    module = _imported("trak.projectors")

    def prepare(gradients: Gradients, dim: int, seed: int) -> Project:
        rows = torch.cat(list(gradients.values()), dim=1)
        made = module.BasicProjector(rows.shape[1], dim, seed, kind, torch.device("cpu"))
        return lambda: made.project(rows, model_id=0) / dim**0.5

    return prepare


def bergson(kind: str) -> Prepare:
    """`project_global` of bergson, parameter by parameter, added up as its collector does."""
    module = _imported("bergson.collector.collector")

    def prepare(gradients: Gradients, dim: int, seed: int) -> Project:
        def project() -> Tensor:
            parts = [
                module.project_global(f"{name}/single/seed{seed}", rows, dim, kind, "jl")
                for name, rows in gradients.items()
            ]
            return torch.stack(parts).sum(0)

        return project

    return prepare


CONTENDERS: dict[str, Callable[[], Prepare]] = {
    "TRAK, normal": lambda: trak("normal"),
    "TRAK, rademacher": lambda: trak("rademacher"),
    "bergson, normal": lambda: bergson("normal"),
    "bergson, rademacher": lambda: bergson("rademacher"),
    **{f"subkern, {kind}": lambda kind=kind: ours(kind) for kind in KINDS},  # type: ignore[misc]
}
"""Label → what makes it, or raises `Missing`."""


def _imported(name: str) -> Any:
    """A module of a package that is compared with.

    Raises:
        Missing: with the reason, for the table.
    """
    try:
        with _on_path(DEPS), _logging_kept():
            return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise Missing(f"{name.partition('.')[0]} is not here ({error}): make bench-deps") from error


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """Inside, packages of `folder` can be imported, after the environment's own."""
    path = str(folder.resolve())
    sys.path.append(path)
    try:
        yield
    finally:
        sys.path.remove(path)


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Puts the root logger back as it was: bergson takes it over when imported."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)

"""A made-up subspace study on the random features of `fake_lora`: tested in milliseconds.

`Undrawn` leaves out the figures, which take seconds, where a test is not about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from analyses.engine.inputs import Inputs, load_inputs
from analyses.subspace.compute import Engine
from analyses.subspace.config import Config
from analyses.subspace.findings import Findings
from analyses.subspace.study import SubspaceStudy
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import RunOptions
from subkern.kernels.sweeps.lora import LoraGrid
from subkern.tasks.catalogue import Task
from subkern.tasks.examples import Example
from tests.support import fake_lora
from tests.support.fake_lora import ADAPTED, FEATURES, FakeModel

METHODS = {"full": FEATURES, "bias": 50, "norm": 20, "ia3": 30, "vera:r=4": 10}


def count_parameters(model: FakeModel, method: str) -> int:
    """Stand in for `Engine.count_parameters`: the made-up model has no norms."""
    if method == "norm" or method not in METHODS:
        raise UserError(f"no parameter matches '{method}'")
    return METHODS[method]


@dataclass(frozen=True)
class Swept:
    """As much of a `DimensionSweep` as the analysis reads."""

    full: Kernel
    kernels: dict[tuple[str, int, int], Kernel]
    cost: dict[str, float]


@cache
def features(examples: tuple[tuple[str, int], ...], num_logits: int) -> np.ndarray:
    """Return `fake_lora.gradients` of examples given as id and label, made once."""
    given = [SimpleNamespace(id=name, label=label) for name, label in examples]
    return fake_lora.gradients(given, num_logits)


def projected(
    model: FakeModel, left: Sequence[Any], right: Sequence[Any], maps: np.ndarray, **about: Any
) -> Kernel:
    """Return the kernel of the features under ``maps`` [FEATURES, d]."""
    c = model.num_logits
    keys = [tuple((e.id, e.label) for e in side) for side in (left, right)]
    one, other = (features(key, c) @ maps for key in keys)
    return Kernel(
        np.einsum("iap,jbp->iajb", one, other),
        [e.id for e in left],
        [e.id for e in right],
        [e.label for e in left],
        [e.label for e in right],
        {"rule": "sgd", **about},
        fake_lora.f0(left, c),
        fake_lora.f0(right, c),
    )


def draw(kind: str, seed: int, dim: int) -> np.ndarray:
    """Return unscaled entries [FEATURES, dim] of mean 0 and variance 1; heavy-tailed if sparse."""
    rng = np.random.default_rng([seed, len(kind)])
    if kind == "rademacher":
        return rng.choice([-1.0, 1.0], size=(dim, FEATURES)).T
    if kind == "very_sparse":
        kept = rng.random((dim, FEATURES)) < FEATURES**-0.5
        return (rng.choice([-1.0, 1.0], size=(dim, FEATURES)) * kept * FEATURES**0.25).T
    return rng.normal(size=(dim, FEATURES)).T


def sweep_dimensions(
    model: FakeModel,
    left: Sequence[Any],
    right: Sequence[Any],
    *,
    dims: Sequence[int],
    kinds: Sequence[str],
    seeds: Sequence[int],
    options: RunOptions,
    **_: Any,
) -> Swept:
    """Stand in for `sweep_dimensions`: prefixes of one projection of the features."""
    if options.progress is not None:
        options.progress(len(left) * len(right), len(left) * len(right))
    kernels = {}
    for kind in kinds:
        for seed in seeds:
            drawn = draw(kind, seed, max(dims))
            for dim in dims:
                maps = drawn[:, :dim] / dim**0.5
                about = {"subspace": kind, "seed": seed, "dim": dim}
                kernels[kind, seed, dim] = projected(model, left, right, maps, **about)
    full = projected(model, left, right, np.eye(FEATURES), subspace="full")
    return Swept(full, kernels, {"total_seconds": 72.0, "peak_bytes": 3e8})


def sweep_lora(
    model: FakeModel, left: Sequence[Any], right: Sequence[Any], *, grid: LoraGrid, **_: Any
) -> Any:
    """Stand in for `sweep_lora`: LoRA kernels are random sketches of the adapted features."""
    kernels = {}
    for seed in grid.seeds:
        drawn = np.random.default_rng(seed).normal(size=(ADAPTED, 32 * max(grid.ranks)))
        for rank in grid.ranks:
            maps = np.zeros((FEATURES, 32 * rank))
            maps[:ADAPTED] = drawn[:, : 32 * rank] / rank
            kernels[seed, rank] = projected(model, left, right, maps, subspace="lora", rank=rank)
    trainable = {rank: 20 * rank for rank in grid.ranks}
    return SimpleNamespace(kernels=kernels, trainable=trainable, cost={"total_seconds": 1.0})


def compute_kernel(
    model: FakeModel, left: Sequence[Any], right: Sequence[Any], *, subspace: str, **_: Any
) -> Kernel:
    """Stand in for `compute_kernel`: a method trains the last so many features."""
    return projected(
        model,
        left,
        right,
        np.eye(FEATURES)[:, -METHODS[subspace] :],
        subspace=subspace,
        recorded={"seconds": 1000.0},
    )


def load_examples(
    task: Task, source: str, *, split: str, shots: int, seed: int, limit: int | None
) -> list[Example]:
    """Stand in for `subkern.tasks.examples.load_examples`."""
    count = {"train": shots * len(task.labels), "dev": 12, "test": 40}[split]
    return [
        Example(f"{split}-{seed}-{i}", (f"text {i}",), i % len(task.labels))
        for i in range(limit or count)
    ]


ENGINE = Engine(sweep_dimensions, sweep_lora, lambda *_: None, compute_kernel, count_parameters)


class MadeUp(SubspaceStudy):
    """The study with examples, model and kernels that are made up."""

    def __init__(self, **asked: Any) -> None:
        made_up = {"loader": fake_lora.load_model, "suggester": fake_lora.suggest}
        super().__init__(**{"engine": ENGINE, **made_up} | asked)

    def inputs(self, config: Config) -> Inputs:
        return load_inputs(config, load_examples)


class Undrawn(MadeUp):
    """The same without figures."""

    def figures(self, findings: Findings) -> Any:
        return {}


DIMS = (2, 16, 128)


def config(**changes: Any) -> Config:
    """Return settings of a quick study."""
    settings: dict[str, Any] = {
        "model": "made-up", "task": "mr", "data": "x", "shots": 8, "dims": DIMS,
        "kinds": ("gaussian", "rademacher"), "ranks": (1, 4), "solvers": ("ridge", "svc"),
        "resamples": 50, "max_dense": 1000,
    }  # fmt: skip
    return Config.from_dict(settings | changes)


def small(**changes: Any) -> Config:
    """Return settings of a study that takes a second."""
    few: dict[str, Any] = {
        "kinds": ("gaussian",), "projection_seeds": 2, "adapter_seeds": 1, "ranks": (1,),
        "solvers": ("ridge",), "methods": ("bias",),
    }  # fmt: skip
    return config(**few | changes)

"""A made-up LoRA study: on random features, or with numbers as wanted; milliseconds either way."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from analyses import study
from analyses.engine import inputs
from analyses.engine.run_folder import Results
from analyses.lora import compute as lora_compute
from analyses.lora import study as lora_study
from analyses.lora.compute import TABLE, row
from analyses.lora.config import Config
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import RunOptions
from subkern.kernels.sweeps.lora import LoraGrid, LoraSweep
from subkern.learning_rate import NoSuggestion, Suggestion
from subkern.prompts.prompt import EncodedExample
from subkern.subspaces.lora_targets import Resolved, Targets
from subkern.tasks.catalogue import Task
from subkern.tasks.examples import Example

FEATURES, ADAPTED = 600, 480  # parameters of the made-up model, and how many of them LoRA adapts
SETS = {"qv": (0, 60), "attention": (0, 160), "mlp": (160, 480)}  # of targets not listed: all


def gradients(examples: Sequence[Any], num_logits: int) -> np.ndarray:
    """Return gradients [n, c, FEATURES]: a constant, a part that the label decides, and noise."""
    shared = np.random.default_rng(0)
    constant = shared.normal(size=(num_logits, FEATURES))
    direction = shared.normal(size=(max(num_logits, 2), num_logits, FEATURES)) * 0.25
    rows = []
    for example in examples:
        rng = np.random.default_rng(zlib.crc32(example.id.encode()))
        decay = np.linspace(2.0, 0.3, FEATURES)
        noise = rng.normal(size=(num_logits, FEATURES)) * decay
        rows.append(constant + direction[example.label] + noise)
    return np.array(rows)


def f0(examples: Sequence[Any], num_logits: int) -> np.ndarray:
    """Return initial logits [n, c], somewhat right."""
    rows = []
    for example in examples:
        logits = np.random.default_rng(zlib.crc32(b"f0" + example.id.encode())).normal(
            size=num_logits
        )
        if num_logits == 1:
            logits[0] += 0.8 * (2 * example.label - 1)
        else:
            logits[example.label] += 0.8
        rows.append(logits)
    return np.array(rows)


@dataclass
class FakeModel:
    """As much of a LogitModel as an analysis touches."""

    num_logits: int
    task: Any
    description: dict[str, Any] = field(default_factory=lambda: {"source": "made up"})

    def encode_all(self, examples: Any) -> Any:
        """As its prompt."""
        return self.prompt.encode_all(examples)

    @property
    def prompt(self) -> Any:
        """A prompt that encodes nothing."""
        description = {"template": "*sent_0*_It_was", "label_words": list(self.task.label_words)}
        return SimpleNamespace(
            description=description,
            label_words=self.task.label_words,
            encode_all=lambda examples: [
                EncodedExample(e.id, e.label, (1, 2), 1) for e in examples
            ],
        )


def load_model(spec: str, *, task: Any, logits: str = "all", **_: Any) -> FakeModel:
    """Stand in for `subkern.models.load.load_model`."""
    return FakeModel(1 if logits == "binary" else len(task.labels), task)


def suggest(
    model: FakeModel, examples: Sequence[Any], *, subspace: Any, **asked: Any
) -> Suggestion:
    """Stand in for `suggest`: rates of LoRA of rank 1 fall with the first step."""
    described = subspace.describe()
    if described["kind"] == "ia3":
        raise NoSuggestion("a step in 'ia3' does not change the logits")
    at_start = 3e-2 if getattr(subspace, "r", None) == 1 else 2e-3
    return Suggestion(
        subspace=str(described["kind"]),
        coordinates=1,
        optimizer=asked["optimizer"],
        batch_size=asked["batch_size"],
        examples=len(examples),
        steps=asked.get("steps"),
        rate_at_start=at_start,
        rates_after_step=(4e-3,),
        seconds=1.5,
    )


def resolve(model: FakeModel, targets: Targets) -> Resolved:
    """Stand in for `subkern.subspaces.lora_targets.resolve`."""
    return Resolved(targets, note="query, key and value are one layer" if targets == "qv" else "")


def sweep_targets(
    model: FakeModel,
    left: Sequence[Any],
    right: Sequence[Any],
    *,
    sets: Mapping[str, Targets],
    grid: LoraGrid,
    rule: str,
    options: RunOptions,
) -> dict[str, LoraSweep]:
    """Stand in for `sweep_targets`: LoRA kernels are random sketches of a set's features."""
    if options.progress is not None:
        options.progress(len(left) * len(right), len(left) * len(right))
    return {name: _sweep(model, left, right, name, grid) for name in sets}


def _sweep(
    model: FakeModel, left: Sequence[Any], right: Sequence[Any], name: str, grid: LoraGrid
) -> LoraSweep:
    """Return the sweep of one target set; ``all`` trains the features that are not adapted too."""
    first, last = SETS.get(name, (0, ADAPTED))
    rest = np.eye(FEATURES)[:, ADAPTED:] if name == "all" else np.zeros((FEATURES, 0))
    c = model.num_logits
    sides = gradients(left, c), gradients(right, c)

    def kernel(maps: np.ndarray, **subspace: Any) -> Kernel:
        one, other = (side @ maps for side in sides)
        return Kernel(
            np.einsum("iap,jbp->iajb", one, other),
            [e.id for e in left],
            [e.id for e in right],
            [e.label for e in left],
            [e.label for e in right],
            {"rule": "sgd", **subspace},
            f0(left, c),
            f0(right, c),
        )

    identity = np.eye(FEATURES)
    kernels = {}
    for seed in grid.seeds:
        drawn = np.random.default_rng(seed).normal(size=(last - first, 32 * max(grid.ranks)))
        for rank in grid.ranks:
            maps = np.zeros((FEATURES, 32 * rank))
            maps[first:last] = drawn[:, : 32 * rank] / rank
            both = np.concatenate([maps, rest], 1)
            kernels[seed, rank] = kernel(both, subspace="lora", rank=rank, seed=seed)
    return LoraSweep(
        full=kernel(identity, subspace="full"),
        targets_full=kernel(np.concatenate([identity[:, first:last], rest], 1), subspace="targets"),
        kernels=kernels,
        trainable={rank: (last - first) * rank // 24 + rest.shape[1] for rank in grid.ranks},
        trainable_full=FEATURES,
        cost={
            "capture_seconds": 0.02,
            "contraction_seconds": 1.5,
            "total_seconds": 72.0,
            "entries": float(len(left) * len(right)),
            "flops": 2.5e12,
            "peak_bytes": 3e8,
        },
    )


def load_examples(
    task: Task, source: str, *, split: str, shots: int, seed: int, limit: int | None
) -> list[Example]:
    """Stand in for `subkern.tasks.examples.load_examples`."""
    count = {"train": shots * len(task.labels), "dev": 20, "test": 60}[split]
    return [
        Example(f"{split}-{i}", (f"text {i} of {seed}",), i % len(task.labels))
        for i in range(limit or count)
    ]


@contextmanager
def made_up() -> Iterator[None]:
    """Put made-up examples, model and sweep in place of the real ones, for commands too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "load_model", load_model)
        patch.setattr(study, "suggest", suggest)
        patch.setattr(lora_compute, "sweep_targets", sweep_targets)
        patch.setattr(lora_study, "resolve_sets", lambda *_: None)
        patch.setattr(lora_study, "resolve", resolve)
        patch.setattr(inputs, "load_examples", load_examples)
        yield


def config(**changes: Any) -> Config:
    """Return settings of a quick study on a made-up model."""
    return Config(
        **{
            **{"model": "made-up", "task": "mr", "data": "x", "ranks": (1, 4), "shots": 8},
            **{"resamples": 20, "kernel_resamples": 3},
            **changes,
        }
    )


Outcomes = Mapping[tuple[str, int], tuple[float, float, float]]
"""(targets, rank) -> parameters trained, of 1000; drop in score; share of equal predictions."""


def judged(
    outcomes: Outcomes,
    full: float = 0.8,
    zero: float = 0.6,
    adapted: tuple[float, float] = (0.0, 1.0),
    **changes: Any,
) -> Results:
    """Return results in which configurations come out as told, by one classifier on 1,000 tests."""
    sets, ranks = (tuple(dict.fromkeys(each)) for each in zip(*outcomes, strict=True))
    chosen = {"target_sets": sets} if len(sets) > 1 else {"targets": sets[0]}
    given = {"solvers": ("ridge",), "adapter_seeds": (0,), "ranks": ranks, **chosen, **changes}
    settings = config(**given)
    metrics = ("cka", "eigenspace_overlap_centred")
    test: dict[str, Any] = {"data_seed": 13, "split": "test"}
    train: dict[str, Any] = {"data_seed": 13, "split": "train"}
    rows = [
        row(zero, kernel="zero-shot", metric="accuracy", **test),
        row(1000, data_seed=13, kernel="full", metric="trainable_parameters"),
        *(row(1, kernel="full", reference="full", metric=m, **train) for m in metrics),
    ]
    for solver in settings.classifiers:
        rows.append(row(full, kernel="full", solver=solver, metric="accuracy", **test))
    for name in sets:
        about: dict[str, Any] = {"kernel": "targets", "targets": name}
        for metric in metrics:
            rows.append(row(0.97, reference="full", metric=metric, **about, **train))
            rows.append(row(1.0, reference="targets", metric=metric, **about, **train))
        for solver in settings.classifiers:
            rows += _against(adapted, full, {**about, **test, "solver": solver})
    for (name, rank), (size, drop, share) in outcomes.items():
        cell: dict[str, Any] = {"kernel": "lora", "targets": name, "rank": rank}
        run: dict[str, Any] = {**cell, "adapter_seed": 0}
        rows.append(row(size, data_seed=13, metric="trainable_parameters", **cell))
        for metric in metrics:
            for reference in ("full", "targets"):
                rows.append(row(share, reference=reference, metric=metric, **run, **train))
        for solver in settings.classifiers:
            rows += _against((drop, share), full, {**run, **test, "solver": solver})
    found = {
        "task": {"name": "mr", "metric": "accuracy", "label_words": ["terrible", "great"]},
        "examples": {"13": {"train": 32, "dev": 32, "test": 1000}},
        "target_sets": {"qv": {"note": "all three of them"}} if "qv" in sets else {},
    }
    return Results("lora", settings.as_dict(), found, TABLE.tidy(rows))


def _against(outcome: tuple[float, float], full: float, cell: dict[str, Any]) -> list[Any]:
    """Return the rows of a kernel's score, of its drop and of the predictions it shares."""
    drop, share = outcome
    return [
        row(full - drop, metric="accuracy", **cell),
        row(drop, (drop, drop), metric="drop", reference="full", **cell),
        row(share, (share, share), metric="prediction_agreement", reference="full", **cell),
    ]

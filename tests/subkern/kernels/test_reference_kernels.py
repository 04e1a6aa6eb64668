"""The numbers that `NUMERICS` stands for: recomputed, they are what they were.

Kernels, features and fine-tunings are identified by their settings and by this version of how they
are computed. So a change of the numbers has to raise it, or what users stored before would pass for
what is computed now. Models have weights by a formula, and examples are written out: no random
numbers of torch stand behind the reference. After a change that is meant to change numbers, raise
`subkern.storage.provenance.NUMERICS`; then, as for a new case, in the project's folder::

    python -m tests.subkern.kernels.test_reference_kernels
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from subkern import (
    EncodedExample,
    Kernel,
    LogitModel,
    LoraGrid,
    RandomSubspace,
    Training,
    compute_features,
    compute_kernel,
    finetune,
    sweep_dimensions,
    sweep_rules,
    sweep_targets,
)
from subkern.kernels.rules import NAMES
from subkern.projections.spec import KINDS
from subkern.storage.provenance import NUMERICS
from tests.support import oracles
from tests.support.families import FAMILIES

STORED = Path(__file__).with_name("reference_kernels.json")
RTOL = 1e-9
FEATURES_RTOL = 1e-6  # they are kept in float32
REGENERATE = "python -m tests.subkern.kernels.test_reference_kernels"

Numbers = dict[str, list[float]]


def formula_model(name: str) -> LogitModel:
    """A tiny model in float64 whose weights are sines, gains around 1."""
    family = next(f for f in FAMILIES if f.name == name and f.kind in ("masked", "causal"))
    model = oracles.logit_model(family)
    with torch.no_grad():
        for k, (path, p) in enumerate(sorted(model.named_parameters())):
            i = torch.arange(p.numel(), dtype=torch.float64)
            gain = 1.0 if "norm" in path.lower() or ".ln_" in path else 0.0
            p.copy_((gain + 0.3 * torch.sin(0.37 * i * i + 1.7 * k)).reshape(p.shape))
    return model


def batch(count: int, start: int = 0) -> list[EncodedExample]:
    """Examples of 4, 6, 3, ... tokens; read where masked and causal models can be."""
    found = []
    for n in range(start, start + count):
        length = (4, 6, 3, 5)[n % 4]
        ids = tuple(3 + (7 * n * n + 5 * t * (n + 1)) % 55 for t in range(length))
        found.append(EncodedExample(f"x{n}", n % 2, ids, length - 1))
    return found


LEFT, RIGHT = batch(2), batch(3, 1)  # one stands on both sides


def kernels_of(name: str, kernel: Kernel) -> Numbers:
    found = {name: kernel.values.ravel().tolist()}
    if kernel.reverse is not None:
        found[f"{name}, reverse"] = kernel.reverse.ravel().tolist()
    return found


def rules(model: LogitModel) -> Iterator[Numbers]:
    for rule in NAMES:
        yield kernels_of(f"rule {rule}", compute_kernel(model, LEFT, RIGHT, rule=rule))
    symmetric = compute_kernel(model, LEFT, rule="adam:eps=1e-4")
    yield kernels_of("rule adam:eps=1e-4, symmetric", symmetric)


def all_rules(model: LogitModel) -> Iterator[Numbers]:
    """Every sign as it is: no bias here is without a gradient, so no sign is one of rounding."""
    exact = [f"{rule}:zero_tolerance=0" for rule in NAMES if rule != "sgd"]
    found = sweep_rules(model, LEFT, RIGHT, rules=["sgd", *exact])
    for rule, kernel in zip(NAMES, found, strict=True):
        yield kernels_of(f"sweep {rule}:zero_tolerance=0", kernel)


def lora(rule: str) -> Callable[[LogitModel], Iterator[Numbers]]:
    def compute(model: LogitModel) -> Iterator[Numbers]:
        grid = LoraGrid(ranks=(1, 2), seeds=(3,))
        sets = {"qv": "qv", "all": "all-linear"}
        sweeps = sweep_targets(model, LEFT, RIGHT, sets=sets, grid=grid, rule=rule)
        for name, sweep in sweeps.items():
            yield kernels_of(f"lora {rule} {name}, targets", sweep.targets_full)
            for cell, kernel in sweep.kernels.items():
                yield kernels_of(f"lora {rule} {name} {cell}", kernel)

    return compute


def subspaces(*lines: str) -> Callable[[LogitModel], Iterator[Numbers]]:
    def compute(model: LogitModel) -> Iterator[Numbers]:
        for line in lines:
            yield kernels_of(line, compute_kernel(model, LEFT, RIGHT, subspace=line))

    return compute


def projections(model: LogitModel) -> Iterator[Numbers]:
    for kind in KINDS:
        subspace = RandomSubspace(24, kind, seed=5)
        yield kernels_of(kind, compute_kernel(model, LEFT, RIGHT, subspace=subspace))
    swept = sweep_dimensions(model, LEFT, RIGHT, dims=(8, 24), kinds=("srht",), seeds=(5,))
    for cell, kernel in swept.kernels.items():
        yield kernels_of(f"dimensions {cell}", kernel)


def features(model: LogitModel) -> Iterator[Numbers]:
    with tempfile.TemporaryDirectory() as folder:
        subspace = RandomSubspace(24, "count_sketch", seed=5)
        found = compute_features(model, LEFT, subspace=subspace, out=Path(folder) / "f")
        yield {"features": found.values.astype(np.float64).ravel().tolist()}


def training(model: LogitModel) -> Iterator[Numbers]:
    splits = {"train": batch(5), "dev": batch(2, 5)}
    for optimizer, rate in (("sgd", 0.05), ("adam", 0.01), ("signgd", 0.003)):
        asked = Training(
            optimizer, learning_rate=rate, batch_size=2, steps=4, eval_every=2, schedule="linear"
        )
        for subspace in ("full", "lora:r=2,seed=3") if optimizer == "sgd" else ("full",):
            found = finetune(model, splits, training=asked, subspace=subspace)
            yield {f"train {optimizer} {subspace}": found.logits["dev"][-1].ravel().tolist()}


CASES: Mapping[str, tuple[Callable[[LogitModel], Iterator[Numbers]], ...]] = {
    "bert": (rules, lora("sgd"), subspaces("last:1", "bias", "lora:r=2,seed=3")),
    "gpt2": (rules, projections, features, training),
    "llama": (all_rules, lora("signgd"), lora("adam"), subspaces("norm", "head")),
}


def compute(name: str) -> Numbers:
    """All reference numbers of one model."""
    model = formula_model(name)
    parts = [part for case in CASES[name] for part in case(model)]
    return {f"{name}: {k}": v for part in parts for k, v in part.items()}


def complaints(stored: Mapping[str, Any], found: Numbers, numerics: int) -> list[str]:
    """What has to be done if numbers or their version are not as stored; [] if they are."""
    kept: Numbers = stored["numbers"]
    changed = [k for k, v in found.items() if k in kept and not _equal(k, v, kept[k])]
    if changed and numerics == stored["numerics"]:
        return [f"numbers changed ({', '.join(changed)}): raise NUMERICS, then {REGENERATE}"]
    if numerics != stored["numerics"]:
        return [f"NUMERICS is {numerics}, the reference of {stored['numerics']}: {REGENERATE}"]
    missing = [k for k in found if k not in kept]
    return [f"no reference of {', '.join(missing)}: {REGENERATE}"] if missing else []


def _equal(name: str, one: list[float], other: list[float]) -> bool:
    """Equal to a share of the largest: entries near 0 are sums of larger ones, with their error."""
    a, b = np.asarray(one), np.asarray(other)
    rtol = FEATURES_RTOL if name.endswith("features") else RTOL
    return a.shape == b.shape and bool(np.abs(a - b).max() <= rtol * np.abs(b).max())


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(STORED.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_this_version(name: str, stored: dict[str, Any]) -> None:
    found = compute(name)
    assert complaints(stored, found, NUMERICS) == []
    assert {k for k in stored["numbers"] if k.startswith(f"{name}: ")} == set(found)


def test_a_change_of_numbers_is_found(stored: dict[str, Any]) -> None:
    """A weight that is off in the seventh digit, as a bug would be: the guard complains."""
    model = formula_model("llama")
    head = model.module.get_output_embeddings().weight  # type: ignore[operator]
    with torch.no_grad():
        head.mul_(1 + 1e-7)
    kernel = compute_kernel(model, LEFT, RIGHT, subspace="norm")
    found = {f"llama: {k}": v for k, v in kernels_of("norm", kernel).items()}
    (said,) = complaints(stored, found, NUMERICS)
    assert "llama: norm" in said
    assert "raise NUMERICS" in said


def test_what_the_guard_asks_for(stored: dict[str, Any]) -> None:
    numbers = stored["numbers"]
    assert complaints(stored, numbers, stored["numerics"]) == []
    assert "is 99, the reference of" in complaints(stored, numbers, 99)[0]
    assert "no reference of new" in complaints(stored, {"new": [1.0]}, stored["numerics"])[0]
    for name in numbers:  # every case can fail
        moved = {name: [value + 1e-5 * max(map(abs, numbers[name])) for value in numbers[name]]}
        assert "numbers changed" in complaints(stored, moved, stored["numerics"])[0]


def main() -> None:
    """Write the reference; refuses other numbers of the same version."""
    found = {k: v for name in CASES for k, v in compute(name).items()}
    if STORED.exists():
        before = json.loads(STORED.read_text(encoding="utf-8"))
        said = complaints(before, found, NUMERICS)
        if said and "numbers changed" in said[0]:
            raise SystemExit(said[0])
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in found.items())
    text = f'{{"numerics": {NUMERICS}, "numbers": {{\n{lines}\n}}}}\n'
    STORED.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

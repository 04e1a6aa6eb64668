"""`analyze subspace` with real kernels: a tiny random model in float64, the real sweeps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from analyses.engine.inputs import Inputs, load_inputs
from analyses.engine.long_table import cells
from analyses.engine.run_folder import Results
from analyses.subspace.config import Config
from analyses.subspace.findings import read
from analyses.subspace.study import SubspaceStudy
from subkern.kernels.compute import compute_kernel
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.subspaces.random import RandomSubspace
from subkern.tasks.examples import Example
from tests.support import oracles
from tests.support.families import FAMILIES, random_examples

GPT2 = next(f for f in FAMILIES if (f.name, f.kind) == ("gpt2", "causal"))
COUNTS = {"train": 6, "dev": 4, "test": 6}


def encode(examples: list[Example]) -> list[EncodedExample]:
    """Return random tokens for each example, the same at every call."""
    found = []
    for example in examples:
        seed = sum(map(ord, example.id))
        drawn = random_examples(1, lengths=(4 + seed % 5,), seed=seed)[0]
        found.append(EncodedExample(example.id, example.label, drawn.input_ids, drawn.read))
    return found


def load_model(spec: str, **_: Any) -> LogitModel:
    """Return a random GPT-2 of a few thousand parameters."""
    model = oracles.logit_model(GPT2, 3)
    prompt = SimpleNamespace(
        description={"template": "x"}, label_words=("a", "b", "c"), encode_all=encode
    )
    model.prompt = prompt  # type: ignore[assignment]
    return model


def load_examples(task: Any, source: str, *, split: str, **_: Any) -> list[Example]:
    """Return examples whose texts do not matter."""
    return [Example(f"{split}-{i}", ("x",), i % 3) for i in range(COUNTS[split])]


class Tiny(SubspaceStudy):
    """The study of the tiny model and its examples, with the real kernels."""

    def __init__(self, **asked: Any) -> None:
        super().__init__(**{"loader": load_model} | asked)

    def inputs(self, config: Config) -> Inputs:
        return load_inputs(config, load_examples)


subspace = Tiny()


def run(**changes: Any) -> Results:
    settings: dict[str, Any] = {
        "model": "tiny", "task": "MNLI", "data": "x", "dims": (4, 64), "kinds": ("srht", "sparse"),
        "projection_seeds": 2, "ranks": (1, 2), "adapter_seeds": 1, "methods": ("bias", "norm"),
        "solvers": ("ridge",), "resamples": 20,
    }  # fmt: skip
    return subspace.run(Config.from_dict(settings | changes))


def test_every_kernel_is_the_librarys() -> None:
    results = run()
    model = load_model("tiny")
    train = encode(load_examples(None, "x", split="train"))
    ids = [example.id for example in train]
    full = results.kernels["13/full"].select(right=ids)
    assert oracles.error(full.values, compute_kernel(model, train).values) < 1e-10
    bias = results.kernels["13/method-bias"].select(right=ids)
    assert oracles.error(bias.values, compute_kernel(model, train, subspace="bias").values) < 1e-10
    sizes = results.inputs["methods"]
    assert sizes["bias"] == sum(p.numel() for n, p in model.named_parameters() if "bias" in n)
    random = compute_kernel(model, train, subspace=RandomSubspace(64, "srht", 1))
    distorted = (random.matrix() - full.matrix()) / np.sqrt(
        np.outer(np.diag(full.matrix()), np.diag(full.matrix()))
    )
    upper = distorted[np.triu_indices(len(distorted))]
    cell: dict[str, Any] = {"method": "srht", "parameters": 64, "seed": 1}
    inside = cells(results.table, metric="distortion.inside", **cell)["value"].item()
    cosine = full.matrix() / np.sqrt(np.outer(np.diag(full.matrix()), np.diag(full.matrix())))
    sigma = np.sqrt((1 + cosine[np.triu_indices(len(distorted))] ** 2) / 64)
    assert inside == pytest.approx(np.mean(np.abs(upper) <= 1.959964 * sigma))


@pytest.mark.parametrize(
    ("rule", "solver"), [("signgd", "ridge"), ("asymmetric_signgd", "asym-ridge")]
)
def test_sign_rules_run_through(rule: str, solver: str) -> None:
    results = run(rule=rule, solvers=(solver,), kinds=("srht",), ranks=(1,), methods=("bias",))
    assert results.kernels["13/full"].provenance["rule"] == rule
    found = read(results)
    assert all(np.isfinite(value.mean) for value in found.first.cka.values())
    assert set(subspace.figures(found)) == {"preservation", "dimension"}

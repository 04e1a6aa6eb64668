"""The coordinate check: sizes and changes of features and function go with width as predicted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from subkern.prompts.prompt import EncodedExample
from subkern.width import Perceptrons, WidthRun, initialize, train_wide, transformers_of
from subkern.width.families import Family
from tests.support.vectors import batch_of, vector_examples

FEATURES = torch.randn(12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
RATES = {"sgd": 0.2, "signgd": 0.01, "adam": 0.01}
FEATURE_CHANGE = {"ntp": -0.5, "mup": 0.0}
START = {"ntp": 0.0, "standard": 0.0, "mup": -0.5}  # size of f₀


def slope(widths: Sequence[int], sizes: Sequence[object]) -> np.ndarray:
    """Exponents of the width: ``sizes[width, seed, …]`` fitted over widths and seeds."""
    values = np.log(np.asarray(sizes, dtype=float))
    at = np.repeat(np.log(widths), values.shape[1])
    return np.polyfit(at, values.reshape(len(at), -1), 1)[0]


def test_logits_start_as_predicted() -> None:
    widths, family = (16, 64, 256, 1024), Perceptrons(FEATURES)
    for parametrization, wanted in START.items():
        sizes = [
            [rms(initialize(family, n, parametrization, s).model(batch_of(12)).detach().numpy())
             for s in range(10)]
            for n in widths
        ]  # fmt: skip
        np.testing.assert_allclose(slope(widths, sizes), wanted, atol=0.1)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


def trained(
    family: Family,
    widths: Sequence[int],
    parametrization: str,
    optimizer: str,
    examples: Sequence[EncodedExample],
    rate: float,
    seeds: int,
    steps: int = 4,
) -> list[list[WidthRun]]:
    """Return a run a width and seed."""
    batches = [np.arange(len(examples))] * steps
    return [
        [
            train_wide(
                initialize(family, width, parametrization, seed),
                examples,
                optimizer=optimizer,
                learning_rate=rate,
                batches=batches,
                loss="squared",
                looks=(1, steps),
            )
            for seed in range(seeds)
        ]
        for width in widths
    ]


def check(
    widths: Sequence[int], runs: list[list[WidthRun]], parametrization: str, within: float
) -> None:
    """Hold sizes at the start, and changes after the first and last step, to the prediction."""
    np.testing.assert_allclose(
        slope(widths, [[r.size for r in row] for row in runs]), 0, atol=within
    )
    for step in (1, -1):
        function = slope(widths, [[rms(r.logits[step]) for r in row] for row in runs])
        np.testing.assert_allclose(function, 0, atol=within)
        layers = slope(widths, [[r.change[step] for r in row] for row in runs])
        np.testing.assert_allclose(layers, FEATURE_CHANGE[parametrization], atol=within)


@pytest.mark.parametrize("optimizer", RATES)
@pytest.mark.parametrize("parametrization", FEATURE_CHANGE)
def test_a_perceptron(parametrization: str, optimizer: str) -> None:
    widths, family = (64, 256, 1024), Perceptrons(FEATURES)
    rate = RATES[optimizer]
    runs = trained(family, widths, parametrization, optimizer, vector_examples(12), rate, seeds=4)
    check(widths, runs, parametrization, within=0.15)


@pytest.mark.parametrize("optimizer", RATES)
def test_one_rate_for_everything_moves_wide_functions_further(optimizer: str) -> None:
    """The first step of ``standard``, Σ over entries of |∇| × step.

    SGD moves n readout weights by Θ(1) and n² hidden ones by Θ(n^(-1/2)), their gradients; an
    entrywise step moves those by Θ(1), whose gradients are then added n² times.
    """
    widths, family = (64, 256, 1024), Perceptrons(FEATURES)
    runs = trained(family, widths, "standard", optimizer, vector_examples(12), 1e-4, 4, steps=1)
    function = slope(widths, [[rms(r.logits[1]) for r in row] for row in runs])
    wanted = 1 if optimizer == "sgd" else 1.5
    np.testing.assert_allclose(function, wanted, atol=0.1)


def texts() -> list[EncodedExample]:
    """Return examples of random tokens, read at their last."""
    ids = np.random.default_rng(0).integers(1, 30, size=(8, 6))
    return [EncodedExample(f"t{i}", i % 2, tuple(row.tolist()), 5) for i, row in enumerate(ids)]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", RATES)
@pytest.mark.parametrize("parametrization", FEATURE_CHANGE)
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_a_transformer(name: str, parametrization: str, optimizer: str) -> None:
    more = {"vocab_size": 30, "max_position_embeddings": 8}
    family, widths = transformers_of(name, 1, **more), (64, 128, 256, 512)
    rate = {"sgd": 1e-3, "signgd": 3e-4, "adam": 3e-4}[optimizer]
    runs = trained(family, widths, parametrization, optimizer, texts(), rate, seeds=3)
    check(widths, runs, parametrization, within=0.25)

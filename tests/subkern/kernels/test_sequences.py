"""Kernels of log-likelihoods of marked tokens are plain autograd's, sequence by sequence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from subkern import LoraGrid, RandomSubspace, compute_features, sweep_lora
from subkern.gradients.capture import capture
from subkern.gradients.factor_files import Stored, save_factors
from subkern.gradients.factors import HeadFactor, bound_of
from subkern.kernels.compute import compute_kernel
from subkern.kernels.request import RunOptions
from subkern.models.likelihood import composable, token_log_probs
from subkern.models.logit_model import LogitModel, WordReadout, named_parameters
from subkern.prompts.marked import MISSING, Marked
from subkern.prompts.prompt import EncodedExample
from tests.support import oracles
from tests.support.families import CASES, FAMILIES, Family, case_id, random_marked

LANGUAGE = [case for case in CASES if case[0].kind != "encoder"]
TOLERANCE = 1e-9
BETA = 0.1

SHAPES = {
    "completion": {},
    "choices": {"options": (3, 2)},
    "preference": {"weights": (BETA, -BETA)},
}


def family(name: str) -> Family:
    return next(f for f in FAMILIES if f.name == name and f.kind != "encoder")


def asked(name: str, tied: bool, shape: str, n: int = 4) -> tuple[LogitModel, list, list]:
    """A model and two sides of examples of one shape."""
    options = SHAPES[shape].get("options", (1,))
    model = oracles.sequence_model(family(name), max(options), tied=tied)
    left, right = (
        random_marked(n, kind=family(name).kind, seed=s, **SHAPES[shape]) for s in (0, 1)
    )
    return model, left, right


def padded(jacobian: list[torch.Tensor], c: int) -> torch.Tensor:
    """Rows of options that an example lacks are 0."""
    return torch.stack([torch.nn.functional.pad(j, (0, 0, 0, c - len(j))) for j in jacobian])


def by_autograd(model: LogitModel, examples: list, c: int) -> torch.Tensor:
    return padded([oracles.jacobian(model, [e])[0] for e in examples], c)


@pytest.mark.parametrize("case", LANGUAGE, ids=case_id)
def test_one_log_likelihood_of_every_family(case: tuple[Family, bool]) -> None:
    family, tied = case
    model = oracles.sequence_model(family, tied=tied)
    left, right = (random_marked(4, kind=family.kind, seed=s) for s in (0, 1))
    expected = oracles.kernel(*(oracles.jacobian(model, side) for side in (left, right)))
    for batch in (None, 1):
        found = compute_kernel(model, left, right, options=RunOptions(batch))
        assert oracles.error(found.values, expected) < TOLERANCE
        assert not any("one example" in r for r in found.provenance["recorded"]["reasons"])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "tied"), [("gpt2", True), ("llama", False), ("bert", True)])
def test_options_and_preferences(name: str, tied: bool, shape: str) -> None:
    model, left, right = asked(name, tied, shape)
    c = model.num_logits
    expected = oracles.kernel(*(by_autograd(model, side, c) for side in (left, right)))
    for engine in ("factors", "reference"):
        found = compute_kernel(model, left, right, engine=engine)
        assert oracles.error(found.values, expected) < TOLERANCE
        truth = [oracles.log_likelihoods(model, e).detach() for e in left]
        wide = torch.nn.utils.rnn.pad_sequence(truth, True, MISSING)
        np.testing.assert_allclose(found.left_logits, wide, rtol=1e-9)


@pytest.mark.parametrize(
    "rule", ["signgd", "asymmetric_signgd", "adam:eps=1e-3", "asymmetric_adam"]
)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("name", "tied", "where"),
    [("llama", True, "full"), ("llama", False, "full"), ("phi", False, "head")],
)
def test_rules_that_change_entries(
    name: str, tied: bool, where: str, shape: str, rule: str
) -> None:
    """Biases of keys, whose gradients are rounding noise, are left out."""
    model, left, right = asked(name, tied, shape, 3)
    given = f"{rule}{',' if ':' in rule else ':'}zero_tolerance=0"
    fast = compute_kernel(model, left, right, rule=given, subspace=where)
    slow = compute_kernel(model, left, right, rule=given, subspace=where, engine="reference")
    assert oracles.error(fast.values, slow.values) < TOLERANCE
    with_noise = compute_kernel(model, left, right, rule=rule, subspace=where)
    assert oracles.error(with_noise.values, slow.values) < 0.02


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("subspace", ["lora:r=2,seed=1", "lora:r=2,targets=all", "head", "norm"])
def test_subspaces(shape: str, subspace: str) -> None:
    model, left, right = asked("llama", False, shape)
    fast = compute_kernel(model, left, right, subspace=subspace)
    slow = compute_kernel(model, left, right, subspace=subspace, engine="reference")
    assert oracles.error(fast.values, slow.values) < TOLERANCE


@pytest.mark.parametrize("shape", SHAPES)
def test_a_sweep_of_lora_is_its_kernels(shape: str) -> None:
    model, left, right = asked("llama", True, shape, 3)
    grid = LoraGrid((1, 4), (0,))
    sweep = sweep_lora(model, left, right, grid=grid)
    whole = compute_kernel(model, left, right)
    assert oracles.error(sweep.full.values, whole.values) < TOLERANCE
    for (_, rank), kernel in sweep.kernels.items():
        alone = compute_kernel(model, left, right, subspace=grid.lora(0, rank))
        assert oracles.error(kernel.values, alone.values) < TOLERANCE


@pytest.mark.parametrize("shape", SHAPES)
def test_random_subspaces_and_features(shape: str, tmp_path: Path) -> None:
    model, left, right = asked("gpt2", True, shape, 3)
    subspace = RandomSubspace(8, "gaussian", 0)
    fast = compute_kernel(model, left, right, subspace=subspace)
    slow = compute_kernel(model, left, right, subspace=subspace, engine="reference")
    assert oracles.error(fast.values, slow.values) < TOLERANCE
    kept = compute_features(model, left, subspace=subspace, out=tmp_path / "f.zarr")
    whole = compute_kernel(model, left, subspace=subspace)
    assert oracles.error(kept.kernel().values, whole.values) < 1e-5


@pytest.mark.parametrize(("name", "kind"), [("gpt2", "causal"), ("bert", "masked")])
def test_labels_of_one_token_differ_from_label_words_by_what_all_labels_share(
    name: str, kind: str
) -> None:
    """Log-likelihoods are logits less log Σ_v exp over the vocabulary: differences are the same."""
    words, c = oracles.WORDS[:3], 3
    chosen = next(f for f in FAMILIES if f.name == name and f.kind == kind)
    labels = oracles.sequence_model(chosen, c)
    logits = LogitModel(labels.module, WordReadout(words)).eval()
    texts = [(4, 5, 6, 7), (8, 9, 10)]
    asked_ = [EncodedExample(f"x{i}", i, t, len(t) - 1) for i, t in enumerate(texts)]
    marked = [
        EncodedExample.of_marked(
            e.id,
            e.label,
            [Marked(e.input_ids, (e.read,), (w,), 1.0, k) for k, w in enumerate(words)],
            c,
        )
        for e in asked_
    ]
    ours, theirs = (compute_kernel(m, e) for m, e in ((labels, marked), (logits, asked_)))
    center = np.eye(c) - 1 / c
    centered = [np.einsum("ab,ibjd,dc->iajc", center, k.values, center) for k in (ours, theirs)]
    assert oracles.error(*centered) < TOLERANCE
    shared = np.asarray(ours.left_logits) - np.asarray(theirs.left_logits)
    np.testing.assert_allclose(shared, shared[:, :1].repeat(c, 1), rtol=1e-9)
    assert np.abs(ours.values - theirs.values).max() > 1e-3


def test_a_preference_is_the_combination_of_its_sequences() -> None:
    model, left, _ = asked("llama", True, "preference")
    each = [
        EncodedExample.of_marked(f"{e.id}-{i}", 0, [Marked(m.input_ids, m.reads, m.targets)])
        for e in left
        for i, m in enumerate(e.marked)
    ]
    whole = compute_kernel(model, left).values[:, 0, :, 0]
    parts = compute_kernel(model, each).values[:, 0, :, 0].reshape(len(left), 2, len(left), 2)
    sign = np.array([BETA, -BETA])
    np.testing.assert_allclose(whole, np.einsum("iajb,a,b->ij", parts, sign, sign), rtol=1e-9)


def test_factors_on_files_are_the_same(tmp_path: Path) -> None:
    """Little memory sends them there."""
    model, left, right = asked("gpt2", True, "choices", 4)
    held = compute_kernel(model, left, right)
    spilled = compute_kernel(model, left, right, options=RunOptions(2, "700KB"))
    assert oracles.error(spilled.values, held.values) < 1e-12


def test_derivatives_made_by_tiles_are_those_of_whole_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("subkern.models.likelihood._TILE_BYTES", 8 * 30 * 3)  # three positions
    drawn = torch.Generator().manual_seed(0)
    h, weight, bias = (
        torch.randn(*s, generator=drawn, dtype=torch.float64) for s in ((2, 5, 4), (30, 4), (30,))
    )
    targets = torch.randint(30, (2, 5), generator=drawn)
    live = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    leaves = [x.requires_grad_() for x in (h, weight, bias)]
    found = token_log_probs(h, weight, bias, targets, live)
    with composable():
        expected = token_log_probs(h, weight, bias, targets, live)
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn(2, 5, generator=drawn, dtype=torch.float64)
    grads = [torch.autograd.grad(out, leaves, cotangent) for out in (found, expected)]
    torch.testing.assert_close(*grads)


_MEMORY = """
import json, resource, torch
from subkern.models.likelihood import token_log_probs
torch.set_num_threads(1)
h = torch.randn(1, 1024, 8, requires_grad=True)
weight = torch.randn(50_000, 8)
targets = torch.zeros(1, 1024, dtype=torch.long)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
token_log_probs(h, weight, None, targets, targets == 0).sum().backward()
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def test_memory_is_bounded_at_1024_tokens() -> None:
    """Logits of all of them would take 200 MB, and as much again for each derivative."""
    told = subprocess.run(
        [sys.executable, "-c", _MEMORY], capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(told) < 240 * 1024


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "tied"), [("gpt2", True), ("llama", False)])
def test_stored_factors_are_read_back(name: str, tied: bool, shape: str, tmp_path: Path) -> None:
    model, left, _ = asked(name, tied, shape)
    parameters = named_parameters(model)
    captured = capture(model, parameters, left, bounded=True)
    save_factors(captured, tmp_path / "factors")
    stored = Stored(tmp_path / "factors", torch.device("cpu"))
    kinds = {type(f) for factors in captured.factors.values() for f in factors}
    assert HeadFactor in kinds
    for path, factors in captured.factors.items():
        for ours, theirs in zip(factors, stored.get(path) or [], strict=True):
            for made in (lambda f: f, bound_of):
                dense = [made(f).dense(parameters[path].shape) for f in (ours, theirs)]
                torch.testing.assert_close(*dense, rtol=0, atol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_half_precision_is_rounding(tied: bool) -> None:
    model = oracles.sequence_model(family("llama"), tied=tied, dtype=torch.bfloat16)
    left = random_marked(3, seed=0)
    fast, slow = (compute_kernel(model, left, engine=e) for e in ("factors", "reference"))
    exact = compute_kernel(oracles.sequence_model(family("llama"), tied=tied), left)
    assert oracles.error(fast.values, exact.values) < 0.05
    assert oracles.error(slow.values, exact.values) < 0.05

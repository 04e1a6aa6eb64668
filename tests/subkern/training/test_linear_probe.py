"""The linear probe: what it reads, that it is the optimum, and heads that start from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from subkern.agreement.predictions import labels_from_scores
from subkern.errors import UserError
from subkern.kernels.compute import compute_kernel
from subkern.models.logit_model import LinearReadout, LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.training.finetune import Training, finetune
from subkern.training.linear_probe import hidden_states, initialize_from_probe, linear_probe
from tests.support import oracles
from tests.support.families import FAMILIES, Family, case_id, random_examples

BY_NAME = {(f.name, f.kind): f for f in FAMILIES}
BERT, ENCODER = BY_NAME["bert", "masked"], BY_NAME["bert", "encoder"]
families = pytest.mark.parametrize(
    "family", [BERT, ENCODER, BY_NAME["gpt2", "causal"], BY_NAME["llama", "encoder"]], ids=case_id
)


def splits(family: Family, classes: int = 2) -> dict[str, list[EncodedExample]]:
    out = {}
    for i, (name, n) in enumerate([("train", 12), ("dev", 6), ("test", 7)]):
        examples = random_examples(n, read=family.read, seed=i)
        out[name] = [
            EncodedExample(e.id, k % classes, e.input_ids, e.read) for k, e in enumerate(examples)
        ]
    return out


@families
def test_hidden_states_are_what_the_logits_are_read_from(family: Family) -> None:
    model, examples = oracles.logit_model(family, 3), splits(family)["train"]
    hidden = torch.from_numpy(hidden_states(model, examples))
    if isinstance(model.readout, LinearReadout):
        linear = model.readout.linear
        expected = hidden @ linear.weight.T + linear.bias
    else:
        decoder = model.module.get_output_embeddings()  # type: ignore[operator]
        words = list(model.readout.label_ids)
        bias = 0 if decoder.bias is None else decoder.bias[words]
        expected = hidden @ decoder.weight[words].T + bias
    logits = torch.stack([oracles.logits_alone(model, e) for e in examples])
    torch.testing.assert_close(expected.detach(), logits.detach(), rtol=1e-9, atol=1e-9)


@families
@pytest.mark.parametrize("classes", [2, 3])
def test_the_probe_is_the_minimum(family: Family, classes: int) -> None:
    """The gradient of Σ CE + |W|² / 2C, by autograd, is zero at the weights."""
    model, data = oracles.logit_model(family, classes), splits(family, classes)
    probe = linear_probe(model, data, regularization=0.1)
    x = torch.from_numpy(hidden_states(model, data["train"]))
    y = torch.tensor([e.label for e in data["train"]])
    w = torch.tensor(probe.weight, requires_grad=True)
    b = torch.tensor(probe.bias, requires_grad=True)
    # sklearn penalizes one weight of two classes, w₁ − w₀: twice the pair's squared norm.
    penalty = w.square().sum() * (2 if classes == 2 else 1) / (2 * 0.1)
    total = torch.nn.functional.cross_entropy(x @ w.T + b, y, reduction="sum") + penalty
    grad_w, grad_b = torch.autograd.grad(total, [w, b])
    assert grad_w.abs().max() < 1e-3
    assert grad_b.abs().max() < 1e-3
    assert w.abs().max() > 1e-2
    for name, examples in data.items():
        predicted = labels_from_scores(probe.logits[name])
        assert probe.scores[name] == np.mean(predicted == [e.label for e in examples])


def test_the_regularisation_is_chosen_on_training_examples_alone() -> None:
    model, data = oracles.logit_model(ENCODER), splits(ENCODER)
    chosen = linear_probe(model, data, grid=(0.001, 10.0), folds=3)
    alone = linear_probe(model, {"train": data["train"]}, grid=(10.0, 0.001), folds=3)
    assert chosen.regularization == alone.regularization
    np.testing.assert_array_equal(chosen.weight, alone.weight)
    fixed = linear_probe(model, data, regularization=chosen.regularization)
    np.testing.assert_array_equal(chosen.weight, fixed.weight)
    # Labels that the states tell are worth large weights, and coin flips are not.
    states = hidden_states(model, data["train"])[:, 0]
    told = [
        EncodedExample(e.id, int(s > np.median(states)), e.input_ids, e.read)
        for e, s in zip(data["train"], states, strict=True)
    ]
    assert linear_probe(model, {"train": told}, grid=(1e-4, 1.0)).regularization == 1.0


@pytest.mark.parametrize("c", [1, 2, 3])
def test_a_head_starts_at_the_probe(c: int) -> None:
    model, data = oracles.logit_model(ENCODER, c), splits(ENCODER, max(c, 2))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    started = initialize_from_probe(model, data["train"])
    probe = linear_probe(model, data)
    expected = probe.logits["test"]
    expected = expected[:, 1:] - expected[:, :1] if c == 1 else expected
    with torch.no_grad():
        logits = started(started.collate(data["test"])).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert started.description["head_init"]["kind"] == "probe"
    assert not started.training


def test_kernels_and_training_begin_at_the_probe() -> None:
    model, data = oracles.logit_model(ENCODER), splits(ENCODER)
    started = initialize_from_probe(model, data["train"])
    expected = linear_probe(model, data).logits
    kernel = compute_kernel(started, data["train"], data["test"])
    assert kernel.right_logits is not None
    np.testing.assert_allclose(kernel.right_logits, expected["test"], atol=1e-8)
    assert kernel.fingerprint != compute_kernel(model, data["train"], data["test"]).fingerprint
    run = finetune(started, data, subspace="params:readout", training=Training(steps=1))
    np.testing.assert_allclose(run.start_logits["test"], expected["test"], atol=1e-8)


def test_mistakes_are_named() -> None:
    data = splits(ENCODER)
    with pytest.raises(UserError, match=r"^a probe starts a linear head .*: --head linear$"):
        initialize_from_probe(oracles.logit_model(BERT), data["train"])
    with pytest.raises(UserError, match=r"^class 2 has no training example: a probe needs one"):
        linear_probe(oracles.logit_model(ENCODER, 3), data)
    with pytest.raises(UserError, match=r"^cross-validation needs two folds and two examples"):
        linear_probe(oracles.logit_model(ENCODER), {"train": data["train"][:3]})


def test_a_model_without_a_decoder_is_refused() -> None:
    model = oracles.logit_model(BERT)
    bare = LogitModel(model.module.bert, model.readout)  # type: ignore[arg-type]
    bare.module.get_output_embeddings = lambda: None  # type: ignore[method-assign, assignment]
    with pytest.raises(UserError, match=r"^BertModel has no decoder .* --head linear$"):
        hidden_states(bare, splits(BERT)["train"])


def test_features_that_hardly_vary_get_hardly_any_weight() -> None:
    """A norm with a gain of 1e-33: standardized, its weight would be 1e30, and kernels inf."""
    model, data = oracles.logit_model(ENCODER, 2), splits(ENCODER)
    norm = [m for m in model.module.modules() if isinstance(m, torch.nn.LayerNorm)][-1]
    with torch.no_grad():
        norm.bias[0] = norm.weight[0] = 0.0
    without = linear_probe(model, data, regularization=0.1)
    with torch.no_grad():
        norm.weight[0] = 1e-33
    probe = linear_probe(model, data, regularization=0.1)
    assert (hidden_states(model, data["train"])[:, 0] != 0).any()
    assert np.abs(probe.weight[:, 0]).max() < 1e-30
    np.testing.assert_allclose(probe.weight, without.weight, rtol=1e-6, atol=1e-9)

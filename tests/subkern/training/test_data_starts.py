"""Starts from data: EVA against an SVD of the inputs, LoRA-GA against one of the gradient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from subkern import UserError
from subkern.kernels.compute import compute_kernel
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.subspaces.lora import Lora
from subkern.subspaces.movable import MovableModel
from subkern.subspaces.peft_adapters import targeted_modules
from subkern.subspaces.text import parse_subspace
from subkern.training.data_starts import METHODS, data_start
from subkern.training.finetune import finetune
from subkern.training.losses import get_loss
from subkern.training.settings import Training
from tests.support import oracles
from tests.support.families import FAMILIES, Family, case_id, random_examples

BY_NAME = {(f.name, f.kind): f for f in FAMILIES}
MODELS = [
    BY_NAME[key]
    for key in (("bert", "masked"), ("llama", "causal"), ("gpt2", "causal"), ("roberta", "encoder"))
]
each_model = pytest.mark.parametrize("family", MODELS, ids=case_id)
each_method = pytest.mark.parametrize("method", METHODS)
LORA = Lora(r=2, alpha=4, targets="attention")


def setting(family: Family) -> tuple[LogitModel, list[EncodedExample]]:
    return oracles.logit_model(family, c=2), random_examples(6, read=family.read)


def logits(model: LogitModel, examples: list[EncodedExample]) -> Tensor:
    with torch.no_grad():
        return model(model.collate(examples))


@each_method
@each_model
def test_the_function_is_the_pretrained_one_at_the_start(family: Family, method: str) -> None:
    model, examples = setting(family)
    before = {n: p.clone() for n, p in model.module.named_parameters()}
    start = data_start(model, examples, LORA, method)
    moved = MovableModel(model, LORA.at(start))
    torch.testing.assert_close(logits(moved.model, examples), logits(model, examples))
    for name, value in model.module.named_parameters():
        assert torch.equal(value, before[name])


@each_model
def test_eva_takes_the_directions_in_which_inputs_vary_most(family: Family) -> None:
    model, examples = setting(family)
    start = data_start(model, examples, LORA, "eva", batch_size=len(examples))
    batch = model.collate(examples)
    seen: dict[str, Tensor] = {}
    for name in targeted_modules(LORA.attach(model).model.module):
        model.module.get_submodule(name).register_forward_hook(
            lambda _, given, __, name=name: seen.update({name: given[0]})
        )
    logits(model, examples)
    assert seen
    for name, given in seen.items():
        inputs = given[batch.attention_mask.bool()]
        best = torch.linalg.svd(inputs - inputs.mean(0)).Vh[: LORA.r]
        rows = start[f"{name}.lora_A.default.weight"]
        overlap = torch.linalg.svdvals(rows.double() @ best.T)
        torch.testing.assert_close(overlap, torch.ones_like(overlap), atol=2e-3, rtol=0)
        assert not start[f"{name}.lora_B.default.weight"].any()


@each_model
def test_lora_ga_takes_the_gradients_singular_vectors(family: Family) -> None:
    model, examples = setting(family)
    start = data_start(model, examples, LORA, "lora-ga", batch_size=len(examples))
    labels = torch.tensor([e.label for e in examples])
    model.module.requires_grad_(True)
    get_loss("cross_entropy")(model(model.collate(examples)), labels).backward()
    for name in targeted_modules(LORA.attach(model).model.module):
        layer = model.module.get_submodule(name)
        turned = type(layer).__name__ == "Conv1D"
        gradient = layer.weight.grad.T if turned else layer.weight.grad
        u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
        a, b = (start[f"{name}.lora_{x}.default.weight"] for x in "AB")
        # PEFT's scale has the first axis as the weight lies: of Conv1D its inputs.
        r, scale = LORA.r, layer.weight.shape[0] ** 0.25 / 4
        weight = layer.weight.T if turned else layer.weight
        left = start[f"{name}.base_layer.weight"]
        torch.testing.assert_close(
            (left.T if turned else left) + LORA.alpha / r * b @ a, weight, atol=1e-12, rtol=0
        )
        if s[2 * r - 1] < 1e-3 * s[0]:  # PEFT's randomized SVD in float32 says nothing there
            continue
        torch.testing.assert_close((a @ vh[:r].T).abs(), torch.eye(r).to(a), atol=1e-2, rtol=0)
        expected = u[:, r : 2 * r] * s[r : 2 * r] * scale
        torch.testing.assert_close(
            b @ b.T, expected @ expected.T, atol=1e-2 * float(expected.norm()) ** 2, rtol=0
        )


@each_method
def test_the_kernel_there_is_autograds(method: str) -> None:
    model, examples = setting(MODELS[0])
    subspace = LORA.at(data_start(model, examples, LORA, method))
    found = compute_kernel(model, examples, subspace=subspace)
    expected = oracles.trained_kernel(subspace.attach(model).model, examples)
    assert oracles.error(np.asarray(found.values), expected) < 1e-10


@each_method
def test_what_was_trained_from_there_is_whole_again(method: str, tmp_path: Path) -> None:
    model, examples = setting(MODELS[0])
    save_file(data_start(model, examples, LORA, method), tmp_path / "start.safetensors")
    line = f"lora:r=2,alpha=4,targets=attention@{tmp_path / 'start.safetensors'}"
    trained = finetune(
        model,
        {"train": examples},
        subspace=line,
        training=Training(learning_rate=1e-2, steps=3),
    )
    again = LORA.at(trained.adapter).attach(model).model
    np.testing.assert_allclose(
        logits(again, examples).numpy(), trained.logits["train"][-1], atol=1e-6
    )
    assert np.abs(trained.logits["train"][-1] - logits(model, examples).numpy()).max() > 1e-3
    assert parse_subspace(line).describe()["kind"] == "at"


def test_a_layer_that_no_logit_depends_on_starts_as_lora_does() -> None:
    """The pooler of an encoder that is read before it."""
    model, examples = setting(MODELS[-1])
    lora = Lora(r=2, alpha=4)
    start, plain = data_start(model, examples, lora, "lora-ga"), lora.attach(model).parameters
    name = "pooler.dense.lora_A.default.weight"
    assert torch.equal(start[name], plain[name])
    same = [n for n in plain if ".lora_A." in n and torch.equal(start[n], plain[n])]
    assert same == [name]
    torch.testing.assert_close(
        logits(MovableModel(model, lora.at(start)).model, examples), logits(model, examples)
    )


def test_what_is_no_start_is_refused() -> None:
    model, examples = setting(MODELS[0])
    with pytest.raises(UserError, match="unknown method 'corda': use eva or lora-ga"):
        data_start(model, examples, LORA, "corda")
    with pytest.raises(UserError, match="no training examples"):
        data_start(model, [], LORA)
    with pytest.raises(UserError, match="batch size 0"):
        data_start(model, examples, LORA, batch_size=0)
    few = [examples[0].__class__(f"{i}", 0, (5, 6, 7), 1) for i in range(2)]
    with pytest.raises(UserError, match="EVA of rank 8 needs as many tokens in a batch"):
        data_start(model, few, Lora(r=8, targets="attention"), batch_size=1)
    with pytest.raises(UserError, match="LoRA-GA of rank 10 needs twice as many directions"):
        data_start(model, examples, Lora(r=10, targets="attention"), "lora-ga")

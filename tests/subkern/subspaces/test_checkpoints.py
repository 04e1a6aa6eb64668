"""Kernels away from the start: at what PEFT, transformers and safetensors saved, and in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor

from subkern import UserError
from subkern.kernels.compute import compute_kernel
from subkern.models.logit_model import LogitModel, named_parameters
from subkern.subspaces.base import Full, HasCheckpoint, ParameterSubset, Peft, Subspace
from subkern.subspaces.lora import Lora
from subkern.subspaces.parameter_groups import LastLayers, ParameterGroup
from tests.support import oracles
from tests.support.families import FAMILIES, Family, case_id, random_examples

BY_NAME = {(f.name, f.kind): f for f in FAMILIES}
BERT, ENCODER = BY_NAME["bert", "masked"], BY_NAME["roberta", "encoder"]
LLAMA, GPT2 = BY_NAME["llama", "causal"], BY_NAME["gpt2", "causal"]
ALL = {"target_modules": "all-linear"}


def batch(family: Family) -> list:
    return random_examples(3, read=family.read)


def shaken(values: dict[str, Tensor], scale: float = 0.2) -> dict[str, Tensor]:
    """Return `values` moved by seeded noise, as training would move them: B is not zero."""
    generator = torch.Generator().manual_seed(1)
    return {
        n: v.detach() + scale * torch.randn(v.shape, generator=generator, dtype=v.dtype)
        for n, v in values.items()
    }


def start(subspace: Subspace, model: LogitModel) -> dict[str, Tensor]:
    """Return copies of the tensors that `subspace` trains, where they start."""
    return {n: p.detach().clone() for n, p in subspace.attach(model).parameters.items()}


ADAPTERS: dict[str, tuple[Family, Callable[[], peft.PeftConfig]]] = {
    "lora": (LLAMA, lambda: peft.LoraConfig(r=3, lora_alpha=5, **ALL)),
    "rslora": (GPT2, lambda: peft.LoraConfig(r=3, use_rslora=True, **ALL)),
    "dora": (BERT, lambda: peft.LoraConfig(r=3, use_dora=True, **ALL)),
    "lora-encoder": (ENCODER, lambda: peft.LoraConfig(r=3, **ALL)),
    "lora-biases": (BERT, lambda: peft.LoraConfig(target_modules=["value"], bias="all")),
    "lora-saved": (
        LLAMA,
        lambda: peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["norm"]),
    ),
    "ia3": (LLAMA, lambda: peft.IA3Config()),
    "vera": (GPT2, lambda: peft.VeraConfig(r=4, **ALL)),
    "loha": (BERT, lambda: peft.LoHaConfig(r=2, **ALL)),
    "lokr": (LLAMA, lambda: peft.LoKrConfig(r=2, **ALL)),
    "oft": (LLAMA, lambda: peft.OFTConfig(oft_block_size=4, **ALL)),
    "boft": (LLAMA, lambda: peft.BOFTConfig(boft_block_size=4, **ALL)),
    "ln": (BERT, lambda: peft.LNTuningConfig(target_modules=["LayerNorm"])),
    "prompt": (LLAMA, lambda: peft.PromptTuningConfig(num_virtual_tokens=2)),
    "prefix": (BERT, lambda: peft.PrefixTuningConfig(num_virtual_tokens=2)),
}


def trained_by_peft(family: Family, config: peft.PeftConfig) -> tuple[LogitModel, peft.PeftModel]:
    """Return a model wrapped by PEFT alone, its adapter moved away from the start."""
    model = oracles.logit_model(family)
    if config.is_prompt_learning:
        wrapped = peft.PeftModel(model.module, config)
    else:
        wrapped = peft.get_peft_model(model.module, config)
    wrapped.to(torch.float64).eval()
    adapter = {n: p for n, p in wrapped.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for n, value in shaken(adapter).items():
            adapter[n].copy_(value)
    return model, wrapped


@pytest.mark.parametrize("method", ADAPTERS)
def test_what_peft_saved_is_where_the_kernel_is(method: str, tmp_path: Path) -> None:
    family, config = ADAPTERS[method]
    trained, wrapped = trained_by_peft(family, config())
    wrapped.save_pretrained(tmp_path)
    model, subspace = oracles.logit_model(family), Peft(config(), seed=9)
    kernel = compute_kernel(model, batch(family), subspace=subspace.at(tmp_path))
    if config().is_prompt_learning:
        weight = wrapped.prompt_encoder["default"].embedding.weight.detach()
        memory = subspace.at({"prompt_encoder.default.embedding.weight": weight})
        expected = compute_kernel(model, batch(family), subspace=memory, engine="reference").values
    else:
        expected = oracles.trained_kernel(trained, batch(family))
    assert oracles.error(kernel.values, expected) <= 1e-8
    at_start = compute_kernel(model, batch(family), subspace=subspace)
    assert np.abs(at_start.left_logits - kernel.left_logits).max() > 1e-4


SUBSPACES: dict[str, tuple[Family, HasCheckpoint]] = {
    "full": (BERT, Full()),
    "full-encoder": (ENCODER, Full()),
    "bias": (GPT2, ParameterSubset("bias$")),
    "norm": (LLAMA, ParameterGroup("norm")),
    "last": (BERT, LastLayers(1)),
    "lora": (LLAMA, Lora(3)),
    "lora-encoder": (ENCODER, Lora(2)),
    "dora": (GPT2, Peft(peft.LoraConfig(r=2, use_dora=True, **ALL))),
    "pissa": (LLAMA, Peft(peft.LoraConfig(r=2, init_lora_weights="pissa", **ALL))),
    "vera": (LLAMA, Peft(peft.VeraConfig(r=3, **ALL))),
    "prefix": (LLAMA, Peft(peft.PrefixTuningConfig(num_virtual_tokens=2))),
}
each_subspace = pytest.mark.parametrize("name", SUBSPACES)


@each_subspace
def test_at_its_own_start_nothing_changes(name: str) -> None:
    family, subspace = SUBSPACES[name]
    model = oracles.logit_model(family)
    plain = compute_kernel(model, batch(family), subspace=subspace)
    same = compute_kernel(model, batch(family), subspace=subspace.at(start(subspace, model)))
    np.testing.assert_array_equal(same.values, plain.values)
    np.testing.assert_array_equal(same.left_logits, plain.left_logits)
    assert same.provenance["subspace"]["subspace"] == plain.provenance["subspace"]


@each_subspace
def test_tensors_in_memory_move_the_kernel_and_not_the_model(name: str) -> None:
    family, subspace = SUBSPACES[name]
    model = oracles.logit_model(family)
    moved = shaken(start(subspace, model))
    before = [p.detach().clone() for p in model.parameters()]
    fast, slow = (
        compute_kernel(model, batch(family), subspace=subspace.at(moved), engine=engine)
        for engine in ("factors", "reference")
    )
    assert oracles.error(fast.values, slow.values) <= 1e-8
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))

    by_hand = subspace.attach(oracles.logit_model(family))  # whose tensors may be overwritten
    with torch.no_grad():
        for n, p in by_hand.parameters.items():
            p.copy_(moved[n])
        f = by_hand.model(by_hand.model.collate(batch(family))).numpy()
    np.testing.assert_allclose(fast.left_logits, f, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("family", [LLAMA, GPT2, BERT, ENCODER], ids=case_id)
def test_both_factors_of_lora_move_away_from_the_start(family: Family) -> None:
    model = oracles.logit_model(family)
    for tensors, moves in ((start(Lora(2), model), False), (shaken(start(Lora(2), model)), True)):
        only_a = Lora(2).at(tensors).attach(model)
        a = [p for n, p in only_a.parameters.items() if ".lora_A." in n]
        gradient = oracles.jacobian(only_a.model, batch(family), a)
        assert bool(gradient.abs().max() > 1e-6) is moves


@pytest.mark.parametrize("family", [BERT, LLAMA, ENCODER], ids=case_id)
@pytest.mark.parametrize("subspace", [Full(), ParameterGroup("attention")], ids=["full", "part"])
def test_a_folder_of_transformers(family: Family, subspace: HasCheckpoint, tmp_path: Path) -> None:
    trained = oracles.logit_model(family)
    with torch.no_grad():
        for n, value in shaken(dict(trained.module.named_parameters())).items():
            trained.module.get_parameter(n).copy_(value)
    trained.module.save_pretrained(tmp_path)
    model = oracles.logit_model(family)
    kernel = compute_kernel(model, batch(family), subspace=subspace.at(tmp_path))
    parameters = [dict(named_parameters(trained))[n] for n in subspace.attach(model).parameters]
    expected = oracles.kernel(oracles.jacobian(trained, batch(family), parameters))
    assert oracles.error(kernel.values, expected) <= 1e-8


def test_a_file_in_one_line_and_its_digest(tmp_path: Path) -> None:
    model, file = oracles.logit_model(LLAMA), tmp_path / "step.safetensors"
    moved = shaken(start(Lora(2), model))
    save_file(moved, file)
    by_file = compute_kernel(model, batch(LLAMA), subspace=f"lora:r=2@{file}")
    in_memory = compute_kernel(model, batch(LLAMA), subspace=Lora(2).at(moved))
    np.testing.assert_array_equal(by_file.values, in_memory.values)
    described = by_file.provenance["subspace"]
    assert described == in_memory.provenance["subspace"]  # what is in it counts, not where it lies
    assert described["kind"] == "at"
    assert described["subspace"] == Lora(2).describe()
    assert described["checkpoint"]["tensors"] == len(moved)
    name = next(iter(moved))
    other = moved | {name: moved[name] + 1e-9}
    assert Lora(2).at(other).describe() != described


def test_a_tied_decoder_moves_with_its_table() -> None:
    model = oracles.logit_model(GPT2)
    table = "transformer.wte.weight"
    subspace = ParameterSubset("wte")
    value = shaken({table: model.module.get_parameter(table)})[table]
    attached = subspace.at({table: value}).attach(model)
    assert attached.model.module.lm_head.weight is attached.parameters[table]
    both = subspace.at({table: value, "lm_head.weight": value + 1})
    with pytest.raises(UserError, match=r"two values of 'lm_head.weight', which is tied"):
        both.attach(model)


# --- what is refused, in one line ---


def refused(
    subspace: HasCheckpoint, checkpoint: object, message: str, family: Family = LLAMA
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        subspace.at(checkpoint).attach(oracles.logit_model(family))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (peft.LoraConfig(r=3, lora_alpha=16, **ALL), r"another subspace: lora_alpha: 8.0 .* 16.0"),
        (peft.LoraConfig(r=2, lora_alpha=8, **ALL), r"another subspace: r: 3.0 asked for, 2.0"),
        (
            peft.LoraConfig(r=3, lora_alpha=8, use_rslora=True, **ALL),
            r"another subspace: use_rslora: \(absent\) asked for, true stored",
        ),
        (peft.IA3Config(), r"holds IA3, and the subspace is LORA$"),
        (
            peft.LoraConfig(r=3, target_modules=["q_proj"]),
            r"has no tensor 'model.layers.0.self_attn",
        ),
    ],
)
def test_another_adapter_is_refused(config: peft.PeftConfig, message: str, tmp_path: Path) -> None:
    trained_by_peft(LLAMA, config)[1].save_pretrained(tmp_path)
    refused(Lora(3), tmp_path, message)


def test_more_targets_than_the_subspace_has_are_refused(tmp_path: Path) -> None:
    trained_by_peft(LLAMA, peft.LoraConfig(r=3, **ALL))[1].save_pretrained(tmp_path)
    message = r"has 'base_model.model.model.layers.0.mlp.down_proj.lora_A.weight', .* has not"
    refused(Lora(3, targets=("q_proj",)), tmp_path, message)


def test_an_adapter_is_no_model_and_a_model_no_adapter(tmp_path: Path) -> None:
    trained_by_peft(LLAMA, peft.LoraConfig(r=3, **ALL))[1].save_pretrained(tmp_path / "adapter")
    oracles.logit_model(LLAMA).module.save_pretrained(tmp_path / "model")
    refused(Full(), tmp_path / "adapter", r"holds an adapter: give the subspace it was trained in")
    refused(Lora(3), tmp_path / "model", r"holds no adapter_config.json, and the subspace is an")


def test_another_model_is_refused(tmp_path: Path) -> None:
    oracles.logit_model(BERT).module.save_pretrained(tmp_path)
    refused(Full(), tmp_path, r"LlamaForCausalLM")


def test_names_and_shapes_must_fit() -> None:
    table = "model.embed_tokens.weight"
    values = start(Full(), oracles.logit_model(LLAMA))
    refused(Full(), values | {"nothing": torch.zeros(1)}, r"^the mapping has 'nothing', which the")
    short = {n: v for n, v in values.items() if n != table}
    refused(Full(), short, rf"^the mapping has no tensor '{table}': it has 'model.layers.0")
    refused(Full(), values | {table: torch.zeros(2, 3)}, r"of shape \[2, 3\], and the model one of")


def test_a_readout_that_moved_must_be_in_a_mapping() -> None:
    values = start(Lora(2), oracles.logit_model(ENCODER))
    values.pop("readout.weight")
    refused(Lora(2), values, r"has no tensor 'readout.weight'", ENCODER)


def test_places_that_hold_no_safetensors(tmp_path: Path) -> None:
    refused(Full(), tmp_path / "none", r"^there is no checkpoint '.*none'$")
    refused(Full(), tmp_path, r"holds no model.safetensors or adapter_config.json: save it with")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    refused(Lora(2), tmp_path, r"holds no adapter_model.safetensors: .*no pickles")
    (tmp_path / "weights.pt").write_bytes(b"pickle")
    refused(Full(), tmp_path / "weights.pt", r"weights.pt' is not safetensors: save tensors with")
    (tmp_path / "broken.safetensors").write_bytes(b"not a header")
    refused(Full(), tmp_path / "broken.safetensors", r"does not read as safetensors")


def test_a_damaged_configuration_is_refused(tmp_path: Path) -> None:
    trained_by_peft(LLAMA, peft.LoraConfig(r=2, **ALL))[1].save_pretrained(tmp_path / "good")
    for text, message in (("{", "no configuration"), ('{"peft_type": "X"}', "no configuration")):
        bad = tmp_path / str(len(text))
        shutil.copytree(tmp_path / "good", bad)
        (bad / "adapter_config.json").write_text(text)
        refused(Lora(2), bad, message)


def test_adapters_dead_at_a_checkpoint_say_so() -> None:
    model = oracles.logit_model(LLAMA)
    zeros = {n: torch.zeros_like(v) for n, v in start(Lora(2), model).items()}
    with pytest.raises(UserError, match=r"^kernel of LORA at its checkpoint is identically zero"):
        compute_kernel(model, batch(LLAMA), subspace=Lora(2).at(zeros))


def test_the_layers_compute_with_the_tensors_of_the_checkpoint() -> None:
    """A checkpoint moves exactly the tensors that PEFT's layers compute with."""
    model = oracles.logit_model(LLAMA)
    moved = shaken(start(Lora(2), model))
    attached = Lora(2).at(moved).attach(model)
    layers = dict(attached.model.module.named_modules())
    adapted = {n: m for n, m in layers.items() if isinstance(m, LoraLayer)}
    assert len(adapted) == 14
    for n, layer in adapted.items():
        assert torch.equal(layer.lora_A["default"].weight, moved[f"{n}.lora_A.default.weight"])
        assert torch.equal(layer.lora_B["default"].weight, moved[f"{n}.lora_B.default.weight"])

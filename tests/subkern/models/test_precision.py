"""Models in float64 stay there, and what a model keeps in float32 stays so in bfloat16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from subkern.models.load import load_model
from subkern.models.precision import KeepDouble
from subkern.subspaces.text import as_subspace
from subkern.tasks.catalogue import get_task
from subkern.tasks.examples import Example
from tests.support import tiny_folder


@pytest.mark.parametrize("multiply", [torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__])
def test_products_with_float32_are_in_float64(multiply: object) -> None:
    frequencies, positions = torch.rand(3, 1, dtype=torch.float64), torch.arange(5.0)[None]
    with KeepDouble():
        found = multiply(frequencies.float(), positions)  # type: ignore[operator]
        assert (positions.T @ positions).dtype == torch.float32  # nobody's business
    assert torch.equal(found, frequencies @ positions.double())


LLAMA = {
    "vocab_size": 28, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 1,
    "intermediate_size": 16, "max_position_embeddings": 160,
}  # fmt: skip
ERNIE = {
    **LLAMA, "num_key_value_heads": 1, "moe_num_experts": 4, "moe_k": 2,
    "moe_layer_start_index": 0, "moe_intermediate_size": 8,
}  # fmt: skip


def saved(folder: Path, kind: str, config: dict[str, int]) -> Path:
    """A random causal model with wide weights: their rounding shows."""
    tiny_folder.masked_model(folder)  # for its tokenizer
    made = getattr(transformers, kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = made(made.config_class(**config))
        for p in module.parameters():
            p.data.normal_(0, 0.3)
    module.save_pretrained(folder)
    return folder


def types(module: torch.nn.Module) -> dict[str, torch.dtype]:
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: t.dtype for name, t in named}


@pytest.mark.parametrize(
    ("kind", "config", "in_float32"),
    [
        ("LlamaForCausalLM", LLAMA, {"inv_freq", "original_inv_freq"}),
        (
            "Ernie4_5_MoeForCausalLM",
            ERNIE,
            {"inv_freq", "original_inv_freq", "e_score_correction_bias", "weight"},
        ),
    ],
)
def test_bfloat16_is_transformers_own_bit_for_bit(
    kind: str, config: dict[str, int], in_float32: set[str], tmp_path: Path
) -> None:
    folder = saved(tmp_path, kind, config)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    ours = load_model(folder, task=get_task("mr"), dtype="bfloat16")
    assert types(ours.module) == types(theirs)
    kept = {n.rsplit(".")[-1] for n, t in types(ours.module).items() if t == torch.float32}
    assert kept == in_float32
    long = Example("x", ("film plot story acting great bad it was this " * 12,), 0)
    encoded = ours.prompt.encode(long)
    with torch.no_grad():
        whole = theirs(torch.tensor([encoded.input_ids])).logits
        found = ours(ours.collate([encoded]))
    assert torch.equal(found, whole[:, -1, list(ours.prompt.label_ids)])
    random = load_model(folder, task=get_task("mr"), dtype="bfloat16", weights="random")
    assert types(random.module) == types(theirs)
    assert ours.description["kept_in_float32"] == sum(
        t == torch.float32 for t in types(theirs).values()
    )
    exact = load_model(folder, task=get_task("mr"), dtype="float64")
    assert set(types(exact.module).values()) == {torch.float64}
    assert "kept_in_float32" not in exact.description


@pytest.mark.parametrize("subspace", ["lora:r=2,targets=attention", "prompt:n=2", "vera:r=2"])
def test_an_adapter_casts_nothing_but_itself(subspace: str, tmp_path: Path) -> None:
    model = load_model(
        saved(tmp_path, "LlamaForCausalLM", LLAMA), task=get_task("mr"), dtype="bfloat16"
    )
    before = types(model.module)
    attached = as_subspace(subspace).attach(model)
    assert types(model.module) == before
    after = types(attached.model.module)
    in_float32 = {n.rsplit(".")[-1] for n, t in after.items() if t == torch.float32}
    assert in_float32 == {"inv_freq", "original_inv_freq"}
    assert {p.dtype for p in attached.parameters.values()} == {torch.bfloat16}

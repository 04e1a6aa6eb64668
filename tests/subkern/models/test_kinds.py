"""What a model is told from itself: masked, causal, an encoder-decoder, or made of experts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from subkern.errors import UserError
from subkern.kernels.compute import compute_kernel
from subkern.models.limits import sees_later
from subkern.models.load import load_model, load_prompt
from subkern.subspaces.base import Full
from subkern.tasks.catalogue import get_task
from subkern.tasks.examples import Example
from tests.support import tiny_folder
from tests.support.families import FAMILIES, Family, case_id

TASK = get_task("mr")
EXAMPLES = [
    Example("a", ("great film",), 1),
    Example("b", ("dull plot bad acting",), 0),
    Example("c", ("film",), 0),
]
_BODY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 30}
_LLAMA = {**_BODY, "num_key_value_heads": 1, "intermediate_size": 16}
_T5 = {
    "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 30,
    "decoder_start_token_id": 0,
}  # fmt: skip
_BART = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 30,
}  # fmt: skip


def saved(folder: Path, kind: str, config: dict[str, object], **fields: object) -> Path:
    """A random model of class ``kind`` beside the tokenizer of tiny ones."""
    tiny_folder.masked_model(folder)
    made = getattr(transformers, kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = made(made.config_class(pad_token_id=0, **config))
        for p in module.parameters():
            p.data.normal_(0, 0.3)
    module.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return folder


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.kind != "encoder"], ids=case_id)
def test_every_family_looks_ahead_if_masked(family: Family) -> None:
    assert sees_later(family.build(dtype=torch.float32)) is (family.kind == "masked")


@pytest.mark.parametrize(
    ("kind", "fields", "style"),
    [
        ("BertLMHeadModel", {"is_decoder": True}, "causal"),
        ("BertLMHeadModel", {}, "masked"),  # what it is called decides nothing: it looks ahead
        ("RobertaForCausalLM", {"is_decoder": True}, "causal"),
        ("BertForMaskedLM", {"architectures": None}, "masked"),
        ("BertForPreTraining", {}, "masked"),
        ("LlamaForCausalLM", {"architectures": ["Whatever"]}, "causal"),
    ],
)
def test_masked_or_causal_is_what_the_model_does(
    kind: str, fields: dict[str, object], style: str, tmp_path: Path
) -> None:
    config: dict[str, object] = {**(_LLAMA if "Llama" in kind else _BODY), **fields}
    folder = saved(tmp_path, kind, config, **fields)
    assert load_prompt(folder, task=TASK).style == style
    model = load_model(folder, task=TASK)
    assert model.prompt is not None
    assert model.prompt.style == style
    assert sees_later(model.module) is (style == "masked")


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("XLNetLMHeadModel", {**_BODY, "d_inner": 16, "d_head": 8}),
        ("Gemma3ForCausalLM", {**_LLAMA, "head_dim": 8, "use_bidirectional_attention": True}),
    ],
)  # fmt: skip
def test_a_model_that_is_neither_is_refused(
    kind: str, config: dict[str, object], tmp_path: Path
) -> None:
    folder = saved(tmp_path, kind, config)
    with pytest.raises(UserError, match=r"is no causal language model.* use --head linear"):
        load_model(folder, task=TASK)
    model = load_model(folder, task=TASK, head="linear")
    assert compute_kernel(model, model.prompt.encode_all(EXAMPLES)).shape == (3, 2, 3, 2)


PAIRS = [
    ("T5ForConditionalGeneration", _T5),
    ("T5ForConditionalGeneration", {**_T5, "feed_forward_proj": "gated-gelu"}),
    ("MT5ForConditionalGeneration", _T5),
    ("BartForConditionalGeneration", _BART),
    ("PegasusForConditionalGeneration", _BART),
    ("MarianMTModel", {**_BART, "decoder_vocab_size": 30, "decoder_start_token_id": 0}),
    ("PegasusXForConditionalGeneration", _BART),  # has rows for global tokens beside those of text
]  # fmt: skip


@pytest.mark.parametrize(("kind", "config"), PAIRS)
def test_an_encoder_decoder_is_its_encoder(
    kind: str, config: dict[str, object], tmp_path: Path
) -> None:
    folder = saved(tmp_path, kind, config)
    for load in (load_prompt, load_model):
        with pytest.raises(UserError, match=r"is an encoder-decoder.*use --head linear"):
            load(folder, task=TASK)
    model = load_model(folder, task=TASK, head="linear", dtype="float64")
    encoded = model.prompt.encode_all(EXAMPLES)
    whole = transformers.AutoModel.from_pretrained(folder, dtype=torch.float64).eval()
    ids = torch.tensor([encoded[1].input_ids])
    with torch.no_grad():
        hidden = whole.get_encoder()(ids).last_hidden_state[0, 0]
        expected = model.readout.linear(hidden)
        assert torch.allclose(model(model.collate(encoded))[1], expected, rtol=1e-5)
    assert not any("decoder" in name for name, _ in model.module.named_parameters())
    for subspace in ("full", "lora:r=2"):
        ours = compute_kernel(model, encoded, subspace=subspace)
        slow = compute_kernel(model, encoded, subspace=subspace, engine="reference")
        assert np.allclose(ours.values, slow.values, rtol=1e-9)
    Full().at(folder).attach(model)
    random = load_model(folder, task=TASK, head="linear", weights="random")
    assert compute_kernel(random, encoded).shape == (3, 2, 3, 2)


@pytest.mark.parametrize("kind", ["WhisperForConditionalGeneration", "Speech2TextModel"])
def test_no_advice_leads_to_a_model_that_reads_no_text(kind: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, kind, _BART)
    for load in (load_prompt, load_model):
        for head in ("prompt", "linear"):
            with pytest.raises(UserError, match="reads input_features, no text: use a language"):
                load(folder, task=TASK, head=head)


_FOUR: dict[str, object] = {"num_experts": 4, "num_experts_per_tok": 2}
MIXTURES = [
    ("MixtralForCausalLM", {"num_local_experts": 4}),
    ("Qwen3MoeForCausalLM", {**_FOUR, "moe_intermediate_size": 8}),
    ("OlmoeForCausalLM", _FOUR),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "config"), MIXTURES)
def test_experts_work_in_float64(kind: str, config: dict[str, object], tmp_path: Path) -> None:
    folder = saved(tmp_path, kind, {**_LLAMA, **config})
    model = load_model(folder, task=TASK, dtype="float64")
    encoded = model.prompt.encode_all(EXAMPLES)
    found = compute_kernel(model, encoded).values
    slow = compute_kernel(model, encoded, engine="reference").values
    assert np.allclose(found, slow, rtol=1e-9)
    model.module.set_experts_implementation("eager")
    assert np.allclose(found, compute_kernel(model, encoded).values, rtol=1e-12)

"""A model folder loads as what it is, or one line says which file is wrong."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from subkern.errors import UserError
from subkern.models.load import load_model
from subkern.models.pretrained import Source, UnusedWeightsWarning, load_weights
from subkern.subspaces.base import Full
from subkern.tasks.catalogue import get_task
from tests.support import tiny_folder
from tests.support.families import FAMILIES, Family, case_id

TASK = get_task("mr")
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_folder.masked_model(tmp_path / "model")


def refused(folder: Path, **how: str) -> str:
    with pytest.raises(UserError) as caught:
        load_model(folder, task=TASK, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def add(folder: Path, name: str) -> None:
    weights = {**load_file(folder / WEIGHTS), name: torch.ones(16)}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        cut,
        lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        lambda _: b"\x00\xff\xfe" * 100,
        lambda _: b"[1, 2]",
    ],
    ids=["empty", "cut", "lfs", "binary", "list"],
)
def test_a_damaged_file_is_named(folder: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    assert str(path) in refused(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    names = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(weights)}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (folder / WEIGHTS).unlink()
    assert "model-00001-of-00002.safetensors is missing (1 more)" in refused(folder)
    index.unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert "pytorch_model.bin is a pickle" in refused(folder)


def test_weights_of_another_shape_are_named(folder: Path) -> None:
    change_config(folder, intermediate_size=20)
    said = refused(folder)
    assert "intermediate.dense.bias of shape 24, and config.json asks for 20" in said


def test_weights_without_a_place_are_named(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    layer = {
        k.replace("layer.0.", "layer.1."): v.clone() for k, v in weights.items() if ".layer.0." in k
    }
    other = {
        "cls.seq_relationship.weight": torch.ones(2, 16),
        "bert.embeddings.position_ids": torch.arange(9),
    }
    save_file({**weights, **other}, folder / WEIGHTS, metadata={"format": "pt"})
    load_model(folder, task=TASK)  # another head's, and an old buffer
    save_file({**weights, **layer}, folder / WEIGHTS, metadata={"format": "pt"})
    for head in ("prompt", "linear"):
        assert "has no place for bert.encoder.layer.1." in refused(folder, head=head)


@pytest.mark.parametrize("head", ["prompt", "linear"])
@pytest.mark.parametrize(
    "name",
    ["cls.seq_relationship.weight", "bert.pooler.dense.bias", "bert.embeddings.position_ids"],
)
def test_heads_of_pretraining_are_left_out_in_silence(folder: Path, name: str, head: str) -> None:
    add(folder, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(folder, task=TASK, head=head)


@pytest.mark.parametrize("head", ["prompt", "linear"])
@pytest.mark.parametrize("name", ["classifier.weight", "qa_outputs.bias", "dense.weight"])
def test_another_head_is_left_out_with_a_warning(folder: Path, name: str, head: str) -> None:
    add(folder, name)
    with pytest.warns(UnusedWeightsWarning, match=f"has no place for {name} of '{folder}'"):
        load_model(folder, task=TASK, head=head)


@pytest.mark.parametrize("head", ["prompt", "linear"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bert.encoder.layer.0.attention.self.query.lora_A.default.weight", "of an adapter"),
        ("bert.encoder.layer.0.output.adapters.x.down.weight", "of an adapter"),
        ("bert.encoder.layer.0.gate.weight", "config.json describes another model"),
        ("bert.encoder.layer.0.output.norm.scale.weight", "config.json describes another model"),
        ("bert.projector.weight", "config.json describes another model"),
    ],
)
def test_weights_inside_the_model_that_it_does_not_use_are_refused(
    folder: Path, name: str, said: str, head: str
) -> None:
    add(folder, name)
    message = refused(folder, head=head)
    assert name in message
    assert said in message


@pytest.mark.parametrize("prefix", ["module.", "base_model.model."])
@pytest.mark.parametrize("head", ["prompt", "linear"])
def test_a_checkpoint_under_other_names_is_refused(folder: Path, prefix: str, head: str) -> None:
    weights = {prefix + name: value for name, value in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    message = refused(folder, head=head)
    assert "has none of the weights" in message
    assert f"but {prefix}bert.embeddings.LayerNorm.bias" in message


@pytest.mark.parametrize("family", FAMILIES, ids=case_id)
def test_no_family_warns_of_its_own_weights(family: Family, tmp_path: Path) -> None:
    module = family.build(dtype=torch.float32)
    module.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnusedWeightsWarning)
        for maker in (type(module), transformers.AutoModel):
            load_weights(maker, Source.of(tmp_path), torch.float32)


def test_places_without_weights_are_named(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    lost = "bert.encoder.layer.0.output.dense.bias"
    del weights[lost]
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    assert f"has no weights for {lost}" in refused(folder)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "hqq", "torchao"])
def test_quantized_weights_are_refused(folder: Path, method: str) -> None:
    bits = {"load_in_4bit": True} if method == "bitsandbytes" else {"bits": 4}
    change_config(folder, quantization_config={"quant_method": method, **bits})
    assert f"is quantized ({method}, in config.json)" in refused(folder)


def test_an_adapter_beside_a_model_is_not_attached(folder: Path, tmp_path: Path) -> None:
    module = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    config = peft.LoraConfig(r=2, lora_alpha=4, use_rslora=True, target_modules=["query", "value"])
    peft.get_peft_model(module, config).save_pretrained(folder)
    for head in ("prompt", "linear"):
        assert "holds a model and an adapter (adapter_config.json)" in refused(folder, head=head)

    alone = tmp_path / "alone"
    alone.mkdir()
    for file in folder.glob("adapter*"):
        file.rename(alone / file.name)
    load_model(folder, task=TASK)
    for head in ("prompt", "linear"):
        assert refused(alone, head=head).endswith(
            f"holds an adapter and no model: use --model {folder}"
            f" --subspace lora:r=2,alpha=4,targets=query+value,rslora=true@{alone}"
        )


def test_a_checkpoint_of_another_shape_or_more_layers_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    model = load_model(folder, task=TASK)
    trained = tiny_folder.masked_model(tmp_path / "trained")
    Full().at(trained).attach(model)
    (trained / WEIGHTS).write_bytes(b"")
    with pytest.raises(UserError, match="safetensors does not read as safetensors"):
        Full().at(trained).attach(model)
    tiny_folder.masked_model(trained, words=("it", "was"))
    with pytest.raises(UserError, match=r"word_embeddings\.weight' of shape"):
        Full().at(trained).attach(model)

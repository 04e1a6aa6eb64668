"""What a model takes is asked of the module: positions, tokens, width of the output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import peft
import pytest
import torch
import transformers
from torch import nn

from subkern.errors import UserError
from subkern.kernels.compute import compute_kernel
from subkern.models.limits import output_width, positions, tokens_told, vocabulary
from subkern.models.load import load_model
from subkern.models.logit_model import LogitModel, WordReadout
from subkern.prompts.prompt import EncodedExample, Prompt
from subkern.subspaces.peft_adapters import wrap
from subkern.tasks.catalogue import get_task
from subkern.tasks.examples import Example
from tests.support import tiny_folder
from tests.support.families import FAMILIES, POSITIONS

_SMALL = {
    "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 8, "max_position_embeddings": 14, "pad_token_id": 1,
}  # fmt: skip


def model_of(kind: str, **config: object) -> LogitModel:
    made = getattr(transformers, kind)
    module = made(made.config_class(**{**_SMALL, **config})).eval()
    return LogitModel(module, WordReadout((3, 4))).eval()


def example(*ids: int) -> EncodedExample:
    return EncodedExample("x", 0, ids, 0)


@pytest.mark.parametrize(
    ("kind", "config", "most"),
    [
        ("BertForMaskedLM", {}, 14),
        ("BertForMaskedLM", {"pad_token_id": 0}, 14),
        ("RobertaForMaskedLM", {}, 12),
        ("RobertaForMaskedLM", {"pad_token_id": 0}, 13),
        ("XLMRobertaForMaskedLM", {}, 12),
        ("MPNetForMaskedLM", {}, 12),
        ("LongformerForMaskedLM", {"attention_window": 4}, 12),
        ("OPTForCausalLM", {"ffn_dim": 8, "word_embed_proj_dim": 8}, 14),  # a table of 16 rows
        ("GPT2LMHeadModel", {"n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 9}, 14),
        ("LlamaForCausalLM", {}, 14),
    ],
)
def test_a_model_takes_as_many_tokens_as_it_says(
    kind: str, config: dict[str, object], most: int
) -> None:
    model = model_of(kind, **config)
    assert positions(model.module) == most
    longest = example(*[3] * most)
    model.check_tokens([longest])
    assert torch.isfinite(model(model.collate([longest]))).all()
    with pytest.raises(UserError, match=f"has {most + 1} tokens and the model takes {most}"):
        model.check_tokens([longest, example(*[3] * (most + 1))])


@pytest.mark.parametrize("kind", [peft.PromptTuningConfig, peft.PrefixTuningConfig])
def test_virtual_tokens_take_positions(kind: type[peft.PromptLearningConfig]) -> None:
    model = wrap(model_of("RobertaForMaskedLM"), kind(num_virtual_tokens=3))
    assert positions(model.module) == 12
    longest = example(*[3] * 9)
    model.check_tokens([longest])
    model(model.collate([longest]))
    with pytest.raises(UserError, match="10 tokens after 3 virtual ones and the model takes 12"):
        model.check_tokens([example(*[3] * 10)])


def test_every_family_with_a_table_is_asked() -> None:
    """A configuration that is wrong changes nothing for a model with a table of positions."""
    for name in ("bert", "roberta", "distilbert", "gpt2", "opt"):
        (family,) = [f for f in FAMILIES if f.name == name and f.kind != "encoder"]
        model = LogitModel(family.build(), WordReadout((3, 4)))
        model.module.config.max_position_embeddings = 3
        assert positions(model.module) == (POSITIONS - 2 if name == "roberta" else POSITIONS)


def test_the_width_is_that_of_the_output() -> None:
    config = transformers.OPTConfig(
        vocab_size=20, hidden_size=8, word_embed_proj_dim=6, ffn_dim=8, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=14,
    )  # fmt: skip
    assert output_width(transformers.OPTModel(config).eval()) == 6
    with pytest.raises(UserError, match="Linear does not give last_hidden_state for text alone"):
        output_width(nn.Linear(2, 2))


@pytest.mark.parametrize("pad", [-1, 20, 10**6])
def test_padding_beyond_the_embedding_is_replaced(pad: int) -> None:
    model = model_of("LlamaForCausalLM")
    short, long = example(3, 4, 5), example(*range(3, 12))
    expected = model(model.collate([short, long]))
    model.module.config.pad_token_id = pad
    assert model.pad_id == 0
    assert torch.equal(model(model.collate([short, long])), expected)


def test_an_example_with_a_token_beyond_the_embedding_is_named() -> None:
    model = model_of("LlamaForCausalLM")
    assert vocabulary(model.module) == 20
    for token in (20, -1):
        with pytest.raises(UserError, match=rf"example 'x' has token \({token}\).* 0 to 19"):
            compute_kernel(model, [example(3, token, 4)])


@pytest.fixture(scope="module")
def short_of_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose embedding lacks the last three tokens of its tokenizer."""
    folder = tiny_folder.masked_model(tmp_path_factory.mktemp("short"))
    module = transformers.BertForMaskedLM.from_pretrained(folder)
    module.resize_token_embeddings(vocabulary(module) - 3)  # cold, cat, dog
    module.save_pretrained(folder)
    return folder


def test_words_and_texts_beyond_the_embedding_are_named(short_of_words: Path) -> None:
    task = get_task("mr")
    model = load_model(short_of_words, task=task)
    fine = Example("fine", ("warm film",), 0)
    model.prompt.encode(fine)
    with pytest.raises(UserError, match="example 'wrong' has token 'cold' "):
        model.prompt.encode_all([fine, Example("wrong", ("cold film",), 0)])
    animals = replace(task, label_words=("cat", "dog"))
    with pytest.raises(UserError, match="a label word of task mr has token 'cat' "):
        load_model(short_of_words, task=animals)


def test_label_words_are_read_from_the_decoder(tmp_path: Path) -> None:
    """Its rows are fewer than the embedding's or more: each is asked for what it is used for."""
    folder, task = tiny_folder.masked_model(tmp_path), get_task("mr")
    module = transformers.BertForMaskedLM.from_pretrained(folder)
    size = vocabulary(module)
    animals, words = (
        replace(task, label_words=("cat", "dog")),
        replace(task, label_words=("it", "is")),
    )
    module.config.tie_word_embeddings = False

    rows = module.get_input_embeddings().weight.data
    module.get_input_embeddings().weight = nn.Parameter(rows[:-2].clone())
    assert (vocabulary(module), tokens_told(module)) == (size - 2, size)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    known = vocabulary(module), tokens_told(module)
    Prompt.for_task(animals, tokenizer, "masked", *known)
    shown = replace(animals, template="*cls**sent_0*it was*mask*,*label_1**sep+*")
    with pytest.raises(UserError, match="a label word in a template of mr has token 'dog'"):
        Prompt.for_task(shown, tokenizer, "masked", *known)

    narrow = LogitModel(_Narrow(), WordReadout((3, 9)))
    assert tokens_told(narrow.module) == 9
    with pytest.raises(UserError, match=r"\[3, 9\] are read from 9 logits: use tokens 0 to 8"):
        narrow(narrow.collate([example(3, 15)]))
    Prompt.for_task(words, tokenizer, "masked", size, size - 2)
    with pytest.raises(UserError, match="a label word of task mr has token 'cat' "):
        Prompt.for_task(animals, tokenizer, "masked", size, size - 2)


class _Narrow(nn.Module):
    """A model of 20 tokens that tells 9."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.decoder = nn.Embedding(20, 4), nn.Linear(4, 9)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.decoder(self.words(input_ids)))


def test_special_tokens_beyond_the_embedding_are_named(tmp_path: Path) -> None:
    folder = tiny_folder.masked_model(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"cls_token": "[FIRST]"})
    tokenizer.save_pretrained(folder)
    for head in ("prompt", "linear"):
        with pytest.raises(UserError, match=r"every example of task mr has token '\[FIRST\]'"):
            load_model(folder, task=get_task("mr"), head=head)


def test_trained_tokens_beyond_the_embedding_are_named() -> None:
    model = model_of("LlamaForCausalLM")
    for config in (
        peft.TrainableTokensConfig(token_indices=[3, 20]),
        peft.LoraConfig(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [20]}),
    ):
        with pytest.raises(UserError, match=r"has token \(20\)"):
            wrap(model, config)


def test_virtual_tokens_that_start_at_a_text_are_named(short_of_words: Path) -> None:
    model = load_model(short_of_words, task=get_task("mr"))
    config = peft.PromptTuningConfig(
        num_virtual_tokens=2, prompt_tuning_init="TEXT", prompt_tuning_init_text="warm cat",
        tokenizer_name_or_path=str(short_of_words), task_type="FEATURE_EXTRACTION",
    )  # fmt: skip
    with pytest.raises(UserError, match="PROMPT_TUNING has token 'cat'"):
        wrap(model, config)

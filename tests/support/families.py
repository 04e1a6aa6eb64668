"""Tiny random transformers models, one per architecture, for the oracle tests.

Every model has dropout switched on in its configuration (so forgetting ``eval()`` shows), every
parameter perturbed by seeded noise (so no bias is zero and no norm gain is one), and pads at the
right with `PAD`, a token that no real example contains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import transformers
from transformers import PreTrainedModel

from subkern.models.precision import KeepDouble
from subkern.prompts.marked import Marked
from subkern.prompts.prompt import EncodedExample

VOCAB = 61
PAD = 1
POSITIONS = 40


@dataclass(frozen=True)
class Family:
    """One architecture with one head: how to build a tiny random model of it.

    Args:
        name: the architecture, such as ``"bert"``; unique together with `kind`.
        kind: ``"masked"``, ``"causal"`` (both give vocabulary logits) or ``"encoder"`` (hidden
            states).
        model_class: name in `transformers`.
        config_class: name in `transformers`.
        config: arguments of the configuration, beyond vocabulary, special tokens and tying.
        ties: the values of ``tie_word_embeddings`` that make a difference.
    """

    name: str
    kind: str
    model_class: str
    config_class: str
    config: Mapping[str, Any] = field(hash=False)
    ties: tuple[bool, ...] = (True, False)

    @property
    def read(self) -> str:
        """Which position a head reads: the last, the first or one inside.

        A causal model's first position sees one token only: its attention would have no gradient.
        """
        causal = self.kind == "causal" or self.model_class in ("GPT2Model", "LlamaModel")
        return "last" if causal else {"masked": "interior", "encoder": "first"}[self.kind]

    def build(
        self, tied: bool = True, dtype: torch.dtype = torch.float64, seed: int = 0
    ) -> PreTrainedModel:
        """Return the model in ``eval()``; the same seed gives the same weights.

        Raises:
            ValueError: the weights that came out are not tied as `tied` asks.
        """
        if tied not in self.ties:
            raise ValueError(f"{self.name} cannot be built with tied={tied}")
        config = getattr(transformers, self.config_class)(
            **{"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 2, **self.config},
            pad_token_id=PAD,
            tie_word_embeddings=tied,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = getattr(transformers, self.model_class)(config)
        _perturb(model, seed)
        model.to(dtype).eval()
        if self.kind != "encoder" and is_tied(model) is not tied:
            raise ValueError(f"{self.name}: asked for tied={tied}, got tied={is_tied(model)}")
        return cast(PreTrainedModel, model)


def is_tied(model: PreTrainedModel) -> bool:
    """Say whether the output embedding is stored in the memory of the input embedding."""
    output, words = model.get_output_embeddings(), model.get_input_embeddings()
    return output.weight.data_ptr() == words.weight.data_ptr()


def _perturb(model: PreTrainedModel, seed: int, scale: float = 0.1) -> None:
    """Add Gaussian noise of standard deviation `scale` to every parameter, in place."""
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(scale * noise.to(parameter.dtype))


_WIDTH = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_INNER = {"intermediate_size": 24, "initializer_range": 0.3}
_LENGTH = {"max_position_embeddings": POSITIONS}
_SHAPE = {**_WIDTH, **_INNER, **_LENGTH}
_DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
_BERT = {**_SHAPE, **_DROPOUT, "type_vocab_size": 2}
_LLAMA = {
    **_SHAPE, "num_attention_heads": 4, "num_key_value_heads": 2, "attention_dropout": 0.1,
}  # fmt: skip
_GEMMA = {
    **_LLAMA,
    "head_dim": 4,
    "query_pre_attn_scalar": 4,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 4,
}

_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", _BERT),
    "roberta": ("RobertaConfig", {**_BERT, "type_vocab_size": 1}),
    "distilbert": (
        "DistilBertConfig",
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "initializer_range": 0.3}
        | {"dropout": 0.1, "attention_dropout": 0.1, **_LENGTH},
    ),
    "albert": (
        "AlbertConfig",
        {**_BERT, "embedding_size": 12, "num_hidden_layers": 3, "num_hidden_groups": 1},
    ),
    "electra": ("ElectraConfig", {**_BERT, "embedding_size": 12}),
    "deberta-v2": (
        "DebertaV2Config",
        {**_BERT, "type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
        | {"max_relative_positions": 12, "position_biased_input": False},
    ),
    "deberta-v3": (
        "DebertaV2Config",  # as the released v3: shared query/key projections, normed positions
        {**_BERT, "type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
        | {"max_relative_positions": -1, "position_buckets": 4, "position_biased_input": False}
        | {"share_att_key": True, "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3}
        | {"conv_act": "gelu"},
    ),
    "modernbert": (
        "ModernBertConfig",
        {**_SHAPE, "layer_types": ["full_attention", "sliding_attention"], "local_attention": 6}
        | {"embedding_dropout": 0.1, "attention_dropout": 0.1, "mlp_dropout": 0.1}
        | {"cls_token_id": 0, "sep_token_id": 2},
    ),
    "gpt2": (
        "GPT2Config",
        {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS}
        | {"initializer_range": 0.3, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1},
    ),
    "gpt-neox": (
        "GPTNeoXConfig",
        {**_SHAPE, "hidden_dropout": 0.1, "attention_dropout": 0.1},
    ),
    "opt": (
        "OPTConfig",
        {**_WIDTH, **_LENGTH, "ffn_dim": 24, "word_embed_proj_dim": 12, "init_std": 0.3}
        | {"dropout": 0.1, "attention_dropout": 0.1},
    ),
    "llama": ("LlamaConfig", _LLAMA),
    "qwen2": ("Qwen2Config", _LLAMA),
    "qwen3": ("Qwen3Config", {**_LLAMA, "head_dim": 6}),
    "gemma2": ("Gemma2Config", _GEMMA),
    "gemma3": ("Gemma3TextConfig", _GEMMA),
    "mistral": ("MistralConfig", {**_LLAMA, "sliding_window": 4}),
    "phi": (
        "PhiConfig",
        {**_SHAPE, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attention_dropout": 0.1},
    ),
    "bloom": (
        "BloomConfig",
        {"hidden_size": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
        | {"hidden_dropout": 0.1, "attention_dropout": 0.1},
    ),
    "mamba": (
        "MambaConfig",
        {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 3}
        | {"initializer_range": 0.3},
    ),
}

_HEADS: list[tuple[str, str, str]] = [
    ("bert", "masked", "BertForMaskedLM"),
    ("roberta", "masked", "RobertaForMaskedLM"),
    ("distilbert", "masked", "DistilBertForMaskedLM"),
    ("albert", "masked", "AlbertForMaskedLM"),
    ("electra", "masked", "ElectraForMaskedLM"),
    ("deberta-v2", "masked", "DebertaV2ForMaskedLM"),
    ("deberta-v3", "masked", "DebertaV2ForMaskedLM"),
    ("modernbert", "masked", "ModernBertForMaskedLM"),
    ("gpt2", "causal", "GPT2LMHeadModel"),
    ("gpt-neox", "causal", "GPTNeoXForCausalLM"),
    ("opt", "causal", "OPTForCausalLM"),
    ("llama", "causal", "LlamaForCausalLM"),
    ("qwen2", "causal", "Qwen2ForCausalLM"),
    ("qwen3", "causal", "Qwen3ForCausalLM"),
    ("gemma2", "causal", "Gemma2ForCausalLM"),
    ("gemma3", "causal", "Gemma3ForCausalLM"),
    ("mistral", "causal", "MistralForCausalLM"),
    ("phi", "causal", "PhiForCausalLM"),
    ("bloom", "causal", "BloomForCausalLM"),
    ("mamba", "causal", "MambaForCausalLM"),
    ("bert", "encoder", "BertModel"),
    ("roberta", "encoder", "RobertaModel"),
    ("distilbert", "encoder", "DistilBertModel"),
    ("albert", "encoder", "AlbertModel"),
    ("electra", "encoder", "ElectraModel"),
    ("deberta-v2", "encoder", "DebertaV2Model"),
    ("modernbert", "encoder", "ModernBertModel"),
    ("gpt2", "encoder", "GPT2Model"),
    ("llama", "encoder", "LlamaModel"),
]

FAMILIES: list[Family] = [
    Family(name, kind, model, *_CONFIGS[name], ties=(True,) if kind == "encoder" else (True, False))
    for name, kind, model in _HEADS
]
CASES: list[tuple[Family, bool]] = [(family, tied) for family in FAMILIES for tied in family.ties]


def case_id(case: object) -> str | None:
    """Name a parameter of ``pytest.mark.parametrize``: a `Family`, a flag, or a pair of them."""
    if isinstance(case, Family):
        return f"{case.name}-{case.kind}"
    if isinstance(case, bool):
        return "tied" if case else "untied"
    if isinstance(case, tuple):
        return "-".join(str(case_id(part)) for part in case)
    return None


def random_examples(
    n: int,
    *,
    read: str = "last",
    lengths: Sequence[int] = (7, 4, 9, 5, 6, 8, 3),
    num_labels: int = 2,
    vocab: int = VOCAB,
    seed: int = 0,
) -> list[EncodedExample]:
    """Return `n` examples of random tokens, none of them `PAD`.

    `lengths` are cycled through: different ones make padded batches. `read` is `Family.read`.
    """
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for index in range(n):
        length = lengths[index % len(lengths)]
        ids = torch.randint(PAD + 2, vocab, (length,), generator=generator).tolist()
        interior = 1 + int(torch.randint(max(1, length - 2), (), generator=generator))
        position = {"last": length - 1, "first": 0, "interior": min(interior, length - 1)}[read]
        label = index % num_labels
        examples.append(EncodedExample(f"x-{seed}-{index}", label, tuple(ids), position))
    return examples


def random_marked(
    n: int,
    *,
    kind: str = "causal",
    options: Sequence[int] = (1,),
    weights: Sequence[float] = (1.0,),
    seed: int = 0,
) -> list[EncodedExample]:
    """Return `n` examples of random sequences whose last tokens are marked, of any length.

    Each has as many options as `options` says in turn, and each option a sequence of every weight
    of `weights`. A masked model reads each marked token at the place where it stands, a causal one
    before it.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    def one(logit: int, weight: float) -> Marked:
        ids = torch.randint(PAD + 2, VOCAB, (draw(4, 10),), generator=generator).tolist()
        first = draw(1, len(ids))
        reads = range(first - 1, len(ids) - 1) if kind == "causal" else range(first, len(ids))
        return Marked(tuple(ids), tuple(reads), tuple(ids[first:]), weight, logit)

    examples = []
    for i in range(n):
        c = options[i % len(options)]
        marked = [one(k, w) for k in range(c) for w in weights]
        examples.append(EncodedExample.of_marked(f"m-{seed}-{i}", i % max(c, 2), marked, c))
    return examples


def pad_batch(examples: Sequence[EncodedExample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return right-padded token ids and attention mask, both ``[b, t]``."""
    width = max(len(example.input_ids) for example in examples)
    ids = torch.full((len(examples), width), PAD)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(examples):
        ids[row, : len(example.input_ids)] = torch.tensor(example.input_ids)
        mask[row, : len(example.input_ids)] = 1
    return ids, mask


def output_at_read(model: PreTrainedModel, examples: Sequence[EncodedExample]) -> torch.Tensor:
    """Run the examples as one padded batch; return what stands at the read positions, ``[b, d]``.

    That is vocabulary logits for language models and hidden states for encoders.
    """
    ids, mask = pad_batch(examples)
    with KeepDouble():
        outputs = model(input_ids=ids, attention_mask=mask)
    values: torch.Tensor = outputs.logits if "logits" in outputs else outputs.last_hidden_state
    return values[torch.arange(len(examples)), torch.tensor([x.read for x in examples])]

"""A tokenizer of bytes with a chat template, and tiny models on it."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from subkern.models.logit_model import LogitModel, SequenceReadout, WordReadout
from subkern.prompts.prompt import Prompt
from subkern.tasks.task import Task

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
)
_SPECIAL = ("<pad>", "<eos>", "<|im_start|>", "<|im_end|>")


def byte_tokenizer(chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Return a tokenizer of one token a byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*_SPECIAL, *letters])}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="<eos>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def _module(seed: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=260, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=1024, initializer_range=0.3,
        pad_token_id=0, eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def byte_model(task: Task, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> LogitModel:
    """Return a tiny Llama on bytes, as `load_model` would read it for `task`."""
    tokenizer, module = byte_tokenizer(), _module(seed).to(dtype)
    prompt = Prompt.for_task(task, tokenizer, "causal", len(tokenizer))
    readout: SequenceReadout | WordReadout = WordReadout(prompt.label_ids)
    if prompt.marks:
        readout = SequenceReadout(task.num_logits, task.kind)
    return LogitModel(module, readout, tokenizer=tokenizer, prompt=prompt).eval()


def byte_folder(folder: Path, *, seed: int = 0) -> Path:
    """Save a tiny Llama on bytes with its tokenizer; return the folder."""
    _module(seed).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder

"""A tiny masked language model and a tiny task in folders: whole commands take seconds on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_COMMON = ("it", "was", "this", "is", "all", "in", ",", ".", ":", "film", "plot", "story", "acting")
_GOOD = ("great", "good", "positive", "fresh", "warm")
_BAD = ("terrible", "bad", "negative", "dull", "cold")
_OTHER = ("cat", "dog")


WORDS = (*_COMMON, *_GOOD, *_BAD, *_OTHER)


def masked_model(folder: Path, words: Sequence[str] = WORDS, width: int = 16) -> Path:
    """Save a random BERT of a few thousand parameters that knows ``words``; return the folder."""
    known = (*_SPECIAL, *words)
    base = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, "[UNK]"))
    base.normalizer = normalizers.Lowercase()
    base.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ("pad", "unk", "cls", "sep", "mask")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=base,
        **{f"{name}_token": token for name, token in zip(names, _SPECIAL, strict=True)},
    )
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(known), hidden_size=width, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=3 * width // 2, max_position_embeddings=160, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = BertForMaskedLM(config)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def reviews(root: Path, *, shots: int = 4, test: int = 24, seed: int = 13) -> Path:
    """Write an `mr` of made-up reviews in the k-shot layout below ``root``; return ``root``."""
    rng = np.random.default_rng(seed)
    folder = root / "mr" / f"{shots}-{seed}"
    folder.mkdir(parents=True)
    for split, count in (("train", shots), ("dev", shots), ("test", test // 2)):
        rows = [_row(label, rng) for label in (0, 1) for _ in range(count)]
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def _row(label: int, rng: np.random.Generator) -> str:
    """Return a row of three words, one of which tells the label most of the time."""
    telling = (_BAD, _GOOD)[label if rng.random() < 0.9 else 1 - label]
    words = [*rng.choice(_COMMON[-4:], 3), rng.choice(telling)]
    return f"{label},{' '.join(rng.permutation(words))}"

"""Examples to token ids and the position that is read, in three styles.

``masked`` follows LM-BFF to the last id; ``causal`` tokenizes the prompt as one string and shortens
the texts so that its end always stays; ``plain`` is LM-BFF's encoding without a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from subkern.errors import UserError
from subkern.prompts.label_words import token_id
from subkern.prompts.template import Label, Literal, Part, Special, Text
from subkern.tasks.examples import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["CausalEncoder", "Encoded", "Encoder", "Limits", "MaskedEncoder", "PlainEncoder"]

Encoded = tuple[list[int], int]  # token ids, position that is read


class Encoder(Protocol):
    """What `Prompt` needs of a style."""

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Return ids and read position of every example."""
        ...


@dataclass(frozen=True)
class Limits:
    """Longest prompt, and most tokens of text 0 and of the other texts."""

    max_length: int
    first: int | None = None
    other: int | None = None

    def of_text(self, index: int) -> int | None:
        """Return the most tokens of text `index`, or ``None``."""
        return self.first if index == 0 else self.other


@dataclass(frozen=True)
class MaskedEncoder:
    """LM-BFF's ``tokenize_multipart_input``: each part is tokenized on its own, then joined.

    A text beyond its limit loses its last tokens, and the whole its last beyond ``max_length``. A
    literal of one character is looked up in the vocabulary instead of being tokenized.
    """

    tokenizer: PreTrainedTokenizerBase
    parts: tuple[Part, ...]
    label_ids: tuple[int, ...]
    limits: Limits

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Return ids and the position of the mask. Raises `UserError` if the mask is cut off."""
        columns = [self._column(part, examples) for part in self.parts]
        mask_part = self.parts.index(Special("mask"))
        encoded = []
        for row, example in enumerate(examples):
            pieces = [column[row] for column in columns]
            ids = [token for piece in pieces for token in piece]
            read = sum(len(piece) for piece in pieces[:mask_part])
            if read >= self.limits.max_length:
                raise UserError(
                    f"example {example.id}: the mask is token {read + 1} of {len(ids)} and is cut "
                    f"off at max_length {self.limits.max_length}: raise max_length or set "
                    "first_sent_limit"
                )
            encoded.append((ids[: self.limits.max_length], read))
        return encoded

    def _column(self, part: Part, examples: Sequence[Example]) -> list[list[int]]:
        """Return the tokens of one part in every example."""
        if isinstance(part, Text):
            limit = self.limits.of_text(part.index)
            ids = _tokenize(self.tokenizer, [part.apply(e.texts) for e in examples])
            return [tokens[:limit] for tokens in ids]
        return [self._constant(part)] * len(examples)

    def _constant(self, part: Part) -> list[int]:
        match part:
            case Special(name):
                token = getattr(self.tokenizer, f"{name.rstrip('+')}_token_id")
                return [token]
            case Label(index):
                return [self.label_ids[index]]
            case Literal(text) if len(text) == 1:
                found = token_id(self.tokenizer, text)
                return [] if found is None else [found]
            case Literal(text):
                return _tokenize(self.tokenizer, [text])[0]
        raise AssertionError(part)


@dataclass(frozen=True)
class CausalEncoder:
    """The prompt as one string, after the tokens that the tokenizer puts before every text.

    Too long a prompt is shortened in its texts, always the one that is longest at that moment, so
    the words after them, which ask the question, stay.
    """

    tokenizer: PreTrainedTokenizerBase
    parts: tuple[Part, ...]
    label_words: tuple[str, ...]
    limits: Limits
    prefix: tuple[int, ...]

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Return ids and the last position. Raises `UserError` if nothing is left to cut."""
        if not examples:
            return []
        columns = [self._column(part, examples) for part in self.parts]
        pieces = list(zip(*columns, strict=True))
        prompts = _tokenize(self.tokenizer, ["".join(p) for p in pieces])
        room = self.limits.max_length - len(self.prefix)
        encoded = []
        for example, strings, ids in zip(examples, pieces, prompts, strict=True):
            fitted = ids if len(ids) <= room else self._shorten(example, strings, len(ids), room)
            encoded.append(([*self.prefix, *fitted], len(self.prefix) + len(fitted) - 1))
        return encoded

    def _column(self, part: Part, examples: Sequence[Example]) -> list[str]:
        """Return the string of one part in every example, texts within their limit."""
        match part:
            case Literal(text):
                return [text] * len(examples)
            case Label(index):
                return [" " + self.label_words[index]] * len(examples)
            case Text(index):
                texts = [part.apply(e.texts) for e in examples]
                limit = self.limits.of_text(index)
                if limit is None:
                    return texts
                lengths = map(len, _tokenize(self.tokenizer, texts))
                return [
                    _first_tokens(self.tokenizer, text, limit) if length > limit else text
                    for text, length in zip(texts, lengths, strict=True)
                ]
        raise AssertionError(part)

    def _shorten(
        self, example: Example, strings: Sequence[str], length: int, room: int
    ) -> list[int]:
        """Cut the texts until the prompt has at most `room` tokens."""
        slots = [i for i, part in enumerate(self.parts) if isinstance(part, Text)]
        counts = [len(ids) for ids in _tokenize(self.tokenizer, [strings[i] for i in slots])]
        while length > room:
            for _ in range(length - room):
                longest = counts.index(max(counts))
                if counts[longest] == 0:
                    raise UserError(
                        f"example {example.id}: the prompt without its texts is {length} tokens, "
                        f"more than the {room} that max_length leaves: raise max_length"
                    )
                counts[longest] -= 1
            cut = list(strings)
            for slot, count in zip(slots, counts, strict=True):
                cut[slot] = _first_tokens(self.tokenizer, strings[slot], count)
            (ids,) = _tokenize(self.tokenizer, ["".join(cut)])
            length = len(ids)
        return ids


@dataclass(frozen=True)
class PlainEncoder:
    """The texts without a prompt, for a linear head.

    With a [CLS] token: ``[CLS] text_a [SEP] (text_b [SEP])``, cut at ``max_length``, [CLS] read.
    Without: the texts on lines of their own, cut so too, the last token read.
    """

    tokenizer: PreTrainedTokenizerBase
    limits: Limits
    prefix: tuple[int, ...]

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Return ids and read position. Raises `UserError` for an example without a token."""
        tokenizer, cls = self.tokenizer, self.tokenizer.cls_token_id
        if cls is None:
            return [self._without_cls(e) for e in examples]
        sep = [] if tokenizer.sep_token_id is None else [tokenizer.sep_token_id]
        texts = _tokenize(tokenizer, [text for e in examples for text in e.texts])
        tokens = iter(texts)
        encoded = []
        for example in examples:
            ids = [cls]
            for _ in example.texts:
                ids += [*next(tokens), *sep]
            encoded.append((ids[: self.limits.max_length], 0))
        return encoded

    def _without_cls(self, example: Example) -> Encoded:
        (tokens,) = _tokenize(self.tokenizer, ["\n".join(example.texts)])
        ids = [*self.prefix, *tokens][: self.limits.max_length]
        if not ids:
            raise UserError(f"example {example.id} is empty: a text without tokens cannot be read")
        return ids, len(ids) - 1


def _tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Return the ids of every text, without special tokens, in one call."""
    if not texts:
        return []
    encoded = tokenizer(
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # texts longer than the model are cut below
    )
    return [list(ids) for ids in encoded["input_ids"]]


def _first_tokens(tokenizer: PreTrainedTokenizerBase, text: str, count: int) -> str:
    """Return the longest beginning of `text` that ends with a token and has at most `count`."""
    (ids,) = _tokenize(tokenizer, [text])
    if len(ids) <= count:
        return text
    for keep in range(count, 0, -1):
        beginning = _beginning(tokenizer, text, ids, keep)
        # A character of several byte-level tokens can bring back a token: look again.
        if len(_tokenize(tokenizer, [beginning])[0]) <= count:
            return beginning
    return ""


def _beginning(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int], keep: int) -> str:
    """Return the characters of the first `keep` tokens."""
    if tokenizer.is_fast:
        encoded = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return text[: encoded["offset_mapping"][keep - 1][1]]
    return str(tokenizer.decode(ids[:keep], clean_up_tokenization_spaces=False))

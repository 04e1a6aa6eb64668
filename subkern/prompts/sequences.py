"""Answers after prompts, as sequences whose marked tokens' log-likelihoods f adds up.

Texts are tokenized with their answer as one string, and the answer's tokens are those behind what
they share with the prompt alone, as TRL has it; so are a chat's, which the tokenizer's own template
writes. A sequence that is too long loses the beginning of its prompt.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from subkern.errors import UserError
from subkern.prompts.encoders import CausalEncoder, Limits, MaskedEncoder
from subkern.prompts.label_words import tokenizer_name
from subkern.prompts.marked import Marked
from subkern.prompts.template import Special
from subkern.tasks.examples import Example
from subkern.tasks.formats import Chat
from subkern.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["AnswerEncoder", "CutWarning", "LabelsEncoder", "Sequences"]

_QUESTION = "Question: {}\nAnswer:"
_OWN_MASK = re.compile(
    r"\{%-?\s*generation\s*-?%\}"
)  # a template that says what is the assistant's


class CutWarning(UserWarning):
    """Sequences were longer than allowed and lost the beginning of their prompt."""


@dataclass(frozen=True)
class Sequences:
    """The marked sequences of an example, and over how many tokens its logit sums."""

    marked: tuple[Marked, ...]
    logits: int
    counted: int = 1


Spans = list[tuple[int, int]]
"""Where marked tokens stand: from, to."""


@dataclass(frozen=True)
class AnswerEncoder:
    """Completions, options and preferences, for causal models.

    Args:
        tokenizer: of the model.
        task: says the kind, the longest sequence, sum or mean, and β.
        prefix: what the tokenizer puts before every text.
    """

    tokenizer: PreTrainedTokenizerBase
    task: Task
    prefix: tuple[int, ...]

    def encode(self, examples: Sequence[Example]) -> list[Sequences]:
        """The sequences of every example.

        Raises:
            UserError: an answer without tokens or longer than allowed, or a chat that the
                tokenizer's template cannot write.
        """
        cut = 0
        found = []
        for example in examples:
            rows = [self._fitted(example, *row) for row in self._rows(example)]
            cut += any(was for _, _, was in rows)
            found.append(self._sequences([(ids, spans) for ids, spans, _ in rows]))
        if cut:
            what = "end" if self._whole(examples[0]) else "beginning of their prompt"
            warnings.warn(
                f"{cut} of {len(examples)} rows are longer than {self.task.max_length} tokens and"
                f" lost the {what}: --max-length keeps more",
                CutWarning,
                stacklevel=4,
            )
        return found

    def _sequences(self, rows: Sequence[tuple[list[int], Spans]]) -> Sequences:
        kind, marked, counts = self.task.kind, [], []
        for k, (ids, spans) in enumerate(rows):
            at = [t for begin, end in spans for t in range(begin, end)]
            counts.append(len(at))
            weight = 1 / len(at) if self.task.normalize == "mean" else 1.0
            if kind == "preference":
                weight *= self.task.beta if k == 0 else -self.task.beta
            reads, targets = tuple(t - 1 for t in at), tuple(ids[t] for t in at)
            logit = k if kind == "choices" else 0
            marked.append(Marked(tuple(ids), reads, targets, weight, logit))
        summed = kind == "completion" and self.task.normalize == "sum"
        return Sequences(
            tuple(marked), len(rows) if kind == "choices" else 1, counts[0] if summed else 1
        )

    def _rows(self, example: Example) -> list[tuple[list[int], Spans]]:
        """Ids and spans of each sequence."""
        if self._whole(example):
            ids = self._ids(example.texts[0], end=True)
            return [(ids, [(max(1, len(self.prefix)), len(ids))])]
        if self.task.kind == "choices":
            question, *options = example.texts
            asked = _QUESTION.format(question)
            return [self._pair(asked, f" {option}") for option in options]
        chats = self._chats(example)
        if chats is None:
            prompt, *answers = example.texts
            return [self._pair(prompt, answer, end=True) for answer in answers]
        if len(chats) == 1:
            return [self._turns(chats[0], example)]
        return [self._reply(chats[0], answer, example) for answer in chats[1:]]

    def _whole(self, example: Example) -> bool:
        return self.task.kind == "completion" and len(example.texts) == 1

    def _chats(self, example: Example) -> tuple[Chat, ...] | None:
        """The messages of an example, if it has some and the tokenizer can write them."""
        if not example.chats or getattr(self.tokenizer, "chat_template", None):
            return example.chats or None
        if example.texts:
            return None
        raise UserError(
            f"{tokenizer_name(self.tokenizer)} has no chat template, and example {example.id} is"
            " messages: use a chat model, or columns prompt and completion of text"
        )

    def _pair(self, prompt: str, answer: str, *, end: bool = False) -> tuple[list[int], Spans]:
        ids = self._ids(prompt + answer, end=end)
        begin = max(1, shared(self._ids(prompt), ids))
        return ids, [(begin, len(ids))]

    def _ids(self, text: str, *, end: bool = False) -> list[int]:
        """Tokens of a text behind the prefix, and the token that ends it."""
        ids = [*self.prefix, *self._tokens(text)]
        last = self.tokenizer.eos_token_id
        return [*ids, last] if end and last is not None and ids[-1:] != [last] else ids

    def _tokens(self, text: str) -> list[int]:
        made = self.tokenizer(text, add_special_tokens=False, verbose=False)
        return list(made["input_ids"])

    def _written(self, chat: Chat, example: Example, *, asks: bool = False) -> list[int]:
        """Tokens of messages; ``asks``: up to where the assistant begins to answer."""
        if not chat:
            return []
        messages = [{"role": role, "content": content} for role, content in chat]
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=asks
            )
        except Exception as error:  # the template's own, of any kind
            reason = " ".join(str(error).split())[:100]
            raise UserError(
                f"example {example.id}: the chat template of {tokenizer_name(self.tokenizer)}"
                f" refuses it ({reason}): mend its roles"
            ) from error
        return self._tokens(str(text))

    def _reply(self, chat: Chat, answer: Chat, example: Example) -> tuple[list[int], Spans]:
        """What comes after the prompt of a chat is marked, whoever says it."""
        ids = self._written((*chat, *answer), example)
        begin = max(1, shared(self._written(chat, example, asks=True), ids))
        return ids, [(begin, len(ids))]

    def _turns(self, chat: Chat, example: Example) -> tuple[list[int], Spans]:
        """The assistant's turns of a chat are marked."""
        ids = self._written(chat, example)
        if _OWN_MASK.search(str(self.tokenizer.chat_template)):
            return ids, self._own_spans(chat)
        spans = []
        for i, (role, _) in enumerate(chat):
            if role != "assistant":
                continue
            before = self._written(chat[:i], example, asks=True)
            after = self._written(chat[: i + 1], example)
            begin, end = shared(before, ids), shared(after, ids)
            if begin < len(before) - 1 or end < len(after) - 1:
                raise UserError(
                    f"example {example.id}: the chat template of {tokenizer_name(self.tokenizer)}"
                    " writes earlier turns in another way once later ones follow: give rows of"
                    " prompt and completion, each of one answer"
                )
            spans.append((max(1, begin), end))
        return ids, spans

    def _own_spans(self, chat: Chat) -> Spans:
        """Where the template itself says that the assistant speaks."""
        messages = [{"role": role, "content": content} for role, content in chat]
        made: Any = self.tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        mask = [0, *made["assistant_masks"], 0]
        edges = [i for i in range(1, len(mask)) if mask[i] != mask[i - 1]]
        pairs = zip(edges[::2], edges[1::2], strict=True)
        return [(max(1, begin - 1), end - 1) for begin, end in pairs]

    def _fitted(
        self, example: Example, ids: list[int], spans: Spans
    ) -> tuple[list[int], Spans, bool]:
        """A sequence of at most ``max_length`` tokens, and whether it was cut."""
        spans = [(begin, end) for begin, end in spans if begin < end]
        if not spans:
            raise UserError(f"example {example.id} has no token to learn: fill in its answer")
        most = self.task.max_length
        if len(ids) <= most:
            return ids, spans, False
        if self._whole(example):
            return ids[:most], [(spans[0][0], most)], True
        kept = shared(self.prefix, ids)
        drop = len(ids) - most
        begin, end = spans[-1]
        if begin - drop < kept + 1:
            raise UserError(
                f"example {example.id}: its answer has {end - begin} tokens, and sequences have at"
                f" most {most}: raise --max-length or leave it out"
            )
        ids = [*ids[:kept], *ids[kept + drop :]]
        moved = [(max(kept + 1, a - drop), b - drop) for a, b in spans]
        return ids, [(a, b) for a, b in moved if a < b], True


@dataclass(frozen=True)
class LabelsEncoder:
    """Labels of any number of tokens after a prompt, or at as many masks in it.

    Args:
        base: writes the prompt; its parts and limits are taken.
        labels: token ids of each label.
        normalize: ``"sum"`` or ``"mean"``.
    """

    base: CausalEncoder | MaskedEncoder
    labels: tuple[tuple[int, ...], ...]
    normalize: str

    def encode(self, examples: Sequence[Example]) -> list[Sequences]:
        """The sequences of every example, one a label.

        Raises:
            UserError: as the encoder of prompts.
        """
        columns = [self._of_label(k, examples) for k in range(len(self.labels))]
        return [Sequences(tuple(row), len(row)) for row in zip(*columns, strict=True)]

    def _of_label(self, k: int, examples: Sequence[Example]) -> list[Marked]:
        label, base = self.labels[k], self.base
        weight = 1 / len(label) if self.normalize == "mean" else 1.0
        if isinstance(base, MaskedEncoder):
            at = base.parts.index(Special("mask"))
            parts = (*base.parts[:at], *[Special("mask")] * len(label), *base.parts[at + 1 :])
            made = MaskedEncoder(base.tokenizer, parts, base.label_ids, base.limits).encode(
                examples
            )
            for example, (ids, read) in zip(examples, made, strict=True):
                if read + len(label) > len(ids):
                    raise UserError(
                        f"example {example.id}: its masks are cut off at max_length"
                        f" {base.limits.max_length}: raise it"
                    )
            return [
                Marked(tuple(ids), tuple(range(read, read + len(label))), label, weight, k)
                for ids, read in made
            ]
        room = base.limits.max_length - max(map(len, self.labels))
        limits = Limits(max(1, room), base.limits.first, base.limits.other)
        causal = CausalEncoder(base.tokenizer, base.parts, base.label_words, limits, base.prefix)
        return [
            Marked((*ids, *label), tuple(range(read, read + len(label))), label, weight, k)
            for ids, read in causal.encode(examples)
        ]


def shared(some: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with together."""
    pairs = enumerate(zip(some, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(some), len(other)))

"""One encoded example for people: its text, its tokens and the position that is read."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from subkern.templates import Label, Literal, Part, Special

if TYPE_CHECKING:
    from subkern.data import Example
    from subkern.prompts import EncodedExample, Prompt

__all__ = ["render_prompt"]

_WIDTH = 80
_INDENT = 10


def render_prompt(prompt: Prompt, example: Example, encoded: EncodedExample) -> str:
    """Return the example as lines of at most 80 columns; ``>>token<<`` is the one that is read."""
    task = prompt.task
    label = task.labels[example.label]
    lines = [_field("task", f"{task.name}, {prompt.style} prompt, example {example.id}")]
    if prompt.template:
        lines.append(_field("template", prompt.template))
        words = (
            f"{name} -> '{word}' ({token})"
            for name, word, token in zip(
                task.labels, prompt.label_words, prompt.label_ids, strict=True
            )
        )
        lines.append(_field("words", ", ".join(words)))
    lines.append(_field("label", label))
    lines.append(_field("text", _text(prompt, example)))
    tokens = [_token(prompt, token) for token in encoded.input_ids]
    tokens[encoded.read] = f">>{tokens[encoded.read]}<<"
    lines.append(_field("tokens", " ".join(tokens)))
    count = f"{len(tokens)} tokens of at most {task.max_length}"
    lines.append(_field("read", f"position {encoded.read} (from 0), marked >> <<; {count}"))
    return "\n".join(lines)


def _field(name: str, value: str) -> str:
    return textwrap.fill(
        value,
        width=_WIDTH,
        initial_indent=name.ljust(_INDENT),
        subsequent_indent=" " * _INDENT,
        break_on_hyphens=False,
    )


def _text(prompt: Prompt, example: Example) -> str:
    """Return the prompt as a string, before any cut; plain texts on either side of a bar."""
    if not prompt.parts:
        return " | ".join(example.texts)
    return "".join(_string(prompt, part, example) for part in prompt.parts)


def _string(prompt: Prompt, part: Part, example: Example) -> str:
    match part:
        case Literal(text):
            return text
        case Special(name):
            return str(getattr(prompt.tokenizer, f"{name.rstrip('+')}_token"))
        case Label(index):
            return " " + prompt.label_words[index]
    return part.apply(example.texts)


def _token(prompt: Prompt, token: int) -> str:
    """Return one token, its spaces as ``_``; what is no text by itself as the vocabulary has it."""
    vocabulary = str(prompt.tokenizer.convert_ids_to_tokens(token))
    text = prompt.tokenizer.decode([token], clean_up_tokenization_spaces=False)
    if "\ufffd" in text or not text or vocabulary.startswith("##"):
        return vocabulary
    return str(text).replace(" ", "_").replace("\n", "\\n").replace("\t", "\\t")

"""LM-BFF's template notation: a string in, a sequence of parts out, and back.

``*cls**sent_0*_It_was*mask*.*sep+*`` reads: the [CLS] token, text 0, the words " It was", the
mask, ".", the [SEP] token. Variables stand between asterisks; everything else is literal, with
``_`` for a space. Variables:

================  ===================================================================
``cls mask sep``  that special token; ``sep+`` is ``sep`` (segment ids stay 0)
``sent_i``        text i, counted from 0
``+sent_i``       a space before the text
``sent-_i``       without its last character
``sentl_i``       its first character in lower case; ``sentu_i`` in upper case
``label_i``       the label word of label i
================  ===================================================================

``+``, ``l``/``u`` and ``-`` combine (``+sentl_1``). Source: Gao, Fisch, Chen, "Making Pre-trained
Language Models Better Few-shot Learners" (ACL 2021) and its code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from subkern.errors import UserError

__all__ = ["Label", "Literal", "Part", "Special", "Text", "format_template", "parse_template"]

_SPECIAL = ("cls", "mask", "sep", "sep+")
_TEXT = re.compile(r"(?P<space>\+?)sent(?P<case>[lu]?)(?P<drop>-?)_(?P<index>\d+)", re.ASCII)
_LABEL = re.compile(r"label_(\d+)", re.ASCII)
_KNOWN = "cls, mask, sep, sep+, sent_0, +sent_0, sent-_0, sentl_0, sentu_0, label_0"


@dataclass(frozen=True)
class Literal:
    """Words of the template itself, with real spaces."""

    text: str


@dataclass(frozen=True)
class Special:
    """A special token of the tokenizer: ``cls``, ``mask``, ``sep`` or ``sep+``."""

    name: str


@dataclass(frozen=True)
class Text:
    """A text of the example and what is done to it before it is tokenized.

    Attributes:
        index: which text, from 0.
        space: put a space in front.
        case: ``"l"``/``"u"``: first character in lower/upper case; ``""``: as it is.
        drop_last: without the last character.
    """

    index: int
    space: bool = False
    case: str = ""
    drop_last: bool = False

    def apply(self, texts: tuple[str, ...]) -> str:
        """Return the text as it goes to the tokenizer: case first, then the cut, then the space."""
        text = texts[self.index]
        if self.case:
            first = text[:1].lower() if self.case == "l" else text[:1].upper()
            text = first + text[1:]
        if self.drop_last:
            text = text[:-1]
        return " " + text if self.space else text


@dataclass(frozen=True)
class Label:
    """The label word of label `index`."""

    index: int


Part = Literal | Special | Text | Label


def parse_template(template: str) -> tuple[Part, ...]:
    """Parse a template; empty literals between variables are left out.

    Raises:
        UserError: an odd number of asterisks, or a variable that does not exist.
    """
    pieces = template.split("*")
    if len(pieces) % 2 == 0:
        raise UserError(
            f"template '{template}' has an odd number of asterisks: "
            "write every variable as *name*, such as *mask*"
        )
    parts: list[Part] = []
    for i, piece in enumerate(pieces):
        if i % 2:
            parts.append(_variable(piece, template))
        elif piece:
            parts.append(Literal(piece.replace("_", " ")))
    return tuple(parts)


def format_template(parts: tuple[Part, ...]) -> str:
    """Write parts in LM-BFF's notation: the inverse of `parse_template`."""
    return "".join(_format_part(part) for part in parts)


def _variable(name: str, template: str) -> Part:
    if name in _SPECIAL:
        return Special(name)
    if match := _TEXT.fullmatch(name):
        return Text(int(match["index"]), match["space"] == "+", match["case"], match["drop"] == "-")
    if match := _LABEL.fullmatch(name):
        return Label(int(match[1]))
    raise UserError(
        f"unknown variable *{name}* in template '{template}': use one of {_KNOWN} "
        "(literal words stand outside the asterisks)"
    )


def _format_part(part: Part) -> str:
    match part:
        case Literal(text):
            return text.replace(" ", "_")
        case Special(name):
            return f"*{name}*"
        case Label(index):
            return f"*label_{index}*"
        case Text(index, space, case, drop_last):
            return f"*{'+' if space else ''}sent{case}{'-' if drop_last else ''}_{index}*"

"""What the columns of a data file mean: recognized by their names, as TRL, Alpaca, ShareGPT and
lm-eval call them, or told.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from subkern.errors import UserError
from subkern.tasks.records import Record

__all__ = ["FORMATS", "Chat", "Format", "Parts", "recognize"]

Chat = tuple[tuple[str, str], ...]
"""Messages: (role, content)."""


@dataclass(frozen=True)
class Parts:
    """What a row holds, whatever its columns are called.

    Attributes:
        texts: its texts, in the order of the format; empty where only a chat's tokenizer can make
            them.
        chats: the same as messages, where they are such.
        answer: the label as it stands there, a real number, or the number of the right option.
    """

    texts: tuple[str, ...]
    chats: tuple[Chat, ...] = ()
    answer: str | int | float = 0


@dataclass(frozen=True)
class Format:
    """A convention of columns.

    Attributes:
        name: for ``--format``.
        said: what a row is, for people.
        kind: of the task that its rows make.
        columns: those that must be there.
        optional: those that may be there.
        read: from a row's values to its parts; raises `Unusable`.
    """

    name: str
    said: str
    kind: str
    columns: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], Parts]
    optional: tuple[str, ...] = ()

    def parts(self, record: Record) -> Parts:
        """The parts of a row.

        Raises:
            UserError: it cannot be used; names its line.
        """
        # tables that went through pandas hold NaN where a cell is empty
        values = {c: None if v != v else v for c, v in record.values.items()}
        if missing := [c for c in self.columns if values.get(c) is None]:
            raise UserError(f"{record.where}: no '{missing[0]}': format {self.name} needs one")
        try:
            return self.read(values)
        except Unusable as error:
            raise UserError(f"{record.where}: {error}") from None


class Unusable(ValueError):  # noqa: N818
    """Why a row cannot be used, and what to do."""


def _text(values: Mapping[str, Any], column: str, *, empty: bool = False) -> str:
    value = values.get(column)
    if isinstance(value, bool | int | float):
        value = str(value)
    if not isinstance(value, str):
        raise Unusable(f"'{column}' holds {_shown(value)}, no text: give a string")
    if not value.strip() and not empty:
        raise Unusable(f"'{column}' is empty: fill it in or leave the row out")
    return value


def _shown(value: Any) -> str:
    return f"{value!r}"[:40]


_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant"}


def _chat(value: Any, column: str) -> Chat:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise Unusable(f"'{column}' holds {_shown(value)}, no messages: give role and content")
    found = []
    for message in value:
        role = content = None
        if isinstance(message, Mapping):
            role = message.get("role", message.get("from"))
            content = message.get("content", message.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            raise Unusable(
                f"'{column}' has the message {_shown(message)}: give role and content, both text"
            )
        found.append((_ROLES.get(role, role), content))
    return tuple(found)


def _is_chat(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _ends_in_answer(chat: Chat, column: str) -> Chat:
    if not any(role == "assistant" for role, _ in chat):
        raise Unusable(f"'{column}' has no message of the assistant: there is nothing to learn")
    return _says_something(chat, column)


def _says_something(chat: Chat, column: str) -> Chat:
    if any(role == "assistant" and not content.strip() for role, content in chat):
        raise Unusable(
            f"'{column}' has an empty message of the assistant: fill it in or leave the row out"
        )
    return chat


def _completion(values: Mapping[str, Any]) -> Parts:
    if _is_chat(values["prompt"]) and _is_chat(values["completion"]):
        return Parts(
            (),
            (
                _chat(values["prompt"], "prompt"),
                _says_something(_chat(values["completion"], "completion"), "completion"),
            ),
        )
    return Parts((_text(values, "prompt", empty=True), _text(values, "completion")))


def _messages(column: str) -> Callable[[Mapping[str, Any]], Parts]:
    return lambda values: Parts((), (_ends_in_answer(_chat(values[column], column), column),))


_ALPACA = (
    "Below is an instruction that describes a task{more}. Write a response that appropriately"
    " completes the request.\n\n### Instruction:\n{instruction}\n\n{given}### Response:\n"
)


def _instruction(values: Mapping[str, Any]) -> Parts:
    asked, answer = _text(values, "instruction"), _text(values, "output")
    given = _text(values, "input", empty=True) if values.get("input") is not None else ""
    more = ", paired with an input that provides further context" if given.strip() else ""
    shown = f"### Input:\n{given}\n\n" if given.strip() else ""
    prompt = _ALPACA.format(more=more, instruction=asked, given=shown)
    user = f"{asked}\n\n{given}" if given.strip() else asked
    return Parts((prompt, answer), ((("user", user),), (("assistant", answer),)))


def _whole(values: Mapping[str, Any]) -> Parts:
    return Parts((_text(values, "text"),))


def _choices(values: Mapping[str, Any]) -> Parts:
    choices: Any = values["choices"]
    names: Any = None
    if isinstance(choices, Mapping):  # as ARC has them
        choices, names = choices.get("text"), choices.get("label")
    if not isinstance(choices, Sequence) or isinstance(choices, str) or len(choices) < 2:
        raise Unusable(f"'choices' holds {_shown(choices)}: give a list of two or more")
    texts = [_text({"choices": choice}, "choices") for choice in choices]
    letters = names or [chr(ord("A") + i) for i in range(len(texts))]
    if not isinstance(letters, list) or len(letters) != len(texts):
        raise Unusable(f"'choices' has the labels {_shown(letters)}: give one for each text")
    answer = values["answer"]
    if isinstance(answer, str) and answer.strip().isdecimal() and answer not in (*letters, *texts):
        answer = int(answer)
    if isinstance(answer, bool):
        answer = str(answer)  # as texts of choices have it
    meant = [known.index(answer) for known in (letters, texts) if answer in known]
    if not meant and isinstance(answer, int) and 0 <= answer < len(texts):
        meant = [answer]
    if len(set(meant)) > 1:
        raise Unusable(
            f"'answer' holds {_shown(answer)}, a letter of one choice and the text of another:"
            " give the number of the right one, from 0"
        )
    if meant:
        return Parts((_text(values, "question"), *texts), (), meant[0])
    raise Unusable(
        f"'answer' holds {_shown(answer)}: give the right choice, its letter or its number from 0"
    )


def _preference(values: Mapping[str, Any]) -> Parts:
    chosen, rejected, prompt = values["chosen"], values["rejected"], values.get("prompt")
    if not _is_chat(chosen) and not _is_chat(rejected):
        if prompt is None:
            raise Unusable("no 'prompt': give one, or 'chosen' and 'rejected' as messages")
        texts = (
            _text(values, "prompt", empty=True),
            _text(values, "chosen"),
            _text(values, "rejected"),
        )
        _differ(texts[1], texts[2])
        return Parts(texts, (), 1)
    sides = _chat(chosen, "chosen"), _chat(rejected, "rejected")
    asked: Chat = ()
    if prompt is not None:
        asked = (
            _chat(prompt, "prompt") if _is_chat(prompt) else (("user", _text(values, "prompt")),)
        )
    if (
        prompt is None
        or all(side[: len(asked)] == asked for side in sides)
        or (not _is_chat(prompt) and all(asked[0] in side for side in sides))
    ):  # both begin with the prompt
        same = next(
            (i for i, (a, b) in enumerate(zip(*sides, strict=False)) if a != b),
            min(map(len, sides)),
        )
        asked, sides = sides[0][:same], (sides[0][same:], sides[1][same:])
    _differ(*sides)
    for name, side in zip(("chosen", "rejected"), sides, strict=True):
        _says_something(side, name)
    return Parts((), (asked, *sides), 1)


def _differ(chosen: object, rejected: object) -> None:
    if chosen == rejected or not chosen or not rejected:
        raise Unusable("'chosen' and 'rejected' do not differ: leave the row out")


def _labels(values: Mapping[str, Any]) -> Parts:
    label = values["label"]
    if isinstance(label, str) and _WHOLE.fullmatch(label.strip()):  # 1.0 is 1, as in JSON
        label = label.strip().partition(".")[0]
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, list | dict):
        raise Unusable(f"'label' holds {_shown(label)}: give a word or a number")
    return Parts(_texts(values), (), _text({"label": label}, "label").strip())


def _texts(values: Mapping[str, Any]) -> tuple[str, ...]:
    names = [c for c in ("text", "text2") if values.get(c) is not None]
    return tuple(_text(values, c, empty=True) for c in names)


_WHOLE = re.compile(r"-?\d+\.0*")


def _regression(values: Mapping[str, Any]) -> Parts:
    label = _real(values["label"])
    if label is None:
        raise Unusable(
            f"'label' holds {_shown(values['label'])}: give a number, or --format labels"
        )
    return Parts(_texts(values), (), label)


def _real(value: Any) -> float | None:
    """A finite number, also one that is written as text."""
    try:
        found = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        return None
    return found if math.isfinite(found) and not isinstance(value, bool) else None


def _are_real(values: Sequence[Any]) -> bool:
    """Whether labels are real numbers and not names of classes: all numbers, one not whole."""
    found = [_real(value) for value in values if value is not None and value == value]
    return all(f is not None for f in found) and any(f is not None and f % 1 for f in found)


FORMATS: dict[str, Format] = {
    made.name: made
    for made in (
        Format(
            "preference",
            "preferences",
            "preference",
            ("chosen", "rejected"),
            _preference,
            ("prompt",),
        ),
        Format(
            "choices", "multiple choice", "choices", ("question", "choices", "answer"), _choices
        ),
        Format(
            "prompt-completion",
            "prompts and completions",
            "completion",
            ("prompt", "completion"),
            _completion,
        ),
        Format("messages", "chats", "completion", ("messages",), _messages("messages")),
        Format(
            "conversations", "chats", "completion", ("conversations",), _messages("conversations")
        ),
        Format(
            "instruction",
            "instructions",
            "completion",
            ("instruction", "output"),
            _instruction,
            ("input",),
        ),
        Format("labels", "texts with labels", "labels", ("text", "label"), _labels, ("text2",)),
        Format(
            "regression",
            "texts with real labels",
            "regression",
            ("text", "label"),
            _regression,
            ("text2",),
        ),
        Format("text", "texts, every token of which is learned", "completion", ("text",), _whole),
    )
}
"""Formats by name; of those whose columns are there, the first is meant."""

_ALIASES = {"sentence": "text", "sentence1": "text", "premise": "text"} | {
    "sentence2": "text2",
    "hypothesis": "text2",
    "text_pair": "text2",
}


def recognize(
    records: Sequence[Record], source: str, named: str | None, roles: Mapping[str, str]
) -> tuple[Format, dict[str, str]]:
    """The format of a file, and which column has each role of it.

    Args:
        records: its rows; the first one's columns count.
        source: what it is called.
        named: the format, if it was told.
        roles: role → column, those that were told.

    Raises:
        UserError: none fits, or a column that was told is not there.
    """
    columns = list(records[0].values)
    for role, column in roles.items():
        if column not in columns:
            raise UserError(
                f"{source} has no column '{column}' (for {role}): it has {', '.join(columns)}"
            )
    found = {**{name: name for name in columns if name not in roles.values()}, **roles}
    pairs = {"sentence2", "hypothesis", "text_pair", "text2"} & {*columns, *found}
    if "label" not in found and "score" in found and (pairs or named in ("labels", "regression")):
        found["label"] = "score"  # as STS-B has it
    for alias, role in _ALIASES.items():
        if alias in columns and role not in found and "label" in found:
            found[role] = alias
    if named is not None and named not in FORMATS:
        raise UserError(f"format '{named}' is unknown: use {', '.join(FORMATS)}")
    fitting = [
        f for f in FORMATS.values() if set(f.columns) <= set(found) and named in (None, f.name)
    ]
    taking = [f for f in fitting if set(roles) <= {*f.columns, *f.optional}]
    if fitting and not taking:
        known_roles = (*fitting[0].columns, *fitting[0].optional)
        role = next(each for each in roles if each not in known_roles)
        raise UserError(
            f"--columns names '{role}', which format {fitting[0].name} has not: it has"
            f" {', '.join(known_roles)}"
        )
    fitting = taking
    if fitting and fitting[0].name == "labels" and named is None:
        values = [r.values.get(found["label"]) for r in records]
        if found["label"] == "score" or _are_real(values):
            return FORMATS["regression"], found
    if fitting:
        return fitting[0], found
    known = [FORMATS[named]] if named else list(FORMATS.values())
    wanted = "; ".join(f"{f.name} ({', '.join(f.columns)})" for f in known)
    raise UserError(
        f"{source} has the columns {', '.join(columns)}, which no format has: say which is which,"
        f" as in --columns text=COLUMN,label=COLUMN. Formats: {wanted}"
    )

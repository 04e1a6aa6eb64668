"""The one-line text form of things a user names: ``KIND:key=value,key=value``.

Subspaces, random subspaces and update rules are written so on the command line and in files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from subkern.errors import UserError

Read = Callable[[str], Any]
"""Reads the text of a value; raises ValueError for one that it cannot read."""

SEEDS = 2**32
"""Seeds are below it: NumPy, torch and scikit-learn all take those."""


def read_options(what: str, text: str, known: Mapping[str, Read]) -> dict[str, Any]:
    """Options of ``key=value,key=value``, each read by the function that `known` gives for it.

    A value may hold commas where no ``key=`` follows them.

    Args:
        what: what the options are of, for messages: ``LoRA``, ``rule 'adam'``.
        text: the options; may be empty.
        known: key -> how to read its value.

    Raises:
        UserError: an option that is not known or stands twice, or whose value its function refuses.
    """
    options: dict[str, Any] = {}
    for part in filter(None, re.split(r",(?=\w+=)", text)):
        key, equals, value = part.partition("=")
        if key not in known or not equals:
            hint = f"write key=value with {', '.join(known)}" if known else "it has none"
            raise UserError(f"unknown option '{part}' of {what}: {hint}")
        if key in options:
            raise UserError(f"option {key} of {what} stands twice in '{text}': give it once")
        try:
            options[key] = known[key](value)
        except UserError:
            raise
        except (ValueError, OverflowError) as error:
            wanted = _WANTED.get(known[key], "a number")
            raise UserError(f"option {key}='{value}' of {what} is not {wanted}") from error
    return options


def read_flag(text: str) -> bool:
    """``true`` or ``false``; anything else is a ValueError."""
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


def read_count(text: str) -> int:
    """A whole number from 1; anything else is a ValueError."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def read_number(text: str) -> float:
    """A finite number; anything else is a ValueError."""
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number


def read_positive(text: str) -> float:
    """A finite number above 0; anything else is a ValueError."""
    if (number := read_number(text)) <= 0:
        raise ValueError(text)
    return number


def read_seed(text: str) -> int:
    """A whole number from 0 that every generator takes; anything else is a ValueError."""
    if not 0 <= (number := int(text)) < SEEDS:
        raise ValueError(text)
    return number


def check_seed(what: str, value: object) -> None:
    """Refuse a seed that not every generator takes.

    Raises:
        UserError: it is no whole number, negative, or too large; says ``what`` it is.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < SEEDS:
        raise UserError(f"{what} holds {value!r}: give a whole number from 0 to {SEEDS - 1}")


_WANTED: Mapping[Read, str] = {
    read_flag: "true or false",
    read_count: "a whole number from 1",
    read_number: "a number (a finite one)",
    read_positive: "a finite number above 0",
    read_seed: f"a whole number from 0 to {SEEDS - 1}",
    int: "a whole number",
}

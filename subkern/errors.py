"""The exceptions that mean "the user can put this right"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

__all__ = ["DamagedError", "NoMemoryError", "NoSpaceError", "UserError"]


class UserError(ValueError):
    """A mistake in what the user asked for: input, option, file or environment.

    The message is one line that says what is wrong, shows the value and says how to put it right.
    The command line prints that line on stderr and exits with status 2; library callers may catch
    it as a plain ``ValueError``.
    """

    status: ClassVar[int] = 2
    """Exit status of the command line."""


class NoSpaceError(UserError):
    """A disk is full: no mistake, but the user's to put right. What was finished is kept."""

    status = 1


class NoMemoryError(UserError):
    """Memory ran out: the user's to put right, by other limits than those asked for."""


class DamagedError(UserError):
    """A file does not hold what was written to it: what it was of has to be computed again."""


def check_choice(what: str, value: str, known: Sequence[str]) -> None:
    """Raise `UserError` unless `value` is `known`."""
    if value not in known:
        raise UserError(f"unknown {what} '{value}': use {' or '.join(known)}")

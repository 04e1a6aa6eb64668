"""Option types of commands that run a study, and the settings that their options make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import click

from analyses.options import Numbers
from subkern.errors import UserError

__all__ = ["NumbersOrNone", "Words", "settings_of"]


class Stored(Protocol):
    """Settings that are read from and written to plain values."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The settings with these values."""
        ...

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """The settings in a YAML file."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        ...


Chosen = TypeVar("Chosen", bound=Stored)


class NumbersOrNone(Numbers):
    """The same, or ``none`` for no numbers."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Parse ``1,2,4`` or ``none``."""
        return () if value == "none" else super().convert(value, param, ctx)


class Words(click.ParamType[Any]):
    """Words separated by commas, as a tuple."""

    name = "a,b,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Parse ``gaussian,srht``."""
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value


def settings_of(kind: type[Chosen], config: Path | None, asked: Mapping[str, Any]) -> Chosen:
    """Return a study's settings: a file's, and over them the options given on the command line.

    Raises:
        UserError: neither names a model and a task, or a setting is wrong.
    """
    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    given = {name for name in asked if context.get_parameter_source(name) is not default}
    values = {name: value for name, value in asked.items() if value is not None}
    if config is not None:
        stored = kind.from_file(config).as_dict()
        values = stored | {name: value for name, value in values.items() if name in given}
    missing = [f"--{name}" for name in ("model", "task") if name not in values]
    if missing:
        raise UserError(f"{' and '.join(missing)} missing: give it, or a --config that has it")
    return kind.from_dict(values)

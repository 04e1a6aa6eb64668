"""Options of commands that run a study, made from its settings, and what is printed."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin

import click

from subkern.errors import UserError

from .options import AS_JSON, OVERWRITE, PATH, Numbers, Rates

if TYPE_CHECKING:
    from ..engine.settings import Options
    from ..verify.trial import Trial

Chosen = TypeVar("Chosen", bound="Options")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class NumbersOrNone(Numbers):
    """Numbers separated by commas, or ``none`` for no numbers."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Parse ``1,2,4`` or ``none``."""
        return () if value == "none" else super().convert(value, param, ctx)


class Words(click.ParamType):
    """Words separated by commas, as a tuple."""

    name = "a,b,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Parse ``gaussian,srht``."""
        if isinstance(value, str) and not value.strip(" ,"):
            return self.fail(f"{value!r} is empty: give a value, or leave it out", param, ctx)
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value


def options_of(kind: type[Options], prefix: str = "") -> Decorator:
    """Return a decorator with an option for every setting that has one.

    What is not given is None, so that a file's settings or the defaults stand.
    """
    made = [_option(kind, name, prefix) for name in _ordered(kind)]

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([option for option in made if option is not None]):
            function = option(function)
        return function

    return apply


def _ordered(kind: type[Options]) -> list[str]:
    """Return settings as ``--help`` lists them: what is studied, the study's own, then the rest."""
    from ..engine.settings import Settings

    names = list(kind.model_fields)
    if not issubclass(kind, Settings):
        return names
    first = ("model", "task", "data", "shots", "data_seeds")
    own = [name for name in names if name not in Settings.model_fields]
    return [*first, *own, *(name for name in names if name not in (*first, *own))]


def _option(kind: type[Options], name: str, prefix: str) -> Decorator | None:
    field, extra = kind.model_fields[name], kind.extra(name)
    if extra["option"] is None:
        return None
    dashed = f"{prefix}{name}".replace("_", "-")
    flag = extra["option"] or f"--{dashed}"
    default = extra["shown"] or _shown(field.default)
    if extra["counted"]:
        default = str(len(field.default))
    usual = f"  [default: {default}]" if default and not field.is_required() else ""
    how: dict[str, Any] = {"default": None, "help": f"{field.description or ''}{usual}"}
    if field.annotation is bool:
        flag = f"--{dashed}/--no-{dashed}" if field.default else flag
        how["is_flag"] = True
    elif extra["repeated"]:
        how |= {"multiple": True, "callback": lambda _context, _option, given: given or None}
    elif extra["auto"]:
        how["type"] = Rates()
    else:
        how["type"] = (
            click.INT
            if extra["counted"]
            else _type(field.annotation, empty=extra["empty"] or not field.default)
        )
    return click.option(flag, dashed.replace("-", "_"), **how)


def _type(annotation: Any, *, empty: bool) -> Any:
    """Return click's type of an option from the setting's; a list of numbers may be ``empty``."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ()
    kind = next((each for each in kinds if each is not type(None)), annotation)
    if get_origin(kind) is tuple:
        (of, *_) = get_args(kind)
        if of is str:
            return Words()
        return NumbersOrNone(of) if empty else Numbers(of)
    return kind


def _shown(default: Any) -> str:
    if default is True or default is False:
        return "yes" if default else ""
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or "none"
    return "" if default is None else str(default)


VERIFY = click.option("--verify", is_flag=True, help="Then fine-tune all of it, and compare.")
RATES = click.option(
    "--rates/--no-rates",
    default=True,
    help="Suggest the learning rate of every configuration.  [default: yes]",
)
CONFIG = click.option("--config", type=PATH, help="YAML of settings; options given here win.")
OUT = click.option("--out", type=PATH, required=True, help="Run directory.")


def study_options(kind: type[Options], trial: type[Options] | None = None) -> Decorator:
    """Return all options of a command that runs a study with these settings."""
    proof: list[Any] = [RATES, VERIFY, options_of(trial, "verify-")] if trial is not None else []
    every: list[Any] = [CONFIG, options_of(kind), *proof, OUT, OVERWRITE, AS_JSON]

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(every):
            function = option(function)
        return function

    return apply


def settings_of(kind: type[Chosen], config: Path | None, asked: Mapping[str, Any]) -> Chosen:
    """Return a study's settings: a file's, and over them the options given on the command line.

    Raises:
        UserError: neither names what must be named, or a setting is wrong.
    """
    from ..engine.settings import read_settings

    given = {name: value for name, value in asked.items() if value is not None}
    values = given if config is None else {**read_settings(config), **given}
    needed = [name for name, field in kind.model_fields.items() if field.is_required()]
    data = str(values.get("data", "hub"))
    if "task" in kind.model_fields and (data in ("hub", "demo") or Path(data).is_dir()):
        needed += [] if kind.model_fields["task"].default else ["task"]
    missing = [f"--{name}" for name in needed if not values.get(name)]
    if missing:
        raise UserError(f"{' and '.join(missing)} missing: give it, or a --config that has it")
    return kind.from_dict(values)


def split_trial(kind: type[Trial], asked: dict[str, Any]) -> Trial | None:
    """Take the options of a verification out of ``asked``; return how to train, if asked for.

    Raises:
        UserError: options are given of what is not asked for, or one is wrong.
    """
    wanted = asked.pop("verify")
    names = [name for name in asked if name.startswith("verify_")]
    given = {name.removeprefix("verify_"): asked.pop(name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if not wanted:
            option = f"--verify-{name.replace('_', '-')}"
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            told = option if value is True else f"{option} {shown}"
            raise UserError(f"{told} is of the verification: add --verify")
    return kind(**given) if wanted else None

"""Settings that studies share: what to analyse, how to classify, how to compute."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Self, get_type_hints

import yaml

from subkern.errors import UserError
from subkern.kernels.rules import parse_rule
from subkern.solvers import SOLVERS

__all__ = [
    "ASYMMETRIC_CLASSIFIERS",
    "CLASSIFIERS",
    "Settings",
    "check_names",
    "decides",
    "distinct",
    "number",
    "numbers",
    "one_of",
    "rates",
    "read_settings",
    "share",
    "solvers_for",
]

CLASSIFIERS = ("logistic", "ridge", "svc")
ASYMMETRIC_CLASSIFIERS = ("asym", "asym-ridge", "row-logistic")
"""In place of `CLASSIFIERS` where a rule makes the kernel asymmetric."""

_CHOICES = {
    "logits": ("auto", "all", "binary"),
    "head": ("prompt", "linear"),
    "head_init": ("random", "probe"),
    "pooling": ("read", "mean"),
    "tie": ("model", "untied"),
    "dtype": ("float32", "float64", "bfloat16"),
    "tuning": ("full", "each"),
}


def solvers_for(rule: str) -> tuple[str, ...]:
    """Return the classifiers that a study solves unless told otherwise, the judge first.

    Those for symmetric kernels learn functions of one feature map; an asymmetric rule has two.

    Raises:
        UserError: there is no such rule.
    """
    return ASYMMETRIC_CLASSIFIERS if parse_rule(rule).is_asymmetric else CLASSIFIERS


def decides(what: str | None, default: Any) -> Any:
    """Return a field that decides only the ``answer`` drawn from the numbers, or nothing (None)."""
    return field(default=default, metadata={"decides": what})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every study is told. Sequences may be given as any iterable; they are kept as tuples.

    Attributes:
        model: as `subkern.models.load.load_model` takes it.
        task: name of a task, or path of a task file.
        data: folder in the k-shot layout, ``"hub"`` or ``"demo"``.
        shots: training examples a label.
        data_seeds: seeds of the k-shot splits.
        logits: ``all``, ``binary`` (f_1 − f_0), or ``auto``: binary for two labels.
        head, pooling, tie, dtype, revision, seed: as `load_model` takes them.
        head_init: where a linear head begins, for kernels and training alike: ``random``, drawn
            from the seed, or ``probe``, the linear probe of each data seed's training examples.
            None is random.
        template: prompt to use instead of the task's, in LM-BFF's notation.
        label_words: label words to use instead of the task's, in label order.
        train_limit, dev_limit, test_limit: at most so many examples of a split.
        rule: update rule of the kernels, in its one-line form.
        solvers: classifiers to solve on every kernel, names of `subkern.solvers.SOLVERS` that
            learn from the rule's kernels; the first one judges. None takes `solvers_for` the rule.
        tuning: dev chooses regularisation and f0 scale for the ``full`` kernel and all kernels use
            them, or for ``each`` kernel by itself.
        confidence: of all intervals.
        resamples: bootstrap resamples.
        device, batch_size, memory: how to compute; they do not decide the numbers.

    Raises:
        UserError: a value is out of range or not among the choices.
    """

    counted: ClassVar[tuple[str, ...]] = ()
    """Seeds for which a number n may be given, standing for 0 .. n-1."""

    model: str
    task: str
    data: str = "hub"
    shots: int = 16
    data_seeds: tuple[int, ...] = (13,)
    logits: str = "auto"
    head: str = "prompt"
    head_init: str | None = None
    pooling: str = "read"
    tie: str = "model"
    dtype: str = "float32"
    revision: str | None = None
    seed: int = 0
    template: str | None = None
    label_words: tuple[str, ...] | None = None
    train_limit: int | None = None
    dev_limit: int | None = None
    test_limit: int | None = None
    rule: str = "sgd"
    solvers: tuple[str, ...] | None = None
    tuning: str = "full"
    confidence: float = 0.95
    resamples: int = 500
    device: str = decides(None, "cpu")
    batch_size: int | None = decides(None, None)
    memory: str | int | None = decides(None, None)

    def __post_init__(self) -> None:
        for name in ("model", "task", "data"):
            self.keep(name, str(getattr(self, name)))
        for name in self.counted:
            if isinstance(getattr(self, name), int):
                self.keep(name, tuple(range(getattr(self, name))))
        for name, kind in get_type_hints(type(self)).items():
            if kind is float:
                self.keep(name, number(name, getattr(self, name)))
        if self.label_words is not None:
            self.keep("label_words", tuple(self.label_words))
        self.keep("data_seeds", distinct("data_seeds", self.data_seeds))
        self.keep("head_init", self.head_init or "random")
        for name, choices in _CHOICES.items():
            one_of(name, getattr(self, name), choices)
        self.check_head_init()
        usual = solvers_for(self.rule)
        self.keep("solvers", distinct("solvers", usual if self.solvers is None else self.solvers))
        self._check_solvers()
        self.positive("shots", "resamples", "train_limit", "dev_limit", "test_limit")
        if not 0 < self.confidence < 1:
            raise UserError(f"confidence is {self.confidence}: give a share between 0 and 1 (0.95)")

    @property
    def classifiers(self) -> tuple[str, ...]:
        """The solvers, chosen."""
        return self.solvers or solvers_for(self.rule)

    def check_head_init(self) -> None:
        """Raise `UserError` if a head is to start where there is none."""
        if self.head_init == "probe" and self.head != "linear":
            raise UserError("--head-init probe starts a linear head: add --head linear")

    def _check_solvers(self) -> None:
        """Raise `UserError` unless every solver exists and learns from kernels of the rule."""
        usual = solvers_for(self.rule)
        for solver in self.classifiers:
            one_of("solvers", solver, tuple(dict.fromkeys([*usual, *SOLVERS])))
            if usual == ASYMMETRIC_CLASSIFIERS and SOLVERS[solver].requires_symmetric:
                raise UserError(
                    f"solver {solver} needs a symmetric kernel, rule {self.rule} gives another: use"
                    f" {', '.join(usual)}"
                )

    def keep(self, name: str, value: Any) -> None:
        """Set a field of this frozen object while it is made."""
        object.__setattr__(self, name, value)

    def positive(self, *names: str) -> None:
        """Raise `UserError` unless whole numbers from 1, or none, stand in these fields."""
        for name in names:
            value = getattr(self, name)
            for each in value if isinstance(value, tuple) else (value,):
                if each is not None and not (isinstance(each, int) and each >= 1):
                    raise UserError(f"{name} holds {each!r}: give whole numbers from 1")

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values; `from_dict` reads them."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def decisive(self, what: str = "numbers") -> dict[str, Any]:
        """Return the settings that decide the ``numbers``, or only the ``answer`` they give."""
        values = self.as_dict()
        chosen = [f.name for f in fields(self) if f.metadata.get("decides", "numbers") == what]
        return {name: values[name] for name in chosen}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings with these values.

        Raises:
            UserError: a setting is unknown (names the closest) or missing.
        """
        check_names(values, [f.name for f in fields(cls)])
        for name in ("model", "task"):
            if name not in values:
                raise UserError(f"the settings name no {name}: add '{name}: ...'")
        return cls(**values)

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read settings from YAML (or JSON); a run's own ``config.yaml`` does.

        Raises:
            UserError: the file cannot be read, or its settings are wrong.
        """
        return cls.from_dict(read_settings(path))


def check_names(values: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise `UserError` if a setting is not among the known ones; it names the closest."""
    for name in values:
        if name not in known:
            close = get_close_matches(str(name), known, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else f"use {', '.join(known)}"
            raise UserError(f"unknown setting '{name}': {hint}")


def read_settings(path: str | Path) -> Mapping[str, Any]:
    """Return the settings in a YAML (or JSON) file, or in a run's own ``config.yaml``.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read settings from '{path}': {reason}") from error
    if isinstance(values, dict) and isinstance(values.get("config"), dict):
        values = values["config"]
    if not isinstance(values, dict):
        raise UserError(f"'{path}' holds no settings: write one 'name: value' a line")
    return values


def _listed(value: Any) -> Iterable[Any]:
    """Return the values of a list, or the single one."""
    return value if isinstance(value, Iterable) and not isinstance(value, str) else [value]


def distinct(name: str, values: Any, *, empty: bool = False) -> tuple[Any, ...]:
    """Return values as a tuple without repetition, in order; it may be ``empty`` only if said so.
    A single value is a list of one.

    Raises:
        UserError: it is empty.
    """
    found = tuple(dict.fromkeys(_listed(values)))
    if not found and not empty:
        raise UserError(f"{name} is empty: give at least one")
    return found


def number(name: str, value: Any) -> float:
    """Return a setting that is a number; YAML reads one without a point, ``1e-5``, as text.

    Raises:
        UserError: it is none, or NaN.
    """
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if math.isnan(found):
        raise UserError(f"{name} holds {value!r}: give a number, like 0.5 or 1e-5")
    return found


def numbers(name: str, value: Any) -> tuple[float, ...]:
    """Return a setting that is a list of numbers, or a single one, in its order.

    Raises:
        UserError: something in it is no number.
    """
    return tuple(number(name, each) for each in _listed(value))


def rates(name: str, value: Any) -> tuple[float, ...]:
    """Return learning rates as they are kept: ascending, each once.

    Raises:
        UserError: there is none, or something that is no number above 0.
    """
    found = numbers(name, value)
    for rate in found:
        if not 0 < rate < math.inf:
            raise UserError(f"{name} holds {rate}: give numbers above 0, like 1e-5")
    return tuple(sorted(distinct(name, found)))


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `UserError` unless the value is one of the choices."""
    if value not in choices:
        raise UserError(f"{name} '{value}' is unknown: use {', '.join(choices)}")


def share(name: str, value: float) -> None:
    """Raise `UserError` unless the value is a share, 0 excluded."""
    if not 0 < value <= 1:
        raise UserError(f"{name} is {value}: give a share above 0, at most 1")

"""What a user may set: typed, checked, and described once.

A subclass of :class:`Options` is read from YAML, made into command-line options (see
:mod:`analyses.commands.study_options`) and stored in a run folder. Every mistake is a `UserError`
of one line that names the setting, shows the value and says what to give.

``--help`` is made from it too: what checks need of the library is imported when they are made, so
that nobody waits for torch to read an option.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from subkern.errors import UserError
from subkern.one_line import check_seed

CLASSIFIERS = ("logistic", "ridge", "svc")
ASYMMETRIC_CLASSIFIERS = ("asym", "asym-ridge", "row-logistic")
"""In place of `CLASSIFIERS` where a rule makes the kernel asymmetric."""

_WANTED = {"int": "a whole number", "bool": "true or false", "string": "text", "float": "a number"}


def setting(
    default: Any,
    help: str = "",
    *,
    decides: str | None = "numbers",
    option: str | None = "",
    shown: str = "",
    repeated: bool = False,
    counted: bool = False,
    empty: bool = False,
    auto: bool = False,
) -> Any:
    """Return a field of `Options`.

    Args:
        default: its value where none is given; ``...`` where one must be.
        help: one sentence for ``--help``.
        decides: whether it decides the ``numbers``, only the ``answer`` drawn from them, or None.
        option: the command-line option; its name with dashes unless given, None for no option.
        shown: the default as ``--help`` tells it, where the value itself would not say.
        repeated: the option may be given several times.
        counted: seeds; a number n stands for 0 .. n-1.
        empty: the option takes ``none`` for no values.
        auto: the option of learning rates takes ``auto`` too.
    """
    extra: dict[str, Any] = {
        "decides": decides,
        "option": option,
        "shown": shown,
        "repeated": repeated,
        "counted": counted,
        "empty": empty,
        "auto": auto,
    }
    return Field(default=default, description=help, json_schema_extra=extra)


def decides(what: str | None, default: Any) -> Any:
    """Return a dataclass field that decides only the ``answer``, or nothing (None)."""
    return dataclasses.field(default=default, metadata={"decides": what})


class Options(BaseModel):
    """Settings with a help text each, made from YAML, from the command line or in Python.

    Attributes:
        prefix: stands before a setting's name in error messages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
    prefix: ClassVar[str] = ""

    def __init__(self, **values: Any) -> None:
        known = type(self).model_fields
        check_names(values, list(known))
        for name, field in known.items():
            if field.is_required() and name not in values:
                raise UserError(f"the settings name no {name}: add '{name}: ...'")
            given = values.get(name)
            if field.default is None and isinstance(given, str) and not given.strip():
                raise UserError(
                    f"{self.prefix}{name} is empty ({given!r}): give a value, or leave it out"
                )
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UserError(self.prefix + _one_line(error)) from None
        except UserError:
            raise
        except (TypeError, AttributeError, ValueError, OverflowError, KeyError) as error:
            # What a check of all settings together makes of values that are of another kind.
            shown = ", ".join(f"{name}: {value!r}" for name, value in values.items())
            raise UserError(
                f"{self.prefix}the settings ({shown[:200]}) hold a value of the wrong kind: {error}"
            ) from None

    @classmethod
    def extra(cls, name: str) -> Mapping[str, Any]:
        """Return what `setting` was told of a field."""
        found = cls.model_fields[name].json_schema_extra
        return found if isinstance(found, dict) else {}

    def changed(self, **values: Any) -> Self:
        """Return these settings with other values, checked again."""
        return type(self)(
            **{name: getattr(self, name) for name in type(self).model_fields} | values
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values; `from_dict` reads them."""
        return {name: _plain(getattr(self, name)) for name in type(self).model_fields}

    def decisive(self, what: str = "numbers") -> dict[str, Any]:
        """Return the settings that decide the ``numbers``, or only the ``answer`` they give."""
        values = self.as_dict()
        return {
            name: value
            for name, value in values.items()
            if self.extra(name).get("decides", "numbers") == what
            and not (name in OWN and value is None)  # as before there were data files
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings with these values.

        Raises:
            UserError: a setting is unknown (names the closest), missing or wrong.
        """
        return cls(**{str(name): value for name, value in values.items()})

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read settings from YAML (or JSON); a run's own ``config.yaml`` does.

        Raises:
            UserError: the file cannot be read, or its settings are wrong.
        """
        return cls.from_dict(read_settings(path))


# --- values ---


def checked(*checks: Callable[[str, Any], Any]) -> BeforeValidator:
    """Return a validator that passes a value through checks, each called with the field's name."""

    def run(value: Any, info: ValidationInfo) -> Any:
        name, given = info.field_name or "", value
        for check in checks:
            try:
                value = check(name, value)
            except UserError:
                raise
            except (TypeError, AttributeError, ValueError, OverflowError, KeyError):
                raise UserError(f"{name} holds {given!r}, which is of another kind") from None
        return value

    return BeforeValidator(run)


def each(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """Return a check of every value of a list; None passes."""
    return lambda name, values: values if values is None else tuple(check(name, v) for v in values)


def unless_none(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """Return a check that lets None pass."""
    return lambda name, value: None if value is None else check(name, value)


def unless_auto(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """Return a check that makes None of ``auto``, and lets None pass."""
    return lambda name, value: None if value in (None, "auto") else check(name, value)


def choice(*choices: str) -> Callable[[str, Any], Any]:
    """Return a check that a value is one of these."""

    def check(name: str, value: Any) -> Any:
        one_of(name, value, choices)
        return value

    return check


def _listed(value: Any) -> Iterable[Any]:
    """Return the values of a list, or the single one."""
    return value if isinstance(value, Iterable) and not isinstance(value, str) else [value]


def distinct(name: str, values: Any, *, empty: bool = False) -> tuple[Any, ...]:
    """Return values as a tuple without repetition, in order; it may be ``empty`` only if said so.
    A single value is a list of one.

    Raises:
        UserError: it is empty.
    """
    try:
        found = tuple(dict.fromkeys(_listed(values)))
    except TypeError:
        raise UserError(f"{name} holds {values!r}: give single values, no lists in it") from None
    if not found and not empty:
        raise UserError(f"{name} is empty: give at least one")
    return found


def distinct_or_none(name: str, values: Any) -> tuple[Any, ...]:
    """Return values as `distinct` does, or none at all."""
    return distinct(name, values, empty=True)


def ascending(name: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return numbers sorted."""
    return tuple(sorted(values))


def whole(name: str, value: Any) -> int:
    """Return a whole number from 1.

    Raises:
        UserError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name} holds {value!r}: give whole numbers from 1")
    return value


def whole_or_none(name: str, value: Any) -> int:
    """Return a whole number from 0.

    Raises:
        UserError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"{name} holds {value!r}: give 0 or a whole number above it")
    return value


def number(name: str, value: Any) -> float:
    """Return a setting that is a number; YAML reads one without a point, ``1e-5``, as text.

    Raises:
        UserError: it is none, or not finite.
    """
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise UserError(f"{name} holds {value!r}: give a number, like 0.5 or 1e-5")
    return found


def positive(name: str, value: Any) -> float:
    """Return a setting that is a number above 0.

    Raises:
        UserError: it is none.
    """
    found = number(name, value)
    if found <= 0:
        raise UserError(f"{name} is {found}: give a number above 0")
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


def one_of(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise `UserError` unless the value is one of the choices."""
    if value not in choices:
        raise UserError(f"{name} '{value}' is unknown: use {', '.join(choices)}")


def share(name: str, value: Any) -> float:
    """Return a share above 0, at most 1.

    Raises:
        UserError: it is none.
    """
    found = number(name, value)
    if not 0 < found <= 1:
        raise UserError(f"{name} is {found}: give a share above 0, at most 1")
    return found


def tolerance(name: str, value: Any) -> float:
    """Return a share from 0 to 1.

    Raises:
        UserError: it is none.
    """
    found = number(name, value)
    if not 0 <= found <= 1:
        raise UserError(f"{name} is {found}: give a share from 0 to 1")
    return found


def as_text(name: str, value: Any) -> str:
    """Return a name or path as text; a name that is a number is one.

    Raises:
        UserError: it is none, or empty.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | PurePath):
        raise UserError(f"{name} holds {value!r}: give a name or a path")
    found = str(value)
    if not found.strip() or "\0" in found:
        raise UserError(f"{name} is {found!r}: give a name or a path")
    return found


def words(name: str, values: Any) -> tuple[str, ...]:
    """Return words, as a list or as one text with commas.

    Raises:
        UserError: something else is among them.
    """
    found = values.split(",") if isinstance(values, str) else _listed(values)
    for word in found:
        if not isinstance(word, str):
            raise UserError(f"{name} holds {word!r}, not text: put the word in quotes")
    return tuple(found)


def seed(name: str, value: Any) -> int:
    """Return a seed.

    Raises:
        UserError: it is no whole number that every generator takes.
    """
    check_seed(name, value)
    return int(value)


def seeds(name: str, values: Any) -> tuple[Any, ...]:
    """Return seeds, for which a number n may be given, standing for 0 .. n-1.

    Raises:
        UserError: there are none, or more than `MOST_SEEDS`.
    """
    if isinstance(values, int) and not isinstance(values, bool):
        if not 1 <= values <= MOST_SEEDS:
            raise UserError(f"{name} is {values}: give a number of seeds from 1 to {MOST_SEEDS}")
        values = range(values)
    return distinct(name, values)


MOST_SEEDS = 10_000
"""As a number of seeds: each is a kernel."""


Text = Annotated[str, checked(as_text)]
Count = Annotated[int, checked(whole)]
CountFromZero = Annotated[int, checked(whole_or_none)]
OptionalCount = Annotated[int | None, checked(unless_none(whole))]
Counts = Annotated[tuple[int, ...], checked(distinct, each(whole), ascending)]
Positive = Annotated[float, checked(positive)]
Number = Annotated[float, checked(number)]
Rates = Annotated[tuple[float, ...], checked(rates)]
AutoRates = Annotated[tuple[float, ...] | None, checked(unless_auto(rates))]
Share = Annotated[float, checked(share)]
Tolerance = Annotated[float, checked(tolerance)]
Seed = Annotated[int, checked(seed)]
DataSeeds = Annotated[tuple[int, ...], checked(distinct, each(seed))]
Seeds = Annotated[tuple[int, ...], checked(seeds, each(seed))]
Words = Annotated[tuple[str, ...], checked(distinct)]


# --- what all studies of one task share ---


OWN = ("test", "dev", "format", "columns", "max_length", "normalize", "beta")
"""What is said of a data file; None where it is not."""


class Settings(Options):
    """What every study is told. Sequences may be given as any iterable; they are kept as tuples.

    Attributes:
        model: as `subkern.models.load.load_model` takes it.
        task: name of a task, or path of a task file; empty where a data file is its own.
        data: folder in the k-shot layout, ``"hub"``, ``"demo"``, or a data file.
        test, dev, format, columns, max_length, normalize, beta: what is said of a data file, as
            `subkern.tasks.own_file.file_task` takes it; None where it is not.
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
        tuning: dev chooses regularization and f0 scale for the ``full`` kernel and all kernels use
            them, or for ``each`` kernel by itself.
        confidence: of all intervals.
        resamples: bootstrap resamples.
        device, batch_size, memory: how to compute; they do not decide the numbers.

    Raises:
        UserError: a value is out of range or not among the choices.
    """

    model: Text = setting(
        ..., "Hub id, local directory, demo:smollm2, or demo:minilm with --head linear."
    )
    task: str = setting("", "Task name, or path of a task file; a data file may do without one.")
    data: Text = setting(
        "hub",
        "Folder in the k-shot layout, hub, demo, or a data file (JSONL, JSON, CSV, TSV, Parquet, a"
        " data set's name on the hub).",
    )
    test: str | None = setting(None, "Of a data file: a file, or a share of the rows.", shown="0.2")
    dev: str | None = setting(None, "Likewise.", shown="0.1")
    format: str | None = setting(
        None,
        "Of a data file: preference, choices, prompt-completion, messages, conversations,"
        " instruction, labels or text.",
        shown="by its columns",
    )
    columns: str | None = setting(None, "Which column is what, as in text=subject+body,label=kind.")
    max_length: OptionalCount = setting(None, "Longest sequence of a data file.", shown="1024")
    normalize: str | None = setting(None, "sum | mean of an answer's log-likelihoods.", shown="sum")
    beta: float | None = setting(None, "Of preferences.", shown="0.1")
    shots: Count = setting(16, "Training examples per label of a folder.")
    data_seeds: DataSeeds = setting(
        (13,), "Seed(s) of the k-shot splits, with commas.", option="--seed"
    )
    logits: Annotated[str, checked(choice("auto", "all", "binary"))] = setting(
        "auto", "all | binary | auto."
    )
    head: Annotated[str, checked(choice("prompt", "linear"))] = setting(
        "prompt", "prompt | linear."
    )
    head_init: str | None = setting(
        None,
        "A linear head's start: random, or probe: logistic regression on the training examples.",
        shown="random",
    )
    pooling: Annotated[str, checked(choice("read", "mean"))] = setting("read", option=None)
    tie: Annotated[str, checked(choice("model", "untied"))] = setting(
        "model", "model | untied (the paper's)."
    )
    dtype: Annotated[str, checked(choice("float32", "float64", "bfloat16"))] = setting(
        "float32", "float32 | float64 | bfloat16."
    )
    revision: str | None = setting(
        None, "Hub revision of the model; unless given, the one in the cache."
    )
    seed: Seed = setting(0, option=None)
    template: str | None = setting(None, "Prompt in LM-BFF's notation instead of the task's.")
    label_words: Annotated[tuple[str, ...] | None, checked(unless_none(words))] = setting(
        None, "Label words instead of the task's, with commas."
    )
    train_limit: OptionalCount = setting(None, "At most so many training examples.")
    dev_limit: OptionalCount = setting(None, "At most so many dev examples.")
    test_limit: OptionalCount = setting(None, "At most so many test examples.")
    rule: str = setting(
        "sgd", "Update rule: sgd | signgd | adam | asymmetric_signgd | asymmetric_adam."
    )
    solvers: tuple[str, ...] | None = setting(
        None,
        "Classifiers, with commas; the first judges.",
        shown="those that the rule's kernels suit",
    )
    tuning: Annotated[str, checked(choice("full", "each"))] = setting(
        "full", "full | each kernel by itself: what dev chooses regularization for."
    )
    confidence: Number = setting(0.95, option=None)
    resamples: Count = setting(500, option=None)
    device: str = setting("cpu", "Torch device.", decides=None)
    batch_size: int | None = setting(
        None, "Most examples in one forward.", decides=None, shown="auto"
    )
    memory: str | int | None = setting(
        None,
        "Memory beyond the model, like 3GiB.",
        decides=None,
        shown="half of what is free, at most 4GiB",
    )

    @field_validator("head_init", mode="before")
    @classmethod
    def _starts(cls, value: Any) -> Any:
        value = value or "random"
        one_of("head_init", value, ("random", "probe"))
        return value

    @field_validator("solvers", mode="before")
    @classmethod
    def _learn(cls, value: Any, info: ValidationInfo) -> Any:
        """Every solver exists and learns from kernels of the rule."""
        from subkern.solvers import SOLVERS

        rule = info.data.get("rule", "sgd")
        usual = solvers_for(rule)
        found = distinct("solvers", usual if value is None else value)
        for solver in found:
            one_of("solvers", solver, tuple(dict.fromkeys([*usual, *SOLVERS])))
            if usual == ASYMMETRIC_CLASSIFIERS and SOLVERS[solver].requires_symmetric:
                raise UserError(
                    f"solver {solver} needs a symmetric kernel, rule {rule} gives another: use"
                    f" {', '.join(usual)}"
                )
        return found

    @model_validator(mode="after")
    def _agree(self) -> Self:
        from subkern.kernels.request import RunOptions

        self.check_head_init()
        RunOptions(self.batch_size, self.memory)  # a mistake is said before anything is read
        if not 0 < self.confidence < 1:
            raise UserError(f"confidence is {self.confidence}: give a share between 0 and 1 (0.95)")
        return self

    @property
    def classifiers(self) -> tuple[str, ...]:
        """The solvers, chosen."""
        return self.solvers or solvers_for(self.rule)

    @classmethod
    def counted(cls) -> tuple[str, ...]:
        """Return the settings that hold seeds drawn by number."""
        return tuple(name for name in cls.model_fields if cls.extra(name).get("counted"))

    def check_head_init(self) -> None:
        """Raise `UserError` if a head is to start where there is none."""
        if self.head_init == "probe" and self.head != "linear":
            raise UserError("--head-init probe starts a linear head: add --head linear")


def solvers_for(rule: str) -> tuple[str, ...]:
    """Return the classifiers that a study solves unless told otherwise, the judge first.

    Those for symmetric kernels learn functions of one feature map; an asymmetric rule has two.

    Raises:
        UserError: there is no such rule.
    """
    from subkern.kernels.rules import parse_rule

    return ASYMMETRIC_CLASSIFIERS if parse_rule(rule).is_asymmetric else CLASSIFIERS


# --- files ---


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
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
    # A date that is none is a ValueError, nesting without end a RecursionError.
    except (OSError, ValueError, RecursionError, TypeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read settings from '{path}': {reason}") from error
    if isinstance(values, dict) and isinstance(values.get("config"), dict):
        values = values["config"]
    if not isinstance(values, dict):
        raise UserError(f"'{path}' holds no settings: write one 'name: value' a line")
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _one_line(error: ValidationError) -> str:
    """Return the first of pydantic's complaints: the setting, its value, and what to give."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UserError):  # a check of ours: pydantic wraps it as a ValueError
        return str(cause)
    name = ".".join(str(part) for part in first["loc"][:1])
    kind = first["type"].partition("_")[0]
    wanted = f"give {_WANTED[kind]}" if kind in _WANTED else first["msg"]
    return f"{name} holds {first['input']!r}: {wanted}"

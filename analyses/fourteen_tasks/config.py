"""The settings of ``analyze fourteen-tasks``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from subkern.errors import UserError
from subkern.solvers import SOLVERS
from subkern.subspaces.text import parse_subspace
from subkern.tasks.catalogue import TASKS
from subkern.training.losses import get_loss

from ..engine.settings import (
    check_names,
    decides,
    distinct,
    number,
    one_of,
    rates,
    read_settings,
)
from .table import FINETUNING, METHODS

ALL_TASKS = tuple(TASKS)

RATES: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "finetune-sgd": (1e-4, 5e-4, 1e-3, 5e-3, 1e-2),
        "finetune-adam": (1e-5, 2e-5, 5e-5),
        "finetune-signgd": (1e-6, 5e-6, 1e-5, 5e-5),
        "lora-adam": (1e-4, 4e-4, 1e-3),
        "bitfit-adam": (1e-4, 4e-4, 1e-3),
        "random-adam": (1e-3, 1e-2, 1e-1),
    }
)
"""Learning rates that dev chooses from, unless told otherwise."""

_CHOICES = {
    "head_init": ("probe", "random"),
    "logits": ("auto", "all", "binary"),
    "pooling": ("read", "mean"),
    "tie": ("model", "untied"),
    "dtype": ("float32", "float64", "bfloat16"),
}
_LISTS = (
    "tasks", "shots", "data_seeds", "heads", "solvers", "asymmetric_solvers", "batch_sizes",
    "lora", "random",
)  # fmt: skip
_COUNTS = ("shots", "batch_sizes", "steps", "eval_every", "test_limit")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to run: every method on every task, number of shots, data seed and head.

    Attributes:
        model, revision, logits, pooling, tie, dtype: as `subkern.models.load.load_model` takes
        them.
        data: folder in the k-shot layout, ``"hub"`` or ``"demo"`` (which has mr only).
        tasks: names of tasks, or paths of task files.
        shots: training examples a label.
        data_seeds: seeds of the k-shot splits.
        heads: ``prompt`` and ``linear``.
        head_init: where a linear head begins, for kernels and training alike: ``probe``, the
            linear probe of the training examples, or ``random``, drawn from the seed.
        methods: of `METHODS`; patterns (``kernel-*``) stand for all that match.
        solvers, asymmetric_solvers: classifiers on kernels of either kind.
        lora, random: subspaces of the methods of these names, in their one-line form; kernels are
            computed of each of them, training is in the first.
        learning_rates: method → rates that dev chooses from; `RATES` for those not named.
        batch_sizes: likewise, for all methods.
        steps, eval_every, loss, epsilon, seed: of training; see
        `subkern.training.finetune.Training`. The
            seed is a linear head's, too, and ε that of ``kernel-adam``.
        test_limit: at most so many test examples, evenly spaced; train and dev follow the shots.
        device, batch_size, memory: how to compute; they do not decide the numbers.

    Raises:
        UserError: a value is out of range or not among the choices.
    """

    model: str
    data: str = "hub"
    tasks: tuple[str, ...] = ALL_TASKS
    shots: tuple[int, ...] = (16,)
    data_seeds: tuple[int, ...] = (13, 21, 42, 87, 100)
    heads: tuple[str, ...] = ("prompt",)
    head_init: str = "probe"
    methods: tuple[str, ...] = METHODS
    solvers: tuple[str, ...] = ("logistic", "ridge", "svc")
    asymmetric_solvers: tuple[str, ...] = ("asym", "asym-ridge")
    lora: tuple[str, ...] = ("lora:r=8",)
    random: tuple[str, ...] = ("random:dim=1000,kind=srht",)
    learning_rates: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)
    batch_sizes: tuple[int, ...] = (2, 4, 8)
    steps: int = 1000
    eval_every: int = 100
    loss: str = "cross_entropy"
    epsilon: float = 1e-8
    seed: int = 0
    logits: str = "auto"
    pooling: str = "read"
    tie: str = "model"
    dtype: str = "float32"
    revision: str | None = None
    test_limit: int | None = None
    device: str = decides(None, "cpu")
    batch_size: int | None = decides(None, None)
    memory: str | int | None = decides(None, None)

    def __post_init__(self) -> None:
        for name in ("model", "data"):
            object.__setattr__(self, name, str(getattr(self, name)))
        for name in _LISTS:
            object.__setattr__(self, name, distinct(name, getattr(self, name)))
        object.__setattr__(self, "methods", _methods(self.methods))
        for name in _COUNTS:
            value = getattr(self, name)
            for each in value if isinstance(value, tuple) else (value,):
                if each is not None and each < 1:
                    raise UserError(f"{name} holds {each}: give whole numbers from 1")
        object.__setattr__(self, "epsilon", number("epsilon", self.epsilon))
        for name, choices in _CHOICES.items():
            one_of(name, getattr(self, name), choices)
        for head in self.heads:
            one_of("heads", head, ("prompt", "linear"))
        self._check_solvers()
        for kind in ("lora", "random"):
            self._check_subspace(kind)
        get_loss(self.loss)
        object.__setattr__(self, "learning_rates", _rates(self.learning_rates))

    def _check_solvers(self) -> None:
        """Raise `UserError` on a solver that there is not, or that its kernels do not suit."""
        for solver in (*self.solvers, *self.asymmetric_solvers):
            one_of("solvers", solver, tuple(SOLVERS))
        for solver in self.asymmetric_solvers:
            if SOLVERS[solver].requires_symmetric:
                raise UserError(
                    f"asymmetric_solvers holds {solver}, which needs a symmetric kernel: use asym,"
                    " asym-ridge or row-logistic"
                )

    def _check_subspace(self, kind: str) -> None:
        """Raise `UserError` unless a subspace is of its kind."""
        for text in getattr(self, kind):
            parse_subspace(text)
            if text.partition(":")[0] != kind:
                raise UserError(f"{kind} holds '{text}', another kind: write {kind}:...")

    def rates(self, method: str) -> tuple[float, ...]:
        """Learning rates that dev chooses from for a method, ascending."""
        return self.learning_rates.get(method, RATES[method])

    def subspaces(self, kind: str) -> tuple[str, ...]:
        """One-line forms of the subspaces of a kind (``full``, ``lora``, ``random``, ``bias``)."""
        found: tuple[str, ...] = getattr(self, kind, (kind,))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values; `from_dict` reads them."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        values["learning_rates"] = {k: list(v) for k, v in self.learning_rates.items()}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings with these values.

        Raises:
            UserError: a setting is unknown (names the closest), missing or wrong.
        """
        check_names(values, [f.name for f in fields(cls)])
        if "model" not in values:
            raise UserError("no model is named: give --model, or a --preset or --config that has")
        return cls(**values)

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read settings from YAML (or JSON); a run's own ``config.yaml`` does.

        Raises:
            UserError: the file cannot be read, or its settings are wrong.
        """
        return cls.from_dict(read_settings(path))


def _methods(patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the methods that patterns stand for, in the order of tables."""
    given = distinct("methods", patterns)
    for pattern in given:
        if not any(fnmatchcase(method, pattern) for method in METHODS):
            close = get_close_matches(pattern, METHODS, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else f"use {', '.join(METHODS)}"
            raise UserError(f"method '{pattern}' is unknown: {hint}")
    return tuple(m for m in METHODS if any(fnmatchcase(m, pattern) for pattern in given))


def _rates(given: Mapping[str, Any]) -> Mapping[str, tuple[float, ...]]:
    """Return learning rates by method as they are kept: floats, ascending."""
    found = {}
    for method, values in given.items():
        one_of("learning_rates of", method, tuple(FINETUNING))
        found[method] = rates(f"learning_rates of {method}", values)
    return found


_FEW = {name: rates[::2][:2] for name, rates in RATES.items()}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "quick": {
            "model": "demo:minilm",
            "heads": ("linear",),
            "tasks": ("SST-2", "mr", "subj"),
            "data_seeds": (13,),
            "solvers": ("logistic", "ridge"),
            "asymmetric_solvers": ("asym-ridge",),
            "lora": ("lora:r=4",),
            "random": ("random:dim=100,kind=srht",),
            "learning_rates": _FEW,
            "batch_sizes": (8,),
            "steps": 20,
            "eval_every": 10,
            "shots": (8,),
            "test_limit": 64,
        },
        "paper": {
            "model": "roberta-base",
            "shots": (16, 64),
            "heads": ("prompt",),
            "tie": "untied",
        },
        "full": {
            "model": "roberta-base",
            "shots": (16, 64, 512),
            "heads": ("prompt", "linear"),
        },
    }
)
"""What ``--preset`` sets; options given beside it win. ``paper`` is the paper's setting, with the
decoder untied as in its code."""

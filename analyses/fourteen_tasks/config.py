"""The settings of ``analyze fourteen-tasks``."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import model_validator

from subkern.errors import UserError
from subkern.subspaces.text import parse_subspace
from subkern.tasks.catalogue import TASKS
from subkern.training.choices import LOSSES

from ..engine.settings import (
    Count,
    DataSeeds,
    OptionalCount,
    Options,
    Positive,
    Seed,
    Text,
    Words,
    checked,
    choice,
    distinct,
    each,
    one_of,
    rates,
    setting,
    unless_auto,
    whole,
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
"""The paper's learning rates, that dev chooses from."""

AUTO: Final = "auto"
"""In place of a method's learning rates: those that are suggested for each batch size."""

PLACES = ("lowest", "suggested", "highest")
"""What the three suggested rates are called where they are planned, before they are known."""


def _methods(name: str, patterns: Any) -> tuple[str, ...]:
    """Return the methods that patterns stand for, in the order of tables."""
    given = distinct(name, patterns)
    for pattern in given:
        if not any(fnmatchcase(method, pattern) for method in METHODS):
            close = get_close_matches(pattern, METHODS, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else f"use {', '.join(METHODS)}"
            raise UserError(f"method '{pattern}' is unknown: {hint}")
    return tuple(m for m in METHODS if any(fnmatchcase(m, pattern) for pattern in given))


def _rates(_: str, given: Any) -> Mapping[str, tuple[float, ...] | str]:
    """Return the learning rates of every method as they are kept: floats, ascending, or `AUTO`."""
    named = {} if given == AUTO else given
    for method in named:
        one_of("learning_rates of", method, tuple(FINETUNING))
    check = unless_auto(rates)
    return {
        method: check(f"learning_rates of {method}", named.get(method)) or AUTO
        for method in FINETUNING
    }


def _solver(_: str, solver: str) -> str:
    from subkern.solvers import SOLVERS

    one_of("solvers", solver, tuple(SOLVERS))
    return solver


def _asymmetric_solver(name: str, solver: str) -> str:
    from subkern.solvers import SOLVERS

    if SOLVERS[_solver(name, solver)].requires_symmetric:
        raise UserError(
            f"{name} holds {solver}, which needs a symmetric kernel: use asym, asym-ridge or"
            " row-logistic"
        )
    return solver


def _subspace(kind: str, text: str) -> str:
    parse_subspace(text)
    if text.partition(":")[0] != kind:
        raise UserError(f"{kind} holds '{text}', another kind: write {kind}:...")
    return text


Counts = Annotated[tuple[int, ...], checked(distinct, each(whole))]
Solvers = Annotated[tuple[str, ...], checked(distinct, each(_solver))]
Subspaces = Annotated[tuple[str, ...], checked(distinct, each(_subspace))]


class Config(Options):
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
        learning_rates: method → rates that dev chooses from, or ``auto``, also for those not named:
            three that are suggested for each batch size.
        batch_sizes: likewise, for all methods.
        steps, eval_every, loss, epsilon, seed: of training; see
            `subkern.training.finetune.Training`. The seed is a linear head's, too, and ε that of
            ``kernel-adam``.
        test_limit: at most so many test examples, evenly spaced; train and dev follow the shots.
        device, batch_size, memory: how to compute; they do not decide the numbers.

    Raises:
        UserError: a value is out of range or not among the choices.
    """

    model: Text = setting(..., "Hub id, local directory, demo:smollm2 or demo:minilm.")
    data: Text = setting("hub", "K-shot folder, hub or demo.")
    tasks: Words = setting(ALL_TASKS, "Names, or paths of task files.", shown="all 14")
    shots: Counts = setting((16,), "Training examples a label.")
    data_seeds: DataSeeds = setting((13, 21, 42, 87, 100), "Of splits.", option="--seed")
    heads: Annotated[tuple[str, ...], checked(distinct, each(choice("prompt", "linear")))] = (
        setting(("prompt",), "prompt,linear.")
    )
    head_init: Annotated[str, checked(choice("probe", "random"))] = setting(
        "probe", "Of a linear head: probe | random."
    )
    methods: Annotated[tuple[str, ...], checked(_methods)] = setting(
        METHODS, "Names or patterns (kernel-*).", shown="all"
    )
    solvers: Solvers = setting(("logistic", "ridge", "svc"), "Classifiers on symmetric kernels.")
    asymmetric_solvers: Annotated[tuple[str, ...], checked(distinct, each(_asymmetric_solver))] = (
        setting(("asym", "asym-ridge"), "And on asymmetric ones.")
    )
    lora: Subspaces = setting(
        ("lora:r=8",), "LoRA, as lora:r=8; several: a kernel of each.", repeated=True
    )
    random: Subspaces = setting(
        ("random:dim=1000,kind=srht",), "Random subspace, likewise.", repeated=True
    )
    learning_rates: Annotated[
        Mapping[str, tuple[float, ...] | Literal["auto"]], checked(_rates)
    ] = setting(AUTO, option=None)
    batch_sizes: Counts = setting((2, 4, 8), "Of training, likewise.")
    steps: Count = setting(1000, "Of training.")
    eval_every: Count = setting(100, "Steps between looks at dev.")
    loss: Annotated[str, checked(choice(*LOSSES))] = setting(
        "cross_entropy", "Of training: cross_entropy | squared."
    )
    epsilon: Positive = setting(1e-8, "Adam's, of training and kernel.")
    seed: Seed = setting(0, option=None)
    logits: Annotated[str, checked(choice("auto", "all", "binary"))] = setting(
        "auto", "all | binary | auto."
    )
    pooling: Annotated[str, checked(choice("read", "mean"))] = setting(
        "read", "Of a linear head: read | mean."
    )
    tie: Annotated[str, checked(choice("model", "untied"))] = setting(
        "model", "model | untied (the paper's)."
    )
    dtype: Annotated[str, checked(choice("float32", "float64", "bfloat16"))] = setting(
        "float32", "float32 | float64 | bfloat16."
    )
    revision: str | None = setting(
        None, "Hub revision of the model; unless given, the one in the cache."
    )
    test_limit: OptionalCount = setting(None, "At most so many test examples.")
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

    @model_validator(mode="after")
    def _computes(self) -> Config:
        from subkern.kernels.request import RunOptions

        RunOptions(self.batch_size, self.memory)  # a mistake is said before anything is read
        return self

    def rates(self, method: str) -> tuple[float, ...] | Literal["auto"]:
        """Learning rates that dev chooses from for a method, ascending, or `AUTO`."""
        return self.learning_rates[method]

    def subspaces(self, kind: str) -> tuple[str, ...]:
        """One-line forms of the subspaces of a kind (``full``, ``lora``, ``random``, ``bias``)."""
        found: tuple[str, ...] = getattr(self, kind, (kind,))
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
            "learning_rates": RATES,
        },
        "full": {
            "model": "roberta-base",
            "shots": (16, 64, 512),
            "heads": ("prompt", "linear"),
            "learning_rates": RATES,
        },
    }
)
"""What ``--preset`` sets; options given beside it win. ``paper`` is the paper's setting, with the
decoder untied as in its code, and its learning rates."""

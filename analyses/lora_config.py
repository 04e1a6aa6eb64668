"""The settings of ``analyze lora``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from analyses.lora_budget import parse_budget
from analyses.lora_targets import from_texts, named_sets
from analyses.settings import decides, distinct, one_of
from subkern.errors import UserError
from subkern.rules import parse_rule
from subkern.solvers import SOLVERS as REGISTERED
from subkern.target_sets import Targets

__all__ = ["SOLVERS", "Config", "solvers_for"]

SOLVERS = ("logistic", "ridge", "svc")
_ASYMMETRIC = ("asym", "asym-ridge", "row-logistic")  # the first that there is judges
_CHOICES = {
    "logits": ("auto", "all", "binary"),
    "head": ("prompt", "linear"),
    "pooling": ("read", "mean"),
    "tie": ("model", "untied"),
    "dtype": ("float32", "float64", "bfloat16"),
    "tuning": ("full", "each"),
}


def solvers_for(rule: str) -> tuple[str, ...]:
    """Return the classifiers that a study solves unless told otherwise, the judge first.

    Those for symmetric kernels learn functions of one feature map; an asymmetric rule has two.
    """
    wanted = _ASYMMETRIC if rule.startswith("asymmetric") else SOLVERS
    return tuple(name for name in wanted if name in REGISTERED)


def _able(rule: str) -> tuple[str, ...]:
    """Return every classifier that kernels of a rule may be given to, the default ones first."""
    one_sided = rule.startswith("asymmetric")
    able = [n for n, s in REGISTERED.items() if not (one_sided and s.requires_symmetric)]
    return tuple(dict.fromkeys([*solvers_for(rule), *able]))


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to analyse. Sequences may be given as any iterable; they are kept as tuples.

    Attributes:
        model: as `subkern.loading.load_model` takes it.
        task: name of a task, or path of a task file.
        data: folder in the k-shot layout, ``"hub"`` or ``"demo"``.
        shots: training examples a label.
        data_seeds: seeds of the k-shot splits.
        targets: what LoRA adapts: a named set (``"qv"``, ``"attention"``, ``"mlp"``,
            ``"all-linear"``, ``"all"``), a regular expression, or names or suffixes.
        target_sets: several of these to compare, each as one line of text (names joined by
            commas); they take the place of ``targets``. ``"grid"`` stands for the named sets.
        rule: update rule of the kernels.
        ranks: LoRA ranks.
        adapter_seeds: seeds of LoRA's A.
        alpha: LoRA's α, which scales its kernels and nothing else.
        rslora: rank-stabilised scaling, α/√r for α/r: again scale only.
        logits: ``all``, ``binary`` (f_1 − f_0), or ``auto``: binary for two labels.
        head, pooling, tie, dtype, revision, seed: as `load_model` takes them.
        template: prompt to use instead of the task's, in LM-BFF's notation.
        label_words: label words to use instead of the task's, in label order.
        train_limit, dev_limit, test_limit: at most so many examples of a split.
        solvers: classifiers to solve on every kernel, names of `subkern.solvers.SOLVERS` that
            learn from the rule's kernels; the first one judges. None takes `solvers_for` the rule.
        tuning: dev chooses regularisation and f0 scale for the ``full`` kernel and all kernels use
            them, or for ``each`` kernel by itself.
        max_drop: a rank may score so much less than the full kernel (share, 0.02 = 2 points).
        min_agreement: share of test examples that must get the full kernel's prediction.
        budget: the most parameters to train: a share of the model like ``"1%"`` or a count like
            ``"250k"``; None asks for the cheapest configuration within tolerance.
        confidence: of all intervals.
        resamples: bootstrap resamples for intervals over test examples.
        kernel_resamples: the same for agreement of train kernels (a spectrum each).
        device, batch_size, memory: how to compute; they do not decide the numbers.

    Raises:
        UserError: a value is out of range or not among the choices.
    """

    model: str
    task: str
    data: str = "hub"
    shots: int = 16
    data_seeds: tuple[int, ...] = (13,)
    targets: Targets = "all-linear"
    target_sets: tuple[str, ...] = ()
    rule: str = "sgd"
    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    adapter_seeds: tuple[int, ...] = (0, 1, 2)
    alpha: float = 8.0
    rslora: bool = False
    logits: str = "auto"
    head: str = "prompt"
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
    solvers: tuple[str, ...] | None = None
    tuning: str = "full"
    max_drop: float = decides("answer", 0.02)
    min_agreement: float = decides("answer", 0.95)
    budget: str | None = decides("answer", None)
    confidence: float = 0.95
    resamples: int = 500
    kernel_resamples: int = 100
    device: str = decides(None, "cpu")
    batch_size: int | None = decides(None, None)
    memory: str | int | None = decides(None, None)

    def __post_init__(self) -> None:
        if not isinstance(self.targets, str):
            self._keep("targets", tuple(self.targets))
        sets = from_texts(self.target_sets) if self.target_sets else {"target_sets": ()}
        for name, value in sets.items():
            self._keep(name, value)
        if self.label_words is not None:
            self._keep("label_words", tuple(self.label_words))
        self._keep("model", str(self.model))
        self._keep("task", str(self.task))
        self._keep("data", str(self.data))
        self._keep("ranks", tuple(sorted(distinct("ranks", self.ranks))))
        self._check_rule()
        if self.solvers is None:
            self._keep("solvers", solvers_for(self.rule))
        if self.budget is not None:
            self._keep("budget", str(self.budget))
        for name in ("data_seeds", "adapter_seeds", "solvers"):
            self._keep(name, distinct(name, getattr(self, name)))
        self._check()

    def _keep(self, name: str, value: Any) -> None:
        """Set a field of this frozen object while it is made."""
        object.__setattr__(self, name, value)

    @property
    def sets(self) -> dict[str, Targets]:
        """The targets to study, by name."""
        return named_sets(self.targets, self.target_sets)

    @property
    def classifiers(self) -> tuple[str, ...]:
        """The solvers, chosen."""
        return self.solvers or solvers_for(self.rule)

    def _check_rule(self) -> None:
        """Raise `UserError` unless kernels of the rule can be computed."""
        parse_rule(self.rule)

    def _check(self) -> None:
        """Raise `UserError` on the first value that is out of range."""
        for name, choices in _CHOICES.items():
            one_of(name, getattr(self, name), choices)
        for solver in self.classifiers:
            one_of("solvers", solver, _able(self.rule))
        if self.budget is not None:
            parse_budget(self.budget)
        named_sets(self.targets, self.target_sets)
        for name in ("ranks", "shots", "resamples", "train_limit", "dev_limit", "test_limit"):
            value = getattr(self, name)
            for each in value if isinstance(value, tuple) else (value,):
                if each is not None and each < 1:
                    raise UserError(f"{name} holds {each}: give whole numbers from 1")
        if self.kernel_resamples < 0:
            raise UserError(f"kernel_resamples is {self.kernel_resamples}: give 0 (none) or more")
        if not 0 < self.confidence < 1:
            raise UserError(f"confidence is {self.confidence}: give a share between 0 and 1 (0.95)")
        for name in ("max_drop", "min_agreement"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}: give a share from 0 to 1")
        if self.alpha <= 0:
            raise UserError(f"alpha is {self.alpha}: give a number above 0")

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
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """Return the config with these settings; a number of adapter seeds n stands for 0 .. n-1.

        Raises:
            UserError: a setting is unknown (names the closest) or missing.
        """
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                close = get_close_matches(str(name), known, n=3)
                hint = f"did you mean {' or '.join(close)}?" if close else f"use {', '.join(known)}"
                raise UserError(f"unknown setting '{name}': {hint}")
        for name in ("model", "task"):
            if name not in values:
                raise UserError(f"the settings name no {name}: add '{name}: ...'")
        seeds = values.get("adapter_seeds")
        if isinstance(seeds, int):
            values = {**values, "adapter_seeds": tuple(range(seeds))}
        return cls(**values)

    @classmethod
    def from_file(cls, path: str | Path) -> Config:
        """Read settings from YAML (or JSON); a run's own ``config.yaml`` does.

        Raises:
            UserError: the file cannot be read, or its settings are wrong.
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
        return cls.from_dict(values)

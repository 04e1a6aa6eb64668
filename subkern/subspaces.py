"""Subspaces: which coordinates are trained, as maps z ↦ θ(z).

Full fine-tuning, training only the biases and PEFT adapters differ only in their coordinates. The
kernel of a method is the eNTK of z ↦ f(θ(z), x) at its start z₀, so a `Subspace` answers one
question: of which model, with respect to which tensors, is the gradient taken? Kernels (and, later,
training) never ask which method it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from subkern.errors import UserError
from subkern.models import LogitModel, named_parameters

if TYPE_CHECKING:
    from subkern.random_subspace import Projection


@dataclass(frozen=True)
class Coordinates:
    """A model and the tensors that are trained in it.

    With a `projection` the coordinates are z of θ₀ + P z: see `subkern.random_subspace`.
    """

    model: LogitModel
    parameters: dict[str, nn.Parameter]
    projection: Projection | None = None

    @property
    def size(self) -> int:
        """Number of trained coordinates."""
        if self.projection is not None:
            return self.projection.dim
        return sum(p.numel() for p in self.parameters.values())


class Subspace(Protocol):
    """A map from coordinates to parameters."""

    def attach(self, model: LogitModel) -> Coordinates:
        """The model in these coordinates, at their start; `model` itself is left as it is."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-able settings: everything that decides the coordinates."""
        ...


@dataclass(frozen=True)
class Full:
    """Every parameter of the model: embeddings, positions, norms, biases, decoder and head."""

    def attach(self, model: LogitModel) -> Coordinates:
        """All parameters of `model`."""
        return Coordinates(model, named_parameters(model))

    def describe(self) -> dict[str, Any]:
        """``{"kind": "full"}``."""
        return {"kind": "full"}


@dataclass(frozen=True)
class ParameterSubset:
    """The parameters whose name `pattern` matches (`re.search`), e.g. ``bias$`` for BitFit.

    Args:
        pattern: regular expression over the names that `named_parameters` gives.
    """

    pattern: str

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UserError(f"'{self.pattern}' is not a regular expression: {error}") from error

    def attach(self, model: LogitModel) -> Coordinates:
        """The matching parameters of `model`; UserError if there are none."""
        named = named_parameters(model)
        chosen = {n: p for n, p in named.items() if re.search(self.pattern, n)}
        if not chosen:
            raise UserError(
                f"no parameter matches '{self.pattern}': names are like {_sample(list(named))}"
            )
        return Coordinates(model, chosen)

    def describe(self) -> dict[str, Any]:
        """``{"kind": "subset", "pattern": …}``."""
        return {"kind": "subset", "pattern": self.pattern}


BIASES = r"(^|[._])bias$"


def parse_subspace(text: str) -> Subspace:
    """A subspace from one line: ``full``, ``bias``, ``params:REGEX`` or ``lora:r=8,…``.

    ``lora`` takes ``r``, ``alpha``, ``seed``, ``targets`` (``all-linear``, names or suffixes joined
    by ``+``, or a regular expression) and ``rslora``, e.g. ``lora:r=8,targets=q_proj+v_proj``.

    Raises:
        UserError: unknown kind or option, or a value of the wrong type.
    """
    kind, _, rest = text.partition(":")
    if kind == "full" and not rest:
        return Full()
    if kind == "bias" and not rest:
        return ParameterSubset(BIASES)
    if kind == "params" and rest:
        return ParameterSubset(rest)
    if kind == "lora":
        return _parse_lora(rest)
    if kind == "random":
        from subkern.random_subspace import parse_random

        return parse_random(rest)
    raise UserError(
        f"unknown subspace '{text}': use full, bias, params:REGEX, lora:r=8,targets=all-linear"
        " or random:dim=1000,kind=srht"
    )


def _parse_lora(text: str) -> Subspace:
    from subkern.lora import Lora

    options: dict[str, Any] = {}
    for part in filter(None, re.split(r",(?=\w+=)", text)):
        key, equals, value = part.partition("=")
        if key not in _LORA_OPTIONS or not equals:
            known = ", ".join(_LORA_OPTIONS)
            raise UserError(f"unknown LoRA option '{part}': write key=value with {known}")
        try:
            options[key] = _LORA_OPTIONS[key](value)
        except ValueError as error:
            wanted = "true or false" if key == "rslora" else "a number"
            raise UserError(f"LoRA option {key}='{value}' is not {wanted}") from error
    return Lora(**options)


def parse_targets(text: str) -> str | tuple[str, ...]:
    """Adapter targets: ``all-linear``, a regular expression, or names joined by ``+`` or ``,``."""
    if text == "all-linear" or not re.fullmatch(r"[\w.]+([+,][\w.]+)*", text):
        return text
    return tuple(re.split(r"[+,]", text))


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


_LORA_OPTIONS: dict[str, Callable[[str], Any]] = {
    "r": int,
    "alpha": float,
    "seed": int,
    "targets": parse_targets,
    "rslora": _flag,
}


def _sample(names: list[str], count: int = 3) -> str:
    step = max(1, len(names) // count)
    return ", ".join(names[::step][:count])


@dataclass(frozen=True)
class Peft:
    """Any PEFT method: the parameters that `peft` would train, at its own initialisation.

    Args:
        config: a `peft.PeftConfig`.
        seed: seed of the adapter's initialisation.
        name: what to call it in provenance; the configuration is recorded too.
    """

    config: Any
    seed: int = 0
    name: str = field(default="peft")

    def attach(self, model: LogitModel) -> Coordinates:
        """An adapter-wrapped copy of `model` that shares its weights."""
        from subkern.adapters import wrap

        wrapped = wrap(model, self.config, self.seed)
        chosen = {n: p for n, p in named_parameters(wrapped).items() if p.requires_grad}
        return Coordinates(wrapped, chosen)

    def describe(self) -> dict[str, Any]:
        """The adapter's configuration and seed."""
        from subkern.adapters import describe

        return {"kind": self.name, "seed": self.seed, "config": describe(self.config)}

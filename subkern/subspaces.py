"""Subspaces: which coordinates are trained, as maps z ↦ θ(z).

Full fine-tuning, training only the biases and PEFT adapters differ only in their coordinates. The
kernel of a method is the eNTK of z ↦ f(θ(z), x) at its start z₀, so a `Subspace` answers one
question: of which model, with respect to which tensors, is the gradient taken? Kernels (and, later,
training) never ask which method it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor, nn

from subkern.errors import UserError
from subkern.models import LogitModel, named_parameters

if TYPE_CHECKING:
    from subkern.checkpoints import At
    from subkern.random_subspace import Projection


@dataclass(frozen=True)
class Coordinates:
    """A model and the tensors that are trained in it.

    Attributes:
        model: f, wrapped by the adapter if there is one.
        parameters: name → tensor that the kernel is over.
        beside: names of those that an adapter only trains along with itself: the linear readout.
        projection: P, where the coordinates are z of θ₀ + P z: see `subkern.random_subspace`.
    """

    model: LogitModel
    parameters: dict[str, nn.Parameter]
    beside: tuple[str, ...] = ()
    projection: Projection | None = None

    @classmethod
    def of_adapter(cls, wrapped: LogitModel) -> Coordinates:
        """What requires gradients in a model that PEFT wrapped: the adapter, and a readout."""
        named = {n: p for n, p in named_parameters(wrapped).items() if p.requires_grad}
        return cls(wrapped, named, tuple(n for n in named if n.startswith("readout.")))

    @property
    def size(self) -> int:
        """Number of trained coordinates."""
        if self.projection is not None:
            return self.projection.dim
        return sum(p.numel() for p in self.parameters.values())


@runtime_checkable
class Subspace(Protocol):
    """A map from coordinates to parameters."""

    def attach(self, model: LogitModel) -> Coordinates:
        """The model in these coordinates, at their start; `model` itself is left as it is."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-able settings: everything that decides the coordinates."""
        ...


class Trainable(Subspace):
    """A subspace that can also stand at a point of its training."""

    def at(self, checkpoint: str | Path | Mapping[str, Tensor]) -> At:
        """This subspace with its tensors at `checkpoint` instead of at their start.

        Args:
            checkpoint: folder that PEFT's or transformers' ``save_pretrained`` wrote, a
                ``.safetensors`` file, or tensors by name; see `subkern.checkpoints`.
        """
        from subkern.checkpoints import At

        return At(self, checkpoint)


@dataclass(frozen=True)
class Full(Trainable):
    """Every parameter of the model: embeddings, positions, norms, biases, decoder and head."""

    def attach(self, model: LogitModel) -> Coordinates:
        """All parameters of `model`."""
        return Coordinates(model, named_parameters(model))

    def describe(self) -> dict[str, Any]:
        """``{"kind": "full"}``."""
        return {"kind": "full"}


@dataclass(frozen=True)
class ParameterSubset(Trainable):
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


def _sample(names: list[str], count: int = 3) -> str:
    step = max(1, len(names) // count)
    return ", ".join(names[::step][:count])


@dataclass(frozen=True)
class Peft(Trainable):
    """Any PEFT method: the parameters that `peft` would train, at its own initialisation.

    Methods that add virtual tokens (prompt, prefix and p-tuning) change f itself: their kernel's
    initial logits are the adapter's own, not the pre-trained model's.

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

        return Coordinates.of_adapter(wrap(model, self.config, self.seed))

    def describe(self) -> dict[str, Any]:
        """The adapter's configuration and seed."""
        from subkern.adapters import describe

        return {"kind": self.name, "seed": self.seed, "config": describe(self.config)}

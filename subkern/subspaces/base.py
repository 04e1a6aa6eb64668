"""Subspaces: which coordinates are trained, as maps z ↦ θ(z).

Full fine-tuning, training only the biases and PEFT adapters differ only in their coordinates. The
kernel of a method is the eNTK of z ↦ f(θ(z), x) at its start z₀, so a `Subspace` answers one
question: of which model, with respect to which tensors, is the gradient taken? Kernels (and, later,
training) never ask which method it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from subkern.errors import UserError
from subkern.models.logit_model import LogitModel, named_parameters
from subkern.subspaces.checkpoint_files import (
    Checkpoint,
    check_exists,
    digest,
    few,
    is_folder,
    read,
)

if TYPE_CHECKING:
    from subkern.projections.project import Projection


@dataclass(frozen=True)
class Coordinates:
    """A model and the tensors that are trained in it.

    Attributes:
        model: f, wrapped by the adapter if there is one.
        parameters: name → tensor that the kernel is over.
        beside: names of those that an adapter only trains along with itself: the linear readout.
        projection: P, where the coordinates are z of θ₀ + P z: see `subkern.subspaces.random`.
        displaced: what a checkpoint holds beside them, by name: weights that are not trained and
            that are not the pretrained ones (LoRA-GA's).
    """

    model: LogitModel
    parameters: dict[str, nn.Parameter]
    beside: tuple[str, ...] = ()
    projection: Projection | None = None
    displaced: Mapping[str, Tensor] = field(default_factory=dict)

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


class HasCheckpoint(Subspace):
    """A subspace that can also stand at a point of its training."""

    def at(self, checkpoint: str | Path | Mapping[str, Tensor]) -> AtCheckpoint:
        """This subspace with its tensors at `checkpoint` instead of at their start.

        Args:
            checkpoint: folder that PEFT's or transformers' ``save_pretrained`` wrote, a
                ``.safetensors`` file, or tensors by name; see `subkern.subspaces.base`.
        """
        return AtCheckpoint(self, checkpoint)


@dataclass(frozen=True)
class Full(HasCheckpoint):
    """Every parameter of the model: embeddings, positions, norms, biases, decoder and head."""

    def attach(self, model: LogitModel) -> Coordinates:
        """All parameters of `model`."""
        return Coordinates(model, named_parameters(model))

    def describe(self) -> dict[str, Any]:
        """``{"kind": "full"}``."""
        return {"kind": "full"}


@dataclass(frozen=True)
class ParameterSubset(HasCheckpoint):
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
class Peft(HasCheckpoint):
    """Any PEFT method: the parameters that `peft` would train, at its own initialization.

    Methods that add virtual tokens (prompt, prefix and p-tuning) change f itself: their kernel's
    initial logits are the adapter's own, not the pre-trained model's.

    Args:
        config: a `peft.PeftConfig`.
        seed: seed of the adapter's initialization.
        name: what to call it in provenance; the configuration is recorded too.
    """

    config: Any
    seed: int = 0
    name: str = field(default="peft")

    def attach(self, model: LogitModel) -> Coordinates:
        """An adapter-wrapped copy of `model` that shares its weights."""
        from subkern.subspaces.peft_adapters import wrap

        return Coordinates.of_adapter(wrap(model, self.config, self.seed))

    def describe(self) -> dict[str, Any]:
        """The adapter's configuration and seed."""
        from subkern.subspaces.peft_adapters import describe

        return {"kind": self.name, "seed": self.seed, "config": describe(self.config)}


@dataclass(frozen=True)
class AtCheckpoint:
    """`subspace` with its tensors at `checkpoint`; ``subspace.at(checkpoint)`` makes one.

    Args:
        subspace: what is trained.
        checkpoint: where its tensors are now; the module says what it may be.

    Raises:
        UserError: there is no such checkpoint, or it is of no kind that can be read.
    """

    subspace: Subspace
    checkpoint: Checkpoint

    def __post_init__(self) -> None:
        check_exists(self.checkpoint)

    def attach(self, model: LogitModel) -> Coordinates:
        """The coordinates of the subspace on a copy of `model`, moved to the checkpoint.

        The copy shares every tensor that the checkpoint does not move; `model` stays as it is.

        Raises:
            UserError: the checkpoint lacks a trained tensor, holds one that the model has no place
                for or one of another shape, or was made in another subspace.
        """
        from subkern.models.copy import shared_copy

        coordinates = self.subspace.attach(shared_copy(model))
        tensors = read(self.checkpoint, coordinates.model)
        moved, displaced = _move(coordinates, tensors, self._where)
        folder = is_folder(self.checkpoint)
        missing = [
            name
            for name, parameter in coordinates.parameters.items()
            if id(parameter) not in moved and not (folder and name.startswith("readout."))
        ]
        if missing:
            raise UserError(f"{self._where} has no tensor {few(missing)}: it has {few(tensors)}")
        return replace(coordinates, displaced=displaced)

    def describe(self) -> dict[str, Any]:
        """The subspace, and a digest of the checkpoint's tensors wherever they lie."""
        value, count = digest(self.checkpoint)
        return {
            "kind": "at",
            "subspace": self.subspace.describe(),
            "checkpoint": {"digest": value, "tensors": count},
        }

    @property
    def _where(self) -> str:
        return "the mapping" if isinstance(self.checkpoint, Mapping) else f"'{self.checkpoint}'"


def _move(
    coordinates: Coordinates, tensors: Mapping[str, Tensor], where: str
) -> tuple[set[int], dict[str, Tensor]]:
    """Put `tensors` in their places in the model.

    Values are replaced and not overwritten: the old ones may be shared with another model.

    Returns:
        The ids of the parameters that were moved, and what changed of what is not trained, by name.
    """
    places = dict(_places(coordinates.model))
    trained = {id(p) for p in coordinates.parameters.values()}
    unknown = [name for name in tensors if name not in places]
    if unknown:
        raise UserError(
            f"{where} has {few(unknown)}, which the model in this subspace has not: names are"
            f" like {few(places)}"
        )
    moved: dict[int, Tensor] = {}
    displaced: dict[str, Tensor] = {}
    for name, value in tensors.items():
        owner, leaf = places[name]
        old: Tensor = getattr(owner, leaf)
        if value.shape != old.shape:
            raise UserError(
                f"{where} has '{name}' of shape {list(value.shape)}, and the model one of"
                f" {list(old.shape)}: were rank and targets the same?"
            )
        value = value.detach().to(old.device, old.dtype, copy=True)
        if id(old) not in trained and not torch.equal(value, old):
            displaced[name] = value
        if not isinstance(old, nn.Parameter):
            owner._buffers[leaf] = value
            continue
        if id(old) in moved and not torch.equal(moved[id(old)], value):
            raise UserError(f"{where} has two values of '{name}', which is tied: untie the model")
        old.data = moved[id(old)] = value
    return set(moved), displaced


def _places(model: LogitModel) -> Iterator[tuple[str, tuple[nn.Module, str]]]:
    """Every name that a checkpoint may call a tensor by → the module that holds it, and as what."""
    roots = (("", model.module), ("readout.", getattr(model.readout, "linear", None)))
    for prefix, root in roots:
        for path, module in _modules(root):
            tensors = [
                *module.named_parameters(recurse=False),
                *module.named_buffers(recurse=False),
            ]
            for leaf, _ in tensors:
                name = prefix + (f"{path}.{leaf}" if path else leaf)
                for alias in _aliases(name):
                    yield alias, (module, leaf)


def _modules(root: nn.Module | None) -> Iterator[tuple[str, nn.Module]]:
    return iter(()) if root is None else root.named_modules(remove_duplicate=False)


def _aliases(name: str) -> Iterator[str]:
    """`name` itself, and what PEFT calls it in a file.

    PEFT leaves out the adapter's name (``default``), keeps the prefix of its wrapper, saves a
    module beside the adapter under its own name, and DoRA's magnitudes without ``.weight``.
    """
    yield name
    saved = name.replace(".modules_to_save.default.", ".").replace(".default", "")
    if saved.endswith("lora_magnitude_vector.weight"):
        saved = saved.removesuffix(".weight")
    yield "base_model.model." + saved
    if saved.rpartition(".")[2] in ("vera_A", "vera_B"):  # one pair, shared by all layers
        yield "base_model." + saved.rpartition(".")[2]
    if name == "prompt_encoder.default.embedding.weight":
        yield "prompt_embeddings"

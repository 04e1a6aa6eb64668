"""A subspace part-way through its training: the kernel at a checkpoint instead of at the start.

Away from the start both factors of LoRA move (B ≠ 0, so A has a gradient), the magnitudes of DoRA
are no longer the norms of the weights, and full fine-tuning has another θ. Nothing in the engine
changes: the tensors stand elsewhere, and the kernel is ⟨∇_z f, ∇_z f⟩ there.

A checkpoint is one of

* a folder that PEFT's ``save_pretrained`` wrote: ``adapter_config.json``, which must agree with
  the subspace, and ``adapter_model.safetensors``;
* a folder that transformers' ``save_pretrained`` or ``Trainer`` wrote, of the model's own class;
* a ``.safetensors`` file, or a mapping in memory, from names to tensors. Names are those of
  `subkern.models.named_parameters` in the attached model, or those that PEFT saves.

Every trained tensor must be there; others of the model may be, and are moved too. Folders hold no
linear readout: it stays as the model has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from subkern.checkpoint_files import Checkpoint, check_exists, digest, few, is_folder, read
from subkern.errors import UserError
from subkern.models import LogitModel
from subkern.subspaces import Coordinates, Subspace


@dataclass(frozen=True)
class At:
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
        from subkern.adapters import shared_copy

        coordinates = self.subspace.attach(shared_copy(model))
        tensors = read(self.checkpoint, coordinates.model)
        moved = _move(coordinates.model, tensors, self._where)
        folder = is_folder(self.checkpoint)
        missing = [
            name
            for name, parameter in coordinates.parameters.items()
            if id(parameter) not in moved and not (folder and name.startswith("readout."))
        ]
        if missing:
            raise UserError(f"{self._where} has no tensor {few(missing)}: it has {few(tensors)}")
        return coordinates

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


def _move(model: LogitModel, tensors: Mapping[str, Tensor], where: str) -> set[int]:
    """Put `tensors` in their places in `model`; the ids of the parameters that were moved.

    Values are replaced and not overwritten: the old ones may be shared with another model.
    """
    places = dict(_places(model))
    unknown = [name for name in tensors if name not in places]
    if unknown:
        raise UserError(
            f"{where} has {few(unknown)}, which the model in this subspace has not: names are"
            f" like {few(places)}"
        )
    moved: dict[int, Tensor] = {}
    for name, value in tensors.items():
        owner, leaf = places[name]
        old: Tensor = getattr(owner, leaf)
        if value.shape != old.shape:
            raise UserError(
                f"{where} has '{name}' of shape {list(value.shape)}, and the model one of"
                f" {list(old.shape)}: were rank and targets the same?"
            )
        value = value.detach().to(old.device, old.dtype, copy=True)
        if not isinstance(old, nn.Parameter):
            owner._buffers[leaf] = value
            continue
        if id(old) in moved and not torch.equal(moved[id(old)], value):
            raise UserError(f"{where} has two values of '{name}', which is tied: untie the model")
        old.data = moved[id(old)] = value
    return set(moved)


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

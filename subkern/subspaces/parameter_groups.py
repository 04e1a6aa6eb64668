"""Groups of parameters by what they are in the network: norms, attention, MLPs, last layers.

What a parameter is, is read off the model's structure and never off its parameters' names:

* *embeddings*: the lookup tables (`nn.Embedding`: words, positions, segments, relative positions)
  and `get_input_embeddings()`; not the norms and projections beside them;
* *head*: everything outside the model's body (`base_model`), so the transform of a masked-LM head
  too, the weight and bias of `get_output_embeddings()`, and the linear readout;
* *norm*: the parameters of modules whose class is called a norm, wherever they stand;
* *blocks*: the list of repeated layers (the outermost `nn.ModuleList` with the most parameters);
* *attention*: what lies in modules whose class name ends in ``Attention``, as Hugging Face's do,
  but for norms and tables;
* *mlp*: what else lies in blocks that have attention.

A decoder tied to the word table is one parameter, in embeddings *and* head: ``no-embeddings`` and
``no-head`` both leave it out, because what is excluded must not move.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from subkern.errors import UserError
from subkern.models.anatomy import anatomy
from subkern.models.logit_model import LogitModel, named_parameters
from subkern.subspaces.base import Coordinates, HasCheckpoint
from subkern.subspaces.group_names import GROUPS


@dataclass(frozen=True)
class ParameterGroup(HasCheckpoint):
    """The parameters of one kind, and no others.

    Args:
        group: ``norm``, ``attention``, ``mlp``, ``embeddings``, ``head``, ``no-embeddings`` or
            ``no-head``; see the module for what each is.
    """

    group: str

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise UserError(f"unknown group '{self.group}': use {', '.join(GROUPS)}")

    def attach(self, model: LogitModel) -> Coordinates:
        """The parameters of the group; UserError that lists other groups if there are none."""
        groups = anatomy(model).groups
        if not groups[self.group]:
            filled = ", ".join(g for g, names in groups.items() if names)
            raise UserError(
                f"no parameter of {type(model.module).__name__} is in group '{self.group}':"
                f" use {filled} or params:REGEX"
            )
        return _chosen(model, groups[self.group])

    def describe(self) -> dict[str, Any]:
        """``{"kind": "group", "group": …}``."""
        return {"kind": "group", "group": self.group}


@dataclass(frozen=True)
class LastLayers(HasCheckpoint):
    """Every parameter of the last `count` layers, and nothing after them (final norm, head).

    Args:
        count: how many of the repeated layers, from the last.
    """

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"last {self.count} layers is not positive: use 1 or more")

    def attach(self, model: LogitModel) -> Coordinates:
        """The parameters of those layers.

        Raises:
            UserError: the model has fewer layers, or they share their weights.
        """
        found = anatomy(model)
        kind = type(model.module).__name__
        if found.layers != len(found.blocks):
            raise UserError(
                f"the {found.layers} layers of {kind} share the weights of {len(found.blocks)}:"
                " the last cannot be trained alone, use attention or mlp"
            )
        if self.count > len(found.blocks):
            raise UserError(
                f"{kind} has {len(found.blocks)} layers, not {self.count}:"
                f" use last:1 to last:{len(found.blocks)}"
                if found.blocks
                else f"{kind} has no list of layers: use params:REGEX"
            )
        return _chosen(model, frozenset().union(*found.blocks[-self.count :]))

    def describe(self) -> dict[str, Any]:
        """``{"kind": "last", "layers": …}``."""
        return {"kind": "last", "layers": self.count}


def _chosen(model: LogitModel, names: Iterable[str]) -> Coordinates:
    wanted = set(names)
    return Coordinates(model, {n: p for n, p in named_parameters(model).items() if n in wanted})

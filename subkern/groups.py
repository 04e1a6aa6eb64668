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

from torch import nn

from subkern.errors import UserError
from subkern.models import LogitModel, named_parameters
from subkern.subspaces import Coordinates, Trainable

GROUPS = ("norm", "attention", "mlp", "embeddings", "head", "no-embeddings", "no-head")


@dataclass(frozen=True)
class Anatomy:
    """The parameters of a model, as the names that `named_parameters` gives, by what they are.

    Attributes:
        groups: every name of `GROUPS` → its parameters; some may be empty.
        blocks: the parameters of each repeated layer, first to last.
        layers: how many layers a forward runs through; more than `blocks` where layers share
            their weights (ALBERT).
    """

    groups: dict[str, frozenset[str]]
    blocks: tuple[frozenset[str], ...]
    layers: int


def anatomy(model: LogitModel) -> Anatomy:
    """Find out what each parameter of `model` is."""
    module, named = model.module, named_parameters(model)
    names = {id(p): n for n, p in named.items()}

    def names_in(*modules: nn.Module, recurse: bool = True) -> frozenset[str]:
        return frozenset(names[id(p)] for m in modules for p in m.parameters(recurse))

    embeddings = names_in(*_tables(module))
    norm = names_in(*(m for m in module.modules() if _is_norm(m)), recurse=False)
    body = getattr(module, "base_model", module)
    head = frozenset(named) - names_in(body) | names_in(*_called(module, "get_output_embeddings"))
    blocks = _blocks(module)
    seeing = [m for m in module.modules() if type(m).__name__.endswith("Attention")]
    attention = names_in(*seeing) - norm - embeddings
    with_attention = [b for b in blocks if names_in(b) & attention]
    mlp = names_in(*with_attention) - attention - norm - embeddings
    groups = {
        "norm": norm,
        "attention": attention,
        "mlp": mlp,
        "embeddings": embeddings,
        "head": head,
        "no-embeddings": frozenset(named) - embeddings,
        "no-head": frozenset(named) - head,
    }
    layers = getattr(getattr(module, "config", None), "num_hidden_layers", len(blocks))
    return Anatomy(groups, tuple(names_in(b) for b in blocks), layers)


def norm_modules(module: nn.Module) -> list[str]:
    """Names of the modules that normalise and have parameters to do it with."""
    return [n for n, m in module.named_modules() if _is_norm(m)]


def _is_norm(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return "norm" in type(module).__name__.lower() and bool(own) and all(p.dim() == 1 for p in own)


def _tables(module: nn.Module) -> list[nn.Module]:
    tables = [m for m in module.modules() if isinstance(m, nn.Embedding)]
    return tables + _called(module, "get_input_embeddings")


def _called(module: nn.Module, getter: str) -> list[nn.Module]:
    found = getattr(module, getter)() if hasattr(module, getter) else None
    return [] if found is None else [found]


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated layers: the outermost list that holds the most parameters."""
    lists = {n: m for n, m in module.named_modules() if isinstance(m, nn.ModuleList)}
    outermost = [
        m for n, m in lists.items() if not any(n.startswith(other + ".") for other in lists)
    ]
    if not outermost:
        return []
    sizes = [sum(p.numel() for p in m.parameters()) for m in outermost]
    return list(outermost[sizes.index(max(sizes))])


@dataclass(frozen=True)
class ParameterGroup(Trainable):
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
class LastLayers(Trainable):
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

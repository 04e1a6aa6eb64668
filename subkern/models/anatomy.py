"""Which module of a model is a norm, an embedding, a linear layer, a block."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from subkern.models.logit_model import LogitModel, named_parameters


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
    """Names of the modules that normalize and have parameters to do it with."""
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


def linear_modules(module: nn.Module) -> list[str]:
    """Names of the linear layers of a model (GPT-2's `Conv1D` too), its decoder left out."""
    return list(_linear(module))


def _linear(module: nn.Module) -> dict[str, nn.Module]:
    from transformers.pytorch_utils import Conv1D

    getter = getattr(module, "get_output_embeddings", None)
    decoder = getter() if getter is not None else None
    return {
        n: m
        for n, m in module.named_modules()
        if isinstance(m, nn.Linear | Conv1D) and m is not decoder
    }

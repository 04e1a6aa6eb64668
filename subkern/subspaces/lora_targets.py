"""Named sets of LoRA targets, found in a model by its structure: no table of models.

=============== ====================================================================================
name            what LoRA adapts
=============== ====================================================================================
``qv``          the query and value projections of attention (Hu et al. 2022); where query, key and
                value are one fused layer, that layer
``attention``   every linear layer inside a module whose class is called ``…Attention…``
``mlp``         every other linear layer of the repeated blocks (the members of a ``ModuleList``) of
                a model with attention
``all-linear``  every linear layer but the decoder: PEFT's
                (of Mamba and its like PEFT adapts no ``out_proj``, which their fast code passes by:
                no set has it)
``all``         ``all-linear``, and every other parameter (embeddings, norms, biases, a decoder of
                its own) trained directly: kernels of disjoint parameters add up, so this one is
                LoRA's plus the full kernel of the rest, and the rest counts as trained
=============== ====================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import peft
from torch import nn

from subkern.errors import UserError
from subkern.models.anatomy import linear_modules
from subkern.models.logit_model import LogitModel

Targets = str | tuple[str, ...]

NAMED = ("qv", "attention", "mlp", "all-linear", "all")

# The last part of a layer's name: query, q_proj, q_lin, query_proj, Wq; then key and value in one.
_QUERY_OR_VALUE = re.compile(r"(q|v|query|value)(_?(proj|lin|layer))?|W_?[qv]")
_FUSED = re.compile(r"c_attn|query_key_value|W?qkv(_?(proj|lin|layer))?")


@dataclass(frozen=True)
class Resolved:
    """What targets mean for one model.

    Attributes:
        targets: as PEFT's ``target_modules`` takes them.
        trains_rest: whether every parameter that is not adapted is trained directly.
        note: what a reader should know of how the name was understood, or an empty string.
    """

    targets: Targets
    trains_rest: bool = False
    note: str = ""


def resolve(model: LogitModel, targets: Targets) -> Resolved:
    """What `targets` mean for `model`: a name of `NAMED` is looked up, others are PEFT's already.

    Raises:
        UserError: the model has no such layers.
    """
    if isinstance(targets, str):
        _check_expression(targets)
    if targets not in NAMED:
        return Resolved(targets)
    refused = refused_by_peft(model.module)
    names = ", ".join(sorted(refused))
    left_out = f"PEFT's LoRA adapts no {names} of this model" if refused else ""
    if targets in ("all", "all-linear"):
        return Resolved("all-linear", trains_rest=targets == "all", note=left_out)
    attention, others = _block_layers(model.module)
    chosen, note = {
        "qv": lambda: _query_value(attention),
        "attention": lambda: (attention, ""),
        "mlp": lambda: (others, ""),
    }[str(targets)]()
    if {n.rpartition(".")[2] for n in chosen} & refused:
        chosen = [n for n in chosen if n.rpartition(".")[2] not in refused]
        note = "; ".join(filter(None, (note, left_out)))
    if not chosen:
        raise UserError(
            f"targets '{targets}': the model has no such layers that its structure and names tell:"
            " use all-linear, or name the layers"
        )
    return Resolved(tuple(chosen), note=note)


def refused_by_peft(module: nn.Module) -> set[str]:
    """Last names of linear layers that PEFT's LoRA refuses to adapt in a model of this kind."""
    try:
        from peft.tuners.tuners_utils import _check_lora_target_modules_mamba as check
    except ImportError:  # another version, which refuses none
        return set()
    found = set()
    for name in {n.rpartition(".")[2] for n in linear_modules(module)}:
        try:
            check(peft.LoraConfig(), module, name)
        except ValueError:
            found.add(name)
    return found


def _check_expression(targets: str) -> None:
    """Refuse what PEFT would compile and fail on."""
    try:
        re.compile(targets)
    except re.error as error:
        raise UserError(f"targets '{targets}' is not a regular expression: {error}") from error


def _block_layers(module: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the linear layers of attention, and of the other ones of the repeated blocks."""
    modules = dict(module.named_modules())
    inside = {n for n, m in modules.items() if "attention" in type(m).__name__.lower()}
    blocks = {
        f"{name}.{child}".lstrip(".")
        for name, listed in modules.items()
        if isinstance(listed, nn.ModuleList)
        for child, _ in listed.named_children()
    }
    linear = linear_modules(module)
    attention = [n for n in linear if _is_within(n, inside)]
    others = [n for n in linear if n not in set(attention) and _is_within(n, blocks)]
    return attention, others if attention else []  # a block without attention (Mamba's) has no MLP


def _is_within(name: str, places: set[str]) -> bool:
    """Whether one of the modules that hold `name`, itself included, is among `places`."""
    parts = name.split(".")
    return any(".".join(parts[:k]) in places for k in range(1, len(parts) + 1))


def _query_value(attention: Sequence[str]) -> tuple[list[str], str]:
    """Query and value projections, and what to say where they come fused with the key's."""
    last = {name: name.rsplit(".", 1)[-1] for name in attention}
    separate = [n for n in attention if _QUERY_OR_VALUE.fullmatch(last[n])]
    fused = [n for n in attention if _FUSED.fullmatch(last[n])]
    if not fused:
        return separate, ""
    kinds = ", ".join(sorted({last[n] for n in fused}))
    note = f"query, key and value are one layer here ({kinds}): qv adapts all three of them"
    return [n for n in attention if n in {*separate, *fused}], note

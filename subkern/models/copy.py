"""Copies of a model, which may share its weights."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from subkern.models.logit_model import LogitModel


def copy_module(module: nn.Module, *, shared: bool) -> nn.Module:
    """A copy of the modules, around the same values if `shared`.

    Its parameters are objects of their own, so that PEFT may freeze them without freezing ours.
    """
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach() if shared else p.detach().clone(), p.requires_grad)
        for p in module.parameters()
    }
    memo |= {id(b): b for b in module.buffers()}
    return copy.deepcopy(module, memo)


def shared_copy(model: LogitModel) -> LogitModel:
    """`model` with modules and parameter objects of its own around the same values."""
    copied = model.with_module(copy_module(model.module, shared=True))
    copied.readout = copy_module(model.readout, shared=True)  # type: ignore[assignment]
    return copied

"""What each tensor of a model is to its width, seen by building the model at two widths."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from subkern.errors import UserError
from subkern.models.logit_model import LogitModel, named_parameters

__all__ = ["roles"]


def roles(narrow: LogitModel, wide: LogitModel) -> dict[str, str]:
    """Role (`subkern.width.exponents.ROLES`) of each parameter, by its `named_parameters` name.

    Which axes grow is read from the shapes. Which axis the signal comes in by is the module's
    convention: the last of a linear layer, the first of GPT-2's `Conv1D` and of an embedding. A
    table that belongs to no such module is added to features, and is as an embedding.

    Args:
        narrow: the model at one width; may be on the meta device.
        wide: the same at another, larger width.

    Raises:
        UserError: other parameters at the two widths, or no matrix with more outputs.
    """
    first, second = named_parameters(narrow), named_parameters(wide)
    if odd := sorted(first.keys() ^ second.keys()):
        raise UserError(f"the model cannot be widened: it has '{odd[0]}' at one of two widths only")
    inputs = _input_axes(wide)
    grown = {
        n: [i for i, k in enumerate(p.shape) if k > first[n].shape[i]] for n, p in second.items()
    }
    found = {n: _role(second[n].ndim, axes, inputs.get(n, 0)) for n, axes in grown.items()}
    if not {"input", "hidden"} & set(found.values()):
        raise UserError(
            "the model cannot be widened: no matrix of it gives more outputs at a larger width; use"
            " mlp, bert, gpt2, llama or the config of another transformer"
        )
    return found


def _role(axes: int, grown: list[int], input_axis: int) -> str:
    if not grown:
        return "fixed"
    if axes == 1:
        return "vector"
    if len(grown) > 1:
        return "hidden"
    return "output" if grown[0] == input_axis else "input"


def _input_axes(model: LogitModel) -> Mapping[str, int]:
    """Which axis of a linear layer's weight the signal comes in by, by the parameter's name."""
    names = {id(p): name for name, p in named_parameters(model).items()}
    return {
        names[id(module.weight)]: 1
        for part in (model.module, model.readout)
        for module in part.modules()
        if isinstance(module, nn.Linear)
    }

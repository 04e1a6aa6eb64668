"""Whether torch computes as kernels need it: gradients recorded, in the model's own numbers."""

from __future__ import annotations

import torch

from subkern.errors import UserError
from subkern.models.logit_model import LogitModel

__all__ = ["check_mode"]


def check_mode(model: LogitModel) -> None:
    """Refuse a surrounding mode of torch in which gradients are missing or rounded otherwise.

    Raises:
        UserError: inside ``torch.inference_mode()`` or ``torch.autocast``, or of a model that was
            loaded inside the former.
    """
    if torch.is_inference_mode_enabled():
        raise UserError(
            "torch.inference_mode() is on, which records no gradients: leave it, or use"
            " torch.inference_mode(False)"
        )
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_inference() for tensor in tensors):
        raise UserError(
            "the model was loaded inside torch.inference_mode(), so it has no gradients: load it"
            " outside"
        )
    for kind in sorted({tensor.device.type for tensor in tensors}):
        if torch.is_autocast_enabled(kind):
            raise UserError(
                f"torch.autocast is on for {kind}, which rounds within the model: leave it, and"
                " load the model with dtype='bfloat16' if that is meant"
            )

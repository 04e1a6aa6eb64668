"""A fingerprint of a model's weights, whatever they were loaded from."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from subkern.models.logit_model import LogitModel, named_parameters


def weights_digest(model: LogitModel) -> str:
    """Hash of every parameter's name, shape, sums and a sample of its values.

    A change of any weight changes a sum; hashing all bytes of a large model would take minutes.
    """
    digest = hashlib.sha256()
    for name, p in named_parameters(model).items():
        flat = p.detach().flatten()
        step = max(1, len(flat) // 1024)
        values = torch.stack([flat.double().sum(), flat.double().abs().sum()])
        sample = torch.cat([values.cpu(), flat[::step].double().cpu()])
        digest.update(f"{name}{tuple(p.shape)}".encode())
        digest.update(np.ascontiguousarray(sample.numpy()).tobytes())
    return digest.hexdigest()[:16]

"""A fingerprint of a model's weights, whatever they were loaded from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from subkern.models.logit_model import LogitModel, named_parameters

_CHUNK = 2**24  # bytes that are looked at at a time
_State = tuple[tuple[object, ...], ...]
_known: WeakKeyDictionary[LogitModel, tuple[_State, str]] = WeakKeyDictionary()


def weights_digest(model: LogitModel) -> str:
    """SHA-256 of every parameter's name, type, shape and bytes: 64 hex digits.

    The same for any number of threads, device and memory layout; another for any other weights,
    permuted ones too. A model is hashed once (0.5 GB/s a processor) and again after a change: each
    call adds up its weights' bytes as integers, which takes a tenth of the time, and looks at the
    counters by which torch knows of changes in place.
    """
    parameters = named_parameters(model)
    state = tuple((name, *_state(p.detach())) for name, p in parameters.items())
    found = _known.get(model)
    if found is None or found[0] != state:
        found = _known[model] = (state, _hash(parameters))
    return found[1]


def _hash(parameters: dict[str, torch.nn.Parameter]) -> str:
    digest = hashlib.sha256()
    for name, p in parameters.items():
        digest.update(f"{name} {p.dtype} {tuple(p.shape)}\n".encode())
        for part in _bytes(p.detach()):
            digest.update(part.data)
    return digest.hexdigest()


def _state(weights: Tensor) -> tuple[object, ...]:
    """What changes if the weights do: where they lie, how often they were set, their sum.

    Not every change moves the counter (``p.data`` has its own), and a permutation keeps the sum.
    """
    total = 0
    for part in _bytes(weights):
        words = part[: len(part) // 8 * 8].view(np.uint64)
        total += int(np.add.reduce(words)) + int(np.add.reduce(part[8 * len(words) :], dtype=int))
    set_by = None if weights.is_inference() else weights._version
    return weights.data_ptr(), set_by, weights.dtype, tuple(weights.shape), total


def _bytes(weights: Tensor) -> Iterator[np.ndarray]:
    """The bytes of a tensor in row-major order, in pieces of whole rows."""
    rows = weights.reshape(1) if weights.ndim == 0 else weights
    if rows.numel() == 0:
        return
    per_row = rows[0].numel() * rows.element_size()
    for part in rows.split(max(1, _CHUNK // per_row)):
        yield part.contiguous().cpu().flatten().view(torch.uint8).numpy()

"""Kernels from plain autograd, independent of both engines: what they are tested against.

One example at a time, one backward a logit, straight from the Hugging Face module: no batches, no
padding, no attention mask, no recording, no `torch.func`. A tied parameter is one tensor, so
autograd itself adds up its uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import peft
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subkern.models.logit_model import LinearReadout, LogitModel, SequenceReadout, WordReadout
from subkern.models.precision import KeepDouble
from subkern.prompts.prompt import EncodedExample
from tests.support.families import Family

WORDS = (7, 9, 11, 23, 42, 58)  # label words; the first c of them are read


def logit_model(
    family: Family, c: int = 2, *, tied: bool = True, dtype: torch.dtype = torch.float64
) -> LogitModel:
    """Build a tiny random model with c logits (c = 1: the difference of two).

    The first logits of a model with more of them are the logits of one with fewer.
    """
    module = family.build(tied, dtype)
    count = 2 if c == 1 else c
    if family.kind != "encoder":
        return LogitModel(module, WordReadout(WORDS[:count]), binary=c == 1).eval()
    readout, widest = (LinearReadout(module.config.hidden_size, k) for k in (count, len(WORDS)))
    with torch.no_grad():
        widest.linear.bias.copy_(torch.linspace(-0.2, 0.3, len(WORDS)))
        readout.linear.weight.copy_(widest.linear.weight[:count])
        readout.linear.bias.copy_(widest.linear.bias[:count])
    return LogitModel(module, readout.to(dtype), binary=c == 1).eval()


def sequence_model(
    family: Family, c: int = 1, *, tied: bool = True, dtype: torch.dtype = torch.float64
) -> LogitModel:
    """Build a tiny random model whose logits are log-likelihoods of marked tokens."""
    return LogitModel(family.build(tied, dtype), SequenceReadout(c)).eval()


def log_likelihoods(model: LogitModel, example: EncodedExample) -> Tensor:
    """Return f(x), ``[c]``, of an example of marked sequences, one sequence at a time."""
    found: list[Tensor | float] = [*example.offsets]
    for m in example.marked:
        with KeepDouble():
            logits = model.module(input_ids=torch.tensor([m.input_ids])).logits[0]
        logs = torch.log_softmax(logits, -1)
        told = sum(logs[at, y] for at, y in zip(m.reads, m.targets, strict=True))
        found[m.logit] = found[m.logit] + m.weight * told
    return torch.stack([torch.as_tensor(f, dtype=torch.float64) for f in found])


def logits_alone(model: LogitModel, example: EncodedExample) -> Tensor:
    """Return f(x), ``[c]``, of one example that is neither padded nor masked."""
    if example.marked:
        return log_likelihoods(model, example)
    with KeepDouble():
        outputs = model.module(input_ids=torch.tensor([example.input_ids]))
    if isinstance(model.readout, WordReadout):
        logits = outputs.logits[0, example.read, list(model.readout.label_ids)]
    else:
        hidden = outputs.last_hidden_state[0, example.read]
        logits = F.linear(hidden, model.readout.linear.weight, model.readout.linear.bias)
    return logits[1:] - logits[:1] if model.binary else logits


def jacobian(
    model: LogitModel,
    examples: Sequence[EncodedExample],
    parameters: Iterable[nn.Parameter] | None = None,
) -> Tensor:
    """Return ∂f/∂θ, ``[n, c, P]``, by autograd; None takes every parameter once."""
    wanted = list(model.parameters() if parameters is None else parameters)
    for parameter in wanted:
        parameter.requires_grad_(True)
    rows = []
    for example in examples:
        logits = logits_alone(model, example)
        rows.append(torch.stack([gradient(logit, wanted) for logit in logits]))
    return torch.stack(rows)


def gradient(logit: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """Return ∂logit/∂parameters, flattened and joined; what it does not depend on gives zeros."""
    grads = torch.autograd.grad(logit, parameters, retain_graph=True, allow_unused=True)
    pairs = zip(grads, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def peft_model(family: Family, config: peft.PeftConfig, seed: int = 0, c: int = 2) -> LogitModel:
    """Return a model that PEFT has wrapped in place, drawn from `seed`, without our code."""
    model = logit_model(family, c)
    torch.manual_seed(seed)
    peft.get_peft_model(model.module, config).to(torch.float64)
    return model.eval()


def trained_kernel(model: LogitModel, *sides: Sequence[EncodedExample]) -> np.ndarray:
    """Return the kernel of what requires gradients in `model`, by autograd."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return kernel(*(jacobian(model, side, trained) for side in sides))


def kernel(left: Tensor, right: Tensor | None = None) -> np.ndarray:
    """Return ⟨∇f_k(x_i), ∇f_l(x'_j)⟩, ``[n, c, m, c]``, from Jacobians ``[n, c, P]``."""
    right = left if right is None else right
    return torch.einsum("icp,jdp->icjd", left.double(), right.double()).numpy()


def first_logits(values: np.ndarray, c: int) -> np.ndarray:
    """Return the kernel of the first c logits, or of f_1 − f_0 if c = 1."""
    if c > 1:
        return values[:, :c, :, :c]
    difference = np.array([-1.0, 1.0])
    return np.einsum("k,ikjl,l->ij", difference, values[:, :2, :, :2], difference)[:, None, :, None]


def centred(values: np.ndarray) -> np.ndarray:
    """Centre a kernel ``[n, c, m, c]`` over the examples of both sides, per pair of logits."""
    rows = values - values.mean(0, keepdims=True)
    return rows - rows.mean(2, keepdims=True)


def error(values: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference relative to the largest value, raw or centred: the worse."""
    assert values.shape == expected.shape
    pairs = [(values, expected)]
    if min(expected.shape[0], expected.shape[2]) > 1:
        pairs.append((centred(values), centred(expected)))
    assert all(np.abs(e).max() > 1e-6 for _, e in pairs), "nothing to compare"
    return max(float(np.abs(v - e).max() / np.abs(e).max()) for v, e in pairs)

"""The linear probe: logistic regression on what the frozen model says at the read position.

What any kernel method has to beat, and the start of a linear head that is not random: with it
(Kumar et al., 2022, "linear probing then fine-tuning") kernels and training begin at the probe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import log_loss
from torch import nn

from subkern.agreement.predictions import Score
from subkern.errors import UserError
from subkern.models.autograd_mode import check_mode
from subkern.models.copy import copy_module
from subkern.models.logit_model import LinearReadout, LogitModel
from subkern.prompts.prompt import fingerprint_examples
from subkern.solvers.folds import stratified_folds
from subkern.training.monitor import Splits, labels_of, score

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample

__all__ = ["GRID", "Probe", "hidden_states", "initialize_from_probe", "linear_probe"]

Array = NDArray[np.float64]

GRID = tuple(10.0 ** np.arange(-4, 5))
"""Candidates for C, the inverse of the penalty."""

_BATCH = 16


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear classifier on hidden states.

    Attributes:
        weight: ``[c, d]``.
        bias: ``[c]``.
        regularization: C, chosen by cross-validation.
        scores: by split.
        logits: by split, ``[n, c]``.
    """

    weight: Array
    bias: Array
    regularization: float
    scores: Mapping[str, float]
    logits: Mapping[str, Array]


def hidden_states(model: LogitModel, examples: Sequence[EncodedExample]) -> Array:
    """What the readout reads, ``[n, d]``, float64.

    The pooled output of the encoder for a linear head; for a prompt, the input of the decoder at
    the position whose words are read (of a masked LM: after the transform before the decoder).

    Raises:
        UserError: the model has no decoder whose input could be read.
    """
    check_mode(model)
    linear = isinstance(model.readout, LinearReadout)
    last = _last_layer(model)
    seen: list[torch.Tensor] = []
    # Registered before the forward's own hook, so it sees every position.
    handle = last.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    out = []
    try:
        for i in range(0, len(examples), _BATCH):
            batch = model.collate(examples[i : i + _BATCH])
            with torch.no_grad():
                model(batch)
            hidden = seen.pop()
            if not linear:
                hidden = hidden[torch.arange(len(batch), device=hidden.device), batch.read]
            out.append(hidden.double().cpu().numpy())
    finally:
        handle.remove()
    return np.concatenate(out)


def _last_layer(model: LogitModel) -> nn.Module:
    """The layer that turns hidden states into logits."""
    if isinstance(model.readout, LinearReadout):
        return model.readout.linear
    getter = getattr(model.module, "get_output_embeddings", lambda: None)
    decoder = getter()
    if not isinstance(decoder, nn.Module):
        kind = type(model.module).__name__
        raise UserError(f"{kind} has no decoder whose input could be probed: use --head linear")
    return decoder


def linear_probe(
    model: LogitModel,
    splits: Splits,
    metric: Score | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
    regularization: float | None = None,
    grid: Sequence[float] = GRID,
) -> Probe:
    """Fit logistic regression on the hidden states of ``splits["train"]``; score every split.

    On the features as they are, as in the code of Malladi et al. (2023): standardized, those that
    hardly vary would get large weights, and where a head starts, kernels would be those features'.
    C has the lowest cross entropy in stratified cross-validation on the training examples, ties
    going to the smaller; dev is not looked at. Of real labels it is ridge regression with penalty
    1/C, by the squared error of leaving one out.

    Args:
        model: frozen.
        splits: examples by split, with ``train``.
        metric: ``accuracy`` (the default), ``f1`` or, of real labels, ``pearson`` and the like.
        folds: at most the examples of the rarest class.
        seed: of the folds.
        regularization: C; None chooses it.
        grid: candidates for C.

    Raises:
        UserError: a class without a training example, or with a single one where C is chosen.
    """
    train = splits["train"]
    labels, classes = labels_of(train), model.readout.num_logits
    real = labels.dtype.kind == "f"
    metric = metric or ("pearson" if real else "accuracy")
    missing = [] if real else sorted(set(range(classes)) - set(labels.tolist()))
    if missing:
        raise UserError(f"class {missing[0]} has no training example: a probe needs one of each")
    states = hidden_states(model, train)
    if real:
        weight, bias, regularization = _ridge(states, labels, regularization, sorted(grid))
    else:
        if regularization is None:
            regularization = _choose(states, labels, folds, seed, sorted(grid))
        weight, bias = _fit(states, labels, regularization)
    logits = {}
    for name, examples in splits.items():
        given = states if name == "train" else hidden_states(model, examples)
        logits[name] = given @ weight.T + bias
    scores = {name: score(logits[name], labels_of(e), metric) for name, e in splits.items()}
    return Probe(weight, bias, regularization, scores, logits)


def initialize_from_probe(
    model: LogitModel, examples: Sequence[EncodedExample], **options: Any
) -> LogitModel:
    """`model` with its linear head at the probe of `examples`; the original stays as it is.

    Args:
        model: with a linear head.
        examples: training examples.
        options: of `linear_probe`.

    Raises:
        UserError: the model reads label words, so there is no head to start.
    """
    if not isinstance(model.readout, LinearReadout):
        raise UserError("a probe starts a linear head and this model reads words: --head linear")
    probe = linear_probe(model, {"train": examples}, **options)
    readout = copy_module(model.readout, shared=False)
    assert isinstance(readout, LinearReadout)
    with torch.no_grad():
        readout.linear.weight.copy_(torch.from_numpy(probe.weight))
        readout.linear.bias.copy_(torch.from_numpy(probe.bias))
    start = {"kind": "probe", "examples": fingerprint_examples(examples), "C": probe.regularization}
    started = model.with_module(model.module, head_init=start)
    started.description.pop("head_seed", None)
    started.readout = readout
    return started.eval()


def _choose(states: Array, labels: NDArray[Any], folds: int, seed: int, grid: list[float]) -> float:
    """The C of `grid` with the lowest cross entropy on held-out examples."""
    parts = stratified_folds(labels, folds, seed)
    losses = []
    for c in grid:
        held = []
        for fitted, left in parts:
            weight, bias = _fit(states[fitted], labels[fitted], c)
            logits = states[left] @ weight.T + bias
            likely = np.exp(logits - logits.max(1, keepdims=True))
            likely /= likely.sum(1, keepdims=True)
            held.append(log_loss(labels[left], likely, labels=range(len(bias))) * len(left))
        losses.append(sum(held) / len(labels))
    return grid[int(np.argmin(losses))]


def _ridge(
    states: Array, labels: NDArray[Any], c: float | None, grid: list[float]
) -> tuple[Array, Array, float]:
    """Weights ``[1, d]``, bias ``[1]`` and C of ridge regression."""
    if len(labels) < 2:
        raise UserError("one training example leaves none when it is left out: give two or more")
    fitted = RidgeCV([1 / each for each in (grid if c is None else [c])]).fit(states, labels)
    return fitted.coef_[None], np.array([fitted.intercept_]), float(1 / fitted.alpha_)


def _fit(states: Array, labels: NDArray[Any], c: float) -> tuple[Array, Array]:
    """Weights ``[classes, d]`` and biases of the classes."""
    fitted = LogisticRegression(C=c, max_iter=5000, tol=1e-6).fit(states, labels)
    weight, bias = fitted.coef_, fitted.intercept_
    if len(weight) == 1:  # of two classes: σ(w·x) is the softmax of ∓w·x / 2
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias

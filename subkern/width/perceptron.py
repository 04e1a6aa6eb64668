"""The textbook case: a multilayer perceptron on fixed features of tokens."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from subkern.errors import check_choice

__all__ = ["ACTIVATIONS", "Perceptron"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "erf": torch.erf,
}


class Perceptron(nn.Module):
    """h_0 = x, h_l = φ(W_l h_{l-1} + b_l): a body like those of transformers, for a linear readout.

    x is the sum of the features of an example's T tokens over √T, so that it reads vectors (one
    token an example) and bags of words alike, in one size.

    Args:
        features: of every token ``[V, k]``; they are not trained.
        width: n, units of each hidden layer.
        depth: hidden layers.
        activation: φ, one of `ACTIVATIONS`.
    """

    features: Tensor

    def __init__(self, features: Tensor, width: int, depth: int, activation: str) -> None:
        super().__init__()
        check_choice("activation", activation, tuple(ACTIVATIONS))
        self.register_buffer("features", features)
        self.activation = ACTIVATIONS[activation]
        sizes = [features.shape[1], *[width] * depth]
        layers = [nn.Linear(*each) for each in pairwise(sizes)]
        for layer in layers:
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: object) -> SimpleNamespace:
        """``hidden_states``: h_1 to h_L, each ``[b, 1, n]``; ``last_hidden_state``: h_L."""
        mask = attention_mask[..., None].to(self.features.dtype)
        h = (self.features[input_ids] * mask).sum(1, keepdim=True) / mask.sum(
            1, keepdim=True
        ).sqrt()
        states = []
        for layer in self.layers:
            h = self.activation(layer(h))
            states.append(h)
        return SimpleNamespace(hidden_states=tuple(states), last_hidden_state=h)

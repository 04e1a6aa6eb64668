"""Optimizers, those of the kernels first, and how the learning rate changes over a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["SignGD", "first_update", "make_optimizer", "rate_factor"]


Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]
"""Parameters, or groups of them with rates of their own, as torch's optimizers take them."""


class SignGD(torch.optim.Optimizer):
    """θ ← θ − η sign(∇), with sign(0) = 0: early Adam, and the `signgd` kernels' update.

    Args:
        params: parameters, as for any `torch.optim.Optimizer`.
        lr: learning rate η.
    """

    def __init__(self, params: Parameters, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one update; returns the closure's loss if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(_sign(parameter.grad), alpha=-group["lr"])
        return loss


def _sign(gradient: Tensor) -> Tensor:
    # torch.sign(nan) is 0: a gradient that is no number must not look like one that is zero
    return torch.where(gradient.isnan(), gradient, gradient.sign())


def _sgd(params: Parameters, rate: float, epsilon: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=rate)


def _adam(params: Parameters, rate: float, epsilon: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=rate, betas=(0.9, 0.999), eps=epsilon)


def _adamw(params: Parameters, rate: float, epsilon: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=rate, betas=(0.9, 0.999), eps=epsilon, weight_decay=0.01)


def _momentum(params: Parameters, rate: float, epsilon: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=rate, momentum=0.9)


def _signgd(params: Parameters, rate: float, epsilon: float) -> torch.optim.Optimizer:
    return SignGD(params, rate)


_MAKERS = {"sgd": _sgd, "adam": _adam, "signgd": _signgd, "adamw": _adamw, "momentum": _momentum}


def make_optimizer(
    name: str, params: Parameters, learning_rate: float, epsilon: float = 1e-8
) -> torch.optim.Optimizer:
    """The optimizer called `name` (`subkern.training.choices`); Adam and AdamW read `epsilon`."""
    return _MAKERS[name](params, learning_rate, epsilon)


def first_update(name: str, gradient: Tensor, epsilon: float = 1e-8) -> Tensor:
    """What an optimizer's first update subtracts at learning rate 1, entry by entry; 0 where g is.

    g for ``sgd``, sign(g) for ``signgd``, g / (|g| + ε) for ``adam``: both moments of its first
    step are g and g², corrected for their start.
    """
    if name in ("sgd", "momentum"):
        return gradient
    if name == "signgd":
        return _sign(gradient)
    size = gradient.abs() + epsilon
    return torch.where(size > 0, gradient / size, gradient)


def rate_factor(schedule: str, step: int, steps: int, warmup: int = 0) -> float:
    """What the learning rate of update number `step` (from 0) is multiplied by, 0 to 1.

    ``(step + 1) / warmup`` while warming up; then 1, or down to 0 after the last of `steps`,
    in a straight line or along half a cosine.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if schedule == "linear":
        return 1 - done
    return 0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1.0

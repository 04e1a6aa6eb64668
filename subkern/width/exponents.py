"""How initial weights, learning rates and ε go with width n: three parametrizations.

A tensor acts as W = n^(-a) w; w starts as N(0, n^(-2b)), its learning rate is η n^(-c), and an
entrywise optimizer reads n^d times its gradient, so its ε is ε n^(-d). The role of a tensor says
which of its axes grow with n (`subkern.width.roles`).

An entrywise update (SignGD, Adam) moves all entries by Θ(n^(-c)), in step with the signal that
comes in, so n inputs add up to n^(1-a-c). What is asked is a change of the function of Θ(1) a step,
with features that move by Θ(1) (``mup``) or by Θ(n^(-1/2)) (``ntp``); the gradient by w is then
Θ(n^(-d)). SGD moves entries by n^(-c) times that gradient: the same step for c_SGD = c − d.

Sources: Yang & Hu, "Feature Learning in Infinite-Width Neural Networks" (2021) for SGD; Yang &
Littwin, "Adaptive Optimization in the Infinite-Width Limit" (2023) for entrywise optimizers.
"""

from __future__ import annotations

from dataclasses import dataclass

from subkern.errors import check_choice

__all__ = ["ENTRYWISE", "OPTIMIZERS", "PARAMETRIZATIONS", "ROLES", "Exponents", "exponents"]

PARAMETRIZATIONS = ("standard", "ntp", "mup")
"""``standard``: signals of one size at the start, one learning rate for all tensors and widths."""

OPTIMIZERS = ("sgd", "signgd", "adam")
ENTRYWISE = ("signgd", "adam")

ROLES = ("input", "hidden", "output", "vector", "fixed")
"""What grows with width: the outputs of a matrix, both of its axes, its inputs, the one axis of a
bias or gain, nothing (the bias of the logits)."""


@dataclass(frozen=True)
class Exponents:
    """Exponents of the width: multiplier n^(-a), spread n^(-b), rate n^(-c), gradient n^d."""

    a: float
    b: float
    c: float
    d: float

    def shifted(self, theta: float, optimizer: str) -> Exponents:
        """The same training with a multiplier n^(-a-θ).

        w' = n^θ w has spread n^(-b+θ), steps n^θ times those of w, and a gradient n^(-θ) times
        that by w: SGD, whose steps are its gradients, needs n^(2θ) times the rate, entrywise
        optimizers n^θ times.
        """
        rate = theta if optimizer in ENTRYWISE else 2 * theta
        return Exponents(self.a + theta, self.b - theta, self.c - rate, self.d + theta)

    def without_multiplier(self, optimizer: str) -> Exponents:
        """The same training with W itself as what is trained: a = 0."""
        return self.shifted(-self.a, optimizer)


# a, b, c, d of entrywise optimizers, by role; vectors are as inputs, with values that stay at n^0
_Row = tuple[float, float, float, float]
_TABLE: dict[str, dict[str, _Row]] = {
    "standard": {"input": (0, 0, 0, 0), "hidden": (0, 0.5, 0, 0), "output": (0, 0.5, 0, 0)},
    "ntp": {"input": (0, 0, 0.5, 0.5), "hidden": (0.5, 0, 1, 1), "output": (0.5, 0, 0.5, 0.5)},
    "mup": {"input": (0, 0, 0, 1), "hidden": (0, 0.5, 1, 1), "output": (1, 0, 0, 1)},
}


def exponents(parametrization: str, optimizer: str, role: str) -> Exponents:
    """a, b, c and d of a tensor; d is 0 for SGD, which has no ε.

    Args:
        parametrization: one of `PARAMETRIZATIONS`.
        optimizer: one of `OPTIMIZERS`.
        role: one of `ROLES`.

    Raises:
        UserError: an unknown name.
    """
    check_choice("parametrization", parametrization, PARAMETRIZATIONS)
    check_choice("optimizer", optimizer, OPTIMIZERS)
    check_choice("role", role, ROLES)
    if role == "fixed":
        return Exponents(0, 0, 0, 0)
    a, b, c, d = _TABLE[parametrization]["input" if role == "vector" else role]
    return Exponents(a, b, c, d) if optimizer in ENTRYWISE else Exponents(a, b, c - d, 0)

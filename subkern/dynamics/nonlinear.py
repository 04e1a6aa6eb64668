"""The kernel of an optimizer that is not linear in the gradient."""

from __future__ import annotations

import numpy.typing as npt
import torch
from torch import nn

from subkern.dynamics.linear_training import Jacobian, MakeOptimizer, require_one_point
from subkern.dynamics.problem import Floats
from subkern.errors import UserError

__all__ = ["NonlinearKernel"]


class NonlinearKernel:
    """The map from the loss's derivatives to the change of the function, on frozen gradients.

    In the neural tangent limit ``f_{t+1}(x') − f_t(x') = −η ⟨∇f₀(x'), Q_t(Σ_ia χ_ia ∇f₀,a(x_i))⟩``
    with χ = ∂L/∂f and Q what the optimizer makes of a gradient, entry by entry (Yang & Littwin,
    2023, the "nonlinear tangent kernel"). For SGD, Q = identity, it is −ηKχ, K the neural tangent
    kernel. For Adam it depends on all former χ too, so this object remembers: each call is a step.

    Args:
        train: gradients of the n examples whose loss is minimized.
        evaluation: of the m examples whose change is asked for; None means `train`.
        optimizer: makes the optimizer, e.g. ``partial(torch.optim.Adam, lr=1e-3)``; weight decay
            pulls on the parameters themselves, from where `train` was taken.

    Raises:
        UserError: the two are of other coordinates, or at another point z₀.
    """

    def __init__(
        self, train: Jacobian, evaluation: Jacobian | None = None, *, optimizer: MakeOptimizer
    ) -> None:
        self.train = train
        self.evaluation = train if evaluation is None else evaluation
        require_one_point(train, self.evaluation)
        self._z = {name: nn.Parameter(value.clone()) for name, value in train.point.items()}
        self._optimizer = optimizer(list(self._z.values()))

    def __call__(self, derivatives: npt.ArrayLike) -> Floats:
        """Make one step; return what it changed, ``[m, c]``.

        Args:
            derivatives: χ ``[n, c]`` of the loss by each logit, 0 outside the step's batch: for a
                mean over a batch of b, ``residual / b``.

        Raises:
            UserError: another shape.
        """
        chi = torch.as_tensor(derivatives)
        if chi.shape != self.train.logits.shape:
            raise UserError(
                f"derivatives have shape {list(chi.shape)}, the training logits"
                f" {list(self.train.logits.shape)}: give one for each, 0 outside the batch"
            )
        before = {name: value.detach().clone() for name, value in self._z.items()}
        for name, value in self._z.items():
            rows = self.train.gradients[name]
            value.grad = torch.tensordot(chi.to(rows), rows, dims=2)
        self._optimizer.step()
        change = torch.zeros_like(self.evaluation.logits)
        for name, value in self._z.items():
            step = (value.detach() - before[name]).reshape(-1)
            change += self.evaluation.gradients[name].flatten(2) @ step
        found: Floats = change.double().cpu().numpy()
        return found

"""A model of a family at a width, drawn and trained as a parametrization says.

Multipliers n^(-a) are not put into the forward: W itself is trained, with the exponents of
`Exponents.without_multiplier`. That is the same training, step by step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from subkern.errors import UserError, check_choice
from subkern.models.logit_model import LogitModel, named_parameters
from subkern.training.optimizers import make_optimizer
from subkern.width.exponents import PARAMETRIZATIONS, Exponents, exponents
from subkern.width.families import Family, Transformers
from subkern.width.roles import roles

__all__ = ["WideModel", "initialize"]


@dataclass(frozen=True)
class WideModel:
    """A model at one width, and how its parameters learn.

    Attributes:
        model: f at its start.
        parametrization: one of `PARAMETRIZATIONS`.
        scale: n/n₀.
        roles: of every parameter, by its `named_parameters` name.
    """

    model: LogitModel
    parametrization: str
    scale: float
    roles: Mapping[str, str] = field(repr=False)

    def exponents(self, optimizer: str) -> dict[str, Exponents]:
        """What holds for each parameter as it is trained, with a = 0."""
        return {
            name: exponents(self.parametrization, optimizer, role).without_multiplier(optimizer)
            for name, role in self.roles.items()
        }

    def rates(self, optimizer: str) -> dict[str, float]:
        """(n/n₀)^(-c): what each parameter's learning rate is multiplied by."""
        return {n: self.scale**-each.c for n, each in self.exponents(optimizer).items()}

    def optimizer(
        self,
        name: str,
        parameters: Sequence[nn.Parameter],
        learning_rate: float,
        epsilon: float = 1e-8,
    ) -> torch.optim.Optimizer:
        """An optimizer with a group a parameter: rate η (n/n₀)^(-c), epsilon ε (n/n₀)^(-d).

        Args:
            name: ``sgd``, ``signgd`` or ``adam``.
            parameters: what is trained, in the order of `roles`: those of the model, of a
                `MovableModel` of all of them, or of its linearization.
            learning_rate: η, that of the base width.
            epsilon: ε of Adam there.
        """
        groups = [
            {
                "params": [parameter],
                "lr": learning_rate * self.scale**-each.c,
                **({"eps": epsilon * self.scale**-each.d} if name == "adam" else {}),
            }
            for parameter, each in zip(parameters, self.exponents(name).values(), strict=True)
        ]
        return make_optimizer(name, groups, learning_rate, epsilon)


def initialize(family: Family, width: int, parametrization: str, seed: int = 0) -> WideModel:
    """Build and draw the model of `family` at `width`.

    Weights are N(0, σ² (n/n₀)^(-2(a+b))) with the family's σ at its base width n₀, drawn in float64
    parameter by parameter; what is constant there (biases, gains) stays what it is. Under ``mup``
    attention scores are divided by the head size instead of its root.

    Args:
        family: which models.
        width: n.
        parametrization: one of `PARAMETRIZATIONS`.
        seed: of the weights.

    Raises:
        UserError: no such parametrization or width, or the family cannot be widened.
    """
    check_choice("parametrization", parametrization, PARAMETRIZATIONS)
    model, scale = family.build(width), width / family.base
    found = WideModel(model, parametrization, scale, _roles(family))
    spreads, generator = family.spreads(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, each in found.exponents("sgd").items():
            value = named_parameters(model)[name]
            if spread := spreads[name]:
                drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                value.copy_(drawn * (spread * scale**-each.b))
    if parametrization == "mup" and isinstance(family, Transformers):
        _divide_scores(model.module, family.head_size)
    return found


def _roles(family: Family) -> dict[str, str]:
    """Roles at widths n₀ and 2 n₀."""
    return roles(family.build(family.base), family.build(2 * family.base))


def _divide_scores(module: nn.Module, head_size: int) -> None:
    """Divide attention's scores by √d once more, in the factor that its layers hold."""
    layers = [m for m in module.modules() if isinstance(getattr(m, "scaling", None), float)]
    if not layers:
        raise UserError(
            f"{type(module).__name__} holds no factor of its attention scores, which mup divides by"
            " the head size: use ntp or standard"
        )
    for layer in layers:
        layer.scaling = layer.scaling * head_size**-0.5

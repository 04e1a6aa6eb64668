"""A model as a function of the coordinates that are trained: z ↦ f(θ(z), x).

Training, linearization and prediction all move a `MovableModel`, whatever its subspace: every
parameter, some of them, an adapter, or z of θ = θ₀ + P z, where P is made in tiles and never held.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from subkern.errors import UserError
from subkern.models.autograd_mode import check_mode
from subkern.models.copy import shared_copy
from subkern.models.likelihood import composable
from subkern.models.logit_model import Batch, LogitModel, parameter_path
from subkern.projections.displace import displace
from subkern.subspaces.base import Coordinates

if TYPE_CHECKING:
    from subkern.subspaces.base import Subspace

__all__ = ["MovableModel", "SlowSubspaceWarning"]

Z = "z"  # name of a random subspace's coordinates
_MANY = 2e9  # entries of P, drawn anew for every step: from here on each takes many seconds


class SlowSubspaceWarning(UserWarning):
    """A random subspace whose P has so many entries that every step takes long."""


class MovableModel(nn.Module):
    """A copy of `model` in the coordinates of `subspace`; `model` itself is left as it is.

    The copy shares the weights that do not move. Coordinates of a model in half precision are
    float32: steps of 1e-5 would be lost in bfloat16. The function is the same.

    Args:
        model: f at θ₀.
        subspace: which coordinates are trained.
        dropout: whether dropout is on in training mode; off, f is the function of the kernels.
    """

    def __init__(self, model: LogitModel, subspace: Subspace, *, dropout: bool = False) -> None:
        super().__init__()
        check_mode(model)
        attached = subspace.attach(shared_copy(model))
        _warn_if_slow(attached)
        self.subspace = subspace
        self.dropout = dropout
        self.model = attached.model.eval().requires_grad_(False)
        self._attached = attached
        self._names = [Z] if attached.projection else list(attached.parameters)
        values = [v.clone() for v in self._begin().values()]
        self._values = nn.ParameterList(nn.Parameter(v) for v in values)

    def _begin(self) -> dict[str, Tensor]:
        dtype = torch.promote_types(self.model.dtype, torch.float32)
        if (projection := self._attached.projection) is not None:
            return {Z: torch.zeros(projection.dim, dtype=dtype, device=self.model.device)}
        return {n: p.detach().to(dtype) for n, p in self._attached.parameters.items()}

    @property
    def start(self) -> dict[str, Tensor]:
        """z₀: copies nothing that the model still holds, so change nothing in it."""
        return self._begin()

    @property
    def coordinates(self) -> dict[str, nn.Parameter]:
        """What is trained, by name: ``{"z": [dim]}`` of a random subspace, else parameters."""
        return dict(zip(self._names, self._values, strict=True))

    @property
    def attached(self) -> Coordinates:
        """What the subspace gave: the model at θ₀, its trained parameters, P."""
        return self._attached

    @property
    def is_adapter(self) -> bool:
        """Whether what is trained is beside the pre-trained weights: PEFT's own tensors."""
        return self._attached.projection is None and hasattr(self.model.module, "peft_config")

    def train(self, mode: bool = True) -> MovableModel:
        """Training mode; it changes the function only where `dropout` is on."""
        super().train(mode)
        self.model.train(mode and self.dropout)
        return self

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``[b, c]`` at the coordinates' values; differentiable by them."""
        return self._logits(self._theta(self.coordinates), batch)

    def function(self, z: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Logits ``[b, c]`` at `z`, as a function without state: for `torch.func`.

        Attention is computed by its formula, as the fast kernels have no forward-mode derivative.

        Raises:
            UserError: `z` lacks a coordinate, or has one of another name or shape.
        """
        self._check(z)
        with sdpa_kernel(SDPBackend.MATH), composable():
            return self._logits(self._theta(z), batch)

    def along(
        self, z: Mapping[str, Tensor], direction: Mapping[str, Tensor]
    ) -> Callable[[Batch], tuple[Tensor, Tensor]]:
        """`function` at `z` and its derivative along `direction`, ``[b, c]`` each, by forward mode.

        θ(z) and its change are made once for all batches: P of a random subspace is costly.

        Raises:
            UserError: `z` or `direction` lacks a coordinate, or has one of another name or shape.
        """
        self._check(z)
        self._check(direction)
        theta, change = torch.func.jvp(self._theta, (dict(z),), (dict(direction),))[:2]

        def pushed(batch: Batch) -> tuple[Tensor, Tensor]:
            with sdpa_kernel(SDPBackend.MATH), composable():
                found = torch.func.jvp(lambda t: self._logits(t, batch), (theta,), (change,))
            return found[0].detach(), found[1].detach()

        return pushed

    def shift(self) -> dict[str, Tensor]:
        """How far the coordinates have moved, z − z₀, on the CPU."""
        begin = self._begin()
        return {n: (v.detach() - begin[n]).cpu() for n, v in self.coordinates.items()}

    def move(self, shift: Mapping[str, Tensor]) -> MovableModel:
        """Stand at z₀ + `shift`.

        Raises:
            UserError: `shift` lacks a coordinate, or has one of another name or shape.
        """
        self._check(shift)
        with torch.no_grad():
            for name, begin in self._begin().items():
                self.coordinates[name].copy_(begin + shift[name].to(begin))
        return self

    def at_rest(self) -> Callable[[Batch], Tensor]:
        """`forward` where the coordinates stand now, with θ(z) made once for all batches."""
        with torch.no_grad():
            theta = self._theta(self.coordinates)
        return lambda batch: self._logits(theta, batch)

    def tensors(self) -> dict[str, Tensor]:
        """θ(z) by the names of the attached model, detached: what ``subspace.at(…)`` takes."""
        with torch.no_grad():
            return {n: v.detach().clone() for n, v in self._theta(self.coordinates).items()}

    def adapter(self) -> dict[str, Tensor]:
        """`tensors` of an adapter, and the weights under it that its start moved; {} if it is none.

        ``subspace.at(…)`` of both is this function.
        """
        return {**self.tensors(), **self._attached.displaced} if self.is_adapter else {}

    def _logits(self, theta: Mapping[str, Tensor], batch: Batch) -> Tensor:
        values = {parameter_path(n): v for n, v in theta.items()}
        logits: Tensor = torch.func.functional_call(self.model, values, (batch,))
        return logits

    def _theta(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """θ(z) of every parameter that moves."""
        origin = self._attached.parameters
        if (projection := self._attached.projection) is None:
            return {n: z[n].to(p.dtype) for n, p in origin.items()}
        moved = displace(projection, z[Z], list(origin))
        return {
            n: (p + d.view(p.shape)).to(p.dtype)
            for (n, p), d in zip(origin.items(), moved, strict=True)
        }

    def _check(self, z: Mapping[str, Tensor]) -> None:
        mine = self.coordinates
        for name in [*mine, *z]:
            if name not in z or name not in mine:
                where = "the coordinates given lack" if name in mine else "this subspace lacks"
                raise UserError(f"{where} '{name}': was it made for the same model and subspace?")
            if z[name].shape != mine[name].shape:
                raise UserError(
                    f"'{name}' has shape {list(z[name].shape)} and this subspace"
                    f" {list(mine[name].shape)}: was it made for the same model and subspace?"
                )


def _warn_if_slow(attached: Coordinates) -> None:
    """Warn of a dense P with very many entries: it is drawn twice a step."""
    if (projection := attached.projection) is None:
        return
    kind = projection.cell.kind
    entries = projection.dim * sum(p.numel() for p in attached.parameters.values())
    if kind in ("gaussian", "rademacher", "sparse") and entries > _MANY:
        warnings.warn(
            f"every step in random:dim={projection.dim},kind={kind} draws {entries:.1e} random"
            " numbers twice: kind=srht takes none, and preserves kernels as well",
            SlowSubspaceWarning,
            stacklevel=3,
        )

"""The linearized model: f_lin(x; z) = f(x; z₀) + ⟨∇_z f(x; z₀), z − z₀⟩.

Fine-tuning shows kernel behavior only where f_lin at the trained z comes close to the trained f
(Malladi et al., 2023, section 4). J·(z − z₀) is one Jacobian-vector product a batch, by forward
mode where the model's operations have it and else by two backwards, so gradients are never held
and any model in any subspace will do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from subkern.errors import UserError
from subkern.models.logit_model import Batch

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample
    from subkern.subspaces.movable import MovableModel

__all__ = [
    "LinearizedModel",
    "Pushed",
    "initial_logits",
    "linearized_logits",
    "pull",
    "push",
    "pushes",
]

Coordinates = Mapping[str, Tensor]
Floats = npt.NDArray[np.float64]

_NO_FORWARD_MODE = re.compile(r"forward[ -](AD|mode)|\bjvp\b|setup_context", re.IGNORECASE)


class Pushed(NamedTuple):
    """A batch's logits and their derivative along a direction.

    Attributes:
        logits: f(x; z) ``[b, c]``.
        change: J(x; z)·v ``[b, c]``.
        mode: how it was taken: ``forward`` or ``two backwards``.
    """

    logits: Tensor
    change: Tensor
    mode: str


def push(tunable: MovableModel, direction: Coordinates, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits and J·v at the start z₀, each ``[b, c]``: forward mode, or two backwards.

    Args:
        tunable: f and z₀.
        direction: v, a tensor like z₀'s for each of its names.
        batch: b examples.

    Raises:
        UserError: v has other names or shapes than z₀.
    """
    (found,) = pushes(tunable, _start(tunable), direction, [batch])
    return found.logits, found.change


def pushes(
    tunable: MovableModel, z: Coordinates, direction: Coordinates, batches: Iterable[Batch]
) -> Iterator[Pushed]:
    """`push` at any `z`, for many batches: what they share is computed once.

    Args:
        tunable: f.
        z: where the derivative is taken, with names and shapes of z₀.
        direction: v, a tensor like `z`'s for each of its names.
        batches: examples, batch by batch.

    Raises:
        UserError: v has other names or shapes than `z`.
    """
    at = {name: value.detach() for name, value in z.items()}
    v = _like(at, direction)
    forward = tunable.along(at, v)
    for batch in batches:
        try:
            yield Pushed(*forward(batch), "forward")
        except (NotImplementedError, RuntimeError) as error:
            if not _NO_FORWARD_MODE.search(str(error)):
                raise
            yield Pushed(*_push_by_backwards(tunable, at, v, batch), "two backwards")


def _push_by_backwards(
    tunable: MovableModel, start: dict[str, Tensor], v: dict[str, Tensor], batch: Batch
) -> tuple[Tensor, Tensor]:
    """J·v as the derivative by u of ⟨Jᵀu, v⟩, which is linear in u."""
    z = {name: value.clone().requires_grad_() for name, value in start.items()}
    with torch.enable_grad():
        logits = tunable.function(z, batch)
        if not logits.requires_grad:  # nothing depends on z
            return logits.detach(), torch.zeros_like(logits)
        u = torch.zeros_like(logits, requires_grad=True)
        pulled = torch.autograd.grad(
            logits, list(z.values()), u, create_graph=True, allow_unused=True
        )
        pairs = zip(pulled, v.values(), strict=True)
        product = sum((g * each).sum() for g, each in pairs if g is not None)
        (pushed,) = torch.autograd.grad(torch.as_tensor(product), u)
    return logits.detach(), pushed.detach()


def pull(tunable: MovableModel, cotangent: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Jᵀu at the start z₀, by name like z₀, for u ``[b, c]``: one backward."""
    z = {name: value.clone().requires_grad_() for name, value in _start(tunable).items()}
    with torch.enable_grad():
        logits = tunable.function(z, batch)
        if not logits.requires_grad:  # nothing depends on z
            return {name: torch.zeros_like(value) for name, value in z.items()}
        found = torch.autograd.grad(logits, list(z.values()), cotangent, allow_unused=True)
    pairs = zip(z.items(), found, strict=True)
    return {name: torch.zeros_like(value) if g is None else g for (name, value), g in pairs}


def linearized_logits(
    tunable: MovableModel,
    shift: Coordinates,
    examples: Sequence[EncodedExample],
    batch_size: int = 16,
) -> Floats:
    """f_lin ``[n, c]`` at z₀ + `shift`: f(x; z₀) + J(x)·shift, one JVP a batch.

    Args:
        tunable: f and z₀; where it stands now does not matter.
        shift: z_T − z₀ by name, as `MovableModel.shift` gives it.
        examples: n examples.
        batch_size: examples in one forward.

    Raises:
        UserError: `shift` is of another subspace.
    """
    batches = _batches(tunable, examples, batch_size)
    found = pushes(tunable, _start(tunable), shift, batches)
    return _numpy([logits + change for logits, change, _ in found])


def initial_logits(
    tunable: MovableModel, examples: Sequence[EncodedExample], batch_size: int = 16
) -> Floats:
    """f(x; z₀) ``[n, c]``, in the same arithmetic as `linearized_logits`."""
    start = _start(tunable)
    with torch.no_grad():
        return _numpy(
            [tunable.function(start, batch) for batch in _batches(tunable, examples, batch_size)]
        )


class LinearizedModel:
    """f_lin as a model that torch optimizers can train: forward by JVP, backward by VJP at z₀.

    Args:
        tunable: f and z₀; it is not moved.

    Attributes:
        coordinates: z by name, of the linearized model's own; they start at z₀.
    """

    def __init__(self, tunable: MovableModel) -> None:
        self.tunable = tunable
        self.coordinates = {
            name: nn.Parameter(value.clone()) for name, value in _start(tunable).items()
        }

    @property
    def shift(self) -> dict[str, Tensor]:
        """How far the coordinates stand from z₀, by name, detached."""
        start = _start(self.tunable)
        return {name: value.detach() - start[name] for name, value in self.coordinates.items()}

    def __call__(self, batch: Batch) -> Tensor:
        """f_lin ``[b, c]``, differentiable by the coordinates."""
        found: Tensor = _Linear.apply(self.tunable, batch, *self.coordinates.values())
        return found

    def logits(self, examples: Sequence[EncodedExample], batch_size: int = 16) -> Floats:
        """f_lin ``[n, c]`` where the coordinates stand."""
        return linearized_logits(self.tunable, self.shift, examples, batch_size)


class _Linear(torch.autograd.Function):
    """f_lin of a batch as a function of z."""

    @staticmethod
    def forward(ctx: Any, tunable: MovableModel, batch: Batch, *values: Tensor) -> Tensor:
        """f(z₀) + J·(z − z₀)."""
        ctx.tunable, ctx.batch = tunable, batch
        start = _start(tunable)
        pairs = zip(start.items(), values, strict=True)
        return torch.add(*push(tunable, {name: z - z0 for (name, z0), z in pairs}, batch))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        """Jᵀ of the logits' gradient."""
        return (None, None, *pull(ctx.tunable, cotangents[0], ctx.batch).values())


def _start(tunable: MovableModel) -> dict[str, Tensor]:
    """z₀ by name, in tensors that autograd takes as leaves."""
    return {name: value.detach() for name, value in tunable.start.items()}


def _like(start: Coordinates, direction: Coordinates) -> dict[str, Tensor]:
    """`direction` in the names, order, types and places of `start`."""
    if direction.keys() != start.keys():
        odd = sorted(direction.keys() ^ start.keys())
        raise UserError(
            f"the shift and the coordinates differ in {odd[0]} (and {len(odd) - 1} more names):"
            " give the shift of this subspace"
        )
    for name, value in start.items():
        if direction[name].shape != value.shape:
            raise UserError(
                f"the shift of '{name}' has shape {list(direction[name].shape)}, the coordinates"
                f" {list(value.shape)}: give the shift of this subspace"
            )
    return {
        name: direction[name].detach().to(value.device, value.dtype)
        for name, value in start.items()
    }


def _batches(
    tunable: MovableModel, examples: Sequence[EncodedExample], batch_size: int
) -> Iterator[Batch]:
    if batch_size < 1:
        raise UserError(f"batch size {batch_size} is not positive: use 1 or more")
    if not examples:
        raise UserError("there are no examples: give at least one")
    for first in range(0, len(examples), batch_size):
        yield tunable.model.collate(examples[first : first + batch_size])


def _numpy(parts: Sequence[Tensor]) -> Floats:
    found: Floats = torch.cat([part.detach() for part in parts]).cpu().double().numpy()
    return found

"""Training the linearized model itself, by any torch optimizer: exact where a kernel cannot be.

Optimizers that treat coordinates one by one (Adam, SignGD) do not act on f_lin through one kernel:
their update depends on the whole gradient. Here they step the coordinates z of f_lin, from the
model (`train_linearized`) or from gradients that are held in memory (`train_on_jacobian`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor, nn

from subkern.dynamics.linearize import LinearizedModel, initial_logits
from subkern.dynamics.problem import Floats, trajectory
from subkern.errors import UserError
from subkern.prompts.prompt import label_array
from subkern.training.losses import get_loss
from subkern.training.settings import Diverged

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample
    from subkern.subspaces.movable import MovableModel

__all__ = [
    "Jacobian",
    "MakeOptimizer",
    "require_one_point",
    "train_linearized",
    "train_on_jacobian",
]

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
"""From parameters to an optimizer, such as ``functools.partial(torch.optim.Adam, lr=1e-3)``."""


@dataclass(frozen=True)
class Jacobian:
    """Every gradient of every logit of some examples, held in memory.

    Attributes:
        gradients: coordinate name → ∂f/∂z ``[n, c, *shape]``.
        point: coordinate name → z₀ ``[*shape]``.
        logits: f(x; z₀) ``[n, c]``.
        labels: ``[n]``.
        ids: n ids.
    """

    gradients: Mapping[str, Tensor]
    point: Mapping[str, Tensor]
    logits: Tensor
    labels: Tensor
    ids: tuple[str, ...]

    @classmethod
    def of(cls, tunable: MovableModel, examples: Sequence[EncodedExample]) -> Jacobian:
        """All gradients at the start z₀, one backward a logit: for few coordinates or examples."""
        point = {name: value.detach() for name, value in tunable.start.items()}
        z = {name: value.clone().requires_grad_() for name, value in point.items()}
        gradients: dict[str, Tensor] = {}
        logits = []
        for i, example in enumerate(examples):
            found = tunable.function(z, tunable.model.collate([example]))[0]
            logits.append(found.detach())
            if not gradients:  # filled in place: together they may take most of the memory
                shape = (len(examples), len(found))
                gradients = {n: value.new_zeros(*shape, *value.shape) for n, value in point.items()}
            for a, logit in enumerate(found):
                rows = torch.autograd.grad(
                    logit, list(z.values()), retain_graph=a + 1 < len(found), allow_unused=True
                )
                for held, row in zip(gradients.values(), rows, strict=True):
                    if row is not None:
                        held[i, a] = row
        labels = torch.as_tensor(label_array(examples), device=tunable.model.device)
        return cls(gradients, point, torch.stack(logits), labels, tuple(e.id for e in examples))

    def linear(self, coordinates: Mapping[str, Tensor], rows: npt.ArrayLike | slice) -> Tensor:
        """f_lin ``[b, c]`` of the examples `rows` at the coordinates z."""
        at = rows if isinstance(rows, slice) else torch.as_tensor(np.asarray(rows))
        logits = self.logits[at]
        for name, gradient in self.gradients.items():
            shift = (coordinates[name] - self.point[name]).reshape(-1)
            rows = gradient[at]
            logits = logits + rows.reshape(*rows.shape[:2], -1) @ shift
        return logits


def train_linearized(
    tunable: MovableModel,
    train: Sequence[EncodedExample],
    evaluation: Sequence[EncodedExample] | None = None,
    *,
    optimizer: MakeOptimizer,
    batches: Iterable[npt.ArrayLike],
    loss: str = "cross_entropy",
    record: Collection[int] | None = None,
    batch_size: int = 16,
    centered: bool = False,
) -> xr.DataArray:
    """Logits while f_lin is trained by a torch optimizer: a forward and a backward a step.

    Args:
        tunable: f and z₀; it is not moved.
        train: n training examples.
        evaluation: m examples whose logits are followed; None means `train`.
        optimizer: makes the optimizer of z, e.g. ``partial(torch.optim.Adam, lr=1e-4)``.
        batches: positions of each step's training examples.
        loss: ``cross_entropy`` or ``squared``, the mean over the batch.
        record: steps after which logits are taken (each costs a JVP of all m); None takes all.
        batch_size: examples in one JVP.
        centered: train and return f_lin − f₀, which starts at 0.

    Returns:
        Logits ``[s, m, c]``, dims ``step``, ``example``, ``logit``.

    Raises:
        Diverged: the loss is not finite.
        UserError: no examples.
    """
    model = LinearizedModel(tunable)
    followed = train if evaluation is None else evaluation
    labels = torch.as_tensor(label_array(train), device=tunable.model.device)
    criterion = get_loss(loss)

    def start(examples: Sequence[EncodedExample]) -> Floats:
        shape = (len(examples), 1)
        return initial_logits(tunable, examples, batch_size) if centered else np.zeros(shape)

    off, followed_off = start(train), start(followed)

    def batch_loss(rows: npt.NDArray[np.int64]) -> Tensor:
        logits = model(tunable.model.collate([train[i] for i in rows]))
        logits = logits - torch.from_numpy(off[rows]).to(logits)
        return criterion(logits, labels[torch.from_numpy(rows)])

    coordinates = list(model.coordinates.values())
    steps, values = _train(
        optimizer(coordinates),
        batch_loss,
        lambda: model.logits(followed, batch_size) - followed_off,
        batches,
        record,
    )
    return trajectory(values, [e.id for e in followed], "step", steps, loss=loss)


def train_on_jacobian(
    train: Jacobian,
    evaluation: Jacobian | None = None,
    *,
    optimizer: MakeOptimizer,
    batches: Iterable[npt.ArrayLike],
    loss: str = "cross_entropy",
    record: Collection[int] | None = None,
) -> xr.DataArray:
    """The same as `train_linearized` from gradients in memory, without the model.

    Args:
        train: of the training examples.
        evaluation: of the examples whose logits are followed; None means `train`.
        optimizer: makes the optimizer of z.
        batches: positions of each step's training examples.
        loss: ``cross_entropy`` or ``squared``, the mean over the batch.
        record: steps after which logits are taken; None takes all.

    Returns:
        Logits ``[s, m, c]``, dims ``step``, ``example``, ``logit``.

    Raises:
        Diverged: the loss is not finite.
        UserError: the two are of other coordinates, or at another point z₀.
    """
    followed = train if evaluation is None else evaluation
    require_one_point(train, followed)
    z = {name: nn.Parameter(value.clone()) for name, value in train.point.items()}
    criterion = get_loss(loss)

    def batch_loss(rows: npt.NDArray[np.int64]) -> Tensor:
        return criterion(train.linear(z, rows), train.labels[torch.from_numpy(rows)])

    def everything() -> Floats:
        with torch.no_grad():
            found: Floats = followed.linear(z, slice(None)).double().cpu().numpy()
        return found

    made = optimizer(list(z.values()))
    steps, values = _train(made, batch_loss, everything, batches, record)
    return trajectory(values, followed.ids, "step", steps, loss=loss)


def require_one_point(train: Jacobian, followed: Jacobian) -> None:
    """Raise `UserError` unless both are gradients by the same coordinates at the same z₀."""
    if other := sorted(train.point.keys() ^ followed.point.keys()):
        raise UserError(
            f"the gradients are by different coordinates ('{other[0]}' is of one only): take both"
            " from one tunable"
        )
    for name, value in train.point.items():
        if not torch.equal(value, followed.point[name]):
            raise UserError(
                f"the gradients are at different points ('{name}' differs): take both from one"
                " tunable"
            )


def _train(
    optimizer: torch.optim.Optimizer,
    batch_loss: Callable[[npt.NDArray[np.int64]], Tensor],
    everything: Callable[[], Floats],
    batches: Iterable[npt.ArrayLike],
    record: Collection[int] | None,
) -> tuple[list[int], list[Floats]]:
    """Steps at which logits were taken, and those logits."""
    steps: list[int] = []
    values: list[Floats] = []

    def take(step: int) -> None:
        if record is None or step in record:
            steps.append(step)
            values.append(everything())

    take(0)
    for step, batch in enumerate(batches, start=1):
        optimizer.zero_grad()
        found = batch_loss(np.asarray(batch, dtype=np.int64))
        if not torch.isfinite(found):
            raise Diverged(step - 1, float(optimizer.param_groups[0]["lr"]))
        found.backward()
        optimizer.step()
        take(step)
    return steps, values

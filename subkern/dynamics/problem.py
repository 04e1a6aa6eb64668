"""What all ways of predicting training start from: two kernels, labels, initial logits, a loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from subkern.errors import UserError
from subkern.kernels.belonging import Side
from subkern.kernels.kernel import Kernel
from subkern.training.losses import get_loss, residual, targets

__all__ = ["Problem", "trajectory"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Problem:
    """A checked training problem in function space.

    Attributes:
        kernel: training examples with themselves ``[n, c, n, c]``.
        evaluation: training examples with those whose logits are followed ``[n, c, m, c]``.
        labels: of the training examples ``[n]``.
        start: their initial logits ``[n, c]``.
        evaluation_start: the followed ones' ``[m, c]``.
        ids: the followed ones' ids, m of them.
        loss: ``cross_entropy`` or ``squared``, see `subkern.training.losses`.
    """

    kernel: Floats
    evaluation: Floats
    labels: Integers
    start: Floats
    evaluation_start: Floats
    ids: tuple[str, ...]
    loss: str

    @classmethod
    def of(cls, train: Kernel, evaluation: Kernel | None, loss: str) -> Problem:
        """Check two kernels that share their training examples, on the left.

        Args:
            train: of the training examples with themselves, with labels and initial logits.
            evaluation: of the training examples with others; None means `train`.
            loss: which loss is minimized.

        Raises:
            UserError: the kernels do not belong together (other examples, labels, weights, logits,
                rule or subspace: says which), or carry no labels or initial logits.
        """
        get_loss(loss)
        evaluation = train if evaluation is None else evaluation
        if train.left_ids != train.right_ids:
            raise UserError(
                f"the training kernel is of {len(train.left_ids)} examples with"
                f" {len(train.right_ids)} others: give train against train"
            )
        if evaluation.num_logits != train.num_logits:
            raise UserError(
                f"the kernels have {train.num_logits} and {evaluation.num_logits} logits an"
                " example: compute both with the same --logits"
            )
        if mine := Side.of(train, "left", "the training kernel"):
            mine.require_together(Side.of(evaluation, "left", "the evaluation kernel"))
        return cls(
            train.values,
            evaluation.values,
            _known(train.left_labels, "training labels"),
            _known(train.left_logits, "initial logits of the training examples"),
            _known(evaluation.right_logits, "initial logits of the followed examples"),
            evaluation.right_ids,
            loss,
        )

    @classmethod
    def of_sgd(cls, train: Kernel, evaluation: Kernel | None, loss: str, for_what: str) -> Problem:
        """As `of`, for what only the kernel of sgd describes.

        Raises:
            UserError: as for `of`, or the training kernel is of another rule.
        """
        rule = str(train.provenance.get("rule", "sgd"))
        if rule != "sgd" or train.is_asymmetric:
            raise UserError(f"the kernel's rule is {rule}: {for_what} needs a kernel of rule sgd")
        return cls.of(train, evaluation, loss)

    @property
    def targets(self) -> Floats:
        """Targets of the squared loss ``[n, c]``."""
        with_type = targets(torch.from_numpy(self.labels.copy()), self.start.shape[1])
        found: Floats = with_type.double().numpy()
        return found

    def residual(self, logits: Floats, batch: Integers | slice = slice(None)) -> Floats:
        """Derivative ``[b, c]`` of each example's loss by its logits ``[b, c]``."""
        labels = torch.from_numpy(self.labels[batch].copy())
        found: Floats = residual(self.loss, torch.from_numpy(np.array(logits)), labels).numpy()
        return found

    def moved(self, weights: Floats, batch: Integers | slice = slice(None)) -> tuple[Floats, ...]:
        """What gradient steps of `weights` ``[b, c]`` add to the logits, ``[n, c]``, ``[m, c]``.

        ``Σ_ia weights[i, a] K[i, a, j, b]`` over the batch, of both kernels.
        """
        axes = ([0, 1], [0, 1])
        return tuple(
            np.tensordot(weights, kernel[batch], axes) for kernel in (self.kernel, self.evaluation)
        )


def _known(value: Any, what: str) -> Any:
    """The value; UserError if the kernel does not carry it."""
    if value is None:
        raise UserError(
            f"the kernel carries no {what}: compute it with `subkern kernel`, or give Kernel(...)"
            " its labels and logits"
        )
    return value


def trajectory(
    values: Sequence[Floats] | Floats,
    ids: Sequence[str],
    axis: str,
    coordinate: Iterable[float],
    **about: Any,
) -> xr.DataArray:
    """Logits over training ``[s, m, c]`` with dims ``(axis, "example", "logit")`` and `about`."""
    return xr.DataArray(
        np.asarray(values),
        coords={axis: np.asarray(list(coordinate)), "example": list(ids)},
        dims=(axis, "example", "logit"),
        name="logits",
        attrs=about,
    )

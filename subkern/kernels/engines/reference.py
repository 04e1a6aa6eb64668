"""The slow, independent engine: explicit Jacobians by `torch.func`, one example at a time.

No recording, no factors, no batches, no padding: whole gradients and their inner products in
float64. It is what the fast engine is tested against, and what to try when in doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from subkern.errors import UserError
from subkern.gradients.capture import jacobian
from subkern.kernels.request import Request
from subkern.kernels.rules import UpdateRule
from subkern.kernels.sides import Outcome, Sides
from subkern.kernels.tiles import TileStore
from subkern.projections.dense import dense_matrix
from subkern.storage.progress import Progress
from subkern.subspaces.base import Coordinates

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample

SGD = UpdateRule("sgd")
_ROWS_BYTES = 2**30  # Jacobian rows of left examples held at a time


class Reference:
    """As `reference_kernel`; one outcome a rule. Nothing is kept of an unfinished run."""

    def run(self, request: Request, sides: Sides, store: TileStore) -> list[Outcome]:
        """As `Engine.run`."""
        progress, both = request.options.progress, (sides.left, sides.right)
        return [
            Outcome(*reference_kernel(request.coordinates, *both, progress, rule))
            for rule in request.rules
        ]


def reference_kernel(
    coordinates: Coordinates,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample],
    progress: Progress | None = None,
    rule: UpdateRule = SGD,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kernels ``[d, n, c, m, c]`` and initial logits ``[n, c]``, ``[m, c]``, all float64.

    An asymmetric rule has d = 2 kernels: the update on the left, and on the right. Entries are
    taken as they are (``zero_tolerance`` 0): whole gradients do not tell how they came to be.

    Raises:
        UserError: the model holds a custom autograd function that `torch.func` refuses.
    """
    c = coordinates.model.num_logits
    values = np.zeros((rule.directions, len(left), c, len(right), c))
    logits = np.zeros((len(left), c)), np.zeros((len(right), c))
    projection = coordinates.projection
    matrix = None if projection is None else dense_matrix(projection.projections, projection.cell)
    chunk = max(1, _ROWS_BYTES // (8 * c * max(1, coordinates.size)))
    for start in range(0, len(left), chunk):
        held = [_rows(coordinates, e, matrix) for e in left[start : start + chunk]]
        rows = torch.stack([r for r, _ in held])
        logits[0][start : start + chunk] = [f for _, f in held]
        for j, example in enumerate(right):
            other, logits[1][j] = _rows(coordinates, example, matrix)
            for d, (a, b) in enumerate(_updated(rows, other, rule)):
                block = torch.einsum("icp,dp->icd", a, b)
                values[d, start : start + chunk, :, j] = block.cpu().numpy()
            if progress is not None:
                progress(start * len(right) + (j + 1) * len(held), len(left) * len(right))
    return values, *logits


def _updated(left: Tensor, right: Tensor, rule: UpdateRule) -> list[tuple[Tensor, Tensor]]:
    """The pairs of rows whose inner products `rule` asks for."""
    if rule.is_sgd:
        return [(left, right)]
    ours, theirs = (_update(rows, rule) for rows in (left, right))
    return [(ours, right), (left, theirs)] if rule.is_asymmetric else [(ours, theirs)]


def _update(rows: Tensor, rule: UpdateRule) -> Tensor:
    """u(g), written out once more so as not to share a mistake with `rules`."""
    g = rows.cpu().numpy()
    if rule.is_adam:
        moved = g / (np.sqrt(g * g) + rule.epsilon)
    else:
        moved = np.where(g > 0, 1.0, 0.0) - np.where(g < 0, 1.0, 0.0)
    return torch.from_numpy(moved).to(rows.device)


def _rows(
    coordinates: Coordinates, example: EncodedExample, matrix: Tensor | None
) -> tuple[Tensor, np.ndarray]:
    """Jacobian rows ``[c, P]`` (times `matrix`) and logits ``[c]`` of one example, float64."""
    try:
        grads, logits = jacobian(coordinates.model, coordinates.parameters, example)
    except RuntimeError as error:
        if "setup_context" in str(error):
            raise UserError(
                "torch.func cannot differentiate a custom autograd function of this model:"
                " use --engine factors"
            ) from error
        raise
    c = coordinates.model.num_logits
    rows = torch.cat([grads[n].reshape(c, -1).double() for n in coordinates.parameters], dim=1)
    rows = rows if matrix is None else rows @ matrix.to(rows)
    return rows, logits.double().cpu().numpy()

"""What one step of training does to held-out examples: the judge where no label is to be predicted.

Completions and preferences have one logit, whose loss falls as it rises. A step of all training
examples along the negative gradient changes the logit of example j by ``K_j· w``, w = 1/Σn of
completions over n tokens each (1/N of preferences), times the learning rate. That says, to first
order, how the loss of held-out examples falls. A learning rate makes the step of any size, so
kernels are compared at steps that move the training examples equally: RMS of change per token 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from subkern.kernels.kernel import Kernel

__all__ = ["DECREASE", "ONE_STEP", "Step", "decrease", "likeness"]

DECREASE = "decrease"
"""The score: how much held-out loss falls, as a share of what it does by the full kernel."""
ONE_STEP = "one step"
"""What judges, where solvers do elsewhere."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """What a step of one size does.

    Attributes:
        changes: of the held-out logits ``[m]``.
        tokens: how many each logit sums over ``[m]``; 1 of preferences.
    """

    changes: Floats
    tokens: Floats

    @classmethod
    def of(
        cls,
        kernel: Kernel,
        train: Sequence[str],
        held_out: Sequence[str],
        tokens: Mapping[str, int],
    ) -> Step:
        """The step of a kernel of training examples with all.

        Args:
            kernel: ``[n, 1, m, 1]``; its rows are the training examples.
            train: their ids.
            held_out: ids of what is looked at.
            tokens: id → how many tokens its logit sums over.
        """
        weights = 1 / sum(tokens[i] for i in train)

        def moved(ids: Sequence[str]) -> Floats:
            values = kernel.select(right=list(ids)).values[:, 0, :, 0]
            return np.asarray(values.sum(0) * weights, dtype=np.float64)

        counts = np.array([tokens[i] for i in train], dtype=np.float64)
        size = float(np.sqrt(np.mean((moved(train) / counts) ** 2)))
        changes = moved(held_out)
        return cls(
            changes / size if size > 0 else changes,
            np.array([tokens[i] for i in held_out], dtype=np.float64),
        )


def decrease(changes: Floats, reference: Floats, tokens: Floats) -> float:
    """How much held-out loss falls, as a share of what it does by the reference's step.

    Of completions it is the change of the log-likelihood per token, so that all are divided by the
    same number of tokens, and it cancels; NaN where the reference's does not change.
    """
    whole = float(reference.sum())
    return float(changes.sum()) / whole if whole else float("nan")


def likeness(reference: Floats, changes: Floats) -> float:
    """Cosine of two steps' changes per token ``[m]``: 1 where every example moves in proportion."""
    size = float(np.linalg.norm(reference) * np.linalg.norm(changes))
    return float(reference @ changes) / size if size else float("nan")

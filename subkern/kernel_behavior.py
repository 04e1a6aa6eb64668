"""Does fine-tuning show kernel behavior? Linearization, fixed features, and the verdict.

Malladi et al. (2023, section 4) ask three things: does the kernel of the pretrained model solve the
task, does the linearization at z₀ keep what training gained, and are the features, seen through
the kernel, the same after training as before? `judge` answers from thresholds that are parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from subkern.agreement import agreement_table, prediction_agreement, score_predictions
from subkern.agreement.predictions import Score
from subkern.errors import UserError
from subkern.kernels.belonging import READING, Side
from subkern.kernels.compute import compute_kernel
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import RunOptions
from subkern.kernels.rules import UpdateRule
from subkern.solvers import labels_from_scores
from subkern.subspaces.base import HasCheckpoint, Subspace
from subkern.subspaces.movable import MovableModel
from subkern.subspaces.random import RandomSubspace
from subkern.subspaces.text import as_subspace
from subkern.thresholds import Thresholds

if TYPE_CHECKING:
    from subkern.models.logit_model import LogitModel
    from subkern.prompts.prompt import EncodedExample

_SLACK = 1e-9  # 0.52 − 0.50 is two points, whatever binary fractions make of it

__all__ = [
    "Evidence",
    "Linearization",
    "Thresholds",
    "Verdict",
    "compare_linearized",
    "feature_change",
    "judge",
    "kernels_over_training",
    "share_of_gain",
    "subspace_at",
]

Behavior = Literal["yes", "partly", "no", "undecided"]
Shift = Mapping[str, Tensor]


@dataclass(frozen=True)
class Linearization:
    """How much of training its linearization at the start keeps.

    Attributes:
        zero_shot, linearized, trained: score of f(z₀), f_lin(z_T) and f(z_T), 0 to 1.
        distance: ‖f_lin(z_T) − f(z_T)‖ / ‖f(z_T) − f(z₀)‖ over all examples and logits: 0 where
            training is linear, 1 for what f(z₀) would get; NaN where no logit moved.
        same_predictions: share of examples that f_lin and f label alike.
    """

    zero_shot: float
    linearized: float
    trained: float
    distance: float
    same_predictions: float

    @property
    def recovered(self) -> float:
        """Share (f_lin − f₀)/(f_T − f₀) of the gain in score; NaN where there is no gain."""
        return share_of_gain(self.zero_shot, self.linearized, self.trained)


def share_of_gain(start: float, value: float, end: float) -> float:
    """(value − start)/(end − start), NaN unless end is above start."""
    return (value - start) / (end - start) if end > start else math.nan


def compare_linearized(
    start: npt.ArrayLike,
    linearized: npt.ArrayLike,
    trained: npt.ArrayLike,
    labels: npt.ArrayLike,
    metric: Score = "accuracy",
) -> Linearization:
    """Compare f_lin at the end of training with the trained f.

    Args:
        start: logits f(x; z₀) ``[n, c]``.
        linearized: f_lin(x; z_T) ``[n, c]``, from `subkern.dynamics.linearize.linearized_logits`.
        trained: f(x; z_T) ``[n, c]``.
        labels: ``[n]``.
        metric: ``accuracy`` or ``f1``.

    Raises:
        UserError: the shapes differ.
    """
    f0, lin, f = (np.asarray(each, dtype=np.float64) for each in (start, linearized, trained))
    if not f0.shape == lin.shape == f.shape:
        raise UserError(
            f"logits have shapes {list(f0.shape)}, {list(lin.shape)} and {list(f.shape)}: give"
            " those of the same examples"
        )
    moved = float(np.linalg.norm(f - f0))
    guesses = [labels_from_scores(each) for each in (f0, lin, f)]
    zero_shot, linear, final = (score_predictions(labels, guess, metric) for guess in guesses)
    return Linearization(
        zero_shot,
        linear,
        final,
        float(np.linalg.norm(lin - f)) / moved if moved > 0 else math.nan,
        prediction_agreement(guesses[2], guesses[1]),
    )


def subspace_at(model: LogitModel, subspace: Subspace | str, shift: Shift) -> Subspace:
    """`subspace` with its coordinates at z₀ + `shift`: its kernel is that of the trained model.

    Raises:
        UserError: the shift is of another subspace, or the subspace cannot be moved.
    """
    chosen = as_subspace(subspace)
    if not isinstance(chosen, HasCheckpoint | RandomSubspace):
        raise UserError(f"{chosen} stands nowhere but where it is: give the subspace it is around")
    movable: HasCheckpoint | RandomSubspace = chosen
    return movable.at(MovableModel(model, chosen).move(shift).tensors())


def kernels_over_training(
    model: LogitModel,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample] | None = None,
    *,
    subspace: Subspace | str,
    shifts: Mapping[int, Shift],
    rule: UpdateRule | str = "sgd",
    options: RunOptions | None = None,
) -> Iterator[tuple[int, Kernel]]:
    """The kernel at each of some steps of training, in order.

    Args:
        model: f at its start.
        left: n examples (rows).
        right: m examples (columns); None means `left`.
        subspace: what was trained.
        shifts: step → z − z₀ there, as training kept them.
        rule: an `UpdateRule` or its one-line form.
        options: batch size, memory, progress.

    Raises:
        UserError: as `subspace_at` and `compute_kernel` do.
    """
    for step in sorted(shifts):
        at = subspace_at(model, subspace, shifts[step])
        yield step, compute_kernel(model, left, right, rule=rule, subspace=at, options=options)


def feature_change(start: Kernel, now: Kernel, *, resamples: int = 0) -> pd.DataFrame:
    """Every agreement metric of the kernel now with that at the start: raw, scaled, centred.

    Args:
        start: kernel at z₀.
        now: kernel of the same examples at a later z.
        resamples: bootstrap resamples of the intervals; 0 leaves them out.

    Returns:
        `subkern.agreement.agreement_table`, and ``unchanged``: whether the value is exactly what
        the start scores against itself.

    Raises:
        UserError: the kernels are of other examples, or differ in rule, readout or prompt.
    """
    if mine := Side.of(start, "left", "the kernel at the start"):
        mine.require_made_alike(Side.of(now, "left", "the later kernel"), READING)
    table = agreement_table(start, now, n_resamples=resamples)
    same = (table["value"] == table["reference"]) | (
        table["value"].isna() & table["reference"].isna()
    )
    return table.assign(unchanged=same)


@dataclass(frozen=True)
class Evidence:
    """What was measured on the test examples of one task.

    Attributes:
        zero_shot, kernel, linearized, trained: scores of f(z₀), of a classifier on the kernel, of
            f_lin(z_T) and of f(z_T), 0 to 1.
        cka: of the kernel after training with that before.
        relative_change: ‖K_T − K₀‖/‖K₀‖.
    """

    zero_shot: float
    kernel: float
    linearized: float
    trained: float
    cka: float
    relative_change: float


@dataclass(frozen=True)
class Verdict:
    """Whether a task shows kernel behavior, and by which signs.

    Attributes:
        behavior: ``yes`` (all three signs), ``partly`` (some), ``no`` (none), or ``undecided``:
            training gained too little to tell.
        solves, linear, fixed: whether the kernel solves the task, linearization keeps the gain,
            and the features stay; the first two are None where undecided.
        gain: what training gained over zero-shot, a difference of scores.
        kernel_share, recovered: what share of it the kernel and f_lin reach; NaN where undecided.
        evidence: what was measured.
        asked: what was asked for.
    """

    behavior: Behavior
    solves: bool | None
    linear: bool | None
    fixed: bool
    gain: float
    kernel_share: float
    recovered: float
    evidence: Evidence
    asked: Thresholds

    def __str__(self) -> str:
        """``kernel behavior: yes``."""
        return f"kernel behavior: {self.behavior}"


def judge(evidence: Evidence, thresholds: Thresholds | None = None) -> Verdict:
    """Return the verdict on one task from what was measured."""
    asked = thresholds or Thresholds()
    fixed = _reaches(evidence.cka, asked.cka) and _reaches(
        asked.relative_change, evidence.relative_change
    )
    gain = evidence.trained - evidence.zero_shot
    if not (gain > _SLACK and _reaches(gain, asked.min_gain)):
        return Verdict("undecided", None, None, fixed, gain, math.nan, math.nan, evidence, asked)
    share, recovered = (
        share_of_gain(evidence.zero_shot, value, evidence.trained)
        for value in (evidence.kernel, evidence.linearized)
    )
    solves, linear = _reaches(share, asked.kernel_share), _reaches(recovered, asked.recovered)
    found = sum((solves, linear, fixed))
    behavior: Behavior = "yes" if found == 3 else "partly" if found else "no"
    return Verdict(behavior, solves, linear, fixed, gain, share, recovered, evidence, asked)


def _reaches(value: float, limit: float) -> bool:
    return value >= limit - _SLACK

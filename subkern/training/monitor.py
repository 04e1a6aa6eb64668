"""What a training run leaves behind: logits at chosen steps, scores on dev, and its best step.

A `Trajectory` is all that a run has to remember besides coordinates and optimizer, so it can be
stored with them at any step and go on from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from subkern.agreement.predictions import Score, predicted, score_predictions
from subkern.models.batches import token_batches
from subkern.prompts.prompt import label_array
from subkern.subspaces.movable import MovableModel
from subkern.training.losses import get_loss
from subkern.training.settings import Diverged, Training

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample

__all__ = ["RunMonitor", "Splits", "Trajectory", "labels_of", "logits_of", "score"]

Splits = Mapping[str, "Sequence[EncodedExample]"]
"""Split name → examples: ``train``, and ``dev``, ``test`` where there are."""

_TOKENS = 4096  # of a batch that is only evaluated


def logits_of(
    tunable: MovableModel, examples: Sequence[EncodedExample], tokens: int = _TOKENS
) -> np.ndarray:
    """Logits ``[n, c]``, float64, where the coordinates stand; dropout off.

    Examples of like length run together, at most `tokens` of them in a batch.
    """
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].input_ids))
    out = np.zeros((len(examples), tunable.model.num_logits))
    was = tunable.training
    with torch.no_grad():
        function = tunable.eval().at_rest()
        for picks in token_batches([len(examples[i].input_ids) for i in order], tokens):
            at = order[picks]
            batch = tunable.model.collate([examples[i] for i in at])
            out[at] = function(batch).double().cpu().numpy()
    tunable.train(was)
    return out


def labels_of(examples: Sequence[EncodedExample]) -> np.ndarray:
    """Labels ``[n]``, int64, or float64 where they are real numbers."""
    return label_array(examples)


def score(logits: np.ndarray, labels: np.ndarray, metric: Score) -> float:
    """Accuracy or F1 of logits ``[n, c]``; of completions their log-likelihood per token.

    Of real labels what `score_predictions` has for them, on the one logit.
    """
    if metric == "log_likelihood":
        return float(logits.sum() / labels.sum())
    return score_predictions(labels, predicted(logits, labels), metric)


@dataclass
class Trajectory:
    """Attributes.

    steps: at which `logits` were kept, ascending.
    logits: split → ``[n, c]`` for each of `steps`.
    losses: mean loss of every update's batch.
    looks: (step, loss on dev, score on dev) of every look at dev.
    best_step: the best on dev (highest score, then lowest loss, then earliest); the last step
        without a dev split.
    best_shift: z − z₀ there.
    kept: step → z − z₀ at the steps of ``keep_steps``.
    """

    steps: list[int] = field(default_factory=list)
    logits: dict[str, list[np.ndarray]] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    looks: list[tuple[int, float, float]] = field(default_factory=list)
    best_step: int = 0
    best_shift: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)


class RunMonitor:
    """Looks at a run after its steps and writes down what `training` asks for.

    Args:
        tunable: what is trained.
        splits: examples by split; ``dev`` decides the best step.
        training: which steps to keep.
        metric: of the scores on dev.
        trajectory: what an interrupted run has recorded.
    """

    def __init__(
        self,
        tunable: MovableModel,
        splits: Splits,
        training: Training,
        metric: Score,
        trajectory: Trajectory | None = None,
    ) -> None:
        self.tunable, self.training, self.metric = tunable, training, metric
        self.splits = splits
        self.trajectory = trajectory or Trajectory()
        rare = () if training.log_steps is not None else ("test",)
        self.logged = [name for name in splits if name not in rare]

    def begin(self) -> None:
        """Look at the model before its first update."""
        if not self.trajectory.steps:
            self._look(0)

    def after(self, step: int, loss: float) -> None:
        """Look at the model after update `step`, which started at `loss`.

        Raises:
            Diverged: logits that are not finite.
        """
        self.trajectory.losses.append(loss)
        self._look(step)

    def _look(self, step: int) -> None:
        training, seen = self.training, self.trajectory
        logs, judges = step in training.logged_steps, self._judges(step)
        found = {name: self._logits(name, step) for name in self.logged if logs}
        if logs:
            seen.steps.append(step)
            for name, logits in found.items():
                seen.logits.setdefault(name, []).append(logits)
        if judges and "dev" in self.splits:
            dev = found["dev"] if "dev" in found else self._logits("dev", step)
            self._judge(step, dev)
        elif judges and step == training.steps:
            if not found:
                self._logits("train", step)  # refuses what is not finite
            seen.best_step, seen.best_shift = step, self.tunable.shift()
        if step in training.keep_steps:
            seen.kept[step] = self.tunable.shift()

    def _judges(self, step: int) -> bool:
        """Whether this step may be the best: the start may only where nothing else can."""
        return step in self.training.eval_steps and (step > 0 or self.training.steps == 0)

    def _logits(self, split: str, step: int) -> np.ndarray:
        logits = logits_of(self.tunable, self.splits[split])
        if not np.isfinite(logits).all():
            raise Diverged(step, self.training.learning_rate)
        return logits

    def _judge(self, step: int, logits: np.ndarray) -> None:
        labels = labels_of(self.splits["dev"])
        loss = get_loss(self.training.loss)(torch.from_numpy(logits), torch.from_numpy(labels))
        look = (step, float(loss), score(logits, labels, self.metric))
        best = max(self.trajectory.looks, key=_rank, default=None)
        self.trajectory.looks.append(look)
        if best is None or _rank(look) > _rank(best):
            self.trajectory.best_step = step
            self.trajectory.best_shift = self.tunable.shift()


def _rank(look: tuple[int, float, float]) -> tuple[float, float, int]:
    step, loss, value = look
    return value, -loss, -step

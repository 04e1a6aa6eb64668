"""One classifier, solved on a training kernel and scored on an evaluation kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from subkern.agreement.predictions import Score, score_predictions
from subkern.errors import UserError
from subkern.kernel import Kernel
from subkern.solvers.base import KernelSolver, labels_from_scores
from subkern.solvers.registry import make_solver
from subkern.solvers.selection import select

__all__ = ["evaluate"]


def evaluate(
    solver: str,
    train: Kernel,
    evaluation: Kernel,
    dev: Kernel | None = None,
    *,
    f0_scales: Sequence[float | None] | None = None,
    metric: Score = "accuracy",
) -> dict[str, Any]:
    """Solve on ``train`` and score on ``evaluation``; what ``subkern solve`` prints.

    Initial logits are used where both kernels carry them. Without ``dev`` there is one f0 scale
    (1 by default); with it, the best of ``f0_scales`` on dev is taken.

    Returns:
        Solver, chosen regularisation and f0 scale, scores on train, dev and evaluation, the
        zero-shot score (None without initial logits), and numbers of examples.

    Raises:
        UserError: kernels of different training examples, unknown labels, several scales without
            dev, or what the solver refuses.
    """
    others = [k for k in (dev, evaluation) if k is not None]
    for kernel in others:
        if kernel.left_ids != train.left_ids:
            raise UserError(
                f"the kernels' training examples differ ({train.left_ids[0]} … and"
                f" {kernel.left_ids[0]} …, {len(train.left_ids)} and {len(kernel.left_ids)}):"
                " EVAL needs TRAIN's examples as its rows"
            )
    known = all(k.right_logits is not None for k in [train, *others])
    scales = tuple(f0_scales or ((1.0,) if known else (None,)))
    if not known and any(scale is not None for scale in scales):
        raise UserError("a kernel carries no initial logits: use --f0-scales none")
    if dev is None and len(scales) > 1:
        raise UserError(f"{len(scales)} f0 scales to choose from and no dev kernel: give --dev")
    fitted, dev_score = _fit(solver, train, dev, scales, metric)
    f0 = evaluation.right_logits
    labels = evaluation.right_labels
    zero_shot = (
        score_predictions(labels, labels_from_scores(f0), metric)
        if f0 is not None and labels is not None
        else None
    )
    return {
        "solver": solver,
        "regularization": getattr(fitted, "regularization_", None),
        "f0 scale": fitted.f0_scale,
        "train examples": train.shape[0],
        "eval examples": evaluation.shape[2],
        f"train {metric}": fitted.score(train, f0=_f0(fitted, train), metric=metric),
        f"dev {metric}": dev_score,
        f"eval {metric}": fitted.score(evaluation, f0=_f0(fitted, evaluation), metric=metric),
        f"zero-shot {metric}": zero_shot,
    }


def _fit(
    name: str,
    train: Kernel,
    dev: Kernel | None,
    scales: Sequence[float | None],
    metric: Score,
) -> tuple[KernelSolver, float | None]:
    solver = make_solver(name, f0_scale=scales[0])
    if dev is None:
        return solver.fit(train, f0=_f0(solver, train)), None
    logits = (train.right_logits, dev.right_logits) if scales != (None,) else (None, None)
    chosen = select(
        solver, {"f0_scale": scales}, train, dev, f0=logits[0], dev_f0=logits[1], metric=metric
    )
    return chosen.solver, chosen.dev_score


def _f0(solver: KernelSolver, kernel: Kernel) -> Any:
    return kernel.right_logits if solver.f0_scale is not None else None

"""One classifier, solved on a training kernel and scored on an evaluation kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from subkern.agreement.predictions import REAL, Score, predicted, score_predictions
from subkern.errors import UserError
from subkern.kernels.belonging import Side
from subkern.kernels.kernel import Kernel
from subkern.solvers.base import KernelSolver
from subkern.solvers.directions import reverse_of
from subkern.solvers.grids import GRIDS, default_grid
from subkern.solvers.registry import make_solver
from subkern.solvers.selection import check_grid, select

__all__ = ["evaluate"]

Grid = Mapping[str, Sequence[Any]]


def evaluate(
    solver: str,
    train: Kernel,
    evaluation: Kernel,
    dev: Kernel | None = None,
    *,
    f0_scales: Sequence[float | None] | None = None,
    grid: Grid | Literal["default"] | None = None,
    metric: Score | None = None,
) -> dict[str, Any]:
    """Solve on ``train`` and score on ``evaluation``; what ``subkern solve`` prints.

    Initial logits are used where both kernels carry them. The best on ``dev`` of the ``f0_scales``
    (1 by default) and of ``grid`` is taken, parameters of the solver to values, or ``"default"``
    for `subkern.solvers.default_grid`; without ``dev`` there may be one value of each. What is in
    neither, the solver chooses by itself, or has a default for.

    The metric is accuracy unless it is given, of real labels Pearson's correlation, beside which
    stand Spearman's and the root mean squared error (RMSE) on the evaluation examples, that in the
    units that the labels have in their file.

    Returns:
        Solver, chosen regularization, other searched parameters and f0 scale, scores on train, dev
        and evaluation, the zero-shot score (None without initial logits), and numbers of examples.

    Raises:
        UserError: kernels of different training examples, labels, weights, readouts, rules or
            subspaces (says which), unknown labels, several values without dev, or what the solver
            refuses.
    """
    named = {"dev": dev, "evaluation": evaluation}
    for name, kernel in named.items():  # before anything is fitted
        if mine := Side.of(train, "left", "the training kernel"):
            mine.require_together(Side.of(kernel, "left", f"the {name} kernel"))
    labels = evaluation.right_labels
    real = train.left_labels is not None and train.left_labels.dtype.kind == "f"
    metric = metric or ("pearson" if real else "accuracy")
    if real is not (metric in REAL):
        fitting = ", ".join(REAL) if real else "accuracy, f1"
        raise UserError(f"metric '{metric}' is not of {'real ' * real}labels here: use {fitting}")
    others = [k for k in named.values() if k is not None]
    known = all(k.right_logits is not None for k in [train, *others])
    points = _grid(solver, grid, f0_scales, known, dev)
    fitted, dev_score = _fit(make_solver(solver), train, dev, points, metric)
    f0 = evaluation.right_logits
    zero_shot = (
        score_predictions(labels, predicted(f0, labels), metric)
        if f0 is not None and labels is not None
        else None
    )
    return {
        "solver": solver,
        "regularization": getattr(fitted, "regularization_", None),
        **_settings(fitted, {*GRIDS[solver], *points}),
        "f0 scale": fitted.f0_scale,
        "train examples": train.shape[0],
        "eval examples": evaluation.shape[2],
        f"train {metric}": fitted.score(train, f0=train.right_logits, metric=metric),
        f"dev {metric}": dev_score,
        f"eval {metric}": fitted.score(evaluation, f0=evaluation.right_logits, metric=metric),
        f"zero-shot {metric}": zero_shot,
        **(_of_real(fitted, evaluation) if real else {}),
    }


def _of_real(fitted: KernelSolver, kernel: Kernel) -> dict[str, Any]:
    """Return what else is said of predictions of real labels."""
    found = fitted.predict(kernel, kernel.right_logits)
    labels = np.asarray(kernel.right_labels)
    prompt = kernel.provenance.get("model", {}).get("prompt", {})
    rmse = float(np.sqrt(np.mean((found - labels) ** 2))) * float(prompt.get("spread", 1.0))
    return {"eval spearman": score_predictions(labels, found, "spearman"), "eval RMSE": rmse}


def _grid(
    name: str,
    grid: Grid | Literal["default"] | None,
    f0_scales: Sequence[float | None] | None,
    known: bool,
    dev: Kernel | None,
) -> dict[str, Sequence[Any]]:
    """Return what to choose from, the f0 scale included; ``known``: there are initial logits."""
    points: dict[str, Sequence[Any]] = {"f0_scale": (1.0,) if known else (None,)}
    if grid == "default":
        reverse = dev is not None and reverse_of(dev) is not None
        grid = default_grid(name, f0=known, reverse=reverse)
    points.update(grid or {})
    if f0_scales:
        points["f0_scale"] = tuple(f0_scales)
    if not known and any(scale is not None for scale in points["f0_scale"]):
        raise UserError("a kernel carries no initial logits: use --f0-scales none")
    for parameter, values in points.items():
        if dev is None and len(values) > 1:
            what = "f0 scales" if parameter == "f0_scale" else f"values of {parameter}"
            raise UserError(f"{len(values)} {what} to choose from and no dev kernel: give --dev")
    return points


def _fit(
    solver: KernelSolver,
    train: Kernel,
    dev: Kernel | None,
    points: Mapping[str, Sequence[Any]],
    metric: Score,
) -> tuple[KernelSolver, float | None]:
    """Return the solver fitted at the best point on dev, or at the only one, and its dev score."""
    if dev is None:
        check_grid(solver, points)
        solver.set_params(**{name: values[0] for name, values in points.items()})
        return solver.fit(train, f0=train.right_logits), None
    logits = (train.right_logits, dev.right_logits)
    if any(each is None for each in logits):
        logits = (None, None)
    chosen = select(solver, points, train, dev, f0=logits[0], dev_f0=logits[1], metric=metric)
    return chosen.solver, chosen.dev_score


def _settings(fitted: KernelSolver, names: set[str]) -> dict[str, Any]:
    """Return the solver's own parameters, as they were chosen."""
    params = fitted.get_params()
    return {
        name: getattr(fitted, f"{name}_", params[name])
        for name in sorted(names - {"regularization", "f0_scale"})
    }

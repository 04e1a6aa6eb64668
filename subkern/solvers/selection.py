"""Choosing a solver's parameters on dev, to be reported on test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid

from subkern.agreement.blocks import KernelLike
from subkern.agreement.predictions import Score
from subkern.errors import UserError
from subkern.solvers.base import KernelSolver

__all__ = ["Selection", "check_grid", "select"]


@dataclass(frozen=True)
class Selection:
    """The parameters that did best on dev."""

    solver: KernelSolver
    """Fitted on train; call its ``score`` on test."""
    params: dict[str, Any]
    """The chosen point of the grid."""
    dev_score: float
    """Its score on dev: optimistic, being the best of many. Report that on test."""
    candidates: tuple[dict[str, Any], ...]
    """Every point of the grid with its ``dev_score``."""


def select(
    solver: KernelSolver,
    grid: Mapping[str, Sequence[Any]],
    train_kernel: KernelLike,
    dev_kernel: KernelLike,
    *,
    y: ArrayLike | None = None,
    dev_y: ArrayLike | None = None,
    f0: ArrayLike | None = None,
    dev_f0: ArrayLike | None = None,
    dev_reverse: KernelLike | None = None,
    metric: Score = "accuracy",
) -> Selection:
    """Fit a copy of ``solver`` for every point of ``grid`` on train and keep the one that scores
    best on dev.

    ``grid`` maps parameters to values, for instance ``{"regularization": (0.01, 0.1, 1),
    "f0_scale": (None, 1, 10)}``; None for ``f0_scale`` ignores f0. Kernels are ``[n, c, n, c]`` and
    ``[n, c, m, c]`` (train on the left), labels default to theirs. `subkern.solvers.default_grid`
    has a grid for every registered solver. ``dev_reverse`` ``[n, c, m, c]`` is the second direction
    of an asymmetric dev kernel, where the kernel does not bring it. Ties, frequent on small dev
    sets, go to the more regularized: the larger ``regularization`` (chosen by the solver itself,
    where it is None), then the larger ``f0_scale`` with None above all, then the first.

    Raises `UserError` on a parameter that the solver does not have, an empty grid, or a grid of
    ``f0_scale`` without f0.
    """
    check_grid(solver, grid)
    if f0 is None and any(scale is not None for scale in grid.get("f0_scale", ())):
        raise UserError(
            "f0_scale is searched but there is no f0: give f0 and dev_f0 (a Kernel has left_logits)"
        )
    fitted: list[KernelSolver] = []
    candidates: list[dict[str, Any]] = []
    for point in ParameterGrid(dict(grid)):
        fitted.append(clone(solver).set_params(**point).fit(train_kernel, y, f0))
        score = fitted[-1].score(dev_kernel, dev_y, dev_f0, metric, dev_reverse)
        candidates.append({**point, "dev_score": score})
    ranks = [
        (point["dev_score"], *_strength(one), -position)
        for position, (one, point) in enumerate(zip(fitted, candidates, strict=True))
    ]
    best = ranks.index(max(ranks))
    params = {name: value for name, value in candidates[best].items() if name != "dev_score"}
    return Selection(fitted[best], params, candidates[best]["dev_score"], tuple(candidates))


def check_grid(solver: KernelSolver, grid: Mapping[str, Sequence[Any]]) -> None:
    """Raise `UserError` on a parameter that the solver does not have, one without values, or a
    value of a kind that it never takes.
    """
    unknown = sorted(set(grid) - set(solver.get_params()))
    if unknown:
        known = ", ".join(sorted(solver.get_params()))
        raise UserError(f"{type(solver).__name__} has no parameter {unknown[0]!r}: it has {known}")
    empty = [name for name, values in grid.items() if not len(values)]
    if empty:
        raise UserError(
            f"the grid of {empty[0]!r} has no values: give at least one, or leave it out"
        )
    for name, values in grid.items():
        for value in values:
            _check_kind(solver, name, value)


def _check_kind(solver: KernelSolver, name: str, value: Any) -> None:
    """Raise `UserError` on a word or None where the parameter is a number, or a part of one where
    it is whole.
    """
    given = solver.get_params()[name]
    declared = str(signature(type(solver)).parameters[name].annotation)
    word = isinstance(value, str) and not isinstance(given, str)
    whole = declared == "int"
    if word or (value is None and "None" not in declared) or (whole and isinstance(value, float)):
        raise UserError(
            f"{type(solver).__name__} takes no {name}={value!r}: give "
            f"{'whole ' if whole else ''}numbers"
        )


def _strength(solver: KernelSolver) -> tuple[float, float]:
    """Return how regularized a fitted solver is: its own regularization, then how little it leans
    on f0.
    """
    regularization = getattr(solver, "regularization_", getattr(solver, "regularization", 0.0))
    return float(regularization), float("inf") if solver.f0_scale is None else float(
        solver.f0_scale
    )

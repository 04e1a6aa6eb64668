"""Classifiers on precomputed kernels, as scikit-learn estimators.

::

    from subkern.solvers import RidgeSolver, select

    solver = RidgeSolver().fit(train_kernel, y)          # [n, c, n, c] or [n, n]
    solver.predict(test_kernel)                          # [n, c, m, c]: train on the left
    select(RidgeSolver(), {"f0_scale": (None, 1, 10)}, train_kernel, dev_kernel, f0=f0,
    dev_f0=dev_f0)
"""

from __future__ import annotations

from subkern.agreement.predictions import score_predictions
from subkern.solvers.base import KernelSolver, labels_from_scores
from subkern.solvers.evaluate import evaluate
from subkern.solvers.logistic import LogisticSolver
from subkern.solvers.paper import LstsqSolver, RowLogisticSolver
from subkern.solvers.registry import SOLVERS, make_solver
from subkern.solvers.ridge import RidgeSolver
from subkern.solvers.selection import Selection, select
from subkern.solvers.spectral import DEFAULT_GRID
from subkern.solvers.svc import SVCSolver, reduce_logits

__all__ = [
    "DEFAULT_GRID",
    "SOLVERS",
    "KernelSolver",
    "LogisticSolver",
    "LstsqSolver",
    "RidgeSolver",
    "RowLogisticSolver",
    "SVCSolver",
    "Selection",
    "evaluate",
    "labels_from_scores",
    "make_solver",
    "reduce_logits",
    "score_predictions",
    "select",
]

"""Classifiers on precomputed kernels, as scikit-learn estimators.

::

    from subkern.solvers import RidgeSolver, select

    solver = RidgeSolver().fit(train_kernel, y)          # [n, c, n, c] or [n, n]
    solver.predict(test_kernel)                          # [n, c, m, c]: train on the left
    select(RidgeSolver(), {"f0_scale": (None, 1, 10)}, train_kernel, dev_kernel, f0=f0,
    dev_f0=dev_f0)
"""

from __future__ import annotations

from subkern.agreement.predictions import labels_from_scores, score_predictions
from subkern.solvers.asymmetric import AsymmetricLSSVMSolver
from subkern.solvers.base import KernelSolver
from subkern.solvers.direct import AsymmetricRidgeSolver
from subkern.solvers.evaluate import evaluate
from subkern.solvers.grids import F0_SCALES, GRIDS, default_grid, parse_grid, parse_scales
from subkern.solvers.logistic import LogisticSolver
from subkern.solvers.paper_recipe import LstsqSolver, RowLogisticSolver
from subkern.solvers.registry import SOLVERS, make_solver
from subkern.solvers.ridge import RidgeSolver
from subkern.solvers.selection import Selection, select
from subkern.solvers.spectral import DEFAULT_GRID
from subkern.solvers.svc import SVCSolver, reduce_logits
from subkern.solvers.svr import SVRSolver

__all__ = [
    "DEFAULT_GRID",
    "F0_SCALES",
    "GRIDS",
    "SOLVERS",
    "AsymmetricLSSVMSolver",
    "AsymmetricRidgeSolver",
    "KernelSolver",
    "LogisticSolver",
    "LstsqSolver",
    "RidgeSolver",
    "RowLogisticSolver",
    "SVCSolver",
    "SVRSolver",
    "Selection",
    "default_grid",
    "evaluate",
    "labels_from_scores",
    "make_solver",
    "parse_grid",
    "parse_scales",
    "reduce_logits",
    "score_predictions",
    "select",
]

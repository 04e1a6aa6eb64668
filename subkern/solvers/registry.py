"""Solvers by name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from inspect import signature
from types import MappingProxyType
from typing import Any

from subkern.errors import UserError
from subkern.solvers.asymmetric import AsymmetricLSSVMSolver
from subkern.solvers.base import KernelSolver
from subkern.solvers.direct import AsymmetricRidgeSolver
from subkern.solvers.logistic import LogisticSolver
from subkern.solvers.paper_recipe import LstsqSolver, RowLogisticSolver
from subkern.solvers.ridge import RidgeSolver
from subkern.solvers.svc import SVCSolver
from subkern.solvers.svr import SVRSolver

__all__ = ["SOLVERS", "make_solver"]

SOLVERS: Mapping[str, type[KernelSolver]] = MappingProxyType(
    {
        "ridge": RidgeSolver,
        "lstsq": LstsqSolver,
        "logistic": LogisticSolver,
        "row-logistic": RowLogisticSolver,
        "svc": SVCSolver,
        "svr": SVRSolver,
        "asym": AsymmetricLSSVMSolver,
        "asym-ridge": AsymmetricRidgeSolver,
    }
)
"""Every solver by the name that the command line uses."""


def make_solver(name: str, **params: Any) -> KernelSolver:
    """Return a new solver, ``make_solver("ridge", f0_scale=None)``.

    Raises `UserError` on an unknown name or parameter, naming those that there are.
    """
    if name not in SOLVERS:
        close = get_close_matches(name, SOLVERS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(SOLVERS)}"
        raise UserError(f"no solver is called {name!r}: {hint}")
    known = list(signature(SOLVERS[name]).parameters)
    for given in params:
        if given not in known:
            raise UserError(f"solver {name} has no parameter {given!r}: it has {', '.join(known)}")
    return SOLVERS[name](**params)

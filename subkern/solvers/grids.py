"""The values of a solver's parameters to choose from on dev."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from subkern.errors import UserError
from subkern.solvers.asymmetric import GAMMAS
from subkern.solvers.spectral import DEFAULT_GRID
from subkern.solvers.svr import PENALTIES

__all__ = ["F0_SCALES", "GRIDS", "default_grid", "parse_grid", "parse_scales"]

Grid = Mapping[str, tuple[Any, ...]]

F0_SCALES: tuple[float | None, ...] = (None, 1.0, 10.0)
"""Scales of the initial logits; None forgets them."""

GRIDS: Mapping[str, Grid] = MappingProxyType(
    {
        "ridge": {"regularization": DEFAULT_GRID},
        "lstsq": {"regularization": (0.0, *DEFAULT_GRID)},
        "logistic": {"regularization": DEFAULT_GRID},
        "row-logistic": {},  # its C is chosen in folds, as in the paper's code
        "svc": {"regularization": DEFAULT_GRID},
        "svr": {"C": PENALTIES, "epsilon": (0.2, 0.1, 0.01)},
        "asym": {"gamma": GAMMAS, "lam": (1.0, 0.5, 0.0)},
        "asym-ridge": {"regularization": DEFAULT_GRID},
    }
)
"""What is searched for every registered solver, without the f0 scale; ties go to the first."""


def default_grid(solver: str, *, f0: bool = True, reverse: bool = False) -> dict[str, Any]:
    """Return the default grid of a registered solver, for `subkern.solvers.select`.

    Args:
        solver: its name in `subkern.solvers.SOLVERS`.
        f0: whether there are initial logits, and so a scale to choose.
        reverse: whether the evaluation kernels have their second direction; without it ``lam`` of
            ``asym`` stays 1.
    """
    grid = {name: values for name, values in GRIDS[solver].items() if name != "lam" or reverse}
    return {**grid, "f0_scale": F0_SCALES if f0 else (None,)}


def parse_grid(texts: Sequence[str]) -> dict[str, tuple[Any, ...]] | Literal["default"]:
    """Read ``["gamma=0.1,1,10", "lam=0,1"]``: numbers, ``none``, or words, with commas.

    ``["default"]`` stays ``"default"``. Raises `UserError` on a text of another form or a name
    given twice.
    """
    if list(texts) == ["default"]:
        return "default"
    grid: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not (name and equals and values):
            raise UserError(
                f"grid '{text}' is not NAME=VALUE,VALUE: write gamma=0.1,1,10, or 'default' alone"
            )
        if name in grid:
            raise UserError(f"the grid of {name} is given twice: put all its values in one")
        grid[name] = tuple(_value(part.strip()) for part in values.split(","))
    return grid


def parse_scales(text: str) -> tuple[float | None, ...]:
    """Read scales of the initial logits, ``"none,1,10"``; raises `UserError` on anything else."""
    try:
        return tuple(None if part == "none" else float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--f0-scales '{text}' is not numbers or none, with commas") from None


def _value(text: str) -> Any:
    """Return None, a whole number, a number, or the word itself."""
    if text == "none":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text

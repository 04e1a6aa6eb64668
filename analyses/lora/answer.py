"""What a LoRA study says and shows: of one target set, or of rank and targets together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure
from rich.console import Group

from ..engine.run_folder import Results
from ..show.page import Page
from . import grid_report as lora_grid_report
from . import grid_text as lora_grid_text
from . import report as lora_report
from . import text as lora_text
from .figures import FIGURES
from .grid import recommend_configuration
from .pareto import pareto
from .targets import asks_for_targets, is_grid

__all__ = ["caveats", "figures", "page", "sentence", "summary"]

Draw = Callable[[Results], Figure]


def sentence(results: Results) -> str:
    """Return the recommendation with its numbers."""
    return (lora_grid_text if is_grid(results) else lora_text).sentence(results)


def caveats(results: Results) -> list[str]:
    """Return what limits the recommendation, one item each."""
    return (lora_grid_text if is_grid(results) else lora_text).caveats(results)


def summary(results: Results) -> Group:
    """Return table, recommendation and caveats for a terminal of 80 columns."""
    return (lora_grid_report if is_grid(results) else lora_report).summary(results)


def page(results: Results, pictures: Mapping[str, bytes]) -> Page:
    """Return the report of ``results``; ``pictures`` are its figures as PNG, by name."""
    return (lora_grid_report if is_grid(results) else lora_report).page(results, pictures)


def figures(config: Mapping[str, Any]) -> dict[str, Draw]:
    """Return what draws each figure, by name: for a grid its front, then the best targets' own."""
    if not asks_for_targets(config):
        return dict(FIGURES)

    def of_best(draw: Draw) -> Draw:
        return lambda results: draw(recommend_configuration(results).view(results))

    return {"pareto": pareto, **{name: of_best(draw) for name, draw in FIGURES.items()}}

"""Numbers of a subspace study with their intervals, in words."""

from __future__ import annotations

import math

from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.study_numbers import model_name
from .dimension import Needed
from .verdict import Calibration

__all__ = [
    "NONE",
    "between",
    "intervals",
    "question",
    "ratio",
    "size",
    "sizes",
]

NONE = "–"


def question(results: Results) -> str:
    """Return what was asked, in one sentence."""
    task, shots = results.inputs["task"]["name"], results.config["shots"]
    rule = "" if results.config["rule"] == "sgd" else f" under {results.config['rule']}"
    return (
        f"In how few dimensions does {task}, from {shots} examples a label, look to"
        f" {model_name(results)} as full fine-tuning{rule} sees it, and which way of training few"
        " parameters comes closest? Judged before any training, from kernels."
    )


def intervals(results: Results) -> str:
    """Return what the intervals of curves and tables are and what they are over."""
    config, confidence = results.config, f"{results.config['confidence']:.0%}"
    if len(config["data_seeds"]) > 1:
        return (
            f"{confidence} intervals (Student's t over the means of"
            f" {len(config['data_seeds'])} data seeds)"
        )
    draws = f"{len(config['projection_seeds'])} draws of a subspace, on one data split"
    return f"{confidence} intervals (Student's t over {draws})"


def size(value: float, last: int) -> str:
    """Return a number of parameters, or ``more than`` the last one tried."""
    if math.isinf(value):
        return f"more than {fmt.count(last)}"
    return fmt.count(value)


def between(found: Needed) -> str:
    """Return an interval of a number of parameters: ``120 to 260``, ``2 or fewer to 64``."""
    low = fmt.count(found.low) if found.low < math.inf else f"more than {fmt.count(found.last)}"
    if found.low <= found.first:
        low += " or fewer"
    high = size(found.high, found.last)
    return low if low == high else f"{low} to {high}"


def sizes(found: Needed) -> str:
    """Return how many parameters reach a target, with the interval in brackets."""
    if math.isnan(found.size):
        return NONE
    text = size(found.size, found.last)
    if found.size <= found.first:
        text += " or fewer"
    return text if math.isnan(found.low) else f"{text} ({between(found)})"


def ratio(found: Calibration) -> str:
    """Return measured over predicted, and where chance may put it: ``1.03 (0.82 to 1.19)``."""
    low, value, high = (fmt.fixed(each, 2) for each in (found.low, found.ratio, found.high))
    return f"{value} ({low} to {high})"

"""The tables of ``analyze learning-rate``, for its report and for a terminal."""

from __future__ import annotations

import math

from ..show import numbers as fmt
from ..show.page import Table
from ..show.table import DASH, EDGE
from .findings import RULES, Cell, Findings, Optimizer

_BEYOND = "none spiked, or the lowest loss is at an end of the sweep"


def tables(found: Findings) -> tuple[list[Table], list[Table]]:
    """Return the report's tables, and those of what it took."""
    own = [_rules(found, each) for each in found.optimizers if each.rules]
    return [*own, *(_cells(found, each) for each in found.optimizers)], [_cost(found)]


def summary(found: Findings) -> Table:
    """Return suggestion, edge and best rate of every configuration, for a terminal."""
    many = len(found.optimizers) > 1
    rows = [
        [
            ", ".join([each.name] * many + [cell.subspace if found.one_seed else cell.name]),
            _rate(cell.suggested),
            _edge(cell),
            _best(cell),
            fmt.percent(cell.at_suggested.test) if cell.runs else DASH,
            fmt.percent(cell.best_on_dev.test) if cell.runs else DASH,
        ]
        for each in found.optimizers
        for cell in (*each.cells, *each.nothing)
    ]
    return Table(
        f"Learning rates of {found.model} on {found.task}",
        f"Best: lowest loss after {found.config.steps} updates. {EDGE} {_BEYOND}. Test"
        f" {found.score_name} at the rate that was said, and at the one that dev would choose.",
        ["", "said", "spikes from", "best", "test", "by dev"],
        rows,
    )


def _rules(found: Findings, each: Optimizer) -> Table:
    """Return how near every rule comes."""
    rows = [
        [
            f"{rule.rule}: {RULES[rule.rule]}",
            DASH if math.isnan(rule.factor) else f"{rule.factor:.2g}",
            fmt.decimal(rule.edge, 2),
            fmt.percent(rule.told, 0),
            fmt.decimal(rule.best, 2),
            fmt.decimal(rule.loss, 2),
            fmt.points(rule.score),
            fmt.percent(rule.spiked, 0),
        ]
        for rule in each.rules
    ]
    fitted = "on the other data seeds"
    if found.config.fitted_on:
        fitted = f"on {fmt.joined(found.config.fitted_on)}"
    elif found.fitted_here:
        fitted = "on these configurations themselves (one data seed)"
    return Table(
        f"Rules, {each.name}",
        f"Edge/rule: the first spike over what the rule says, on average. Each rule's factor is"
        f" fitted {fitted}. Edge, best: what it leaves of the rate of the"
        " first spike, and of the lowest loss, in decades (root mean square); told: edges within a"
        " factor of two. Then, training at"
        " the rate it gives: final loss above the lowest, in losses at the start; test points"
        " below the rate that dev would choose; share that spikes.",
        ["", "edge/rule", "edge", "told", "best", "loss lost", "points lost", "spike"],
        rows,
    )


def _cells(found: Findings, each: Optimizer) -> Table:
    """Return every configuration of an optimizer."""
    rows = []
    for cell in each.cells:
        low, high = cell.plateau(found.config.plateau)
        rows.append(
            [
                cell.name,
                fmt.count(cell.parameters),
                _rate(cell.said["rate_at_start"]),
                _rate(cell.suggested),
                _rate(cell.said["spike"]),
                _edge(cell),
                _best(cell),
                f"{_rate(low)} to {_rate(high)}",
                fmt.decimal(cell.loss_at(cell.suggested), 2),
                fmt.percent(cell.at_suggested.test),
                fmt.percent(cell.best_on_dev.test),
            ]
        )
    rows += [[cell.name, fmt.count(cell.parameters), *[DASH] * 9] for cell in each.nothing]
    header = [
        *("", "parameters", "rate₀", "suggested", "spike said", "spikes from", "best", "plateau"),
        *("loss", "test", "test, by dev"),
    ]
    note = (
        f"{EDGE} {_BEYOND}. Plateau: rates whose dev {found.score_name} is within"
        f" {fmt.points(found.config.plateau)} points of the best. Loss: at the suggestion after"
        f" {found.config.steps} updates, in losses at the start. Test: at the suggestion, and at"
        " the rate that dev would choose."
    )
    return Table(f"Configurations, {each.name}", note, header, rows)


def _cost(found: Findings) -> Table:
    rows = [
        ["a suggestion", fmt.duration(found.seconds)],
        ["a sweep", fmt.duration(found.sweep_seconds)],
    ]
    return Table("Time of a configuration, on average", "", ["", "took"], rows)


def _rate(value: float) -> str:
    return DASH if math.isnan(value) else fmt.rate(value)


def _edge(cell: Cell) -> str:
    if not cell.runs:
        return DASH
    if cell.has_edge:
        return fmt.rate(cell.edge)
    top = cell.runs[-1].rate
    return f"≤ {fmt.rate(cell.edge)}" if cell.runs[0].spiked else f"> {fmt.rate(top)}{EDGE}"


def _best(cell: Cell) -> str:
    if not cell.runs:
        return DASH
    return fmt.rate(cell.best.rate) + ("" if cell.best_inside else EDGE)

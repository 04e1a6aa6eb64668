"""How suggested learning rates are shown: in the report, in the terminal, and to other programs."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from subkern.learning_rate.suggestion import CHANGED, two_digits

from ..show import numbers as fmt
from ..show.page import Table, words
from ..show.table import DASH
from .rates import Rates

_TEMPLATE = Path(__file__).with_name("rates.html.j2")


def caveats(rates: Rates | None) -> list[str]:
    """Return what they say against a kernel at the start, one item each."""
    return [] if rates is None else words(_TEMPLATE, "caveats", rates)


def column(rates: Rates | None, name: str) -> list[str]:
    """Return the cell of a configuration in a table's column of rates, if there is one."""
    if rates is None:
        return []
    found = rates.named(name)
    return [DASH if found is None else _rate(found.suggested)]


def heading(rates: Rates | None, name: str = "learning rate") -> list[str]:
    """Return the heading of that column, if there is one."""
    return [] if rates is None else [name]


def rates_table(rates: Rates) -> Table:
    """Return every configuration: rates at the start and after a step, suggested, spikes."""
    return Table(
        "Learning rates, suggested before training",
        f"For {rates.optimizer} at a constant rate and batches of {rates.batch_size}, on data seed"
        f" {rates.data_seed}, with the first draw: the learning rate at which one update changes"
        " the logits by 1, at the start and after such an update; what to try first, with a third"
        " and three times of it; where training likely spikes; how many times the rate falls with"
        f" the first update: from {CHANGED:g} the kernel at the start does not describe the run."
        " Which rate scores best is for a dev split to say.",
        ["", "parameters", "at start", "after one step", "suggested", "spikes from", "to",
         "falls", "seconds"],
        [
            [
                each.title,
                fmt.count(each.parameters),
                *(_rate(rate) for rate in (each.rate_at_start, each.rate_after_step)),
                *(_rate(rate) for rate in (each.suggested, each.spike_low, each.spike_high)),
                DASH if math.isnan(each.ratio) else f"{fmt.fixed(each.ratio, 1)} ×",
                fmt.fixed(each.seconds, 1),
            ]
            for each in rates.every
        ],
        marked=[i for i, each in enumerate(rates.every) if each.falls],
    )  # fmt: skip


def as_json(rates: Rates) -> dict[str, Any]:
    """Return them as plain values; what could not be suggested is NaN, and ``note`` says why."""
    return {
        "optimizer": rates.optimizer,
        "batch_size": rates.batch_size,
        "data_seed": rates.data_seed,
        "configurations": [{**asdict(each), "warning": each.falls} for each in rates.every],
    }


def _rate(value: float) -> str:
    """Return a rate to two digits, a dash where there is none."""
    return DASH if math.isnan(value) else fmt.rate(two_digits(value))

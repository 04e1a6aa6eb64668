"""The tables of ``analyze subspace``, for its page, the terminal and other programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from subkern.agreement import METRICS

from ..show import numbers as fmt
from ..show.json_values import pooled
from ..show.page import Table
from ..show.study_numbers import costs
from ..show.study_page import cost_table
from ..show.table import DASH
from ..verify.rates_page import column, heading
from ..verify.trial import FULL
from .findings import GOALS, SHAPE, Distortion, Family, Findings


def tables(found: Findings) -> list[Table]:
    """Return the evidence."""
    shown = [dimension_table(found), fewest_table(found), methods_table(found)]
    shown.append(agreement_table(found))
    if found.measured:
        shown.append(theory_table(found))
        shown += [distortion_table(found, each) for each in reversed(found.first.distortions)]
    return shown


def cost(found: Findings) -> list[Table]:
    """Return what it took."""
    return [cost_table(costs(found.results))]


def summary(found: Findings) -> Table:
    """Return the few numbers for a terminal of 80 columns."""
    rows, sections = [], []
    for family in found.shown:
        for i, (trained, cka) in enumerate(family.cka.items()):
            rows.append(
                [
                    family.name if i == 0 else "",
                    fmt.count(trained),
                    fmt.decimal(cka.mean),
                    fmt.percent(family.same[trained].mean),
                    fmt.percent(family.scores[trained].mean),
                    *column(found.rates, found.configuration(family, trained)),
                ]
            )
        sections.append(len(rows))
    full, zero = fmt.percent(found.full_score.mean), fmt.percent(found.zero_shot.mean)
    whole = fmt.count(found.trained_in_full)
    none = [""] * len(heading(found.rates))
    rates = column(found.rates, FULL)
    rows.append(["full", whole, fmt.decimal(1.0), fmt.percent(1.0), full, *rates])
    rows.append(["zero-shot", "0", "", "", zero, *none])
    return Table(
        f"Subspaces of {found.model} on {found.task}, {found.judge} classifier",
        "",
        ["method", "trained", "CKA", "equal predictions", f"test {found.score}",
         *heading(found.rates, "rate")],
        rows,
        sections=sections,
    )  # fmt: skip


def dimension_table(found: Findings) -> Table:
    """Return how many dimensions reach the targets, by kind and classifier."""
    asked = [(goal, solver) for solver in found.config.classifiers for goal in GOALS]
    share = fmt.percent(found.config.share, 0)
    return Table(
        "Dimensions needed",
        "Where the mean test score over seeds first reaches that share of the full kernel's, or of"
        " the full kernel's gain over no training, by the same classifier; in brackets bootstrap"
        f" intervals over seeds. LoRA: trained parameters. {DASH}: the full kernel gains nothing.",
        ["", *(f"{solver}, {share} of its {goal}" for goal, solver in asked)],
        [
            [family.name, *(family.needed[each].text for each in asked)]
            for family in [*found.kinds, *found.lora]
        ],
        marked=[0],
    )


def fewest_table(found: Findings) -> Table:
    """Return the fewest trained parameters that preserve kernel and predictions."""
    config, families = found.config, found.thriftiest
    return Table(
        "Fewest trained parameters that preserve the kernel",
        "Where the mean first reaches what is asked for, interpolated between the sizes tried; the"
        " thriftiest first.",
        [
            "",
            f"CKA {fmt.decimal(config.min_cka, 2)}",
            f"{fmt.percent(config.min_agreement, 0)} equal predictions",
        ],
        [[each.name, each.kernel_at.amount, each.predictions_at.amount] for each in families],
        marked=[0] if families[0].kernel_at.found else [],
    )


def methods_table(found: Findings) -> Table:
    """Return every method and size: agreement, predictions, score, and what it is worth."""
    families = [*found.lora, *found.methods, found.first]
    rows = [_method_row(found, family, size) for family in families for size in family.sizes]
    whole, score = fmt.count(found.trained_in_full), fmt.share_between(found.full_score)
    full, none = column(found.rates, FULL), column(found.rates, DASH)
    rows.append(["full", whole, fmt.percent(1.0, 0), "1.000", DASH, score, DASH, *full])
    zero = fmt.share_between(found.zero_shot)
    rows.append(["zero-shot", "0", fmt.percent(0.0, 0), DASH, DASH, zero, DASH, *none])
    return Table(
        "All methods",
        "As good as random: the dimension in which a random subspace"
        f" ({found.first.name}) has the same CKA.",
        [
            "", "parameters", "of full", "CKA", "equal predictions", f"test {found.score}",
            "as good as random", *heading(found.rates),
        ],
        rows,
    )  # fmt: skip


def _method_row(found: Findings, family: Family, trained: int) -> list[str]:
    """Return the row of one method of one size."""
    cka, last = family.cka[trained], found.first.sizes[-1]
    return [
        family.name,
        fmt.count(trained),
        fmt.percent(trained / found.trained_in_full, 4),
        fmt.number_between(cka, (-1.0, 1.0)),
        fmt.share_between(family.same[trained]),
        fmt.share_between(family.scores[trained]),
        DASH if family.is_random else fmt.reached(found.as_dimension(cka.mean), last),
        *column(found.rates, found.configuration(family, trained)),
    ]


def agreement_table(found: Findings) -> Table:
    """Return agreement metrics over the dimension, for the first kind."""
    rows = [
        [
            METRICS[name].title,
            *(
                fmt.number_between(value, (METRICS[name].low, METRICS[name].high))
                for value in curve.values()
            ),
        ]
        for name, curve in found.first.agreement.items()
    ]
    return Table(
        f"Agreement of the train kernels with the full one, {found.first.name}",
        "Differences are relative to the full kernel.",
        ["metric", *map(fmt.count, found.first.sizes)],
        rows,
    )


def theory_table(found: Findings) -> Table:
    """Return how measured distortions compare with the variance formula and the JL bound."""
    measured = [
        (f"{kind.name}, {each.form}", each.calibration)
        for kind in found.kinds
        for each in kind.distortions
    ]
    return Table(
        "Distortions and theory",
        "Measured root mean square over that of the variance formula (1: it holds; in"
        " brackets where chance may put it with so few draws, simulated); share of the"
        " distortions within ±1.96 σ (95 % if they are normally"
        " distributed) and within the Johnson-Lindenstrauss bound at 95 %, where it gives one, and"
        " how many times wider that is than what 90 % keep to; share of the squared distortion that"
        " is common to all pairs of a draw. The formula, from the kernel alone, is exact for"
        " gaussian and sparse entries, a bound for rademacher, count sketch and srht, and the"
        " leading term for very sparse; the bound is proved for gaussian, rademacher and sparse.",
        [
            "", "measured ÷ formula", "within 1.96 σ", "within JL", "JL ÷ measured", "common",
            "formula holds",
        ],
        [
            [
                name,
                each.text,
                fmt.percent(each.inside),
                fmt.percent(each.inside_bound),
                DASH if math.isnan(each.slack) else fmt.fixed(each.slack, 1),
                fmt.percent(each.shared, 0),
                "yes" if each.holds else "no",
            ]
            for name, each in measured
        ],
    )  # fmt: skip


def distortion_table(found: Findings, each: Distortion) -> Table:
    """Return the quantiles of the distortion over the dimension, for the first kind."""
    rows = [
        [fmt.count(dim), *(fmt.decimal(each.shape[name][dim].mean, 4) for name in SHAPE)]
        for dim in each.shape["sigma"]
    ]
    return Table(
        f"Distortion of {each.form} gradients, {found.first.name}",
        "Quantiles over pairs and draws; σ by the variance formula; the ε that one pair keeps to"
        " with 95 %, by the Johnson-Lindenstrauss bound.",
        ["dimension", "5 %", "25 %", "50 %", "75 %", "95 %", "σ", "JL ε"],
        rows,
    )


def as_json(found: Findings) -> Mapping[str, Any]:
    """Return the findings as plain values; no number stands as NaN or infinity.

    A number of parameters that no size tried reaches is one: ``last`` says what was tried.
    """
    return {
        "full_score": pooled(found.full_score),
        "zero_shot": pooled(found.zero_shot),
        "needed": [
            {"method": family.name, "goal": goal, **asdict(family.needed[goal, found.judge])}
            for family in [*found.kinds, *found.lora]
            for goal in GOALS
        ],
        "preserved": [
            {"method": each.name, "parameters": each.kernel_at.size, "last": each.kernel_at.last}
            for each in found.thriftiest
        ],
        "methods": [
            {
                "method": family.name,
                "parameters": size,
                "cka": pooled(cka),
                "prediction_agreement": pooled(family.same[size]),
                "score": pooled(family.scores[size]),
            }
            for family in found.families
            for size, cka in family.cka.items()
        ],
        "distortion": [
            {
                "method": kind.name,
                "centred": each.form == "centered",
                "holds": each.calibration.holds,
                **asdict(each.calibration),
            }
            for kind in found.kinds
            for each in kind.distortions
        ],
    }

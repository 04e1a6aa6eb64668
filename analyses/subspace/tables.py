"""The tables of the ``analyze subspace`` report."""

from __future__ import annotations

import math

from subkern.agreement import METRICS

from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.page import Table
from .dimension import GOALS, needed
from .measure import AGREEMENT
from .numbers import (
    Family,
    agreement,
    distortion,
    full_score,
    kinds,
    lora,
    methods,
    same_predictions,
    score_name,
    scores,
    trained_in_full,
    zero_shot,
)
from .verdict import as_dimension, calibrate, fewest
from .words import (
    NONE,
    ratio,
    size,
    sizes,
)

__all__ = [
    "agreement_table",
    "dimension_table",
    "distortion_table",
    "fewest_table",
    "methods_table",
    "theory_table",
]


def dimension_table(results: Results) -> Table:
    """Return how many dimensions reach the targets, by kind and classifier."""
    solvers, share = results.config["solvers"], fmt.percent(results.config["share"], 0)
    rows = [
        [
            family.name,
            *(sizes(needed(results, family, goal, solver)) for solver in solvers for goal in GOALS),
        ]
        for family in [*kinds(results), *lora(results)]
    ]
    header = [f"{solver}, {share} of its {goal}" for solver in solvers for goal in GOALS]
    return Table(
        "Dimensions needed",
        "Where the mean test score over seeds first reaches that share of the full kernel's, or of"
        " the full kernel's gain over no training, by the same classifier; in brackets bootstrap"
        f" intervals over seeds. LoRA: trained parameters. {NONE}: the full kernel gains nothing.",
        ["", *header],
        rows,
        marked=[0],
    )


def fewest_table(results: Results) -> Table:
    """Return the fewest trained parameters that preserve kernel and predictions."""
    config = results.config
    found = {what: fewest(results, what) for what in ("cka", "predictions")}
    same = {each.family: each for each in found["predictions"]}
    rows = [
        [each.family.name, size(each.size, each.last), size(same[each.family].size, each.last)]
        for each in found["cka"]
    ]
    return Table(
        "Fewest trained parameters that preserve the kernel",
        "Where the mean first reaches what is asked for, interpolated between the sizes tried; the"
        " thriftiest first.",
        [
            "",
            f"CKA {fmt.decimal(config['min_cka'], 2)}",
            f"{fmt.percent(config['min_agreement'], 0)} equal predictions",
        ],
        rows,
        marked=[0] if found["cka"][0].found else [],
    )


def methods_table(results: Results) -> Table:
    """Return every method and size: agreement, predictions, score, and what it is worth."""
    whole = trained_in_full(results)
    rows = [
        _method_row(results, family, size_, whole)
        for family in [*lora(results), *methods(results), kinds(results)[0]]
        for size_ in agreement(results, family)
    ]
    score = fmt.share_between(full_score(results))
    rows.append(["full", fmt.count(whole), fmt.percent(1.0, 0), "1.000", NONE, score, NONE])
    zero = fmt.share_between(zero_shot(results))
    rows.append(["zero-shot", "0", fmt.percent(0.0, 0), NONE, NONE, zero, NONE])
    return Table(
        "All methods",
        "Last column: the dimension in which a random subspace"
        f" ({kinds(results)[0].name}) has the same CKA.",
        [
            "", "parameters", "of full", "CKA", "equal predictions",
            f"test {score_name(results)}", "as good as random",
        ],
        rows,
    )  # fmt: skip


def _method_row(results: Results, family: Family, trained: int, whole: int) -> list[str]:
    """Return the row of one method of one size."""
    cka = agreement(results, family)[trained]
    last = max(agreement(results, kinds(results)[0]))
    worth = NONE if family.kernel == "random" else size(as_dimension(results, cka.mean), last)
    return [
        family.name,
        fmt.count(trained),
        fmt.percent(trained / whole, 4),
        fmt.number_between(cka, (-1.0, 1.0)),
        fmt.share_between(same_predictions(results, family)[trained]),
        fmt.share_between(scores(results, family)[trained]),
        worth,
    ]


def theory_table(results: Results) -> Table:
    """Return how measured distortions compare with the variance formula and the JL bound."""
    rows = []
    for kind in kinds(results):
        for centred in (False, True):
            found = calibrate(results, kind, centred=centred)
            if found is None:
                continue
            rows.append(
                [
                    f"{kind.name}, {'centred' if centred else 'raw'}",
                    ratio(found),
                    fmt.percent(found.inside),
                    fmt.percent(found.inside_bound),
                    NONE if math.isnan(found.slack) else fmt.fixed(found.slack, 1),
                    fmt.percent(found.shared, 0),
                    "yes" if found.holds else "no",
                ]
            )
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
        rows,
    )  # fmt: skip


def distortion_table(results: Results, *, centred: bool) -> Table:
    """Return the quantiles of the distortion over the dimension, for the first kind."""
    kind = kinds(results)[0]
    names = ["q05", "q25", "q50", "q75", "q95", "sigma", "epsilon"]
    found = {name: distortion(results, kind, name, centred=centred) for name in names}
    rows = [
        [fmt.count(dim), *(fmt.decimal(found[name][dim].mean, 4) for name in names)]
        for dim in found["sigma"]
    ]
    form = "centred" if centred else "raw"
    return Table(
        f"Distortion of {form} gradients, {kind.name}",
        "Quantiles over pairs and draws; σ by the variance formula; the ε that one pair keeps to"
        " with 95 %, by the Johnson-Lindenstrauss bound.",
        ["dimension", "5 %", "25 %", "50 %", "75 %", "95 %", "σ", "JL ε"],
        rows,
    )


def agreement_table(results: Results) -> Table:
    """Return agreement metrics over the dimension, for the first kind."""
    kind = kinds(results)[0]
    curves = {name: agreement(results, kind, name) for name in AGREEMENT}
    curves = {name: curve for name, curve in curves.items() if curve}
    rows = [
        [
            METRICS[name].title,
            *(
                fmt.number_between(value, (METRICS[name].low, METRICS[name].high))
                for value in curve.values()
            ),
        ]
        for name, curve in curves.items()
    ]
    return Table(
        f"Agreement of the train kernels with the full one, {kind.name}",
        "Differences are relative to the full kernel.",
        ["metric", *(fmt.count(dim) for dim in curves["cka"])],
        rows,
    )

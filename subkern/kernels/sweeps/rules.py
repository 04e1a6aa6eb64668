"""Kernels of several update rules from one capture of each example."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from subkern.errors import UserError
from subkern.gradients.plan import make_plan, refuse_dead
from subkern.kernels.compute import kernel_identity
from subkern.kernels.engines.updates import run_updates
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import (
    RunOptions,
    check_examples,
    full_block,
    make_job,
    make_store,
    to_kernel,
)
from subkern.kernels.rules import UpdateRule, as_rule
from subkern.models.logit_model import LogitModel
from subkern.storage.provenance import fingerprint
from subkern.subspaces.base import Subspace
from subkern.subspaces.random import RandomSubspace
from subkern.subspaces.text import as_subspace

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample

__all__ = ["sweep_rules"]


def sweep_rules(
    model: LogitModel,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample] | None = None,
    *,
    rules: Sequence[UpdateRule | str],
    subspace: Subspace | str = "full",
    options: RunOptions | None = None,
) -> list[Kernel]:
    """The kernel of every rule, in order, up to rounding those of `compute_kernel`.

    Every example is captured once and its gradient formed once, a chunk of coordinates at a time;
    each rule adds only its products. So all rules take little longer than one of Adam's.

    Args:
        model: f, in evaluation mode.
        left: n examples (rows).
        right: m examples (columns); None means `left`.
        rules: update rules or their one-line forms, each once; all but sgd have one
            ``zero_tolerance``.
        subspace: what is trained; no random one, where nothing would be shared.
        options: batch size, memory, progress, checkpoint.

    Raises:
        UserError: as `compute_kernel`; no rule, one given twice, several zero tolerances, or a
            random subspace.
    """
    right = left if right is None else right
    options, subspace = options or RunOptions(), as_subspace(subspace)
    if isinstance(subspace, RandomSubspace):
        raise UserError(
            "rules share nothing in a random subspace: compute the kernel of each by compute_kernel"
        )
    applied = [as_rule(rule) for rule in rules]
    _check(applied)
    check_examples(left, right)
    coordinates = subspace.attach(model)
    described = [
        kernel_identity(model, left, right, rule=rule, subspace=subspace) for rule in applied
    ]
    started = time.perf_counter()
    refuse_dead(coordinates, subspace, [*left, *right])
    plan = make_plan(coordinates.model, coordinates.parameters, [*left, *right], options.batch_size)
    seeing = max(applied, key=lambda rule: (not rule.is_sgd, rule.zero_tolerance))
    job = make_job(coordinates, plan, full_block(coordinates), options, seeing)
    store = make_store(options, {"kernels": [fingerprint(each) for each in described]})
    outcomes, cost = run_updates(job, applied, left, right, store, options.progress)
    seconds = store.earlier + time.perf_counter() - started
    recorded = {"reasons": list(plan.reasons), "seconds": seconds, "coordinates": coordinates.size}
    recorded["rules_together"] = len(applied)
    return [
        to_kernel(
            outcome.values,
            outcome,
            left,
            right,
            provenance,
            recorded if rule.is_sgd else recorded | cost,
        )
        for rule, outcome, provenance in zip(applied, outcomes, described, strict=True)
    ]


def _check(rules: Sequence[UpdateRule]) -> None:
    """Raise `UserError` unless there are rules, each once, that drop the same noise."""
    if not rules:
        raise UserError("no rule to compute a kernel of: give one or more, like sgd and signgd")
    for i, rule in enumerate(rules):
        if rule in rules[:i]:
            raise UserError(f"rule {rule.name} is given twice: give each once")
    found = sorted({rule.zero_tolerance for rule in rules if not rule.is_sgd})
    if len(found) > 1:
        raise UserError(
            f"rules of zero tolerances {found[0]:g} and {found[-1]:g} cannot share a pass: give"
            " them one zero_tolerance"
        )

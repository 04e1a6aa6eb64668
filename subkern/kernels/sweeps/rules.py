"""Kernels of several update rules from one capture of each example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from subkern.errors import UserError
from subkern.kernels.engines.updates import Updates
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import Request, RunOptions
from subkern.kernels.rules import UpdateRule, as_rule
from subkern.kernels.sides import Sides
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
    subspace, asked = as_subspace(subspace), [as_rule(rule) for rule in rules]
    _check(asked, subspace)
    sides = Sides.of(left, right)
    request = Request(model, sides, rules=asked, subspace=subspace, options=options)
    identities = [fingerprint(request.identity(rule)) for rule in request.rules]
    store = request.store({"kernels": identities})
    outcomes = request.run(Updates(), store)
    recorded = request.record(store) | {"rules_together": len(asked)}
    return [
        request.kernel(outcome, rule, recorded | outcome.cost)
        for rule, outcome in zip(request.rules, outcomes, strict=True)
    ]


def _check(rules: Sequence[UpdateRule], subspace: Subspace) -> None:
    """Raise `UserError` unless there are rules, each once, that share something."""
    if isinstance(subspace, RandomSubspace):
        raise UserError(
            "rules share nothing in a random subspace: compute the kernel of each by compute_kernel"
        )
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

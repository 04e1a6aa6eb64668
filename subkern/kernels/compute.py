"""From a model and examples to the kernel of one subspace.

Many kernels from one capture are in `subkern.kernels.sweeps.lora` (ranks, seeds and targets of
LoRA) and
`subkern.kernels.sweeps.dimensions` (random subspaces).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from subkern.errors import check_choice
from subkern.gradients.batches import CaptureJob
from subkern.gradients.plan import make_plan, refuse_dead
from subkern.kernels.engines.projected import run_projected
from subkern.kernels.engines.reference import reference_kernel
from subkern.kernels.engines.signs.engine import run_signs
from subkern.kernels.engines.tiled import Outcome, run
from subkern.kernels.engines.updates import run_updates
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import (
    RunOptions,
    Timed,
    check_examples,
    full_block,
    make_job,
    make_store,
    model_identity,
    to_kernel,
)
from subkern.kernels.rules import UpdateRule, as_rule
from subkern.kernels.tiles import TileStore
from subkern.models.checks import check_function
from subkern.models.logit_model import LogitModel
from subkern.storage.progress import Progress
from subkern.subspaces.base import Subspace
from subkern.subspaces.random import RandomSubspace
from subkern.subspaces.text import as_subspace

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample

ENGINES = ("factors", "reference")


def compute_kernel(
    model: LogitModel,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample] | None = None,
    *,
    rule: UpdateRule | str = "sgd",
    subspace: Subspace | str = "full",
    engine: str = "factors",
    options: RunOptions | None = None,
) -> Kernel:
    """The eNTK ⟨∇_z f_k(x_i), ∇_z f_l(x'_j)⟩ of `model` in the coordinates z of `subspace`.

    Other rules than ``"sgd"`` replace a gradient by the update u they make of it, entry by entry in
    the coordinates z, on both sides or (``asymmetric_…``) on the left, with the other direction in
    `Kernel.reverse`.

    Args:
        model: f, in evaluation mode.
        left: n examples (rows).
        right: m examples (columns); None means `left`, and a symmetric kernel.
        rule: an `UpdateRule` or its one-line form; ``"sgd"`` is the neural tangent kernel (Jacot et
            al. 2018).
        subspace: what is trained: a `Subspace` or its one-line form.
        engine: ``"factors"`` (fast) or ``"reference"`` (slow, independent, on `torch.func`).
        options: batch size, memory, progress, checkpoint.

    Returns:
        A `Kernel` with values ``[n, c, m, c]`` and the initial logits of both sides.

    Raises:
        UserError: bad argument, no examples, repeated ids, dropout left on, logits that depend on
            the batch, or too little memory.
    """
    right = left if right is None else right
    options = options or RunOptions()
    subspace = as_subspace(subspace)
    rule = entrywise(as_rule(rule), subspace, engine)
    check_choice("engine", engine, ENGINES)
    check_examples(left, right)
    coordinates = subspace.attach(model)
    provenance = kernel_identity(model, left, right, rule=rule, subspace=subspace, engine=engine)
    started = time.perf_counter()
    refuse_dead(coordinates, subspace, [*left, *right])
    recorded: dict[str, Any] = {}
    store = make_store(options, provenance)
    if engine == "reference":
        check_function(coordinates.model, [*left, *right])
        outcome = Outcome(*reference_kernel(coordinates, left, right, options.progress, rule))
    else:
        plan = make_plan(
            coordinates.model, coordinates.parameters, [*left, *right], options.batch_size
        )
        block = Timed(full_block(coordinates))
        job = make_job(coordinates, plan, block, options, rule)
        sides = left, right
        if coordinates.projection is not None:
            projection = coordinates.projection
            outcome = run_projected(job, projection, *sides, store, rule, options.progress)
            cost: dict[str, float] = {}
        else:
            outcome, cost = run_rule(job, block, rule, *sides, store, options.progress)
        recorded = {"reasons": list(plan.reasons)} | cost
    recorded["seconds"] = store.earlier + time.perf_counter() - started
    recorded["coordinates"] = coordinates.size
    return to_kernel(outcome.values, outcome, left, right, provenance, recorded)


def kernel_identity(
    model: LogitModel,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample],
    *,
    rule: UpdateRule | str = "sgd",
    subspace: Subspace | str = "full",
    engine: str = "factors",
) -> dict[str, Any]:
    """Everything that decides the numbers of a kernel: the provenance it will carry."""
    subspace = as_subspace(subspace)
    rule = entrywise(as_rule(rule), subspace, engine)
    return (
        model_identity(model, left, right)
        | rule.describe()
        | {"subspace": subspace.describe(), "engine": engine}
    )


def run_rule(
    job: CaptureJob,
    block: Timed,
    rule: UpdateRule,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample],
    store: TileStore,
    progress: Progress | None,
) -> tuple[Outcome, dict[str, float]]:
    """Kernels ``[d, n, c, m, c]`` of `rule` over the parameters of `job`, and what they cost."""
    if rule.name == "signgd":
        return run_signs(job, rule, left, right, store, progress)
    if rule.is_sgd:
        return run(job, left, right, store, progress), block.cost()
    (outcome,), cost = run_updates(job, [rule], left, right, store, progress)
    return outcome, cost


def entrywise(rule: UpdateRule, subspace: Subspace, engine: str) -> UpdateRule:
    """The rule as it is applied: some ways take every entry as it is, without a tolerance.

    The reference engine's whole gradients do not tell how an entry came to be; and no coordinate of
    a random subspace is zero by structure.
    """
    if engine == "reference" or isinstance(subspace, RandomSubspace):
        return replace(rule, zero_tolerance=0.0)
    return rule

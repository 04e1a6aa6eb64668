"""From a model and examples to the kernel of one subspace.

Many kernels from one capture are in `subkern.kernels.sweeps.lora` (ranks, seeds and targets of
LoRA), `subkern.kernels.sweeps.dimensions` (random subspaces) and `subkern.kernels.sweeps.rules`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from subkern.gradients.batches import Observer
from subkern.kernels.engines.projected import Projected
from subkern.kernels.engines.reference import Reference
from subkern.kernels.engines.signs.engine import Signs
from subkern.kernels.engines.tiled import Tiled
from subkern.kernels.engines.updates import Updates
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import Engine, Request, RunOptions
from subkern.kernels.rules import UpdateRule
from subkern.kernels.sides import Sides
from subkern.models.logit_model import LogitModel
from subkern.subspaces.base import Subspace

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample


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
    sides = Sides.of(left, right)
    request = Request(model, sides, rules=[rule], subspace=subspace, engine=engine, options=options)
    (applied,) = request.rules
    store = request.store(request.identity(applied))
    (outcome,) = request.run(engine_for(request), store)
    return request.kernel(outcome, applied, request.record(store) | outcome.cost)


def engine_for(request: Request, observer: Observer | None = None) -> Engine:
    """The engine of a request's one rule; an `observer` sees all that is captured, but for
    projections and the reference.
    """
    (rule,) = request.rules
    if request.engine == "reference":
        return Reference()
    if request.coordinates.projection is not None:
        return Projected()
    if rule.name == "signgd":
        return Signs(observer)
    return Tiled(observer=observer) if rule.is_sgd else Updates(observer)

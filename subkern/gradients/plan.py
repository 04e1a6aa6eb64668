"""Before any kernel: is f a function of one example, and does the recording see all of it?

A `CapturePlan` is made once per model and subspace from a few real examples. It holds how to
capture: the batch size that is safe, and the parameters that no recording rule covers. Every way a
gradient could silently be wrong (dropout, batch-dependence, an operation without an axis of
examples, an unknown way for a parameter to enter) is tested against autograd here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from subkern.errors import UserError
from subkern.gradients.capture import Captured, NotCovered, capture, frozen
from subkern.gradients.contract import parameter_block
from subkern.models.checks import TOLERANCE, _spread, check_function, check_length
from subkern.models.logit_model import LogitModel
from subkern.subspaces.base import Coordinates, Subspace

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample

# Share of the whole gradient that a gradient of zero (a key's bias) may show as rounding noise.
NOISE = {torch.bfloat16: 0.1, torch.float16: 0.03}


@dataclass(frozen=True)
class CapturePlan:
    """How to capture the factors of a model.

    Attributes:
        batch_size: the most examples that may run together.
        uncovered: parameter → why no recording rule covers it; autograd does it instead.
        bytes_per_token: factor bytes an example holds per token.
        reasons: one line for each thing that was found unusual.
    """

    batch_size: int
    uncovered: dict[str, str] = field(default_factory=dict)
    bytes_per_token: float = 0.0
    reasons: tuple[str, ...] = ()


def make_plan(
    model: LogitModel,
    parameters: Mapping[str, Tensor],
    examples: Sequence[EncodedExample],
    batch_size: int | None = None,
) -> CapturePlan:
    """Find out how `parameters` of `model` can be captured, and prove it on real examples.

    Args:
        model: f, in evaluation mode.
        parameters: name → parameter, what the kernel is over.
        examples: those the kernel is for; a few of different lengths are tried.
        batch_size: wished for; None takes 32, or 1 where something needs autograd.

    Raises:
        UserError: f is not a function of one example (see `check_function`), or a parameter's
            recorded gradient does not equal autograd's even alone.
    """
    check_function(model, examples)
    few = _spread(examples)
    one, uncovered = _capture_one(model, parameters, few[-1])
    wrong = _compare_with_autograd(model, parameters, few[-1], one)
    if wrong:
        uncovered |= dict.fromkeys(wrong, "recorded gradient differs from autograd's")
        one, _ = _capture_one(model, parameters, few[-1], uncovered)
        if still := _compare_with_autograd(model, parameters, few[-1], one):
            raise UserError(f"gradient of '{still[0]}' cannot be captured: use --engine reference")
    reasons = [f"{name}: {why}" for name, why in uncovered.items()]
    wished = batch_size or (1 if uncovered else 32)
    if wished > 1 and (why := _why_one_by_one(model, parameters, few, one, uncovered)):
        reasons.append(f"one example at a time: {why}")
        wished = 1
    tokens = max(1, len(few[-1].input_ids))
    return CapturePlan(wished, uncovered, one.nbytes() / tokens, tuple(reasons))


def _capture_one(
    model: LogitModel,
    parameters: Mapping[str, Tensor],
    example: EncodedExample,
    uncovered: Mapping[str, str] | None = None,
) -> tuple[Captured, dict[str, str]]:
    """Capture one example alone; what no rule covers is found on the way."""
    known = dict(uncovered or {})
    while True:
        try:
            return capture(model, parameters, [example], list(known)), known
        except NotCovered as found:
            new = {k: v for k, v in found.uncovered.items() if k not in known}
            if not new:
                raise
            known |= new


def _compare_with_autograd(
    model: LogitModel,
    parameters: Mapping[str, Tensor],
    example: EncodedExample,
    captured: Captured,
) -> list[str]:
    """Parameters whose captured gradient of a random sum of the logits is not autograd's."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(model.num_logits, generator=generator).to(model.device)
    with frozen(model), torch.enable_grad():
        for p in parameters.values():
            p.requires_grad_(True)
        logits = model(model.collate([example]))[0]
        grads = torch.autograd.grad(
            (logits * mix.to(logits.dtype)).sum(), list(parameters.values()), allow_unused=True
        )
    total = max((_norm(g) for g in grads if g is not None), default=0.0)
    tolerance = TOLERANCE.get(model.dtype, 1e-3)
    wrong = []
    for (name, p), grad in zip(parameters.items(), grads, strict=True):
        ours = torch.zeros((), dtype=p.dtype, device=p.device)
        if name in captured.factors:
            dense = captured.factors[name][0].dense(p.shape)
            ours = torch.tensordot(mix.to(dense.dtype), dense, dims=1)
        theirs = grad if grad is not None else torch.zeros((), dtype=p.dtype, device=p.device)
        difference = _norm(ours - theirs)
        noise = NOISE.get(model.dtype, 1e-3) * total
        if difference > tolerance * (_norm(theirs) + noise):
            wrong.append(name)
    return wrong


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64))


def _why_one_by_one(
    model: LogitModel,
    parameters: Mapping[str, Tensor],
    few: Sequence[EncodedExample],
    last: Captured,
    uncovered: Mapping[str, str],
) -> str | None:
    """Why examples cannot share a batch, or None: factors in a batch must equal those alone.

    Batches of two sizes: a table without an axis of examples may by chance have as many rows as
    one batch has examples or tokens, not as both have.
    """
    alone = [capture(model, parameters, [e], list(uncovered)) for e in few[:-1]] + [last]
    for size in range(2, len(few) + 1):
        try:
            together = capture(model, parameters, few[-size:], list(uncovered))
        except NotCovered as found:
            return f"'{min(found.shared | found.uncovered.keys())}' has no axis of examples"
        except RuntimeError as error:  # torch.func refuses some custom autograd functions
            return str(error).splitlines()[0]
        for i, single in enumerate(alone[-size:]):
            if name := _first_difference(together, i, single, parameters, model.dtype):
                return f"gradient of '{name}' changes with the batch"
    return None


def _first_difference(
    together: Captured,
    i: int,
    alone: Captured,
    parameters: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> str | None:
    """A parameter whose gradient g_i in the batch is not the gradient h alone: |g − h|² > tol."""
    tolerance = TOLERANCE.get(dtype, 1e-3)
    gaps: dict[str, tuple[float, float]] = {}
    for name, p in parameters.items():
        g = together.factors[name][i : i + 1] if name in together.factors else None
        h = alone.factors.get(name)
        gg, hh, gh = (
            _trace(a, b, p.shape) if a is not None and b is not None else 0.0
            for a, b in ((g, g), (h, h), (g, h))
        )
        gaps[name] = (max(0.0, gg + hh - 2 * gh), hh)
    total = max((hh for _, hh in gaps.values()), default=0.0)
    floor = {torch.float64: 1e-12}.get(dtype, 1e-5)  # cancellation in gg + hh − 2gh
    for name, (gap, hh) in gaps.items():
        if gap > max(tolerance**2, floor) * (hh + NOISE.get(dtype, 1e-3) * total):
            return name
    return None


def _trace(left: Sequence[object], right: Sequence[object], shape: torch.Size) -> float:
    block = parameter_block(left, right, shape)  # type: ignore[arg-type]
    return float(torch.einsum("ncnc->", block))


def refuse_dead(
    coordinates: Coordinates, subspace: Subspace, examples: Sequence[EncodedExample]
) -> None:
    """Look for one example with a gradient; usually the first has one and costs one backward.

    What an adapter only trains beside itself (a linear readout) does not count as its gradient.

    Raises:
        UserError: no example has a gradient other than exactly 0, or one is not finite.
    """
    model = coordinates.model
    check_length(model, max(examples, key=lambda e: len(e.input_ids)))
    trained = {n: p for n, p in coordinates.parameters.items() if n not in coordinates.beside}
    mix = torch.randn(model.num_logits, generator=torch.Generator().manual_seed(0))
    for example in sorted(examples, key=lambda e: len(e.input_ids)):  # the cheapest first
        with frozen(model), torch.enable_grad():
            for p in trained.values():
                p.requires_grad_(True)
            logits = model(model.collate([example]))[0]
            if not torch.isfinite(logits).all():
                return  # `check_function` says what is wrong with f itself
            if not logits.requires_grad:
                continue
            value = (logits * mix.to(logits)).sum()  # a random mix: logits' gradients cannot cancel
            grads = torch.autograd.grad(value, list(trained.values()), allow_unused=True)
        for name, grad in zip(trained, grads, strict=True):
            if grad is not None and not torch.isfinite(grad).all():
                raise UserError(
                    f"kernel of {_what(subspace)} is undefined: the gradient of '{name}' is not"
                    f" finite for example '{example.id}', try another initialisation or targets"
                )
        if any(grad is not None and bool((grad != 0).any()) for grad in grads):
            return
    few = ", ".join(list(trained)[:2]) + (" …" if len(trained) > 2 else "")
    raise UserError(
        f"kernel of {_what(subspace)} is identically zero: no logit moves with {few} to first"
        " order, try another initialisation or other targets"
    )


def _what(subspace: Subspace) -> str:
    described: dict[str, Any] = subspace.describe()
    described = described.get("inner", described)  # random directions of what is dead
    if described["kind"] == "at":
        return f"{_name(described['subspace'])} at its checkpoint"
    return f"{_name(described)} at its initialisation"


def _name(described: dict[str, Any]) -> str:
    method = described.get("config", {}).get("peft_type")
    value = described.get("pattern", described.get("group"))
    kind = method or described["kind"]
    return f"{kind} '{value}'" if value else str(kind)

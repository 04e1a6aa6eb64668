"""Before any kernel: is f a function of one example, and does the recording see all of it?

A `Plan` is made once per model and subspace from a few real examples. It holds how to capture:
the batch size that is safe, and the parameters that no recording rule covers. Every way a
gradient could silently be wrong (dropout, batch-dependence, an operation without an axis of
examples, an unknown way for a parameter to enter) is tested against autograd here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from subkern.capture import Captured, NotCovered, capture, frozen
from subkern.contraction import parameter_block
from subkern.errors import UserError
from subkern.models import LogitModel

if TYPE_CHECKING:
    from subkern.prompts import EncodedExample

# Relative differences that rounding explains: of logits, and of gradients against autograd.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.03}
# Share of the whole gradient that a gradient of zero (a key's bias) may show as rounding noise.
NOISE = {torch.bfloat16: 0.1, torch.float16: 0.03}


@dataclass(frozen=True)
class Plan:
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


def check_function(model: LogitModel, examples: Sequence[EncodedExample]) -> None:
    """Refuse a model whose logits are random, or depend on what else is in the batch.

    Raises:
        UserError: two evaluations differ (dropout), a logit is not finite, or an example's logits
            change with its batch or padding.
    """
    longest = max(examples, key=lambda e: len(e.input_ids))
    check_length(model, longest)
    few = [e for e in _spread(examples) if e is not longest] + [longest]
    tolerance = TOLERANCE.get(model.dtype, 1e-3)
    with torch.no_grad():
        together = model(model.collate(few)).double()
        alone = torch.cat([model(model.collate([e])) for e in few]).double()
        again = model(model.collate(few[:1])).double()
    if not torch.isfinite(together).all():
        first = int((~torch.isfinite(together)).any(1).nonzero()[0, 0])
        raise UserError(
            f"logits of example '{few[first].id}' are not finite: check the weights, or use float32"
        )
    scale = float(together.abs().max()) + 1e-12
    if float(difference := (alone[:1] - again).abs().max()) > 1e-6 * scale:
        raise UserError(
            f"two evaluations of the model differ by {difference:.2g}: dropout is on, call"
            " model.eval()"
        )
    worst = (together - alone).abs().amax(1)
    if float(worst.max()) > tolerance * scale:
        i = int(worst.argmax())
        raise UserError(
            f"logits of example '{few[i].id}' change by {float(worst[i]):.2g} with its batch or"
            " padding: the model mixes examples (batch norm?) or ignores the attention mask"
        )


def check_length(model: LogitModel, longest: EncodedExample) -> None:
    """Refuse an example with more tokens than the model has positions.

    Raises:
        UserError: `longest` is too long, counting virtual tokens.
    """
    most = getattr(getattr(model.module, "config", None), "max_position_embeddings", None)
    virtual = getattr(model.module, "num_virtual_tokens", 0)
    if most is not None and most > 0 and len(longest.input_ids) + virtual > most:
        raise UserError(
            f"example '{longest.id}' has {len(longest.input_ids)} tokens"
            f"{f' after {virtual} virtual ones' if virtual else ''} and the model takes {most}:"
            " lower the task's max_length"
        )


def make_plan(
    model: LogitModel,
    parameters: Mapping[str, Tensor],
    examples: Sequence[EncodedExample],
    batch_size: int | None = None,
) -> Plan:
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
    return Plan(wished, uncovered, one.nbytes() / tokens, tuple(reasons))


def _spread(examples: Sequence[EncodedExample], count: int = 3) -> list[EncodedExample]:
    """A few examples of different lengths, none longer than the median: enough to see, cheap."""
    ordered = sorted(examples, key=lambda e: len(e.input_ids))
    last = max(len(ordered) // 2, min(count, len(ordered)) - 1)
    picks = sorted({last * i // max(1, count - 1) for i in range(count)})
    return [ordered[i] for i in picks]


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

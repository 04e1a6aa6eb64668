"""Before any kernel: is f a function of one example, and does the recording see all of it?

A `CapturePlan` is made once per model and subspace from a few real examples. It holds how to
capture: the batch size that is safe, and the parameters that no recording rule covers. Every way a
gradient could silently be wrong (dropout, batch-dependence, an operation without an axis of
examples, an unknown way for a parameter to enter, coordinates that move no logit) is tested here,
gradients against autograd's, in one pass over the same few examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from subkern.errors import UserError
from subkern.gradients.capture import Captured, NotCovered, capture, frozen
from subkern.gradients.contract import parameter_block
from subkern.gradients.factors import DenseFactor, Factor, HeadFactor, OuterFactor, RowFactor
from subkern.models.autograd_mode import check_mode
from subkern.models.checks import TOLERANCE, check_function, check_logits, spread
from subkern.models.logit_model import LogitModel
from subkern.subspaces.base import Coordinates

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


@dataclass(frozen=True)
class MustMove:
    """Parameters one of which has to move a logit, or the kernel over them is zero.

    Attributes:
        names: of the parameters.
        described: the subspace they belong to, as `Subspace.describe` says it.
        where: begins what is said of them, such as which of several target sets it is.
    """

    names: tuple[str, ...]
    described: Mapping[str, Any]
    where: str = ""

    def undefined(self, name: str, example: EncodedExample) -> UserError:
        """The gradient of one of the parameters is not finite."""
        return UserError(
            f"{self.where}kernel of {_what(self.described)} is undefined: the gradient of '{name}'"
            f" is not finite for example '{example.id}', try another initialization or targets"
        )

    def dead(self) -> UserError:
        """No example has a gradient."""
        few = ", ".join(self.names[:2]) + (" …" if len(self.names) > 2 else "")
        return UserError(
            f"{self.where}kernel of {_what(self.described)} is identically zero: no logit moves"
            f" with {few} to first order, try another initialization or other targets"
        )


def validate(
    coordinates: Coordinates,
    examples: Sequence[EncodedExample],
    must_move: Sequence[MustMove] = (),
    batch_size: int | None = None,
    recorded: bool = True,
) -> CapturePlan:
    """Find out how gradients can be captured, and prove it on a few of the real examples.

    Args:
        coordinates: the model, in evaluation mode, and what the kernel is over.
        examples: those the kernel is for; a few of different lengths are tried.
        must_move: parameters that are refused where they move no logit.
        batch_size: wished for; None takes 32, or 1 where something needs autograd.
        recorded: whether gradients will be recorded; if not, only f itself is looked at.

    Raises:
        UserError: an example is too long; f is not a function of one example (see
            `check_function`); a gradient that must not be is zero for all examples or not finite;
            or a parameter's recorded gradient does not equal autograd's even alone.
    """
    model, parameters = coordinates.model, coordinates.parameters
    check_mode(model)
    model.check_tokens(examples)
    by_length = sorted(examples, key=lambda e: len(e.input_ids))
    few = spread(examples)
    middle = few[-1]
    truth = _autograd(model, parameters, middle)
    for each in must_move:
        _require_gradient(each, model, parameters, truth, by_length)
    if not recorded:
        check_function(model, examples)
        return CapturePlan(1)
    check_function(model, [few[0], by_length[-1]])  # captures look at the others
    one, uncovered = _capture_one(model, parameters, middle)
    if wrong := _differing(truth, one, parameters, model.dtype):
        uncovered |= dict.fromkeys(wrong, "recorded gradient differs from autograd's")
        one, _ = _capture_one(model, parameters, middle, uncovered)
        if still := _differing(truth, one, parameters, model.dtype):
            raise UserError(f"gradient of '{still[0]}' cannot be captured: use --engine reference")
    del truth
    reasons = [f"{name}: {why}" for name, why in uncovered.items()]
    wished = batch_size or (1 if uncovered else 32)
    if wished > 1 and (why := _why_one_by_one(coordinates, few, one, uncovered, must_move)):
        reasons.append(f"one example at a time: {why}")
        wished = 1
    if wished == 1:
        check_function(model, few)
    tokens = max(1, len(middle.input_ids))
    return CapturePlan(wished, uncovered, one.nbytes() / tokens, tuple(reasons))


@dataclass(frozen=True)
class _Autograd:
    """Gradients of a random sum of one example's logits, so that they cannot cancel.

    Attributes:
        example: which.
        finite: whether its logits are.
        mix: weight of each logit ``[c]``.
        grads: parameter → gradient; absent where no logit depends on it.
        norms: parameter → its norm, in float64.
    """

    example: EncodedExample
    finite: bool
    mix: Tensor
    grads: dict[str, Tensor]
    norms: dict[str, float]

    def undefined(self, names: Sequence[str]) -> str | None:
        """The first of `names` whose gradient is not finite."""
        for name in names:
            if math.isfinite(self.norms.get(name, 0.0)):
                continue
            if not torch.isfinite(self.grads[name]).all():
                return name
        return None

    def moves(self, names: Sequence[str]) -> bool:
        """Whether any of `names` has a gradient other than exactly 0."""
        mine = [name for name in names if name in self.grads]
        return any(self.norms[n] > 0 or bool((self.grads[n] != 0).any()) for n in mine)


def _autograd(
    model: LogitModel, parameters: Mapping[str, Tensor], example: EncodedExample
) -> _Autograd:
    """One forward and one backward of one example, by autograd alone."""
    mix = torch.randn(model.num_logits, generator=torch.Generator().manual_seed(0))
    with frozen(model), torch.enable_grad():
        for p in parameters.values():
            p.requires_grad_(True)
        logits = model(model.collate([example]))[0]
        mix = mix.to(logits)
        finite = bool(torch.isfinite(logits).all())
        found: Sequence[Tensor | None] = [None] * len(parameters)
        if logits.requires_grad:
            found = torch.autograd.grad(
                (logits * mix).sum(), list(parameters.values()), allow_unused=True
            )
    grads = {name: g for name, g in zip(parameters, found, strict=True) if g is not None}
    return _Autograd(example, finite, mix, grads, {name: _norm(g) for name, g in grads.items()})


def _require_gradient(
    must: MustMove,
    model: LogitModel,
    parameters: Mapping[str, Tensor],
    truth: _Autograd,
    examples: Sequence[EncodedExample],
) -> None:
    """Raise `UserError` unless `must` moves a logit of one of the `examples`, the cheapest first.

    Usually `truth` has the gradient, and no other example is looked at. Where logits are not
    finite, `check_function` says what is wrong.
    """
    if not truth.finite or (truth.undefined(must.names) is None and truth.moves(must.names)):
        return
    mine = {name: parameters[name] for name in must.names}
    for example in examples:
        found = _autograd(model, mine, example)
        if not found.finite:
            return
        if name := found.undefined(must.names):
            raise must.undefined(name, example)
        if found.moves(must.names):
            break
    else:
        raise must.dead()
    if name := truth.undefined(must.names):
        raise must.undefined(name, truth.example)


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
            shared = dict.fromkeys(found.shared, "has no axis of examples")
            new = {k: v for k, v in (found.uncovered | shared).items() if k not in known}
            if not new:
                raise
            known |= new


def _differing(
    truth: _Autograd, captured: Captured, parameters: Mapping[str, Tensor], dtype: torch.dtype
) -> list[str]:
    """Parameters whose captured gradient of the sum of logits is not autograd's."""
    total = max(truth.norms.values(), default=0.0)
    tolerance, noise = TOLERANCE.get(dtype, 1e-3), NOISE.get(dtype, 1e-3) * total
    wrong = []
    for name, p in parameters.items():
        theirs = truth.grads.get(name)
        difference = truth.norms.get(name, 0.0)
        if name in captured.factors:
            ours = _mixed(captured.factors[name][0], truth.mix, p.shape)
            difference = _norm(ours if theirs is None else ours - theirs)
        if difference > tolerance * (truth.norms.get(name, 0.0) + noise):
            wrong.append(name)
    return wrong


def _mixed(factor: Factor, mix: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of the sum of logits weighted by `mix` ``[c]``, of a parameter of `shape`."""
    if isinstance(factor, OuterFactor):
        summed = torch.einsum("tcd,c->td", factor.cotangents, mix.to(factor.cotangents))
        return replace(factor, cotangents=summed[:, None]).dense(shape)[0]
    if isinstance(factor, RowFactor):
        summed = torch.einsum("kcd,c->kd", factor.rows, mix.to(factor.rows))
        return replace(factor, rows=summed[:, None], bound=None).dense(shape)[0]
    if isinstance(factor, HeadFactor):
        summed, added = factor.cotangents @ mix.to(factor.cotangents), factor.added
        if added is not None:
            rows = torch.einsum("kcd,c->kd", added.rows, mix.to(added.rows))
            added = replace(added, rows=rows[:, None], bound=None)
        return replace(factor, cotangents=summed[:, None], added=added).dense(shape)[0]
    assert isinstance(factor, DenseFactor)
    return torch.tensordot(mix.to(factor.grad), factor.grad, dims=1)


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64))


def _why_one_by_one(
    coordinates: Coordinates,
    few: Sequence[EncodedExample],
    last: Captured,
    uncovered: Mapping[str, str],
    must_move: Sequence[MustMove],
) -> str | None:
    """Why examples cannot share a batch, or None: factors in a batch must equal those alone.

    Batches of two sizes: a table without an axis of examples may by chance have as many rows as
    one batch has examples or tokens, not as both have.

    Raises:
        UserError: an example's logits change with its batch, or a gradient is not finite.
    """
    model, parameters = coordinates.model, coordinates.parameters
    alone = [capture(model, parameters, [e], list(uncovered)) for e in few[:-1]] + [last]
    squares = [_squares(each, parameters) for each in alone]
    for example, found in zip(few, squares, strict=True):
        for must in must_move:
            if name := next((n for n in must.names if not math.isfinite(found[n])), None):
                raise must.undefined(name, example)
    for size in range(2, len(few) + 1):
        try:
            together = capture(model, parameters, few[-size:], list(uncovered))
        except NotCovered as error:
            return f"'{min(error.shared | error.uncovered.keys())}' has no axis of examples"
        except RuntimeError as error:  # torch.func refuses some custom autograd functions
            return str(error).splitlines()[0]
        singles = list(zip(alone[-size:], squares[-size:], strict=True))
        logits = torch.cat([single.logits for single, _ in singles])
        check_logits(few[-size:], together.logits, logits, model.dtype)
        for i, (single, square) in enumerate(singles):
            if name := _first_difference(together, i, single, square, parameters, model.dtype):
                return f"gradient of '{name}' changes with the batch"
    return None


def _squares(alone: Captured, parameters: Mapping[str, Tensor]) -> dict[str, float]:
    """Squared norm of the gradient of one example by every parameter, over all logits."""
    found = ((name, alone.factors.get(name), p.shape) for name, p in parameters.items())
    return {name: 0.0 if h is None else _trace(h, h, shape) for name, h, shape in found}


def _first_difference(
    together: Captured,
    i: int,
    alone: Captured,
    squares: Mapping[str, float],
    parameters: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> str | None:
    """A parameter whose gradient g_i in the batch is not the gradient h alone: |g − h|² > tol."""
    noise = NOISE.get(dtype, 1e-3) * max(squares.values(), default=0.0)
    # The floor is for cancellation in gg + hh − 2gh.
    tolerance = max(TOLERANCE.get(dtype, 1e-3) ** 2, {torch.float64: 1e-12}.get(dtype, 1e-5))
    for name, p in parameters.items():
        allowed = tolerance * (squares[name] + noise)
        g = together.factors[name][i : i + 1] if name in together.factors else None
        h = alone.factors.get(name)
        if g is not None and h is not None and _distance(g[0], h[0]) ** 2 <= allowed:
            continue
        gg, gh = (
            _trace(a, b, p.shape) if a is not None and b is not None else 0.0
            for a, b in ((g, g), (g, h))
        )
        if max(0.0, gg + squares[name] - 2 * gh) > allowed:
            return name
    return None


def _distance(g: Factor, h: Factor) -> float:
    """No less than |g − h|, without forming either; infinity where their factors do not match."""
    if isinstance(g, OuterFactor) and isinstance(h, OuterFactor):
        if g.inputs.shape != h.inputs.shape or g.cotangents.shape != h.cotangents.shape:
            return math.inf
        moved = _norm(g.cotangents - h.cotangents) * _norm(g.inputs)
        return moved + _norm(h.cotangents) * _norm(g.inputs - h.inputs)
    if isinstance(g, RowFactor) and isinstance(h, RowFactor) and torch.equal(g.ids, h.ids):
        return _norm(g.rows - h.rows)
    if isinstance(g, DenseFactor) and isinstance(h, DenseFactor):
        return _norm(g.grad - h.grad)
    return math.inf


def _trace(left: Sequence[Factor], right: Sequence[Factor], shape: torch.Size) -> float:
    return float(torch.einsum("ncnc->", parameter_block(left, right, shape)))


def _what(described: Mapping[str, Any]) -> str:
    described = described.get("inner", described)  # random directions of what is dead
    if described["kind"] == "at":
        return f"{_name(described['subspace'])} at its checkpoint"
    return f"{_name(described)} at its initialization"


def _name(described: Mapping[str, Any]) -> str:
    method = described.get("config", {}).get("peft_type")
    value = described.get("pattern", described.get("group"))
    kind = method or described["kind"]
    return f"{kind} '{value}'" if value else str(kind)

"""Capture: one forward and c backwards of a batch give every example's gradient factors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from subkern.cores import make_way
from subkern.gradients.factors import DenseFactor, Factor, FactorBuilder, merge, nbytes, of_logit
from subkern.gradients.record import Recorder, Use
from subkern.models.likelihood import composable
from subkern.models.logit_model import LogitModel, parameter_path

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample


@dataclass(frozen=True)
class Captured:
    """Gradient factors of some examples.

    Attributes:
        factors: parameter name → one factor an example. A parameter that touches no logit of any
            example of the batch is absent: its gradient is zero.
        logits: f(x; θ), ``[n, c]``, float64.
    """

    factors: dict[str, list[Factor]]
    logits: Tensor

    def __len__(self) -> int:
        return len(self.logits)

    def nbytes(self) -> int:
        """Bytes held by the factors."""
        return nbytes(f for factors in self.factors.values() for f in factors)


class NotCovered(Exception):  # noqa: N818  (a finding that steers the plan, not a fault)
    """A recording met what it cannot turn into per-example factors.

    Attributes:
        uncovered: parameter name → the operation that has no rule.
        shared: parameters whose operation has no per-example axis in a batch.
    """

    def __init__(self, uncovered: Mapping[str, str], shared: set[str]) -> None:
        super().__init__(f"uncovered {dict(uncovered)}, shared {shared}")
        self.uncovered = dict(uncovered)
        self.shared = shared


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside, no parameter of `model` requires a gradient."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for p, _ in before:
            p.requires_grad_(False)
        yield
    finally:
        for p, required in before:
            p.requires_grad_(required)


def capture(
    model: LogitModel,
    parameters: Mapping[str, Tensor],
    examples: Sequence[EncodedExample],
    uncovered: Sequence[str] = (),
    bounded: bool = False,
) -> Captured:
    """Factors of `examples`, which run as one batch.

    Args:
        model: f; evaluated as it stands.
        parameters: name → parameter, those the kernel is over.
        examples: run together, padded on the right.
        uncovered: parameters that no operation rule covers. A batch of one gives their gradients
            by plain autograd in the same backward; a larger one by `torch.func`, example by
            example.
        bounded: keep what tells rounding noise from small gradients (see `factors`); gradients by
            autograd and by `torch.func` come without.

    Raises:
        NotCovered: a parameter enters an operation without a rule, or one whose output has no
            axis of examples; nothing is ever left out in silence.
    """
    watched = {k: v for k, v in parameters.items() if k not in uncovered}
    direct = {k: parameters[k] for k in uncovered} if len(examples) == 1 else {}
    batch = model.collate(examples)
    recorder = Recorder(watched, *batch.input_ids.shape)
    with frozen(model), torch.enable_grad():
        for p in direct.values():
            p.requires_grad_(True)
        try:
            with recorder:
                logits = model(batch)
        except RuntimeError as error:
            if recorder.expanded:  # the model needs its axis of length 1: DeBERTa's positions
                raise NotCovered({}, recorder.expanded) from error
            raise
        _refuse_uncovered(recorder)
        c = logits.shape[1]
        # Each sequence adds to one logit: one backward of their sum tells all, but for what
        # autograd gives of the whole batch.
        apart = c > 1 and batch.marks is not None and not direct
        told = logits.sum(1, keepdim=True) if apart else logits
        cotangents, grads = _backward(recorder, told, direct)
    builder = FactorBuilder(len(batch), told.shape[1], bounded)
    factors = {name: builder.build(uses) for name, uses in cotangents.items()}
    if batch.marks is not None:
        factors = {
            name: _by_example(rows, examples, parameters[name].shape, bounded, c if apart else 1)
            for name, rows in factors.items()
        }
    factors |= {name: [DenseFactor(grad)] for name, grad in grads.items()}
    if uncovered and not direct:
        factors |= _by_torch_func(model, parameters, examples, uncovered)
    return Captured(factors, logits.detach().double())


def _by_example(
    rows: Sequence[Factor],
    examples: Sequence[EncodedExample],
    shape: torch.Size,
    bounded: bool,
    logits: int,
) -> list[Factor]:
    """Factors of examples from those of their sequences, whose gradients add up.

    With more `logits` than one each sequence's is of the one that it adds to.
    """
    left, found = iter(rows), []
    for e in examples:
        parts = [next(left) for _ in e.marked]
        if logits > 1:
            pairs = zip(parts, e.marked, strict=True)
            parts = [of_logit(part, m.logit, logits) for part, m in pairs]
        found.append(merge(parts, shape, bounded))
    return found


def _refuse_uncovered(recorder: Recorder) -> None:
    uncovered = dict(recorder.uncovered)
    uncovered |= dict.fromkeys(recorder.changed_in_place(), "output changed in place")
    shared = {u.name for u in recorder.uses if u.call.layout == "none"}
    if uncovered or shared:
        raise NotCovered(uncovered, shared)


Cotangents = dict[str, list[tuple[Use, Tensor]]]


def _backward(
    recorder: Recorder, logits: Tensor, direct: Mapping[str, Tensor]
) -> tuple[Cotangents, dict[str, Tensor]]:
    """One backward a logit.

    Returns:
        The cotangents ``[c, *output]`` of every recorded call, by parameter, and the gradients
        ``[c, *shape]`` of the parameters in `direct`; what no logit depends on is left out.
    """
    calls = list({id(u.call): u.call for u in recorder.uses}.values())
    wanted = [call.output for call in calls] + list(direct.values())
    if not wanted or not logits.requires_grad:
        return {}, {}
    c = logits.shape[1]
    by_logit = []
    for k in range(c):
        make_way()
        total, last = logits[:, k].sum(), k == c - 1
        by_logit.append(
            torch.autograd.grad(total, wanted, retain_graph=not last, allow_unused=True)
        )
    stacked = [_stack(column) for column in zip(*by_logit, strict=True)]
    full = {id(call): g for call, g in zip(calls, stacked, strict=False) if g is not None}
    found: Cotangents = defaultdict(list)
    for use in recorder.uses:
        if id(use.call) in full:
            found[use.name].append((use, full[id(use.call)]))
    grads = zip(direct, stacked[len(calls) :], strict=True)
    return found, {name: g for name, g in grads if g is not None}


def _stack(grads: Sequence[Tensor | None]) -> Tensor | None:
    known = next((g for g in grads if g is not None), None)
    if known is None or len(grads) == 1:
        return None if known is None else known[None]  # no copy
    return torch.stack([torch.zeros_like(known) if g is None else g for g in grads])


def _by_torch_func(
    model: LogitModel,
    parameters: Mapping[str, Tensor],
    examples: Sequence[EncodedExample],
    names: Sequence[str],
) -> dict[str, list[Factor]]:
    chosen = {n: parameters[n] for n in names}
    rows = [jacobian(model, chosen, e)[0] for e in examples]
    return {n: [DenseFactor(row[n]) for row in rows] for n in names}


def jacobian(
    model: LogitModel, parameters: Mapping[str, Tensor], example: EncodedExample
) -> tuple[dict[str, Tensor], Tensor]:
    """∂f/∂θ ``[c, *shape]`` of one example by `torch.func`, and its logits ``[c]``.

    The slow way that needs no rule: used for parameters that no rule covers and, alone, by
    ``engine="reference"``.
    """
    batch = model.collate([example])
    values = {parameter_path(n): p.detach() for n, p in parameters.items()}

    def f(theta: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = torch.func.functional_call(model, theta, (batch,))[0]
        return logits, logits

    with composable():
        grads, logits = torch.func.jacrev(f, has_aux=True, chunk_size=1)(values)
    return {n: grads[parameter_path(n)].detach() for n in parameters}, logits.detach()

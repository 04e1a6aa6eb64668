"""FLOPs of a whole kernel by subkern, counted on a part of it.

Counting slows every operation down, so the whole is never run under the counter: the capture is
counted on some examples and scales as their tokens; each kind of parameter (or of layers that read
the same inputs) is contracted once at full size, with the factors of those examples over and over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.measure import counted
from benchmarks.problem import Examples, Problem, by_length, tokens
from subkern.gradients.capture import Captured, capture
from subkern.gradients.contract import contract, shared_inputs
from subkern.gradients.factors import Factor, OuterFactor, RowFactor
from subkern.kernels.engines.signs.pack import pack
from subkern.kernels.request import Request
from subkern.kernels.sides import Sides
from subkern.models.logit_model import LogitModel, named_parameters


def kernel_flops(problem: Problem, left: int, right: int) -> dict[str, float]:
    """FLOPs of ``capture`` and ``contraction``, counted on `left` + `right` examples.

    Left out are the checks before the start: a few examples' captures. Exact where the part is
    the whole.
    """
    part = problem.subset(left, right)
    parameters = named_parameters(problem.model)
    every = problem.left + problem.right
    chosen = part.left + part.right
    counts = [
        counted(partial(_capture, problem.model, parameters, s)) for s in (part.left, part.right)
    ]
    captured = sum(flops for flops, _ in counts) * tokens(every) / tokens(chosen)
    sizes = len(problem.left), len(problem.right)
    full = [_repeated(one, size) for (_, one), size in zip(counts, sizes, strict=True)]
    return {"capture": captured, "contraction": _contraction(problem, parameters, *full)}


def check_flops(problem: Problem, rule: str = "sgd") -> float:
    """FLOPs of the checks before a kernel's first gradient."""
    sides = Sides.of(problem.left, problem.right)
    return counted(Request(problem.model, sides, rules=[rule]).validate)[0]


def sign_flops(problem: Problem, left: int, right: int) -> dict[str, float]:
    """FLOPs of ``capture`` and of forming the gradients that are packed, as `kernel_flops`.

    Products of signs are of bits, which nobody counts.
    """
    part = problem.subset(left, right)
    parameters = named_parameters(problem.model)
    chosen = part.left + part.right
    scale = tokens(problem.left + problem.right) / tokens(chosen)
    captured, found = counted(partial(_capture, problem.model, parameters, chosen))
    c, formed = problem.model.num_logits, 0.0
    for one in found:
        for name, factors in one.factors.items():
            formed += counted(partial(pack, factors, parameters[name].shape, c, 0.0))[0]
    return {"capture": scale * captured, "packing": scale * formed}


def _capture(model: LogitModel, parameters: Mapping[str, Tensor], side: Examples) -> list[Captured]:
    return [capture(model, parameters, [e]) for e in by_length(side)]


def _repeated(captured: Sequence[Captured], size: int) -> dict[str, list[Factor]]:
    """Factors of `size` examples: those of `captured` over and over, shared and not copied."""
    names = dict.fromkeys(name for one in captured for name in one.factors)
    listed = {n: [f for one in captured for f in one.factors.get(n, [])] for n in names}
    return {n: [found[i % len(found)] for i in range(size)] for n, found in listed.items()}


def _contraction(
    problem: Problem,
    parameters: Mapping[str, Tensor],
    left: Mapping[str, list[Factor]],
    right: Mapping[str, list[Factor]],
) -> float:
    """FLOPs of contracting every parameter; equal kinds are counted once."""
    c = problem.model.num_logits
    known: dict[tuple[object, ...], float] = {}
    total = 0.0
    for names in shared_inputs(left, right, parameters):
        shapes = {n: parameters[n].shape for n in names}
        sides = [{n: side[n] for n in names} for side in (left, right)]
        kind = (*shapes.values(), *(_lengths(side[names[0]]) for side in sides))
        if kind not in known:
            mine, theirs = (Captured(s, torch.zeros(len(s[names[0]]), c)) for s in sides)
            known[kind], _ = counted(partial(contract, mine, theirs, shapes, c))
        total += known[kind]
    return total


def _lengths(factors: Sequence[Factor]) -> tuple[int, ...]:
    """What decides the work beside the shape: positions or rows of every example."""
    return tuple(
        len(f.inputs)
        if isinstance(f, OuterFactor)
        else len(f.ids)
        if isinstance(f, RowFactor)
        else 0
        for f in factors
    )

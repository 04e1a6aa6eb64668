"""The paper's algorithm: Jacobian of the left examples, then a JVP through the model per row.

Malladi et al. 2023 (`LM-Kernel-FT`): ``jacrev`` gives ∇f_k(x_i) for a left batch, and a `vmap` over
these rows of ``jvp`` pushes each as a tangent of the parameters through the model on a right batch:
⟨∇f_k(x_i), ∇f_l(x'_j)⟩ is the derivative of f_l(x'_j) along ∇f_k(x_i). Written here anew, on
`torch.func`, and given every advantage that keeps the algorithm what it is:

* `vmap` over the rows computes the model's own forward once a block and not once a row;
* batches hold neighbours in length, so that little is padding;
* the Jacobian is taken example by example (a batch of b would cost b times more an example);
* only the read position goes through the decoder;
* no garbage collection per block;
* batch sizes are the fastest of a search.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vmap

from benchmarks.contenders import Say
from benchmarks.measure import Sample, counted, timed
from benchmarks.problem import Examples, Problem, batches, padded, strata

Rows = dict[str, Tensor]
"""Parameter name → rows of the Jacobian ``[r, *shape]``."""


@dataclass(frozen=True)
class Batching:
    """How many examples run together on each side."""

    left: int
    right: int

    def __str__(self) -> str:
        return f"{self.left} x {self.right}"


AS_SHIPPED = Batching(1, 1)
"""What its script runs with, and a garbage collection after every block."""

_LONG = 2.0  # seconds of a block that need no second look
_SEARCH_ENTRIES = 160  # a search block with more entries than this takes too long to try


class PaperAlgorithm:
    """`jacrev` of the left batch, then `vmap` of `jvp` on each right batch.

    Args:
        problem: the whole kernel.
        batching: settled batch sizes; None has `tune` search for the best.
        collect: collect garbage after every block, as the paper's code does.
        blocks: right batches timed a turn.
        right_sizes: right batch sizes to try.
    """

    name = "paper"

    def __init__(
        self,
        problem: Problem,
        batching: Batching | None = None,
        *,
        collect: bool = False,
        blocks: int = 3,
        right_sizes: tuple[int, ...] = (1, 8, 16, 32),
    ) -> None:
        self.problem = problem
        self.batching = batching or AS_SHIPPED
        self.collect = collect
        self.blocks = blocks
        self.right_sizes = right_sizes if batching is None else ()
        self.search: dict[str, float] = {}
        self.parameters = {k: p.detach() for k, p in problem.model.named_parameters()}

    def tune(self, say: Say) -> None:
        """Try right batch sizes with one left example, then larger left batches."""
        for right in self.right_sizes:
            self._try(Batching(1, right), say)
        if not self.right_sizes:
            return
        best = self._best().right
        sizes = sorted({max(1, best // 4), max(1, best // 2), best})
        for candidate in (Batching(left, right) for left in (2, 4) for right in sizes):
            if candidate.left * candidate.right <= _SEARCH_ENTRIES:
                self._try(candidate, say)
        self.batching = self._best()

    def values(self, problem: Problem) -> np.ndarray:
        """The kernel ``[n, c, m, c]`` of `problem`."""
        c = problem.model.num_logits
        out = np.zeros((len(problem.left), c, len(problem.right), c))
        place = {id(e): i for side in (problem.left, problem.right) for i, e in enumerate(side)}
        for left in batches(problem.left, self.batching.left):
            rows = self.jacobian(left)
            for right in batches(problem.right, self.batching.right):
                block = self.block(rows, right).unflatten(0, (len(left), c)).double().numpy()
                mine, other = ([place[id(e)] for e in side] for side in (left, right))
                out[np.ix_(mine, range(c), other)] = block
        return out

    def sample(self, turn: int) -> Sample:
        """One left batch against `blocks` right batches of different lengths."""
        lefts = batches(self.problem.left, self.batching.left)
        left = lefts[strata(len(lefts), 1, turn)[0]]
        rights = batches(self.problem.right, self.batching.right)
        chosen = [rights[i] for i in strata(len(rights), self.blocks, turn)]
        jacobian_seconds, rows = timed(lambda: self.jacobian(left))
        block_seconds = [timed(partial(self.block, rows, b))[0] for b in chosen]
        return self._sample(left, chosen, jacobian_seconds, sum(block_seconds))

    def _sample(
        self, left: Examples, rights: list[Examples], jacobian: float, blocks: float
    ) -> Sample:
        c = self.problem.model.num_logits
        right_count = sum(len(b) for b in rights)
        right_scale, left_scale = self._scales(left, rights)
        per_row = jacobian / (len(left) * c) * left_scale
        per_entry = per_row / (len(self.problem.right) * c)
        per_entry += blocks / (len(left) * c * right_count * c) * right_scale
        parts = {
            "jacobian_seconds": jacobian,
            "block_seconds": blocks,
            "left_length_scale": left_scale,
            "right_length_scale": right_scale,
        }
        entries = len(left) * right_count * c * c
        return Sample(per_entry, jacobian + blocks, entries, parts=parts)

    def _scales(self, left: Examples, rights: list[Examples]) -> tuple[float, float]:
        """Padded tokens an example of the whole problem over those of the sample, (right, left).

        Time grows as tokens do; the strata leave these close to 1.
        """
        whole = batches(self.problem.right, self.batching.right)
        mean = sum(padded(b) for b in whole) / len(self.problem.right)
        right = mean * sum(len(b) for b in rights) / sum(padded(b) for b in rights)
        every = sum(len(e.input_ids) for e in self.problem.left) / len(self.problem.left)
        return right, every * len(left) / sum(len(e.input_ids) for e in left)

    def flops_per_entry(self) -> float:
        """FLOPs an entry: of one Jacobian and one block of middling length."""
        lefts = batches(self.problem.left, self.batching.left)
        rights = batches(self.problem.right, self.batching.right)
        left, right = lefts[len(lefts) // 2], rights[len(rights) // 2]
        jacobian, rows = counted(lambda: self.jacobian(left))
        block, _ = counted(lambda: self.block(rows, right))
        return self._sample(left, [right], jacobian, block).seconds_per_entry

    def settings(self) -> dict[str, Any]:
        """Batch sizes, and what the search measured (milliseconds per entry)."""
        return {
            "left_batch": self.batching.left,
            "right_batch": self.batching.right,
            "garbage_collection_per_block": self.collect,
            "blocks_per_turn": self.blocks,
            "search_ms_per_entry": self.search,
        }

    def jacobian(self, examples: Examples) -> Rows:
        """Rows ∇f_k(x_i) ``[b·c, *shape]`` of every parameter."""
        with eager_attention(self.problem.model.module), torch.no_grad():
            single = [jacrev(self._logits([e]))(self.parameters) for e in examples]
        return {name: torch.cat([s[name][0] for s in single]) for name in self.parameters}

    def block(self, rows: Rows, examples: Examples) -> Tensor:
        """Kernel block ``[r, m, c]`` of `rows` with the gradients of `examples`."""
        f = self._logits(examples)

        def along(tangent: Rows) -> Tensor:
            derivative: Tensor = jvp(f, (self.parameters,), (tangent,))[1]
            return derivative

        with eager_attention(self.problem.model.module), torch.no_grad():
            out: Tensor = vmap(along)(rows)
        if self.collect:
            gc.collect()
        return out

    def _logits(self, examples: Examples) -> Any:
        model = self.problem.model
        batch = model.collate(examples)
        return lambda theta: functional_call(model, theta, (batch,))

    def _try(self, batching: Batching, say: Say) -> None:
        """Time one block of middling length."""
        self.batching = batching
        rights = batches(self.problem.right, batching.right)
        lefts = batches(self.problem.left, batching.left)
        left, right = lefts[len(lefts) // 2], rights[len(rights) // 2]
        jacobian, rows = timed(lambda: self.jacobian(left))
        block, _ = timed(lambda: self.block(rows, right))
        if block < _LONG:  # a short one again: the first of a shape warms up
            block = min(block, timed(lambda: self.block(rows, right))[0])
        found = self._sample(left, [right], jacobian, block).seconds_per_entry
        self.search[str(batching)] = 1e3 * found
        say(f"paper, batches {batching}: {1e3 * found:.1f} ms per entry")

    def _best(self) -> Batching:
        best = min(self.search, key=lambda key: self.search[key])
        left, right = best.split(" x ")
        return Batching(int(left), int(right))


@contextlib.contextmanager
def eager_attention(module: nn.Module) -> Iterator[None]:
    """Inside, attention is plain products: torch's fused kernels have no forward derivative."""
    config = getattr(module, "config", None)
    before = getattr(config, "_attn_implementation", None)
    if before in (None, "eager"):
        yield
        return
    module.set_attn_implementation("eager")  # type: ignore[operator]
    try:
        yield
    finally:
        module.set_attn_implementation(before)  # type: ignore[operator]

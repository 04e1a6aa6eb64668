"""The paper's algorithm: Jacobian of the left examples, then a JVP through the model per row.

Malladi et al. 2023 (`LM-Kernel-FT`): ``jacrev`` gives ∇f_k(x_i) for a left batch, and a `vmap` over
these rows of ``jvp`` pushes each as a tangent of the parameters through the model on a right batch:
⟨∇f_k(x_i), ∇f_l(x'_j)⟩ is the derivative of f_l(x'_j) along ∇f_k(x_i). Written here anew, on
`torch.func`, and given every advantage that keeps the algorithm what it is:

* `vmap` over the rows computes the model's own forward once a block and not once a row;
* batches hold neighbors in length, so that little is padding;
* the Jacobian is taken example by example (a batch of b would cost b times more an example);
* only the read position goes through the decoder;
* no garbage collection per block;
* batch sizes are the fastest of a search (see `benchmarks.batching`).
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vmap

from benchmarks.batching import AS_SHIPPED, Batching, BatchSearch
from benchmarks.contenders import Say
from benchmarks.measure import Sample, counted, timed
from benchmarks.problem import Examples, Problem, batches, padded, strata, tokens

Rows = dict[str, Tensor]
"""Parameter name → rows of the Jacobian ``[r, *shape]``."""


_LONG = 1.0  # seconds of a block that need no second look
_MOST_ENTRIES = 160  # larger blocks gain nothing and need more than 10 GiB on SmolLM2
_TURN = 25.0  # seconds of blocks a turn, if one block is not longer


class PaperAlgorithm:
    """`jacrev` of the left batch, then `vmap` of `jvp` on each right batch.

    Args:
        problem: the whole kernel.
        batching: settled batch sizes; None has `tune` search for the best.
        collect: collect garbage after every block, as the paper's code does.
        blocks: most right batches timed a turn.
        left_sizes: left batch sizes to try.
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
        left_sizes: Sequence[int] = (2, 4, 8),
        right_sizes: Sequence[int] = (8, 16, 32),
    ) -> None:
        self.problem = problem
        self.batching = batching or AS_SHIPPED
        self.collect = collect
        self.blocks = blocks
        self.sizes = (left_sizes, right_sizes) if batching is None else None
        self.search: dict[str, float] = {}
        self.parameters = {k: p.detach() for k, p in problem.model.named_parameters()}

    def tune(self, say: Say, seconds: float) -> None:
        """Search for the fastest batch sizes, unless they are settled."""
        if self.sizes is None:
            return
        search = BatchSearch(self._try, lambda line: say(f"paper, {line}"), seconds)
        self.batching = search.run(*self.sizes, most=_MOST_ENTRIES)
        self.search = search.ms_per_entry
        block = self.search[str(self.batching)] / 1e3 * self.batching.left * self.batching.right
        self.blocks = max(1, min(self.blocks, int(_TURN / block)))

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
        """FLOPs an entry, of one Jacobian and one block of middling length.

        A block's are linear in its examples and affine in its rows, so they are counted on two
        examples with one row and with two.
        """
        lefts = batches(self.problem.left, self.batching.left)
        rights = batches(self.problem.right, self.batching.right)
        left, right = lefts[len(lefts) // 2], rights[len(rights) // 2]
        jacobian, rows = counted(lambda: self.jacobian(left[:1]))
        few = right[-2:]
        one, two = (counted(partial(self.block, _first(rows, k), few))[0] for k in (1, 2))
        count = len(left) * self.problem.model.num_logits
        block = (one + (count - 1) * (two - one)) * padded(right) / padded(few)
        share = tokens(left) / tokens(left[:1])
        return self._sample(left, [right], jacobian * share, block).seconds_per_entry

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

    def _try(self, batching: Batching) -> float:
        """Seconds per entry by one block of middling length."""
        self.batching = batching
        rights = batches(self.problem.right, batching.right)
        lefts = batches(self.problem.left, batching.left)
        left, right = lefts[len(lefts) // 2], rights[len(rights) // 2]
        jacobian, rows = timed(lambda: self.jacobian(left))
        block, _ = timed(lambda: self.block(rows, right))
        if block < _LONG:  # a short one again: the first of a shape warms up
            block = min(block, timed(lambda: self.block(rows, right))[0])
        return self._sample(left, [right], jacobian, block).seconds_per_entry


def _first(rows: Rows, count: int) -> Rows:
    """`count` rows, the first over and over: what they hold does not matter for FLOPs."""
    return {name: value[:1].expand(count, *value.shape[1:]) for name, value in rows.items()}


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

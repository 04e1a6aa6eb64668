"""The paper's algorithm for sign kernels: Jacobians of both sides, the right one again and again.

A sign cannot be pushed through the model, so the code of Malladi et al. 2023 forms the Jacobian of
a left batch, and for each left batch the Jacobian of every right batch anew, takes signs and
multiplies. As `benchmarks.paper`, written anew on `torch.func` with the same advantages: Jacobians
example by example, neighbors in length, only the read position decoded, no garbage collection per
block, and the largest left batch that the memory allows.
"""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.batching import Batching, BatchSearch
from benchmarks.contenders import Say
from benchmarks.measure import Sample, timed
from benchmarks.paper import PaperAlgorithm, Rows
from benchmarks.problem import Examples, Problem, batches, strata, tokens

_MOST = 32  # left examples of a batch
_RIGHT = (1, 2)  # right batch sizes to try; they share no work


class PaperSigns:
    """Jacobian of a left batch, that of each right batch, signs, products.

    Args:
        problem: the whole kernel.
        rule: ``signgd`` or ``asymmetric_signgd``.
        batching: settled batch sizes; None has `tune` search for the best.
        row_bytes: most bytes of left rows held at a time.
        collect: collect garbage after every block, as the paper's code does.
        blocks: right batches timed a turn.
    """

    name = "paper, signs"

    def __init__(
        self,
        problem: Problem,
        rule: str = "signgd",
        batching: Batching | None = None,
        *,
        row_bytes: float = 3 * 2.0**30,
        collect: bool = False,
        blocks: int = 4,
    ) -> None:
        self.problem = problem
        self.rule = rule
        self.batching = batching or Batching(1, 1)
        self.settled = batching is not None
        self.collect = collect
        self.blocks = blocks
        self.search: dict[str, float] = {}
        self.jacobian = PaperAlgorithm(problem).jacobian
        size = sum(p.numel() * p.element_size() for p in problem.model.parameters())
        self.most = max(1, min(_MOST, int(row_bytes / size / problem.model.num_logits)))

    def tune(self, say: Say, seconds: float) -> None:
        """Right batches of one and two; then larger left batches while they are faster."""
        if self.settled:
            return
        sizes = [1 << k for k in range(self.most.bit_length())]
        search = BatchSearch(self._try, lambda line: say(f"paper, signs, {line}"), seconds)
        self.batching = search.run(sizes, _RIGHT, most=_MOST * max(_RIGHT))
        self.search = search.ms_per_entry

    def values(self, problem: Problem) -> np.ndarray:
        """Kernels ``[d, n, c, m, c]`` of `problem`; d = 2 where the rule is asymmetric."""
        c = problem.model.num_logits
        n, m = len(problem.left), len(problem.right)
        place = {id(e): i for side in (problem.left, problem.right) for i, e in enumerate(side)}
        out = np.zeros((self._directions, n, c, m, c))
        for left in batches(problem.left, self.batching.left):
            rows = self.left_rows(left)
            for right in batches(problem.right, self.batching.right):
                block = self.block(rows, right).unflatten(2, (-1, c)).unflatten(1, (-1, c))
                mine, other = ([place[id(e)] for e in side] for side in (left, right))
                grid = np.ix_(range(len(out)), mine, range(c), other, range(c))
                out[grid] = block.numpy()
        return out

    def sample(self, turn: int) -> Sample:
        """One left batch against `blocks` right batches of different lengths."""
        lefts = batches(self.problem.left, self.batching.left)
        left = lefts[strata(len(lefts), 1, turn)[0]]
        rights = batches(self.problem.right, self.batching.right)
        chosen = [rights[i] for i in strata(len(rights), self.blocks, turn)]
        jacobian_seconds, rows = timed(lambda: self.left_rows(left))
        block_seconds = sum(timed(partial(self.block, rows, b))[0] for b in chosen)
        return self._sample(left, chosen, jacobian_seconds, block_seconds)

    def flops_per_entry(self) -> None:
        """Signs are no products: not counted."""

    def settings(self) -> dict[str, Any]:
        """Batch sizes, and what the search measured (milliseconds per entry)."""
        return {
            "rule": self.rule,
            "left_batch": self.batching.left,
            "right_batch": self.batching.right,
            "largest_left_batch_in_memory": self.most,
            "garbage_collection_per_block": self.collect,
            "blocks_per_turn": self.blocks,
            "search_ms_per_entry": self.search,
        }

    @property
    def _directions(self) -> int:
        return 2 if self.rule.startswith("asymmetric") else 1

    def left_rows(self, examples: Examples) -> Rows:
        """Jacobian of a left batch ``[b·c, *shape]``; its signs where only they are needed."""
        rows = self.jacobian(examples)
        return rows if self._directions == 2 else {k: v.sign_() for k, v in rows.items()}

    def block(self, rows: Rows, examples: Examples) -> Tensor:
        """Products ``[d, r, s]`` of `left_rows` with the Jacobian of `examples`, float64."""
        out: Tensor | None = None
        other = self.jacobian(examples)
        for name in rows:
            mine, theirs = rows[name].flatten(1), other.pop(name).flatten(1)
            if self._directions == 2:
                step = torch.stack([mine.sign() @ theirs.T, mine @ theirs.sign().T]).double()
            else:
                step = (mine @ theirs.sign_().T).double()[None]
            out = step if out is None else out.add_(step)
        if self.collect:
            gc.collect()
        assert out is not None
        return out

    def _sample(
        self, left: Examples, rights: list[Examples], jacobian: float, blocks: float
    ) -> Sample:
        c = self.problem.model.num_logits
        count = sum(len(b) for b in rights)
        scales = [
            tokens(whole) / len(whole) * len(part) / tokens(part)
            for whole, part in (
                (self.problem.left, left),
                (self.problem.right, [e for b in rights for e in b]),
            )
        ]
        per_row = jacobian / (len(left) * c) * scales[0]
        per_entry = per_row / (len(self.problem.right) * c)
        per_entry += blocks / (len(left) * c * count * c) * scales[1]
        parts = {
            "jacobian_seconds": jacobian,
            "block_seconds": blocks,
            "left_length_scale": scales[0],
            "right_length_scale": scales[1],
        }
        return Sample(per_entry, jacobian + blocks, len(left) * count * c * c, parts=parts)

    def _try(self, batching: Batching) -> float:
        """Seconds per entry by one block of middling length."""
        self.batching = batching
        lefts = batches(self.problem.left, batching.left)
        rights = batches(self.problem.right, batching.right)
        left, right = lefts[len(lefts) // 2], rights[len(rights) // 2]
        jacobian, rows = timed(lambda: self.left_rows(left))
        block, _ = timed(lambda: self.block(rows, right))
        return self._sample(left, [right], jacobian, block).seconds_per_entry

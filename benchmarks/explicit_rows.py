"""Explicit Jacobian rows of all examples and one matrix product: exact, simple, and huge.

Each example's gradient over all P parameters is formed once, by autograd, in `n + m` backwards;
the kernel is rows × rowsᵀ. The n left rows stay in memory (n·c·P numbers), right rows stream past.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.contenders import Say
from benchmarks.measure import Sample, counted, timed
from benchmarks.problem import Examples, Problem, by_length, spread, tokens
from subkern.gradients.capture import frozen
from subkern.models.logit_model import LogitModel, named_parameters

_COLUMNS = (2**12, 2**14, 2**16)  # terms of one float32 product, before its sum in float64
_SLICE = 16  # the product is timed on one of so many equal parts of the columns


class ExplicitRows:
    """Rows of the Jacobian by autograd, and one product of them.

    Args:
        problem: the whole kernel.
        rows: gradients formed a turn.
        stream: right rows that are multiplied at a time.
    """

    name = "rows"

    def __init__(self, problem: Problem, *, rows: int = 4, stream: int = 8) -> None:
        self.problem = problem
        self.rows_per_turn = rows
        self.stream = min(stream, len(problem.right))
        self.columns = _COLUMNS[0]
        self.parameters = named_parameters(problem.model)
        self.size = sum(p.numel() for p in self.parameters.values())
        self.search: dict[str, float] = {}

    def tune(self, say: Say, seconds: float) -> None:
        """Find the block of columns with the fastest product; takes a second or two."""
        left, right = self._operands(self._form(spread(self.problem.left, 1)))
        for self.columns in _COLUMNS:
            seconds = min(timed(lambda: self._product(left, right))[0] for _ in range(2))
            self.search[str(self.columns)] = 1e3 * self._per_entry(seconds)
        self.columns = int(min(self.search, key=lambda key: self.search[key]))
        say(
            f"rows, blocks of {self.columns} columns: {self.search[str(self.columns)]:.2f} ms"
            " per entry for the product alone"
        )

    def values(self, problem: Problem) -> np.ndarray:
        """The kernel ``[n, c, m, c]`` of `problem`."""
        n, m, c = len(problem.left), len(problem.right), problem.model.num_logits
        left = self._form(problem.left)
        columns = [self._product(left, self._form([e])) for e in problem.right]
        return torch.cat(columns, dim=1).view(n, c, m, c).numpy()

    def sample(self, turn: int) -> Sample:
        """Rows of a few examples of different lengths, and a slice of the product."""
        every = self.problem.left + self.problem.right
        chosen = spread(every, self.rows_per_turn, turn)
        forming, rows = timed(lambda: self._form(chosen))
        left, right = self._operands(rows)
        product, _ = timed(lambda: self._product(left, right))
        scale = tokens(every) / len(every) * len(chosen) / tokens(chosen)
        per_row = forming / len(rows) * scale
        c = self.problem.model.num_logits
        per_entry = per_row * len(every) * c / self.problem.entries + self._per_entry(product)
        parts = {
            "forming_seconds": forming,
            "product_seconds": product,
            "length_scale": scale,
            "forming_seconds_per_entry": per_entry - self._per_entry(product),
        }
        return Sample(per_entry, forming + product, left.shape[0] * right.shape[0], parts=parts)

    def flops_per_entry(self) -> float:
        """FLOPs an entry: forming n + m rows, shared by all entries, and 2P for the product."""
        every = self.problem.left + self.problem.right
        one = by_length(every)[len(every) // 2]
        forming, _ = counted(lambda: self._form([one]))
        rows = forming * tokens(every) / len(one.input_ids)
        return rows / self.problem.entries + 2.0 * self.size

    def settings(self) -> dict[str, Any]:
        """How it runs, and the memory the whole kernel needs for rows."""
        c = self.problem.model.num_logits
        rows = (len(self.problem.left) + self.stream) * c
        return {
            "columns_per_block": self.columns,
            "rows_per_turn": self.rows_per_turn,
            "right_rows_at_a_time": self.stream,
            "product_timed_on_one_of": _SLICE,
            "search_ms_per_entry": self.search,
            "full_size_row_bytes": 4.0 * rows * self.size,
        }

    def _form(self, examples: Examples) -> Tensor:
        """Rows ``[b·c, P]``."""
        return form_rows(self.problem.model, self.parameters, examples)

    def _product(self, left: Tensor, right: Tensor) -> Tensor:
        """Product left @ right.T in blocks of columns, summed in float64."""
        out = torch.zeros(len(left), len(right), dtype=torch.float64)
        for start in range(0, left.shape[1], self.columns):
            part = slice(start, start + self.columns)
            out += left[:, part] @ right[:, part].T
        return out

    def _operands(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Full-height operands ``[n·c, P / slice]`` and ``[stream·c, P / slice]``.

        Filled with the rows at hand, over and over: a product takes as long whatever the numbers.
        """
        c = self.problem.model.num_logits
        part = rows[:, : max(1, self.size // _SLICE)]
        heights = len(self.problem.left) * c, self.stream * c
        pick = [torch.arange(h) % len(part) for h in heights]
        return part[pick[0]], part[pick[1]]

    def _per_entry(self, product_seconds: float) -> float:
        c = self.problem.model.num_logits
        share = max(1, self.size // _SLICE) / self.size
        return product_seconds / share / (len(self.problem.left) * self.stream * c * c)


def form_rows(model: LogitModel, parameters: Mapping[str, Tensor], examples: Examples) -> Tensor:
    """Gradients ``[b·c, P]`` over `parameters`: a forward and c backwards an example."""
    wanted = list(parameters.values())
    c = model.num_logits
    size = sum(p.numel() for p in wanted)
    out = torch.empty(len(examples) * c, size, dtype=model.dtype)
    with frozen(model), torch.enable_grad():
        for p in wanted:
            p.requires_grad_(True)
        for i, example in enumerate(examples):
            logits = model(model.collate([example]))[0]
            for k in range(c):
                grads = torch.autograd.grad(
                    logits[k], wanted, retain_graph=k < c - 1, materialize_grads=True
                )
                torch.cat([g.flatten() for g in grads], out=out[i * c + k])
    return out
